/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * Codec of the wire protocol between a wheel-legged robot's microcontroller and its driver, version 1.
 *
 * docs/protocol.md describes the frames and what a firmware must do with them; this is the part that turns bytes into
 * messages and back. C99 without allocation, without floating-point arithmetic and without state of its own: everything
 * lives in structures of the caller's, so any function may be called from an interrupt as long as no other context uses
 * the same structure at the same time. It needs a `float` that is an IEEE 754 single of the byte order of the integers,
 * and neither alignment nor a particular byte order.
 */
#ifndef WHEEL_LEG_PROTOCOL_H
#define WHEEL_LEG_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Protocol version that this codec speaks. */
#define WLP_VERSION 1u
/** Bytes without a zero that a receiver drops as no frame, as it drops what follows them up to the next zero. */
#define WLP_MAX_FRAME 256u
/** Bytes of a command frame, both its zeros included. */
#define WLP_COMMAND_FRAME 30u
/** Bytes of a telemetry frame, both its zeros included. */
#define WLP_TELEMETRY_FRAME 141u
/** Longest message with its checksum, in bytes: telemetry. */
#define WLP_MAX_MESSAGE 138u

/** Bits of @ref wlp_command.flags. */
enum {
    WLP_FLAG_ARM = 1u << 0,
    WLP_FLAG_DISARM = 1u << 1,  /**< Wins over everything else in its frame. */
    WLP_FLAG_HEARTBEAT = 1u << 2 /**< Keeps the watchdog content; the torque field is not to be read. */
};

/** Bits of @ref wlp_telemetry.status. */
enum {
    WLP_STATUS_ARMED = 1u << 0,
    WLP_STATUS_LATCHED = 1u << 1 /**< Torque is zero because a fault is latched. */
};

/** Bits of @ref wlp_telemetry.faults; every one means zero torque until disarmed. */
enum {
    WLP_FAULT_WATCHDOG = 1u << 0,
    WLP_FAULT_PROTOCOL_VERSION = 1u << 1,
    WLP_FAULT_UNDERVOLTAGE = 1u << 2,
    WLP_FAULT_OVERTEMPERATURE = 1u << 3,
    WLP_FAULT_MOTOR = 1u << 4,
    WLP_FAULT_IMU = 1u << 5
};

/** What the driver asks for. Numbers come as they were sent: check for NaN and infinity before using them. */
typedef struct {
    uint32_t sequence;     /**< Counts the driver's frames modulo 2^32. */
    float torque_nm[2];    /**< Left and right wheel, Nm; positive drives forward. */
    float posture_rad[2];  /**< Leg servo targets, thigh and shin, rad, both legs alike; NaN keeps those in effect. */
    uint8_t flags;         /**< WLP_FLAG_ bits. */
} wlp_command;

/** What the firmware reports at every control step; all sensors are of the instant of device_time_us. */
typedef struct {
    uint32_t sequence;         /**< Counts the firmware's frames modulo 2^32. */
    uint64_t device_time_us;   /**< Since the microcontroller started, µs; does not wrap. */
    uint32_t command_sequence; /**< Of the last command accepted. */
    float accel_mps2[3];       /**< Body frame (x forward, y left, z up), m/s²; +9.81 on z at rest. */
    float gyro_radps[3];       /**< Body frame, rad/s; [1] is the pitch rate, positive leaning forward. */
    float quaternion_wxyz[4];  /**< Attitude, world from body, of the IMU's own filter. */
    float wheel_pos_rad[2];    /**< Left, right, relative to the leg, rad; positive rolls forward. */
    float wheel_vel_radps[2];  /**< Likewise, rad/s. */
    float leg_pos_rad[4];      /**< Left thigh, left shin, right thigh, right shin, rad. */
    float leg_vel_radps[4];    /**< Likewise, rad/s. */
    float executed_nm[2];      /**< Setpoint after every limit, left and right, Nm; mean of the step that ends here. */
    float battery_v;           /**< Bus voltage, V. */
    float temperatures_c[3];   /**< Left motor, right motor, board, degrees Celsius. */
    uint16_t status;           /**< WLP_STATUS_ bits. */
    uint16_t faults;           /**< WLP_FAULT_ bits. */
} wlp_telemetry;

