/* SPDX-License-Identifier: Apache-2.0 */
#include "wheel_leg_protocol.h"

#include <string.h>

enum { TYPE_TELEMETRY = 0x01, TYPE_COMMAND = 0x02, HEAD = 6, CRC = 4, COMMAND = 23, TELEMETRY = 134 };

/* A message and its checksum are shorter than one COBS block, so a frame is they, one length byte and two zeros. */
typedef char wlp_one_block[TELEMETRY + CRC < 254 ? 1 : -1];
typedef char wlp_telemetry_size[TELEMETRY + CRC + 3 == WLP_TELEMETRY_FRAME ? 1 : -1];
typedef char wlp_command_size[COMMAND + CRC + 3 == WLP_COMMAND_FRAME ? 1 : -1];
typedef char wlp_message_size[TELEMETRY + CRC == WLP_MAX_MESSAGE ? 1 : -1];
typedef char wlp_single_precision[sizeof(float) == 4 ? 1 : -1];

#define CRC_START 0xFFFFFFFFu
/* The register after a message and its own checksum, whatever the message. */
#define CRC_GOOD 0xDEBB20E3u

/* CRC-32 of zlib and Ethernet. Two steps of four bits with a table of 64 bytes: a table for whole bytes would take 1 KiB
 * of flash to save one step a byte, and the protocol's few hundred bytes a millisecond do not need it. */
static uint32_t crc_step(uint32_t crc, uint8_t byte)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc ^= byte;
    crc = (crc >> 4) ^ table[crc & 15u];
    return (crc >> 4) ^ table[crc & 15u];
}

/* Decoding. */

static void begin_frame(wlp_decoder *d)
{
    d->block_left = 0;
    d->received = 0;
    d->length = 0;
    d->crc = CRC_START;
}

void wlp_decoder_init(wlp_decoder *decoder)
{
    memset(decoder, 0, sizeof *decoder);
    begin_frame(decoder);
}

static void decoded(wlp_decoder *d, uint8_t byte)
{
    d->crc = crc_step(d->crc, byte);
    if (d->length < WLP_MAX_MESSAGE) {
        d->message[d->length] = byte;
    }
    d->length++;
}

static wlp_event end_frame(wlp_decoder *d)
{
    if (d->received == 0 || d->received >= WLP_MAX_FRAME) {
        /* Nothing between two zeros, or the end of what was reported as overlong. */
        return WLP_NOTHING;
    }
    if (d->block_left != 0) {
        return WLP_ERROR_COBS;
    }
    if (d->length < HEAD + CRC) {
        return WLP_ERROR_CONTENT;
    }
    if (d->crc != CRC_GOOD) {
        return WLP_ERROR_CHECKSUM;
    }
    if (d->message[1] != WLP_VERSION) {
        d->other_version = d->message[1];
        return WLP_ERROR_VERSION;
    }
    if (d->message[0] == TYPE_COMMAND && d->length == COMMAND + CRC) {
        return WLP_COMMAND;
    }
    if (d->message[0] == TYPE_TELEMETRY && d->length == TELEMETRY + CRC) {
        return WLP_TELEMETRY;
    }
    return WLP_ERROR_CONTENT;
}

wlp_event wlp_push(wlp_decoder *decoder, uint8_t byte)
{
    wlp_event event = WLP_NOTHING;
    if (byte == 0) {
        event = end_frame(decoder);
        begin_frame(decoder);
    } else if (decoder->received < WLP_MAX_FRAME) {
        decoder->received++;
        if (decoder->received == WLP_MAX_FRAME) {
            event = WLP_ERROR_OVERLONG;
        } else if (decoder->block_left != 0) {
            decoder->block_left--;
            decoded(decoder, byte);
        } else {
            /* Between two blocks stands a zero, unless the first is a full one (0xFF), after which no second one fits
             * into WLP_MAX_FRAME. */
            if (decoder->received > 1) {
                decoded(decoder, 0);
            }
            decoder->block_left = (uint8_t)(byte - 1u);
        }
    }
    decoder->event = (uint8_t)event;
    if (event != WLP_NOTHING) {
        decoder->counts[event]++;
    }
    return event;
}

size_t wlp_push_block(wlp_decoder *decoder, const uint8_t *data, size_t size, wlp_event *event)
{
    size_t taken = 0;
    *event = WLP_NOTHING;
    while (taken < size && *event == WLP_NOTHING) {
        *event = wlp_push(decoder, data[taken]);
        taken++;
    }
    return taken;
}

/* Fields of a message, in order, least significant byte first. */

static uint64_t get(const uint8_t **from, unsigned bytes)
{
    uint64_t value = 0;
    unsigned i;
    for (i = 0; i < bytes; i++) {
        value |= (uint64_t)(*from)[i] << (8u * i);
    }
    *from += bytes;
    return value;
}

