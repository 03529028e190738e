# SPDX-License-Identifier: Apache-2.0
"""The wire protocol between driver and firmware; docs/protocol.md is its description for firmware authors.

A frame is COBS(payload + CRC-32 of payload, little-endian) between two zero bytes. COBS leaves no zero inside a
frame, so a reader that lost its place finds it again at the next zero; the zero in front cuts off whatever a torn frame
or line noise left behind, so that it costs the frame after it nothing.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from dataclasses import dataclass

from cobs import cobs

from wheel_leg_driver.plant import SensorReadings

VERSION = 1
#: Longest frame with the zero that ends it; a receiver that has this many bytes without a zero drops them up to one.
MAX_FRAME = 256
DELIMITER = b"\x00"

_TELEMETRY_TYPE, _COMMAND_TYPE = 0x01, 0x02
_HEAD = struct.Struct("<BBI")
_TELEMETRY = struct.Struct("<BBIQI3f3f4f2f2f4f4f2ff3fHH")
_COMMAND = struct.Struct("<BBI2f2fB")
_CRC = struct.Struct("<I")
_TOO_LONG = f"no frame end within {MAX_FRAME} bytes"


class Status(enum.IntFlag):
    """Status bits of a telemetry frame."""

    ARMED = 1 << 0
    #: Torque is zero because a fault is latched; disarm, then arm.
    LATCHED = 1 << 1


class Fault(enum.IntFlag):
    """Fault bits of a telemetry frame; every one means zero torque until disarmed."""

    WATCHDOG = 1 << 0
    PROTOCOL_VERSION = 1 << 1
    UNDERVOLTAGE = 1 << 2
    OVERTEMPERATURE = 1 << 3
    MOTOR = 1 << 4
    IMU = 1 << 5


class CommandFlag(enum.IntFlag):
    """Flags of a command frame."""

    ARM = 1 << 0
    DISARM = 1 << 1
    #: Keeps the watchdog content without saying anything about torque.
    HEARTBEAT = 1 << 2


class FrameError(ValueError):
    """A frame that must not be used: damaged, of an unknown type, or too short."""


class VersionError(FrameError):
    """A whole frame of another protocol version."""

    def __init__(self, version: int) -> None:
        super().__init__(f"protocol version {version}, this side speaks {VERSION}: update firmware or driver")
        self.version = version


@dataclass(frozen=True)
class Telemetry:
    """What the firmware reports at every control tick.

    Attributes:
        sequence: counts frames modulo 2**32.
        device_time_us: the microcontroller's clock, 64 bits: it does not wrap.
        command_sequence: of the last command accepted.
        sensors: IMU, wheels, legs, battery, temperatures.
        executed_nm: torque setpoint of the left and right wheel after the firmware's limits, averaged over the
            step that ends at this frame.
        status, faults: bits.
    """

    sequence: int
    device_time_us: int
    command_sequence: int
    sensors: SensorReadings
    executed_nm: tuple[float, float]
    status: Status
    faults: Fault


NO_FLAGS = CommandFlag(0)


@dataclass(frozen=True)
class Command:
    """What the driver asks for.

    Attributes:
        sequence: counts commands modulo 2**32.
        torque_nm: left and right wheel.
        posture_rad: leg servo targets, thigh and shin, both legs alike; NaN keeps the targets in effect.
        flags: arm, disarm, heartbeat.
    """

    sequence: int
    torque_nm: tuple[float, float] = (0.0, 0.0)
    posture_rad: tuple[float, float] = (math.nan, math.nan)
    flags: CommandFlag = NO_FLAGS


def _frame(payload: bytes) -> bytes:
    encoded: bytes = cobs.encode(payload + _CRC.pack(zlib.crc32(payload)))
    return DELIMITER + encoded + DELIMITER


def encode_telemetry(t: Telemetry) -> bytes:
    """Return the frame of a telemetry message with both its zeros.

    Raises:
        OverflowError: a number beyond single precision; infinity and NaN are none.
    """
    s = t.sensors
    return _frame(
        _TELEMETRY.pack(
            _TELEMETRY_TYPE,
            VERSION,
            t.sequence & 0xFFFFFFFF,
            t.device_time_us,
            t.command_sequence & 0xFFFFFFFF,
            *s.accel_mps2,
            *s.gyro_radps,
            *s.quaternion_wxyz,
            *s.wheel_pos_rad,
            *s.wheel_vel_radps,
            *s.leg_pos_rad,
            *s.leg_vel_radps,
            *t.executed_nm,
            s.battery_v,
            *s.temperatures_c,
            int(t.status),
            int(t.faults),
        )
    )


def encode_command(c: Command, version: int = VERSION) -> bytes:
    """Return the frame of a command with both its zeros; `version` lets tests speak another one.

    Raises:
        OverflowError: a number beyond single precision; infinity and NaN are none.
    """
    return _frame(
        _COMMAND.pack(_COMMAND_TYPE, version, c.sequence & 0xFFFFFFFF, *c.torque_nm, *c.posture_rad, int(c.flags))
    )


def decode(frame: bytes) -> Telemetry | Command:
    """Decode one frame without its zeros. Numbers come as they were sent, NaN and infinity too.

    Raises:
        FrameError: not COBS, wrong checksum, wrong length or unknown type.
        VersionError: intact, but of another protocol version.
    """
    try:
        data = cobs.decode(frame)
    except cobs.DecodeError as error:
        raise FrameError(f"not a COBS frame: {error}") from error
    payload, tail = data[: -_CRC.size], data[-_CRC.size :]
    if len(payload) < _HEAD.size:
        raise FrameError(f"{len(data)} bytes are too few for a frame")
    if _CRC.unpack(tail)[0] != zlib.crc32(payload):
        raise FrameError("checksum differs")
    kind, version, _ = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise VersionError(version)
    if kind == _TELEMETRY_TYPE and len(payload) == _TELEMETRY.size:
        f = _TELEMETRY.unpack(payload)
        sensors = SensorReadings(
            accel_mps2=f[5:8],
            gyro_radps=f[8:11],
            quaternion_wxyz=f[11:15],
            wheel_pos_rad=f[15:17],
            wheel_vel_radps=f[17:19],
            leg_pos_rad=f[19:23],
            leg_vel_radps=f[23:27],
            battery_v=f[29],
            temperatures_c=f[30:33],
        )
        return Telemetry(f[2], f[3], f[4], sensors, f[27:29], Status(f[33]), Fault(f[34]))
    if kind == _COMMAND_TYPE and len(payload) == _COMMAND.size:
        f = _COMMAND.unpack(payload)
        return Command(f[2], f[3:5], f[5:7], CommandFlag(f[7]))
    raise FrameError(f"type {kind} with {len(payload)} bytes is not of this protocol")


class FrameReader:
    """Cuts a byte stream into frames; a torn or damaged frame costs itself and nothing after the next zero.

    Messages and errors depend on the bytes alone, not on how they were cut into chunks.

    Attributes:
        errors: frames dropped so far.
        last_error: why the last one was.
        other_version: the protocol version of the last whole frame that was not of this one.
    """

    def __init__(self) -> None:
        # Bytes since the last zero, less than MAX_FRAME of them, or none while a frame too long is being dropped.
        self._begun = b""
        self._dropping = False
        self.errors = 0
        self.last_error = ""
        self.other_version: int | None = None

    def feed(self, data: bytes) -> list[Telemetry | Command]:
        """Take bytes as they came, return the messages that they complete."""
        *frames, begun = (self._begun + data).split(DELIMITER)
        messages: list[Telemetry | Command] = []
        for frame in frames:
            if self._dropping:
                self._dropping = False
            elif len(frame) >= MAX_FRAME:
                self._count(_TOO_LONG)
            elif frame:
                try:
                    messages.append(decode(frame))
                except FrameError as error:
                    self._count(str(error))
                    if isinstance(error, VersionError):
                        self.other_version = error.version
        if len(begun) >= MAX_FRAME and not self._dropping:
            self._dropping = True
            self._count(_TOO_LONG)
        self._begun = b"" if self._dropping else begun
        return messages

    def _count(self, reason: str) -> None:
        self.errors += 1
        self.last_error = reason
