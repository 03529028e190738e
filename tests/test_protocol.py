# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import (
    VERSION,
    Command,
    CommandFlag,
    Fault,
    FrameError,
    FrameReader,
    Status,
    Telemetry,
    VersionError,
    decode,
    encode_command,
    encode_telemetry,
)

ROOT = Path(__file__).parents[1]
f32 = st.floats(width=32, allow_nan=False)
u32 = st.integers(0, 2**32 - 1)


def floats(n: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[f32] * n)


sensors = st.builds(
    SensorReadings,
    accel_mps2=floats(3),
    gyro_radps=floats(3),
    quaternion_wxyz=floats(4),
    wheel_pos_rad=floats(2),
    wheel_vel_radps=floats(2),
    leg_pos_rad=floats(4),
    leg_vel_radps=floats(4),
    battery_v=f32,
    temperatures_c=floats(3),
)
telemetries = st.builds(
    Telemetry,
    sequence=u32,
    device_time_us=st.integers(0, 2**64 - 1),
    command_sequence=u32,
    sensors=sensors,
    executed_nm=floats(2),
    status=st.sampled_from([Status(0), Status.ARMED, Status.ARMED | Status.LATCHED]),
    faults=st.sampled_from([Fault(0), Fault.WATCHDOG, Fault.IMU | Fault.MOTOR]),
)
commands = st.builds(
    Command,
    sequence=u32,
    torque_nm=floats(2),
    posture_rad=floats(2),
    flags=st.sampled_from([CommandFlag(0), CommandFlag.ARM, CommandFlag.DISARM, CommandFlag.HEARTBEAT]),
)


@given(telemetries)
def test_telemetry_survives_the_wire(telemetry: Telemetry) -> None:
    assert FrameReader().feed(encode_telemetry(telemetry)) == [telemetry]


@given(commands)
def test_command_survives_the_wire(command: Command) -> None:
    assert FrameReader().feed(encode_command(command)) == [command]


def test_command_frame_is_what_the_document_says() -> None:
    payload = struct.pack("<BBI2f2fB", 2, 1, 7, 1.5, -1.5, 1.0, -1.5, 1)
    by_hand = cobs.encode(payload + struct.pack("<I", zlib.crc32(payload))) + b"\x00"
    assert encode_command(Command(7, (1.5, -1.5), (1.0, -1.5), CommandFlag.ARM)) == by_hand


def test_document_states_the_lengths_and_version_of_the_code() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    zero = SensorReadings((0,) * 3, (0,) * 3, (0,) * 4, (0,) * 2, (0,) * 2, (0,) * 4, (0,) * 4, 0, (0,) * 3)
    telemetry = encode_telemetry(Telemetry(0, 0, 0, zero, (0, 0), Status(0), Fault(0)))
    stated = {int(n) for n in re.findall(r"(\d+) bytes on the wire", text)}
    assert stated == {len(telemetry), len(encode_command(Command(0)))}
    assert f"version {VERSION}" in text


@given(telemetries, telemetries, st.data())
def test_torn_frame_costs_itself_only(first: Telemetry, second: Telemetry, data: st.DataObject) -> None:
    frame = encode_telemetry(first)
    cut = data.draw(st.integers(1, len(frame) - 1))
    reader = FrameReader()
    # The head of a frame is lost; the tail is noise up to its delimiter; the next frame is whole.
    assert reader.feed(frame[cut:] + encode_telemetry(second))[-1:] == [second]


@given(commands, st.data())
def test_any_flipped_bit_is_noticed(command: Command, data: st.DataObject) -> None:
    frame = bytearray(encode_command(command))
    position = data.draw(st.integers(0, len(frame) - 2))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    assert command not in FrameReader().feed(bytes(frame))


@given(st.binary(max_size=4096))
def test_noise_raises_nothing_and_the_next_frame_gets_through(noise: bytes) -> None:
    reader = FrameReader()
    reader.feed(noise + b"\x00")
    assert reader.feed(encode_command(Command(3)))[-1].sequence == 3


def test_another_version_is_refused_by_name() -> None:
    reader = FrameReader()
    assert reader.feed(encode_command(Command(1), version=9)) == []
    assert reader.other_version == 9
    with pytest.raises(VersionError, match="version 9, this side speaks 1"):
        decode(encode_command(Command(1), version=9)[:-1])


def test_frame_of_unknown_type_is_refused() -> None:
    payload = struct.pack("<BBI", 7, VERSION, 0)
    with pytest.raises(FrameError, match="type 7"):
        decode(cobs.encode(payload + struct.pack("<I", zlib.crc32(payload))))
