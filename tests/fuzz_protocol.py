# SPDX-License-Identifier: Apache-2.0
"""Fuzz both codecs of the wire protocol: `python tests/fuzz_protocol.py --bytes 100000000 --seed 1`.

A stream of noise, damaged frames and good ones goes through the Python and the C decoder (C with the address and
undefined-behaviour sanitizers). Good is what stands between two zeros exactly as an encoder wrote it. Every good frame
must come out, nothing else may, both decoders must count the same errors, and neither may keep more than a frame.
"""

from __future__ import annotations

import argparse
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firmware_c import CODEC, COMPILER, COUNTED, NO_COMPILER, SANITIZE, SOURCES, compile_c
from protocol_vectors import SHAPES, encode, framed, from_vector
from wheel_leg_driver.protocol import MAX_FRAME, FrameReader

CHUNK = 1_000_000
#: Single precision at its edges, and noise; a signalling NaN would not survive Python's struct.
NUMBERS = ["00000000", "80000000", "7f800000", "ff800000", "7fc00000", "00000001", "7f7fffff", "3f800000", "01010101"]


def build_filter(folder: Path) -> Path:
    """Compile firmware/filter.c with sanitizers."""
    return compile_c(folder / "filter", SOURCES / "filter.c", CODEC, flags=tuple(SANITIZE))


def random_frame(rng: random.Random) -> bytes:
    """A good frame, a command or telemetry, of any values."""

    def number() -> str:
        return rng.choice(NUMBERS) if rng.random() < 0.5 else struct.pack(">f", rng.gauss(0, 10)).hex()

    sequence = rng.choice([0, 1, 0xFFFFFFFF, rng.getrandbits(32)])
    if rng.random() < 0.5:
        torque, posture = [number(), number()], [number(), number()]
        return encode(
            from_vector(
                {
                    "type": "command",
                    "sequence": sequence,
                    "torque_nm": torque,
                    "posture_rad": posture,
                    "flags": rng.getrandbits(8),
                }
            )
        )
    floats = {name: [number() for _ in range(n)] for name, n in SHAPES.items()}
    return encode(
        from_vector(
            {
                "type": "telemetry",
                "sequence": sequence,
                "device_time_us": rng.getrandbits(64),
                "command_sequence": rng.getrandbits(32),
                **floats,
                "status": rng.getrandbits(16),
                "faults": rng.getrandbits(16),
            }
        )
    )


def _flip_bits(rng: random.Random, body: bytearray, other: bytes) -> None:
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)


