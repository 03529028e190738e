/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * The communicating half of a firmware: what docs/protocol.md asks for, around functions that your board provides.
 * tests/test_firmware_c.py compiles it and holds it against the emulator's firmware, command by command.
 */
#include "wheel_leg_protocol.h"

#include <math.h>

#define WATCHDOG_US 30000u
#define TICKS_PER_STEP 5u /* Motor loop at 1 kHz, telemetry at 200 Hz. */
#define TORQUE_LIMIT_NM 3.0f

/* Your board. None of these may wait, but for the first. */
extern void board_wait_for_tick(void); /* returns at 1 kHz */
extern uint64_t board_time_us(void);   /* since power-up, 64 bits */
extern size_t board_receive(uint8_t *bytes, size_t capacity);
extern void board_send(const uint8_t *bytes, size_t size);
extern void board_sense(wlp_telemetry *sensors); /* all sensors, of this instant */
extern uint16_t board_faults(void);              /* WLP_FAULT_ bits that hold now: voltage, temperature, motor, IMU */
extern void board_set_torque_nm(const float left_right[2]);
extern void board_set_posture_rad(const float thigh_shin[2]);

void firmware_init(void);
void firmware_tick(void);

static wlp_decoder decoder;
static wlp_telemetry report;
static int armed;
static uint16_t faults; /* latched */
static uint64_t heard_us;
static float torque_nm[2], sum_nm[2];
static unsigned ticks;

static void obey(const wlp_command *command)
{
    int wheel;
    report.command_sequence = command->sequence;
    heard_us = board_time_us();
    if (command->flags & WLP_FLAG_DISARM) {
        armed = 0;
        faults = 0;
        torque_nm[0] = torque_nm[1] = 0.0f;
        return;
    }
    if ((command->flags & WLP_FLAG_ARM) && !faults) {
        armed = 1;
    }
    if (isfinite(command->posture_rad[0]) && isfinite(command->posture_rad[1])) {
        board_set_posture_rad(command->posture_rad);
    }
    if ((command->flags & WLP_FLAG_HEARTBEAT) || !isfinite(command->torque_nm[0]) || !isfinite(command->torque_nm[1])) {
        return;
    }
    for (wheel = 0; wheel < 2 && armed; wheel++) {
        torque_nm[wheel] = fmaxf(-TORQUE_LIMIT_NM, fminf(TORQUE_LIMIT_NM, command->torque_nm[wheel]));
    }
}

static void receive(void)
{
    uint8_t bytes[64];
    size_t size, taken;
    while ((size = board_receive(bytes, sizeof bytes)) > 0) {
        for (taken = 0; taken < size;) {
            wlp_event event;
            wlp_command command;
            taken += wlp_push_block(&decoder, bytes + taken, size - taken, &event);
            if (event == WLP_ERROR_VERSION) {
                faults |= WLP_FAULT_PROTOCOL_VERSION;
            } else if (wlp_take_command(&decoder, &command)) {
                obey(&command);
            }
        }
    }
}

static void send(void)
{
    uint8_t frame[WLP_TELEMETRY_FRAME];
    int wheel;
    board_sense(&report);
    report.device_time_us = board_time_us();
    for (wheel = 0; wheel < 2; wheel++) {
        report.executed_nm[wheel] = sum_nm[wheel] / (float)TICKS_PER_STEP;
        sum_nm[wheel] = 0.0f;
    }
    report.status = (uint16_t)((armed ? WLP_STATUS_ARMED : 0u) | (faults ? WLP_STATUS_LATCHED : 0u));
    report.faults = faults;
    board_send(frame, wlp_encode_telemetry(&report, frame, sizeof frame));
    report.sequence++;
}

void firmware_init(void)
{
    wlp_decoder_init(&decoder);
    board_set_torque_nm(torque_nm); /* zero: disarmed at power-up */
}

void firmware_tick(void)
{
    if (ticks == TICKS_PER_STEP) {
        send();
        ticks = 0;
    }
    receive();
    faults |= board_faults();
    if (armed && board_time_us() - heard_us >= WATCHDOG_US) {
        faults |= WLP_FAULT_WATCHDOG;
    }
    if (faults) {
        torque_nm[0] = torque_nm[1] = 0.0f;
    }
    board_set_torque_nm(torque_nm);
    sum_nm[0] += torque_nm[0];
    sum_nm[1] += torque_nm[1];
    ticks++;
}

int main(void)
{
    firmware_init();
    for (;;) {
        board_wait_for_tick();
        firmware_tick();
    }
}
