# SPDX-License-Identifier: Apache-2.0
"""Clocks: a device's mapped to this machine's, counters that wrap, wall time that goes on evenly."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

#: Length of a window in which the least delayed frame counts, s of device time; the offset is that of the last two.
WINDOW_S = 0.25
#: How fast the mapping may be corrected, s a second: stamps of neighbouring frames stay within 5 % of the true step,
#: and a clock that has fallen behind by 30 ms is followed within 1.2 s.
SLEW = 0.045
#: Further off than this, for longer than a window or by a frame that came too early, the mapping jumps: something was
#: suspended, and following at SLEW would take too long.
JUMP_S = 0.25
#: The drift is fitted to this many points, the least delayed frame of each four windows (1 s), once there are FIRST.
POINTS = 32
FIRST = 4
#: Crystals differ by 100 ppm, ceramic resonators by 0.5 %; more than this is no clock.
MAX_DRIFT = 0.01
#: Points further than this from the line were taken after a stall, or on a link that has become slower.
LINE_S = 1e-3
#: That many in a row begin a new line.
OFF_LINE = 3


class ClockMap:
    """Maps a device's clock to this host's monotonic one: host = device + offset, the offset changing with the drift.

    A frame may come late, never early, so the frames that travelled fastest tell: the offset is that of the fastest
    of the last quarter to half second, extrapolated by the drift; the drift is the slope of the line under the
    fastest frames of the last 32 s (the convex-hull estimate of Moon, Skelly and Towsley, INFOCOM 1999). With one-sided
    jitter of 0.1 to 5 ms at 200 Hz, it is within 20 ppm after 10 s and within 3 ppm after 35 s.

    Stamps never go back. Their steps stay within 5 % of the true ones, except where the two clocks part by more than
    a quarter second (a suspended host) or the device's goes back (a restart): there the mapping begins anew.
    """

    def __init__(self) -> None:
        self._started = False
        self._drift = 0.0
        self._offset_s = 0.0
        self._last_device_s = 0.0
        self._last_host_s = -math.inf
        # The least offset of this window and of the one before.
        self._window_start_s = self._lowest = self._lowest_before = 0.0
        # The least delayed frame of four windows (offset without drift, device time, offset), and the line under them.
        self._windows = self._off_line = 0
        self._origin_s = 0.0
        self._point = (math.inf, 0.0, 0.0)
        self._points: deque[tuple[float, float]] = deque(maxlen=POINTS)
        self._line = (0.0, 0.0)

    @property
    def offset_s(self) -> float:
        """Host time less device time at the last frame, s."""
        return self._offset_s

    @property
    def drift_ppm(self) -> float:
        """How much faster the device's clock runs than the host's, parts per million; 0 for the first four seconds."""
        return -self._drift * 1e6

    def to_host(self, device_time_us: int, host_s: float) -> float:
        """Return the host time (s) of a frame that carries this device time and arrived at `host_s`.

        A frame's own delay counts only where none was faster, so what is returned is at most a little after `host_s`.
        """
        device_s = device_time_us * 1e-6
        sample = host_s - device_s
        if not self._started or device_s < self._last_device_s:
            self._started, self._drift = True, 0.0
            self._begin(device_s, max(sample, self._last_host_s - device_s))
        # Offsets are compared as they would be now, at the device time of this frame.
        step_s = device_s - self._last_device_s
        self._lowest = min(sample, self._lowest + self._drift * step_s)
        self._lowest_before += self._drift * step_s
        error = min(self._lowest, self._lowest_before) - self._offset_s
        if abs(error) > JUMP_S:
            self._begin(device_s, max(sample, self._last_host_s - device_s))
        else:
            room = SLEW * step_s
            self._offset_s += max(-room, min(room, error))
        self._last_device_s = device_s
        self._point = min(self._point, (sample - self._drift * (device_s - self._origin_s), device_s, sample))
        if device_s - self._window_start_s >= WINDOW_S:
            self._end_window(device_s)
        self._last_host_s = device_s + self._offset_s
        return self._last_host_s

    def _begin(self, device_s: float, offset_s: float) -> None:
        self._offset_s = self._lowest = self._lowest_before = offset_s
        self._last_device_s = self._window_start_s = device_s
        self._begin_line(device_s)

    def _begin_line(self, device_s: float) -> None:
        self._origin_s = device_s
        self._windows = self._off_line = 0
        self._points.clear()
        self._point = (math.inf, device_s, 0.0)

    def _end_window(self, device_s: float) -> None:
        self._window_start_s = device_s
        self._lowest_before, self._lowest = self._lowest, math.inf
        self._windows += 1
        if self._windows % 4:
            return
        _, point_s, point = self._point
        self._point = (math.inf, device_s, 0.0)
        if len(self._points) >= FIRST:
            start_s, height = self._line
            off = abs(height + self._drift * (point_s - start_s) - point) > LINE_S
            self._off_line = self._off_line + 1 if off else 0
            if self._off_line >= OFF_LINE:
                # The drift itself is as it was.
                self._begin_line(device_s)
                return
            if off:
                return
        self._points.append((point_s, point))
        if len(self._points) >= FIRST:
            (start_s, height), slope = line_under(self._points)
            self._line = start_s, height
            self._drift = max(-MAX_DRIFT, min(MAX_DRIFT, slope))


def line_under(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], float]:
    """Return a point of, and the slope of, the line below all points (x ascending) with the least sum of distances.

    It is the edge of the lower convex hull that spans the mean of x.
    """
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    mean = sum(x for x, _ in points) / len(points)
    left, right = next((a, b) for a, b in itertools.pairwise(hull) if b[0] >= mean)
    return left, (right[1] - left[1]) / (right[0] - left[0])


def _turns_down(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0])


class Unwrapper:
    """Turns a counter of a few bits into one that does not wrap, and says what it skipped.

    A microcontroller that counts microseconds in 32 bits wraps every 71.6 minutes. A step of more than `largest_step`
    (half the range unless given) is no step forward: the counter was reset, and counting begins anew from its value.
    """

    def __init__(self, bits: int, largest_step: int | None = None) -> None:
        self._range = 1 << bits
        self._largest_step = self._range // 2 if largest_step is None else largest_step
        self._total: int | None = None
        #: Values left out before the last one; 0 where it followed at once, was repeated, or the counter was reset.
        self.missed = 0
        #: How many times the counter was reset.
        self.resets = 0

    def unwrap(self, counter: int) -> int:
        """Return the counter as if it had no end; raise ValueError where it has more bits than it should."""
        if not 0 <= counter < self._range:
            raise ValueError(f"counter {counter} does not fit: it must lie between 0 and {self._range - 1}")
        step = 0 if self._total is None else (counter - self._total) % self._range
        if self._total is None or step > self._largest_step:
            self.resets += self._total is not None
            self._total, self.missed = counter, 0
        else:
            self._total += step
            self.missed = max(0, step - 1)
        return self._total


def stamp_ns(stamp: Any) -> int:
    """Return a message's stamp, anything with `sec` and `nanosec`, in ns."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class WallStamp:
    """Wall time for stamps: read once, carried on by the monotonic clock.

    Stamps of one process then go on evenly when somebody sets the wall clock, and are off by as much as it was set.
    """

    def __init__(self) -> None:
        # The wall clock is read between two readings of the other; of three tries, the quickest.
        tries = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(3)]
        before_ns, wall_ns, after_ns = min(tries, key=lambda t: t[2] - t[0])
        self._offset_ns = wall_ns - (before_ns + after_ns) // 2

    def now_ns(self) -> int:
        """Return the time as ROS writes it, ns since 1970."""
        return time.monotonic_ns() + self._offset_ns

    def from_monotonic(self, monotonic_s: float) -> int:
        """Return the stamp (ns since 1970) of a reading of `time.monotonic()`."""
        return round(monotonic_s * 1e9) + self._offset_ns