def _delete(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randrange(len(body))
    del body[at : at + rng.choice([1, 1, 2, 20])]


def _insert(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randrange(len(body) + 1)
    body[at:at] = rng.randbytes(rng.choice([1, 1, 2, 20]))


def _swap(rng: random.Random, body: bytearray, other: bytes) -> None:
    i, j = rng.randrange(len(body)), rng.randrange(len(body))
    body[i], body[j] = body[j], body[i]


def _lose_head(rng: random.Random, body: bytearray, other: bytes) -> None:
    del body[: rng.randrange(1, len(body))]


def _lose_tail(rng: random.Random, body: bytearray, other: bytes) -> None:
    del body[rng.randrange(1, len(body)) :]


def _splice(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randrange(1, len(body))
    body[at:] = other[at:]


def _repeat(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randrange(len(body))
    body[at:at] = body[at : at + 12]


def _blank(rng: random.Random, body: bytearray, other: bytes) -> None:
    at = rng.randrange(len(body))
    body[at : at + 4] = rng.choice([b"\0", b"\xff", b"\x01"]) * len(body[at : at + 4])


DAMAGE: list[Callable[[random.Random, bytearray, bytes], None]] = [
    _flip_bits,
    _delete,
    _insert,
    _swap,
    _lose_head,
    _lose_tail,
    _splice,
    _repeat,
    _blank,
]


def _noise(rng: random.Random) -> bytes:
    noise = rng.randbytes(rng.choice([1, 3, 30, 300, 1000]))
    kind = rng.random()
    if kind < 0.3:
        return noise.replace(b"\0", b"\x01")
    if kind < 0.5:
        return noise.translate(bytes(b % 4 for b in range(256)))
    # Whole frames that are not of this protocol, with a good checksum.
    return framed(noise[:130]) if kind < 0.6 else noise


def stream(rng: random.Random, size: int) -> tuple[bytes, list[bytes]]:
    """About `size` bytes, and the good frames among them in order."""
    pool = [random_frame(rng) for _ in range(200)]
    parts: list[bytes] = []
    length = written = 0
    while length < size:
        kind = rng.random()
        if kind < 0.35:
            part = rng.choice(pool)
            written += 1
        elif kind < 0.85:
            body = bytearray(rng.choice(pool)[1:-1])
            rng.choice(DAMAGE)(rng, body, rng.choice(pool)[1:-1])
            part = b"\0" * rng.getrandbits(1) + bytes(body) + b"\0" * rng.getrandbits(1)
        else:
            part = _noise(rng)
        parts.append(part)
        length += len(part)
    data = b"".join(parts)
    whole = {frame[1:-1]: frame for frame in pool}
    pieces = data.split(b"\0")
    good = [whole[piece] for piece in pieces[:-1] if piece in whole]
    assert len(good) >= written, "a good frame did not survive its surroundings"
    return data, good


@dataclass
class Result:
    """Of a run: bytes and good frames put in, errors by kind as C counted them, seconds in each decoder."""

    size: int = 0
    good: int = 0
    errors: int = 0
    python_s: float = 0.0
    c_s: float = 0.0


def fuzz(size: int, seed: int, program: Path | None, progress: Callable[[Result], None] = lambda _: None) -> Result:
    """Run at least `size` bytes through both decoders, or through Python's alone.

    Raises:
        AssertionError: with the seed and the chunk.
    """
    result = Result()
    for chunk in range(-(-size // CHUNK)):
        where = f"seed {seed}, chunk {chunk}"
        rng = random.Random(f"{seed}/{chunk}")
        data, good = stream(rng, min(CHUNK, size - chunk * CHUNK))
        began = time.perf_counter()
        reader, messages, at = FrameReader(), [], 0
        while at < len(data):
            cut = at + rng.randint(1, 400)
            messages += reader.feed(data[at:cut])
            assert len(reader._begun) < MAX_FRAME, f"{where}: {len(reader._begun)} bytes kept"
            at = cut
        result.python_s += time.perf_counter() - began
        assert [encode(m) for m in messages] == good, f"{where}: Python took {len(messages)} of {len(good)} good frames"
        if program is not None:
            began = time.perf_counter()
            done = subprocess.run([program], input=data, capture_output=True, timeout=60, check=False)
            result.c_s += time.perf_counter() - began
            assert done.returncode == 0, f"{where}: {done.stderr.decode(errors='replace')}"
            assert done.stdout == b"".join(good), f"{where}: C took other frames than the good ones"
            words = done.stderr.decode().split()
            counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
            errors = sum(counts[name] for name in COUNTED[2:])
            assert errors == reader.errors, f"{where}: C counts {errors} errors, Python {reader.errors}"
        result.size += len(data)
        result.good += len(good)
        result.errors += reader.errors
        progress(result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz both codecs of the wire protocol.")
    parser.add_argument("--bytes", type=int, default=CHUNK, help="to push through each decoder (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (%(default)s)")
    args = parser.parse_args()

    def progress(r: Result) -> None:
        if r.size // (args.bytes / 10) != (r.size - CHUNK) // (args.bytes / 10):
            print(f"{r.size:,} bytes, {r.good:,} good frames", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        program = build_filter(Path(folder)) if COMPILER else None
        began = time.perf_counter()
        try:
            r = fuzz(args.bytes, args.seed, program, progress)
        except AssertionError as error:
            print(f"FAILED: {error}")
            return 1
    c = f"C with sanitizers {r.c_s:.0f} s" if program else f"C not tried, {NO_COMPILER}"
    print(
        f"passed: {r.size:,} bytes, seed {args.seed}: all {r.good:,} good frames came out and nothing else, "
        f"{r.errors:,} errors counted alike; Python {r.python_s:.0f} s, {c}, in all {time.perf_counter() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
