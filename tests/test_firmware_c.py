# SPDX-License-Identifier: Apache-2.0
"""The C codec against shared vectors, against Python, against noise; the example against the emulator's firmware."""

from __future__ import annotations

import ctypes
import itertools
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_c import CODEC, COMPILER, NO_COMPILER, SOURCES, Codec, compile_c
from fuzz_protocol import CHUNK, build_filter, fuzz
from protocol_vectors import encode, framed, from_vector, load, to_vector
from test_protocol import commands, telemetries
from wheel_leg_driver.firmware import Firmware
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Command, CommandFlag, Fault, FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import load_robot

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
VECTORS = load()


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return Codec(tmp_path_factory.mktemp("codec"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_c_decodes_the_shared_vectors(codec: Codec, vector: dict[str, Any]) -> None:
    stream = bytes.fromhex(vector["stream"])
    in_blocks, in_bytes = codec.decoder(), codec.decoder()
    assert in_blocks.feed(stream) == vector["messages"]
    assert [m for byte in stream for m in in_bytes.push(byte)] == vector["messages"]
    assert in_blocks.errors == in_bytes.errors == vector["errors"]


def test_c_encodes_the_shared_vectors(codec: Codec) -> None:
    for vector in VECTORS:
        if vector["encoded"]:
            assert b"".join(map(codec.encode, vector["messages"])).hex() == vector["stream"]


def test_c_writes_nothing_where_the_frame_has_no_room(codec: Codec) -> None:
    for vector in [VECTORS[0], next(v for v in VECTORS if v["messages"][0]["type"] == "telemetry")]:
        (message,) = vector["messages"]
        size = len(vector["stream"]) // 2
        assert codec.encode(message, capacity=size - 1) == b""
        assert len(codec.encode(message, capacity=size)) == size


def test_c_names_the_other_version(codec: Codec) -> None:
    decoder = codec.decoder()
    decoder.feed(encode_command(Command(1), version=9))
    assert decoder.other_version == 9
    assert decoder.errors == {"version": 1}


@given(st.one_of(telemetries, commands))
def test_random_messages_go_from_python_to_c_and_back(codec: Codec, message: Telemetry | Command) -> None:
    frame = encode(message)
    assert codec.decoder().feed(frame) == [to_vector(message)]
    assert codec.encode(to_vector(message)) == frame
    assert FrameReader().feed(codec.encode(to_vector(message))) == [message]


#: Bytes as they come on a bad line: noise, lengths that fit, frames whole and cut, valid frames of other protocols.
streams = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.integers(0, 4), max_size=300).map(bytes),
        commands.map(encode),
        telemetries.map(encode),
        st.tuples(commands, st.integers(0, 29)).map(lambda x: encode(x[0])[x[1] :]),
        st.tuples(telemetries, st.integers(0, 140)).map(lambda x: encode(x[0])[: x[1]]),
        st.binary(max_size=260).map(framed),
        st.binary(min_size=4, max_size=140).map(lambda tail: framed(b"\x02\x01" + tail)),
    ),
    max_size=12,
).map(b"".join)


@given(streams, st.lists(st.integers(1, 400), min_size=1))
def test_c_and_python_read_any_stream_alike_however_it_is_cut(codec: Codec, stream: bytes, cuts: list[int]) -> None:
    reader, decoder = FrameReader(), codec.decoder()
    messages: list[Telemetry | Command] = []
    rest, sizes = stream, itertools.cycle(cuts)
    while rest:
        size = next(sizes)
        messages += reader.feed(rest[:size])
        rest = rest[size:]
    in_c = decoder.feed(stream)
    # Through the encoder, since a signalling NaN becomes a quiet one in Python.
    assert [encode(from_vector(v)) for v in in_c] == [encode(m) for m in messages]
    assert sum(decoder.errors.values()) == reader.errors
    assert decoder.other_version == (reader.other_version or 0)


def test_a_million_fuzzed_bytes_through_both_decoders(tmp_path: Path) -> None:
    result = fuzz(CHUNK, seed=2, program=build_filter(tmp_path))
    assert result.good > 2000
    assert result.errors > 10_000


