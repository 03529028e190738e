# SPDX-License-Identifier: Apache-2.0
"""A bad cable: frames lost, late, torn, corrupted or of another version, in either direction."""

from __future__ import annotations

import zlib
from collections import deque

import numpy as np
from cobs import cobs

from wheel_leg_driver.faults import Injection
from wheel_leg_driver.protocol import DELIMITER, MAX_FRAME

#: A corrupted frame has between one and this many bits flipped.
MOST_BITS = 8
_CRC_BYTES = 4


class WireFaults:
    """What active injections make of the bytes between firmware and driver."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._active: list[Injection] = []
        self._late: deque[tuple[int, bytes]] = deque()
        self._half = b""

    @property
    def unplugged(self) -> bool:
        """Whether there is no cable at all."""
        return any(injection.kind == "unplug" for injection in self._active)

    @property
    def _silent(self) -> bool:
        return any(injection.kind in ("unplug", "stall") for injection in self._active)

    def begin(self, injection: Injection) -> None:
        """Let an injection of this layer, or a stall, take effect."""
        self._active.append(injection)

    def end(self, injection: Injection) -> None:
        """Let it end."""
        self._active.remove(injection)

    def command(self, data: bytes) -> bytes:
        """Return what arrives of bytes that the driver sent."""
        if not self._active and not self._half:
            return data
        if self._silent:
            self._half = b""
            return b""
        *frames, self._half = (self._half + data).split(DELIMITER)
        # As a receiver may, drop what has grown too long for a frame.
        self._half = self._half[-MAX_FRAME:]
        return b"".join(self._disturbed(DELIMITER + frame + DELIMITER, "command") for frame in frames if frame)

    def telemetry(self, frame: bytes, now_us: int) -> bytes:
        """Return what arrives at this time, given the frame that was sent (or none)."""
        if not self._active and not self._late:
            return frame
        delay_us = 0
        for injection in self._active:
            if injection.kind == "delay_telemetry":
                delay_us += round(injection.number("s") * 1e6)
        frame = self._disturbed(frame, "telemetry") if frame else b""
        if frame and not self._silent:
            # A cable keeps the order, so what is sent after the delay has ended waits for what is still late.
            due = max(now_us + delay_us, self._late[-1][0] if self._late else 0)
            self._late.append((due, frame))
        arrived = b""
        while self._late and self._late[0][0] <= now_us:
            arrived += self._late.popleft()[1]
        return b"" if self._silent else arrived

    def _disturbed(self, frame: bytes, direction: str) -> bytes:
        rng = self._rng
        for injection in self._active:
            if len(frame) < 2 or not injection.acts_on(direction):
                continue
            if injection.kind == "wrong_version":
                frame = _of_version(frame, round(injection.number("version")))
            elif injection.kind == "byte_noise":
                frame = self._noisy(frame, injection.number("share"))
            elif injection.kind in ("torn_frames", "corrupt_frames", "drop_telemetry"):
                if rng.random() >= injection.number("share"):
                    continue
                if injection.kind == "drop_telemetry":
                    frame = b""
                elif injection.kind == "torn_frames":
                    # At least the last byte before the zero is gone: the zero alone would come with the next frame.
                    frame = frame[: int(rng.integers(len(frame) - 1))]
                else:
                    frame = self._flipped(frame)
        return frame

    def _flipped(self, frame: bytes) -> bytes:
        data = bytearray(frame)
        for bit in self._rng.choice(8 * len(data), int(self._rng.integers(1, MOST_BITS + 1)), replace=False):
            data[bit // 8] ^= 1 << (bit % 8)
        return bytes(data)

    def _noisy(self, frame: bytes, share: float) -> bytes:
        data = bytearray()
        for byte, draw in zip(frame, self._rng.random(len(frame)), strict=True):
            if draw < share:
                data.append(int(self._rng.integers(256)))
            # Half of the noise takes a byte's place, half comes between two.
            if draw >= share / 2:
                data.append(byte)
        return bytes(data)


def _of_version(frame: bytes, version: int) -> bytes:
    """Return the same frame as a sender of another version would frame it; one that is damaged stays as it is."""
    try:
        payload = bytearray(cobs.decode(frame.strip(DELIMITER))[:-_CRC_BYTES])
    except cobs.DecodeError:
        return frame
    if len(payload) < 2:
        return frame
    payload[1] = version
    encoded: bytes = cobs.encode(bytes(payload) + zlib.crc32(payload).to_bytes(_CRC_BYTES, "little"))
    return DELIMITER + encoded + DELIMITER
