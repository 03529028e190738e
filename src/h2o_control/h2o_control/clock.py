# SPDX-License-Identifier: Apache-2.0
"""Maps the microcontroller's clock to the host's, without ever stepping back and with steps that stay even."""

from __future__ import annotations

#: Length of a window in which the least delayed frame counts, s of device time.
WINDOW_S = 0.25
#: How fast the mapping may be corrected, s a second: stamps of neighbouring frames stay within 5 % of the true step,
#: and a clock that has fallen behind by 30 ms is followed within a second.
SLEW = 0.05


class ClockMap:
    """host = device + offset, where the offset is that of the frame that travelled fastest lately."""

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._target_s = 0.0
        self._window_start_s = 0.0
        self._window_min_s = 0.0
        self._last_device_s = 0.0

    def to_host(self, device_time_us: int, host_s: float) -> float:
        """Return the host time (s) of a frame that carries this device time and arrived at `host_s`."""
        device_s = device_time_us * 1e-6
        sample = host_s - device_s
        if self._offset_s is None or device_s < self._last_device_s:
            # First frame, or the device has restarted and counts from zero again.
            self._offset_s = self._target_s = self._window_min_s = sample
            self._window_start_s = self._last_device_s = device_s
        self._window_min_s = min(self._window_min_s, sample)
        self._target_s = min(self._target_s, sample)
        if device_s - self._window_start_s >= WINDOW_S:
            self._target_s, self._window_min_s, self._window_start_s = self._window_min_s, sample, device_s
        room = SLEW * (device_s - self._last_device_s)
        self._offset_s += max(-room, min(room, self._target_s - self._offset_s))
        self._last_device_s = device_s
        return device_s + self._offset_s
