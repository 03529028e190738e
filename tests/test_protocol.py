# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from protocol_vectors import FILE, encode, from_vector, load, text, to_vector
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import (
    MAX_FRAME,
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
    by_hand = b"\x00" + cobs.encode(payload + struct.pack("<I", zlib.crc32(payload))) + b"\x00"
    assert encode_command(Command(7, (1.5, -1.5), (1.0, -1.5), CommandFlag.ARM)) == by_hand
    assert by_hand.hex(" ") in (ROOT / "docs" / "protocol.md").read_text()


def test_document_states_the_lengths_and_version_of_the_code() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    telemetry = encode_telemetry(Telemetry(0, 0, 0, ZERO, (0, 0), Status(0), Fault(0)))
    stated = {int(n) for n in re.findall(r"(\d+) bytes on the wire", text)}
    assert stated == {len(telemetry), len(encode_command(Command(0)))}
    assert f"version {VERSION}" in text


#: What an error says, by the kind that the vectors name.
SAYS = {
    "cobs": "not a COBS frame",
    "checksum": "checksum differs",
    "content": "bytes are too few|is not of this protocol",
    "version": "this side speaks 1",
    "overlong": "no frame end within 256 bytes",
}


@pytest.mark.parametrize("vector", load(), ids=lambda v: v["name"])
def test_shared_vector(vector: dict[str, Any]) -> None:
    stream = bytes.fromhex(vector["stream"])
    expected = [to_vector(from_vector(v)) for v in vector["messages"]]
    at_once, by_byte = FrameReader(), FrameReader()
    assert [to_vector(m) for m in at_once.feed(stream)] == expected
    messages: list[Telemetry | Command] = []
    counts: dict[str, int] = {}
    for byte in stream:
        before = by_byte.errors
        messages += by_byte.feed(bytes([byte]))
        if by_byte.errors > before:
            (kind,) = (kind for kind, says in SAYS.items() if re.search(says, by_byte.last_error))
            counts[kind] = counts.get(kind, 0) + 1
    assert [to_vector(m) for m in messages] == expected
    assert counts == vector["errors"]
    assert at_once.errors == sum(counts.values())
    if vector["encoded"]:
        assert b"".join(encode(from_vector(v)) for v in vector["messages"]) == stream


def test_vectors_are_those_that_their_command_writes() -> None:
    assert FILE.read_text() == text(), "run python tests/protocol_vectors.py"


ZERO = SensorReadings((0,) * 3, (0,) * 3, (0,) * 4, (0,) * 2, (0,) * 2, (0,) * 4, (0,) * 4, 0, (0,) * 3)
SAMPLES = [
    encode_command(Command(7, (1.5, -1.5), (1.0, -1.5), CommandFlag.ARM)),
    encode_command(Command(0)),
    *(encode(from_vector(v["messages"][0])) for v in load() if v["encoded"]),
    encode_telemetry(Telemetry(0, 0, 0, ZERO, (0, 0), Status(0), Fault(0))),
]


@pytest.mark.parametrize("torn", SAMPLES, ids=len)
@pytest.mark.parametrize("good", SAMPLES[::3], ids=len)
def test_frame_torn_at_any_byte_costs_the_next_one_nothing(torn: bytes, good: bytes) -> None:
    for cut in range(len(torn)):
        # What lies between the zeros is the frame: without the first or the last one it has lost nothing.
        lost = 1 < cut < len(torn) - 1
        head, tail = FrameReader(), FrameReader()
        assert [encode(m) for m in head.feed(torn[:cut] + good)] == [torn] * (cut == len(torn) - 1) + [good]
        assert [encode(m) for m in tail.feed(torn[cut:] + good)] == [torn] * (cut < 2) + [good]
        assert head.errors == tail.errors == lost


@pytest.mark.parametrize("frame", SAMPLES, ids=len)
def test_frame_split_at_any_byte_arrives_whole(frame: bytes) -> None:
    for cut in range(len(frame) + 1):
        reader = FrameReader()
        messages = reader.feed(frame[:cut]) + reader.feed(frame[cut:])
        assert [encode(m) for m in messages] == [frame]
        assert reader.errors == 0


def accepted(body: bytes) -> list[bytes]:
    """Frames that a reader takes out of what is left of a damaged one."""
    return [encode(m) for m in FrameReader().feed(b"\x00" + body + b"\x00")]


@pytest.mark.parametrize("frame", SAMPLES, ids=len)
def test_no_damage_of_one_byte_or_two_bits_in_a_row_is_accepted(frame: bytes) -> None:
    body = frame[1:-1]
    for at in range(len(body)):
        for change in [1 << bit for bit in range(8)] + [3 << bit for bit in range(7)] + [0xFF, body[at]]:
            assert not accepted(body[:at] + bytes([body[at] ^ change]) + body[at + 1 :])
        assert not accepted(body[:at] + body[at + 1 :])
        assert not accepted(body[:at] + b"\x01" + body[at:])
        swapped = body[:at] + body[at : at + 2][::-1] + body[at + 2 :]
        assert swapped == body or not accepted(swapped)


@pytest.mark.parametrize("frame", [SAMPLES[0], SAMPLES[-1]], ids=["command", "telemetry"])
def test_no_two_flipped_bits_are_accepted(frame: bytes) -> None:
    body = frame[1:-1]
    number, bits = int.from_bytes(body, "big"), 8 * len(body)
    for i in range(bits):
        for j in range(i):
            assert not accepted((number ^ 1 << i ^ 1 << j).to_bytes(len(body), "big"))


@given(st.binary(max_size=4096))
def test_noise_raises_nothing_and_the_next_frame_gets_through(noise: bytes) -> None:
    reader = FrameReader()
    reader.feed(noise)
    assert reader.feed(encode_command(Command(3)))[-1].sequence == 3


def test_bytes_without_a_zero_are_dropped_up_to_one_counted_once_and_not_kept() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"\x07" * 1000) == []
        assert len(reader._begun) < MAX_FRAME
    # Their end, with a frame glued to it, is dropped with them.
    assert reader.feed(encode_command(Command(1))[1:]) == []
    assert reader.errors == 1
    assert reader.last_error == "no frame end within 256 bytes"
    assert [m.sequence for m in reader.feed(encode_command(Command(2)))] == [2]


def test_another_version_is_refused_by_name() -> None:
    reader = FrameReader()
    assert reader.feed(encode_command(Command(1), version=9)) == []
    assert reader.other_version == 9
    with pytest.raises(VersionError, match="version 9, this side speaks 1"):
        decode(encode_command(Command(1), version=9)[1:-1])


def test_frame_of_unknown_type_is_refused() -> None:
    payload = struct.pack("<BBI", 7, VERSION, 0)
    with pytest.raises(FrameError, match="type 7"):
        decode(cobs.encode(payload + struct.pack("<I", zlib.crc32(payload))))