/* Copied as bits: a load into a floating-point register could change a signalling NaN. */
static void get_floats(const uint8_t **from, float *to, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)get(from, 4);
        memcpy(&to[i], &bits, sizeof bits);
    }
}

int wlp_take_command(const wlp_decoder *decoder, wlp_command *command)
{
    const uint8_t *from = decoder->message + 2;
    if (decoder->event != WLP_COMMAND) {
        return 0;
    }
    command->sequence = (uint32_t)get(&from, 4);
    get_floats(&from, command->torque_nm, 2);
    get_floats(&from, command->posture_rad, 2);
    command->flags = (uint8_t)get(&from, 1);
    return 1;
}

int wlp_take_telemetry(const wlp_decoder *decoder, wlp_telemetry *telemetry)
{
    const uint8_t *from = decoder->message + 2;
    if (decoder->event != WLP_TELEMETRY) {
        return 0;
    }
    telemetry->sequence = (uint32_t)get(&from, 4);
    telemetry->device_time_us = get(&from, 8);
    telemetry->command_sequence = (uint32_t)get(&from, 4);
    get_floats(&from, telemetry->accel_mps2, 3);
    get_floats(&from, telemetry->gyro_radps, 3);
    get_floats(&from, telemetry->quaternion_wxyz, 4);
    get_floats(&from, telemetry->wheel_pos_rad, 2);
    get_floats(&from, telemetry->wheel_vel_radps, 2);
    get_floats(&from, telemetry->leg_pos_rad, 4);
    get_floats(&from, telemetry->leg_vel_radps, 4);
    get_floats(&from, telemetry->executed_nm, 2);
    get_floats(&from, &telemetry->battery_v, 1);
    get_floats(&from, telemetry->temperatures_c, 3);
    telemetry->status = (uint16_t)get(&from, 2);
    telemetry->faults = (uint16_t)get(&from, 2);
    return 1;
}

/* Encoding, straight into the caller's frame. */

typedef struct {
    uint8_t *next;
    uint8_t *block; /* Where the length of the block that is being written goes. */
    uint32_t crc;
} writer;

static void put_byte(writer *w, uint8_t byte)
{
    w->crc = crc_step(w->crc, byte);
    if (byte != 0) {
        *w->next++ = byte;
    } else {
        *w->block = (uint8_t)(w->next - w->block);
        w->block = w->next++;
    }
}

static void put(writer *w, uint64_t value, unsigned bytes)
{
    unsigned i;
    for (i = 0; i < bytes; i++) {
        put_byte(w, (uint8_t)(value >> (8u * i)));
    }
}

static void put_floats(writer *w, const float *from, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        put(w, bits, 4);
    }
}

static void open_frame(writer *w, uint8_t *frame, uint8_t type, uint32_t sequence)
{
    frame[0] = 0;
    w->block = frame + 1;
    w->next = frame + 2;
    w->crc = CRC_START;
    put_byte(w, type);
    put_byte(w, WLP_VERSION);
    put(w, sequence, 4);
}

static size_t close_frame(writer *w, const uint8_t *frame)
{
    put(w, ~w->crc & 0xFFFFFFFFu, CRC);
    *w->block = (uint8_t)(w->next - w->block);
    *w->next++ = 0;
    return (size_t)(w->next - frame);
}

size_t wlp_encode_telemetry(const wlp_telemetry *telemetry, uint8_t *frame, size_t capacity)
{
    writer w;
    if (capacity < WLP_TELEMETRY_FRAME) {
        return 0;
    }
    open_frame(&w, frame, TYPE_TELEMETRY, telemetry->sequence);
    put(&w, telemetry->device_time_us, 8);
    put(&w, telemetry->command_sequence, 4);
    put_floats(&w, telemetry->accel_mps2, 3);
    put_floats(&w, telemetry->gyro_radps, 3);
    put_floats(&w, telemetry->quaternion_wxyz, 4);
    put_floats(&w, telemetry->wheel_pos_rad, 2);
    put_floats(&w, telemetry->wheel_vel_radps, 2);
    put_floats(&w, telemetry->leg_pos_rad, 4);
    put_floats(&w, telemetry->leg_vel_radps, 4);
    put_floats(&w, telemetry->executed_nm, 2);
    put_floats(&w, &telemetry->battery_v, 1);
    put_floats(&w, telemetry->temperatures_c, 3);
    put(&w, telemetry->status, 2);
    put(&w, telemetry->faults, 2);
    return close_frame(&w, frame);
}

size_t wlp_encode_command(const wlp_command *command, uint8_t *frame, size_t capacity)
{
    writer w;
    if (capacity < WLP_COMMAND_FRAME) {
        return 0;
    }
    open_frame(&w, frame, TYPE_COMMAND, command->sequence);
    put_floats(&w, command->torque_nm, 2);
    put_floats(&w, command->posture_rad, 2);
    put(&w, command->flags, 1);
    return close_frame(&w, frame);
}
