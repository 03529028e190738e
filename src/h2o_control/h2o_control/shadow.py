# SPDX-License-Identifier: Apache-2.0
"""How a policy that only watches would have differed from what was sent to the robot."""

from __future__ import annotations

import math
from collections import deque

#: Answers that wait for their counterpart; what has none by then never gets one.
WAITING = 200


class Comparison:
    """Matches the torques of a shadow with those that were sent, by the stamp of the observation both answer."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_ns = int(window_s * 1e9)
        self._newest_ns = 0
        self._own: dict[int, float] = {}
        self._sent: dict[int, float] = {}
        self._differences: deque[tuple[int, float]] = deque()

    def answered(self, stamp_ns: int, torque_nm: float) -> None:
        """Take the shadow's torque of one wheel for an observation."""
        self._match(stamp_ns, self._own, torque_nm, self._sent, 1.0)

    def sent(self, stamp_ns: int, torque_nm: float) -> None:
        """Take the torque, mean of both wheels, with which the acting policy's answer was sent."""
        self._match(stamp_ns, self._sent, torque_nm, self._own, -1.0)

    def _match(
        self, stamp_ns: int, mine: dict[int, float], torque: float, others: dict[int, float], sign: float
    ) -> None:
        self._newest_ns = max(self._newest_ns, stamp_ns)
        other = others.pop(stamp_ns, None)
        if other is not None:
            self._differences.append((stamp_ns, sign * (torque - other)))
            return
        mine[stamp_ns] = torque
        if len(mine) > WAITING:
            del mine[next(iter(mine))]

    def summary(self) -> tuple[int, float, float]:
        """Return how many pairs the last seconds had, and rms and largest absolute difference in Nm (NaN for none)."""
        while self._differences and self._differences[0][0] < self._newest_ns - self._window_ns:
            self._differences.popleft()
        if not self._differences:
            return 0, math.nan, math.nan
        squares = [d * d for _, d in self._differences]
        return len(squares), math.sqrt(sum(squares) / len(squares)), math.sqrt(max(squares))
