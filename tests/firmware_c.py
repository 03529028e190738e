# SPDX-License-Identifier: Apache-2.0
"""The C codec of firmware/ for tests: compiled by the host's compiler, called through ctypes, spoken to in vectors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from protocol_vectors import SHAPES

SOURCES = Path(__file__).parents[1] / "firmware"
CODEC = SOURCES / "wheel_leg_protocol.c"
COMPILER = shutil.which(os.environ.get("CC", "cc"))
NO_COMPILER = "no C compiler (cc, or the one that CC names)"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COUNTED = ("command", "telemetry", "cobs", "checksum", "content", "version", "overlong")


def compile_c(target: Path, *sources: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compile C99 with every warning an error; raises CalledProcessError with the compiler's words."""
    assert COMPILER is not None
    command = [COMPILER, *STRICT, "-O1", *flags, f"-I{SOURCES}", "-o", str(target), *map(str, sources), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return target


class _Command(ctypes.Structure):
    # Floats as bits, so that Python changes none.
    _fields_ = (
        ("sequence", ctypes.c_uint32),
        ("torque_nm", ctypes.c_uint32 * 2),
        ("posture_rad", ctypes.c_uint32 * 2),
        ("flags", ctypes.c_uint8),
    )


class _Telemetry(ctypes.Structure):
    _fields_ = (
        ("sequence", ctypes.c_uint32),
        ("device_time_us", ctypes.c_uint64),
        ("command_sequence", ctypes.c_uint32),
        *((name, ctypes.c_uint32 * n) for name, n in SHAPES.items()),
        ("status", ctypes.c_uint16),
        ("faults", ctypes.c_uint16),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        ("counts", ctypes.c_uint32 * 8),
        ("other_version", ctypes.c_uint8),
        ("event", ctypes.c_uint8),
        ("block_left", ctypes.c_uint8),
        ("received", ctypes.c_uint16),
        ("length", ctypes.c_uint16),
        ("crc", ctypes.c_uint32),
        ("message", ctypes.c_uint8 * 138),
    )


KINDS: dict[str, type[ctypes.Structure]] = {"command": _Command, "telemetry": _Telemetry}


class Codec:
    """Encoders and decoders of the compiled library."""

    def __init__(self, folder: Path) -> None:
        self._lib = ctypes.CDLL(str(compile_c(folder / "codec.so", CODEC, flags=("-shared", "-fPIC", "-O2"))))
        self._lib.wlp_push_block.restype = ctypes.c_size_t
        self._lib.wlp_encode_command.restype = ctypes.c_size_t
        self._lib.wlp_encode_telemetry.restype = ctypes.c_size_t

    def encode(self, vector: dict[str, Any], capacity: int = 256) -> bytes:
        """The frame that C makes of a message."""
        struct = KINDS[vector["type"]]()
        for name, *_ in struct._fields_:
            value = vector[name]
            if isinstance(value, int):
                setattr(struct, name, value)
            else:
                getattr(struct, name)[:] = [int(digits, 16) for digits in value]
        frame = ctypes.create_string_buffer(b"\xa5" * 256, 256)
        encode = getattr(self._lib, f"wlp_encode_{vector['type']}")
        length: int = encode(ctypes.byref(struct), frame, ctypes.c_size_t(capacity))
        assert frame.raw[length:] == b"\xa5" * (256 - length), "written beyond the frame"
        return frame.raw[:length]

    def decoder(self) -> Decoder:
        """A decoder that has seen nothing."""
        return Decoder(self._lib)


class Decoder:
    """One byte stream through the C decoder."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._lib = library
        self._decoder = _Decoder()
        library.wlp_decoder_init(ctypes.byref(self._decoder))

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Push bytes block by block; return the messages, as vectors."""
        messages, event = [], ctypes.c_int()
        while data:
            taken = self._lib.wlp_push_block(
                ctypes.byref(self._decoder), data, ctypes.c_size_t(len(data)), ctypes.byref(event)
            )
            data = data[taken:]
            messages += self._take()
        return messages

    def push(self, byte: int) -> list[dict[str, Any]]:
        """Push one byte."""
        self._lib.wlp_push(ctypes.byref(self._decoder), ctypes.c_uint8(byte))
        return self._take()

    def _take(self) -> list[dict[str, Any]]:
        taken: list[dict[str, Any]] = []
        for kind, shape in KINDS.items():
            struct = shape()
            if getattr(self._lib, f"wlp_take_{kind}")(ctypes.byref(self._decoder), ctypes.byref(struct)):
                vector: dict[str, Any] = {"type": kind}
                for name, *_ in struct._fields_:
                    value = getattr(struct, name)
                    vector[name] = value if isinstance(value, int) else [f"{bits:08x}" for bits in value]
                taken.append(vector)
        return taken

    @property
    def errors(self) -> dict[str, int]:
        """Errors counted, by kind, those that came."""
        counts = zip(COUNTED[2:], self._decoder.counts[3:], strict=True)
        return {name: n for name, n in counts if n}

    @property
    def other_version(self) -> int:
        return int(self._decoder.other_version)