def symbols(target: Path) -> dict[str, set[str]]:
    """Names in an object file by the letter that nm gives them."""
    listed = subprocess.run(["nm", "-P", str(target)], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for line in listed.splitlines():
        name, letter = line.split()[:2]
        found.setdefault(letter, set()).add(name)
    return found


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_codec_needs_two_functions_of_libc_and_keeps_no_state(tmp_path: Path) -> None:
    found = symbols(compile_c(tmp_path / "codec.o", CODEC, flags=("-c", "-O0", "-fno-stack-protector")))
    assert found["U"] <= {"memcpy", "memset", "_memcpy", "_memset", "_GLOBAL_OFFSET_TABLE_"}
    assert not found.keys() & set("dDbBcCsS"), found


def test_codec_touches_no_floating_point_register(tmp_path: Path) -> None:
    source = tmp_path / "probe.c"
    source.write_text("float twice(float x);\nfloat twice(float x) { return 2 * x; }\n")
    try:
        compile_c(tmp_path / "probe.o", source, flags=("-c", "-mgeneral-regs-only"))
    except RuntimeError as error:
        if "general" not in str(error) and "SSE" not in str(error):
            pytest.skip("this compiler cannot forbid floating point")
    else:
        pytest.skip("this compiler cannot forbid floating point")
    compile_c(tmp_path / "codec.o", CODEC, flags=("-c", "-mgeneral-regs-only"))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_header_serves_cpp(tmp_path: Path) -> None:
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "wheel_leg_protocol.h"\n'
        "int main() { wlp_decoder d; wlp_decoder_init(&d); return wlp_push(&d, 0) == WLP_NOTHING ? 0 : 1; }\n"
    )
    library = compile_c(tmp_path / "codec.o", CODEC, flags=("-c",))
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{SOURCES}"]
    subprocess.run(["c++", *flags, str(source), str(library), "-o", str(tmp_path / "main")], check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


#: A board in memory: time, one receive buffer, and what was sent and applied.
BOARD = """
#include "wheel_leg_protocol.h"
#include <string.h>
uint64_t now_us; uint8_t inbox[512], outbox[512]; size_t inbox_size, outbox_size; uint16_t broken;
float applied[2], legs[2];
void board_wait_for_tick(void) { }
uint64_t board_time_us(void) { return now_us; }
size_t board_receive(uint8_t *bytes, size_t capacity) {
    size_t size = inbox_size < capacity ? inbox_size : capacity;
    memcpy(bytes, inbox, size);
    memmove(inbox, inbox + size, inbox_size - size);
    inbox_size -= size;
    return size;
}
void board_send(const uint8_t *bytes, size_t size) { memcpy(outbox, bytes, size); outbox_size = size; }
void board_sense(wlp_telemetry *sensors) { sensors->battery_v = 24.0f; }
uint16_t board_faults(void) { return broken; }
void board_set_torque_nm(const float left_right[2]) { memcpy(applied, left_right, sizeof applied); }
void board_set_posture_rad(const float thigh_shin[2]) { memcpy(legs, thigh_shin, sizeof legs); }
"""


class Board:
    """firmware/example.c on a board in memory, a motor-loop tick at a time."""

    def __init__(self, library: Path) -> None:
        self._lib = ctypes.CDLL(str(library))
        self._now = ctypes.c_uint64.in_dll(self._lib, "now_us")
        self._inbox = (ctypes.c_uint8 * 512).in_dll(self._lib, "inbox")
        self._inbox_size = ctypes.c_size_t.in_dll(self._lib, "inbox_size")
        self._outbox = (ctypes.c_uint8 * 512).in_dll(self._lib, "outbox")
        self._outbox_size = ctypes.c_size_t.in_dll(self._lib, "outbox_size")
        self.applied_nm = (ctypes.c_float * 2).in_dll(self._lib, "applied")
        self.legs_rad = (ctypes.c_float * 2).in_dll(self._lib, "legs")
        self.broken = ctypes.c_uint16.in_dll(self._lib, "broken")
        self._lib.firmware_init()

    def tick(self, data: bytes = b"") -> bytes:
        """One millisecond: bytes in, the frame that was sent out, if any."""
        self._inbox[: len(data)] = data
        self._inbox_size.value = len(data)
        self._outbox_size.value = 0
        self._lib.firmware_tick()
        self._now.value += 1000
        return bytes(self._outbox[: self._outbox_size.value])


class Still:
    """A plant that stands still."""

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None: ...

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None: ...

    def sense(self) -> SensorReadings:
        zero = (0.0, 0.0, 0.0, 0.0)
        return SensorReadings(zero[:3], zero[:3], zero, zero[:2], zero[:2], zero, zero, 24.0, zero[:3])

    def truth(self) -> Any: ...


@pytest.fixture(scope="module")
def board_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("board") / "board.c"
    source.write_text(BOARD)
    return source


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, board_source: Path) -> Path:
    folder = tmp_path_factory.mktemp("example")
    flags = ("-shared", "-fPIC", "-Dmain=example_main")
    return compile_c(folder / "example.so", SOURCES / "example.c", CODEC, board_source, flags=flags)


