# SPDX-License-Identifier: Apache-2.0
"""How a policy that only watches would have differed from what was sent to the robot."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

#: Answers that wait for their counterpart; what has none by then never gets one.
WAITING = 200


class Summary(NamedTuple):
    """What the last seconds had: how many pairs, and of the shadow less what was sent, NaN where there are none.

    Attributes:
        pairs: observations that both answered.
        rms_nm, largest_nm: of the difference.
        same_sign: of the torque that was sent, the share, 0 to 1, for which the shadow pointed the same way. By
            torque, because a robot at rest is sent noise around zero, whose sign says nothing.
    """

    pairs: int
    rms_nm: float
    largest_nm: float
    same_sign: float


class Comparison:
    """Matches the torques of a shadow with those that were sent, by the stamp of the observation both answer."""

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_ns = int(window_s * 1e9)
        self._newest_ns = 0
        self._own: dict[int, float] = {}
        self._sent: dict[int, float] = {}
        # Stamp, the shadow's torque, the one that was sent.
        self._pairs: deque[tuple[int, float, float]] = deque()

    def answered(self, stamp_ns: int, torque_nm: float) -> None:
        """Take the shadow's torque of one wheel for an observation."""
        if (sent := self._sent.pop(stamp_ns, None)) is not None:
            self._pair(stamp_ns, torque_nm, sent)
        else:
            self._wait(self._own, stamp_ns, torque_nm)

    def sent(self, stamp_ns: int, torque_nm: float) -> None:
        """Take the torque, mean of both wheels, that was sent in answer to an observation."""
        if (own := self._own.pop(stamp_ns, None)) is not None:
            self._pair(stamp_ns, own, torque_nm)
        else:
            self._wait(self._sent, stamp_ns, torque_nm)

    def _pair(self, stamp_ns: int, own: float, sent: float) -> None:
        self._newest_ns = stamp_ns
        self._pairs.append((stamp_ns, own, sent))

    def _wait(self, waiting: dict[int, float], stamp_ns: int, torque: float) -> None:
        self._newest_ns = stamp_ns
        waiting[stamp_ns] = torque
        if len(waiting) > WAITING:
            del waiting[next(iter(waiting))]

    def summary(self) -> Summary:
        """Return what the last seconds had."""
        # Stamps go back where the driver's clock was set back: what lies ahead of the newest is old, too.
        while self._pairs and abs(self._newest_ns - self._pairs[0][0]) > self._window_ns:
            self._pairs.popleft()
        if not self._pairs:
            return Summary(0, math.nan, math.nan, math.nan)
        squares = [(own - sent) ** 2 for _, own, sent in self._pairs]
        total = sum(abs(sent) for _, _, sent in self._pairs)
        alike = sum(abs(sent) for _, own, sent in self._pairs if own * sent > 0)
        return Summary(
            len(squares),
            math.sqrt(sum(squares) / len(squares)),
            math.sqrt(max(squares)),
            alike / total if total else math.nan,
        )
