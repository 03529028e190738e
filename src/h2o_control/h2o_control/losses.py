# SPDX-License-Identifier: Apache-2.0
"""Counts what was sent and did not arrive, from the numbers that messages and frames carry."""

from __future__ import annotations

from h2o_control.clock import Unwrapper

#: Bits of the sequence number of a device's frames.
FRAME_BITS = 32


class LossCounter:
    """Counts the messages of one topic that are missing, from the numbers that each of its publishers gives them.

    What a publisher sent before its first message that arrived is not missing: nobody had asked for it.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    def update(self, publisher: bytes, number: int) -> int:
        """Take a publisher and its number for a message; returns how many are missing before it, -1 for one of them."""
        last = self._last.get(publisher)
        if last is None or number > last:
            self._last[publisher] = number
        if last is None:
            return 0
        return number - last - 1 if number > last else -1


class FrameCounter:
    """Counts the frames that the device sent and the driver did not get, from /device_time."""

    def __init__(self) -> None:
        self._frames = Unwrapper(FRAME_BITS)

    def update(self, source: str, lost: int) -> int:
        """Take the source of a message on /device_time; returns how many frames are missing before it.

        Args:
            source: the frame's number in decimal; where it is something else, nothing can be counted.
            lost: messages of the topic itself that are missing before it: their frames had arrived.
        """
        if not source.isdecimal() or int(source) >= 1 << FRAME_BITS:
            return 0
        self._frames.unwrap(int(source))
        return max(0, self._frames.missed - max(0, lost))