/** What a byte brought about. */
typedef enum {
    WLP_NOTHING = 0,        /**< A frame goes on, or there is none. */
    WLP_COMMAND = 1,        /**< A command is complete: take it with wlp_take_command(). */
    WLP_TELEMETRY = 2,      /**< A telemetry message is complete: take it with wlp_take_telemetry(). */
    WLP_ERROR_COBS = 3,     /**< A frame dropped: it ends before its last block does. */
    WLP_ERROR_CHECKSUM = 4, /**< A frame dropped: damaged. */
    WLP_ERROR_CONTENT = 5,  /**< A frame dropped: too short for a message, unknown type, or wrong length for its type. */
    WLP_ERROR_VERSION = 6,  /**< A whole frame dropped: its version, in wlp_decoder.other_version, is another. */
    WLP_ERROR_OVERLONG = 7, /**< No zero within WLP_MAX_FRAME bytes: dropped up to the next zero. */
    WLP_EVENTS = 8          /**< Number of the above. */
} wlp_event;

/** Decoder of one byte stream. Read `counts` and `other_version` at will; the rest is private. */
typedef struct {
    uint32_t counts[WLP_EVENTS]; /**< How often each event came, modulo 2^32; the first is not counted. */
    uint8_t other_version;       /**< Version in the last frame that gave WLP_ERROR_VERSION. */
    uint8_t event;               /**< Private: the last event. */
    uint8_t block_left;          /**< Private: bytes that the COBS block still wants. */
    uint16_t received;           /**< Private: bytes since the last zero. */
    uint16_t length;             /**< Private: bytes decoded, also those that found no place. */
    uint32_t crc;                /**< Private: checksum so far. */
    uint8_t message[WLP_MAX_MESSAGE]; /**< Private: the message decoded so far. */
} wlp_decoder;

/** Make a decoder ready for the first byte and set its counts to zero. */
void wlp_decoder_init(wlp_decoder *decoder);

/**
 * Take one received byte.
 *
 * The cost does not depend on where in a frame the byte is, but for one more store. No input makes it fail.
 *
 * @return What the byte brought about. A message is valid until the next byte is pushed.
 */
wlp_event wlp_push(wlp_decoder *decoder, uint8_t byte);

/**
 * Take received bytes up to and including the first that brings something about.
 *
 * @param data, size Bytes as received, as from a DMA buffer.
 * @param event Receives what the last byte taken brought about, WLP_NOTHING if all were taken in vain.
 * @return Number of bytes taken; call again with the rest.
 */
size_t wlp_push_block(wlp_decoder *decoder, const uint8_t *data, size_t size, wlp_event *event);

/** Copy out the command if the last event was WLP_COMMAND. @return 1, or 0 and nothing copied if it was not. */
int wlp_take_command(const wlp_decoder *decoder, wlp_command *command);

/** Copy out the telemetry if the last event was WLP_TELEMETRY. @return 1, or 0 and nothing copied if it was not. */
int wlp_take_telemetry(const wlp_decoder *decoder, wlp_telemetry *telemetry);

/**
 * Write a whole frame, both zeros included.
 *
 * @param frame, capacity Where to; WLP_TELEMETRY_FRAME bytes are enough.
 * @return Bytes written, or 0 and nothing written where `capacity` is too small.
 */
size_t wlp_encode_telemetry(const wlp_telemetry *telemetry, uint8_t *frame, size_t capacity);

/** Likewise for a command; WLP_COMMAND_FRAME bytes are enough. For gateways and tests. */
size_t wlp_encode_command(const wlp_command *command, uint8_t *frame, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