#: Ticks until the next bytes, and those: commands likely to arm, move, stop; other versions; noise.
torques = st.sampled_from([0.0, 1.5, -0.25, 9.0, math.nan, math.inf])
talk = st.lists(
    st.tuples(
        st.sampled_from([1, 5, 5, 29, 30, 31, 45]),
        st.one_of(
            st.builds(
                lambda n, left, right, flags: encode_command(Command(n, (left, right), flags=CommandFlag(flags))),
                st.integers(0, 2**32 - 1),
                torques,
                torques,
                st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3, 4, 5]),
            ),
            st.just(encode_command(Command(1), version=2)),
            st.binary(max_size=20),
        ),
    ),
    max_size=30,
)
copies = itertools.count()


@given(talk)
def test_example_behaves_as_the_emulated_firmware(example: Path, conversation: list[tuple[int, bytes]]) -> None:
    # The example's state is static, as a firmware's is; a copy of the library is a board switched on anew.
    copy = example.with_name(f"example-{next(copies)}.so")
    shutil.copy(example, copy)
    board = Board(copy)
    copy.unlink()
    firmware = Firmware(load_robot("ideal"), Still())
    due = b""
    for ticks, data in conversation:
        for tick in range(ticks):
            received = data if tick == 0 else b""
            # The board reports at the start of the tick after the one with which the emulator's step ends.
            assert seen(board.tick(received)) == seen(due)
            firmware.receive(received)
            due = firmware.substep() or b""
            assert tuple(board.applied_nm) == firmware.torque_nm


def seen(frame: bytes) -> Any:
    """What a telemetry frame says about the firmware, or None if there is no frame."""
    for message in FrameReader().feed(frame):
        assert isinstance(message, Telemetry)
        executed = tuple(round(torque, 5) for torque in message.executed_nm)
        counters = (message.sequence, message.device_time_us, message.command_sequence)
        return *counters, executed, message.status, message.faults
    return None


def test_example_latches_a_fault_of_the_board_until_disarmed(tmp_path: Path, example: Path) -> None:
    board = Board(Path(shutil.copy(example, tmp_path)))
    board.tick(encode_command(Command(1, (1.0, 1.0), (0.5, -0.5), CommandFlag.ARM)))
    assert tuple(board.applied_nm) == (1.0, 1.0)
    assert tuple(board.legs_rad) == (0.5, -0.5)
    board.broken.value = Fault.MOTOR
    board.tick()
    assert tuple(board.applied_nm) == (0.0, 0.0)
    board.broken.value = 0
    board.tick(encode_command(Command(2, (1.0, 1.0), flags=CommandFlag.ARM)))
    assert tuple(board.applied_nm) == (0.0, 0.0)
    board.tick(encode_command(Command(3, flags=CommandFlag.DISARM)))
    board.tick(encode_command(Command(4, (1.0, 1.0), flags=CommandFlag.ARM)))
    assert tuple(board.applied_nm) == (1.0, 1.0)
