# SPDX-License-Identifier: Apache-2.0
"""Test vectors of the wire protocol for codecs in any language: `python tests/protocol_vectors.py` writes them.

Each line of data/protocol_vectors.jsonl is a byte stream for a fresh decoder: `stream` (hex), the `messages` that must
come out of it in order, and the `errors` that must be counted (cobs, checksum, content, version, overlong). Numbers of
single precision are given as their 8 hex digits, so that NaN, infinity and the last bit need no agreement. Where
`encoded` is true, an encoder given the messages must write exactly this stream.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cobs import cobs

from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Command, CommandFlag, Fault, Status, Telemetry, encode_command, encode_telemetry

FILE = Path(__file__).parent / "data" / "protocol_vectors.jsonl"
NAN, INF, BIGGEST, SMALLEST, DENORMAL = "7fc00000", "7f800000", "7f7fffff", "00800000", "00000001"
MINUS_ZERO, MINUS_INF, SIGNALLING = "80000000", "ff800000", "7fa00000"
#: Floats of a telemetry message, in the order of the wire.
SHAPES = {
    "accel_mps2": 3,
    "gyro_radps": 3,
    "quaternion_wxyz": 4,
    "wheel_pos_rad": 2,
    "wheel_vel_radps": 2,
    "leg_pos_rad": 4,
    "leg_vel_radps": 4,
    "executed_nm": 2,
    "battery_v": 1,
    "temperatures_c": 3,
}


def hex32(value: float) -> str:
    return struct.pack(">f", value).hex()


def float32(digits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(digits))[0]
    return value


def to_vector(message: Telemetry | Command) -> dict[str, Any]:
    """The message as a vector spells it."""
    if isinstance(message, Command):
        return {
            "type": "command",
            "sequence": message.sequence,
            "torque_nm": [hex32(x) for x in message.torque_nm],
            "posture_rad": [hex32(x) for x in message.posture_rad],
            "flags": int(message.flags),
        }
    numbers = {f.name: getattr(message.sensors, f.name) for f in fields(SensorReadings)}
    numbers["executed_nm"], numbers["battery_v"] = message.executed_nm, (message.sensors.battery_v,)
    return {
        "type": "telemetry",
        "sequence": message.sequence,
        "device_time_us": message.device_time_us,
        "command_sequence": message.command_sequence,
        **{name: [hex32(x) for x in numbers[name]] for name in SHAPES},
        "status": int(message.status),
        "faults": int(message.faults),
    }


def from_vector(v: dict[str, Any]) -> Telemetry | Command:
    """The message that a vector spells; a signalling NaN becomes a quiet one."""
    if v["type"] == "command":
        torque, posture = (tuple(float32(x) for x in v[key]) for key in ("torque_nm", "posture_rad"))
        return Command(v["sequence"], torque, posture, CommandFlag(v["flags"]))  # type: ignore[arg-type]
    numbers: dict[str, Any] = {name: tuple(float32(x) for x in v[name]) for name in SHAPES}
    executed, numbers["battery_v"] = numbers.pop("executed_nm"), numbers["battery_v"][0]
    return Telemetry(
        v["sequence"],
        v["device_time_us"],
        v["command_sequence"],
        SensorReadings(**numbers),
        executed,
        Status(v["status"]),
        Fault(v["faults"]),
    )


def encode(message: Telemetry | Command) -> bytes:
    return encode_command(message) if isinstance(message, Command) else encode_telemetry(message)


def framed(payload: bytes) -> bytes:
    """A frame around any payload, one that is no message too."""
    checked: bytes = cobs.encode(payload + struct.pack("<I", zlib.crc32(payload)))
    return b"\0" + checked + b"\0"


def command(sequence: int, torque: tuple[str, str], posture: tuple[str, str] = (NAN, NAN), flags: int = 0) -> Any:
    return {"type": "command", "sequence": sequence, "torque_nm": torque, "posture_rad": posture, "flags": flags}


def telemetry(sequence: int, time_us: int, numbers: list[str], status: int = 0, faults: int = 0) -> Any:
    """Telemetry whose 32 floats are `numbers` over and over."""
    rest = [numbers[i % len(numbers)] for i in range(sum(SHAPES.values()))]
    floats = {name: [rest.pop(0) for _ in range(n)] for name, n in SHAPES.items()}
    return {
        "type": "telemetry",
        "sequence": sequence,
        "device_time_us": time_us,
        "command_sequence": sequence ^ 1,
        **floats,
        "status": status,
        "faults": faults,
    }


ONE, MINUS_ONE = hex32(1.0), hex32(-1.0)
EXAMPLE = command(7, (hex32(1.5), hex32(-1.5)), (ONE, hex32(-1.5)), 1)
PLAIN = telemetry(41, 205_000, [hex32(x / 8) for x in range(-8, 24)], 1)
VALID = {
    "command of the document": [EXAMPLE],
    "command of zeros": [command(0, (hex32(0.0),) * 2, (hex32(0.0),) * 2)],
    "command that changes nothing": [command(1, (hex32(0.0),) * 2)],
    "command, every flag": [command(2, (ONE, ONE), flags=7)],
    "command, unknown flags": [command(2, (ONE, ONE), flags=0xF8)],
    "command, torque not a number": [command(3, (NAN, ONE))],
    "command, torque infinite": [command(4, (INF, MINUS_INF), (MINUS_INF, INF))],
    "command, denormal and minus zero": [command(5, (DENORMAL, MINUS_ZERO), ("80000001", "007fffff"))],
    "command, largest and smallest normal": [command(6, (BIGGEST, "ff7fffff"), (SMALLEST, "80800000"))],
    "command, NaN with a payload": [command(7, ("7fc12345", "ffffffff"))],
    "command sequence wraps": [command(s, (ONE, ONE)) for s in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1)],
    "telemetry": [PLAIN],
    "telemetry of zeros": [telemetry(0, 0, [hex32(0.0)])],
    "telemetry, counters at their largest": [telemetry(2**32 - 1, 2**64 - 1, [ONE], 0xFFFF, 0xFFFF)],
    "telemetry, time past 32 bits": [telemetry(s, 2**32 + s, [ONE, MINUS_ONE]) for s in range(2)],
    "telemetry, not one number finite": [telemetry(9, 45_000, [NAN, INF, MINUS_INF], 2, 32)],
    "telemetry, denormals": [telemetry(10, 50_000, [DENORMAL, "807fffff", MINUS_ZERO, SMALLEST], 3, 1)],
    "telemetry without a zero byte": [telemetry(0x01010101, 0x0101010101010101, ["ffffffff"], 0x0101, 0x0101)],
    "telemetry sequence wraps": [telemetry(s, 5000 + s, [ONE]) for s in (0xFFFFFFFF, 0)],
    "both types in turn": [EXAMPLE, PLAIN, EXAMPLE],
}


def _flip(frame: bytes, index: int) -> bytes:
    return bytes([*frame[:index], frame[index] ^ 0x10, *frame[index + 1 :]])


def streams() -> Iterator[tuple[str, bytes, list[Any], dict[str, int]]]:
    """Streams that no encoder writes: name, bytes, messages, errors."""
    good, tele = encode(from_vector(EXAMPLE)), encode(from_vector(PLAIN))
    payload = cobs.decode(good[1:-1])[:-4]
    yield "nothing", b"", [], {}
    yield "zeros only", bytes(1000), [], {}
    yield "zeros around frames", bytes(3) + good + bytes(2) + tele + bytes(5), [EXAMPLE, PLAIN], {}
    yield "frames that share a zero", good + good[1:], [EXAMPLE, EXAMPLE], {}
    yield "frame without its first zero, at the start", good[1:], [EXAMPLE], {}
    yield "frame without its first zero, after noise", b"\x05\x05" + good[1:] + good, [EXAMPLE], {"cobs": 1}
    yield "noise, then a whole frame", b"\x03\x05\x06\x07\x08" + good, [EXAMPLE], {"cobs": 1}
    yield "frame without its last zero, then another", good[:-1] + tele, [EXAMPLE, PLAIN], {}
    yield "frame that has not ended", good[:-1], [], {}
    # In the command of the document, bytes 1, 5 to 9, 12, 13, 16, 17, 20 and 21 are lengths of blocks.
    yield "torn in a block, then a whole frame", good[:11] + tele, [PLAIN], {"cobs": 1}
    yield "torn between blocks, then a whole frame", good[:20] + tele, [PLAIN], {"checksum": 1}
    yield "tail that begins with a block, then a whole frame", good[9:] + good, [EXAMPLE], {"checksum": 1}
    yield "tail that begins in a block, then a whole frame", good[10:] + good, [EXAMPLE], {"cobs": 1}
    yield "one bit flipped", _flip(good, 10) + good, [EXAMPLE], {"checksum": 1}
    yield "one bit of a length flipped", _flip(good, 5) + good, [EXAMPLE], {"cobs": 1}
    yield "a length became zero", good[:16] + b"\0" + good[17:] + good, [EXAMPLE], {"checksum": 2}
    yield "two bytes swapped", good[:10] + good[11:9:-1] + good[12:] + good, [EXAMPLE], {"checksum": 1}
    yield "a block lost", good[:13] + good[16:] + good, [EXAMPLE], {"checksum": 1}
    yield "version 9", framed(payload[:1] + b"\x09" + payload[2:]) + good, [EXAMPLE], {"version": 1}
    yield "version 0 of an unknown type", framed(b"\x07\0" + bytes(4)), [], {"version": 1}
    yield "version 255, version 2", framed(b"\x02\xff" + bytes(30)) + framed(b"\x01\x02" + bytes(4)), [], {"version": 2}
    yield "unknown type", framed(b"\x07" + payload[1:]) + good, [EXAMPLE], {"content": 1}
    yield "type 0, all zeros", framed(b"\0\x01" + bytes(21)) + good, [EXAMPLE], {"content": 1}
    yield "command a byte short", framed(payload[:-1]) + good, [EXAMPLE], {"content": 1}
    yield "command a byte long", framed(payload + b"\x01") + good, [EXAMPLE], {"content": 1}
    yield "command as long as telemetry", framed(payload + bytes(111)), [], {"content": 1}
    yield "telemetry as short as a command", framed(b"\x01" + payload[1:]), [], {"content": 1}
    yield "head only", framed(b"\x02\x01" + bytes(4)), [], {"content": 1}
    yield "less than a head", framed(b"\x02\x01" + bytes(3)), [], {"content": 1}
    yield "less than a head, of another version", framed(b"\x02\x09" + bytes(3)), [], {"content": 1}
    yield "checksum of nothing", framed(b""), [], {"content": 1}
    yield "one length byte", b"\0\x01\0" + good, [EXAMPLE], {"content": 1}
    yield "254 bytes in a full block", b"\0\xff" + b"\x55" * 254 + b"\0" + good, [EXAMPLE], {"checksum": 1}
    yield "255 bytes in a full block", b"\0\xff" + b"\x55" * 255 + b"\0" + good, [EXAMPLE], {"overlong": 1}
    yield "253 bytes in a full block", b"\0\xff" + b"\x55" * 253 + b"\0" + good, [EXAMPLE], {"cobs": 1}
    yield "2000 bytes without a zero", b"\x02" * 2000 + good, [EXAMPLE], {"overlong": 1}
    yield "a frame after 300 bytes without a zero", b"\x55" * 300 + good[1:] + good, [EXAMPLE], {"overlong": 1}
    yield "whole message of 245 bytes", framed(b"\x02\x01" + b"\x03" * 243) + good, [EXAMPLE], {"content": 1}


def lines() -> Iterator[dict[str, Any]]:
    for name, messages in VALID.items():
        stream = b"".join(encode(from_vector(v)) for v in messages)
        yield {"name": name, "stream": stream.hex(), "messages": messages, "errors": {}, "encoded": True}
    # Not from the encoder of this project: Python's struct changes a signalling NaN.
    payload = struct.pack("<BBI", 2, 1, 8) + b"".join(bytes.fromhex(SIGNALLING)[::-1] for _ in range(4)) + b"\0"
    signalling = command(8, (SIGNALLING,) * 2, (SIGNALLING,) * 2)
    yield {
        "name": "command, signalling NaN",
        "stream": framed(payload).hex(),
        "messages": [signalling],
        "errors": {},
        "encoded": False,
    }
    for name, stream, messages, errors in streams():
        yield {"name": name, "stream": stream.hex(), "messages": messages, "errors": errors, "encoded": False}


def text() -> str:
    """The file's contents."""
    return "".join(json.dumps(line) + "\n" for line in lines())


def load() -> list[dict[str, Any]]:
    """The vectors as committed."""
    return [json.loads(line) for line in FILE.read_text().splitlines()]


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
    print(f"{len(load())} vectors in {FILE}")
