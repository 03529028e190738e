# SPDX-License-Identifier: Apache-2.0
"""How old everything is on its way from sensor to torque, hop by hop, in histograms that never grow."""

from __future__ import annotations

from collections import deque

from h2o_control.clock import Unwrapper
from h2o_control.histogram import Histogram
from wheel_leg_driver.protocol import Telemetry

#: A gap of more frames than this is a restart, not loss.
LARGEST_GAP = 100_000


class Timing:
    """Histograms in seconds since activation, and counts of what was late or lost.

    Attributes:
        lateness: a frame's arrival behind the fastest lately ("telemetry lateness").
        jitter: how much two arrivals lay further apart, or closer, than the frames' device times ("period jitter").
        turnaround: publishing an observation to hearing the commander's answer ("commander turnaround").
        write: hearing it, or having read the frame in balance, to the command on the wire ("torque to write").
        loop: frame read to the command that answers it written ("read to write").
        round_trip: device time of a sample to that of the frame that confirms the command answering it, so in whole
            control steps ("sensor to torque").
        ticks: frames taken.
        deadline_misses: ticks without a command within one period of the frame's arrival, and frames that did not come
            within a period of when they were due.
        lost_frames: gaps in the telemetry's sequence.
        skipped_frames: read together with a newer one, so not answered.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self.lateness, self.jitter, self.turnaround = Histogram(), Histogram(), Histogram()
        self.write, self.loop, self.round_trip = Histogram(), Histogram(), Histogram()
        self.ticks = self.deadline_misses = self.lost_frames = self.skipped_frames = 0
        self._frames = Unwrapper(32, LARGEST_GAP)
        self._last: tuple[float, int] | None = None
        self._sent: deque[tuple[int, int]] = deque(maxlen=64)
        self._confirmed = -1

    @property
    def histograms(self) -> dict[str, Histogram]:
        """The histograms by the names they are published under."""
        return {
            "telemetry lateness": self.lateness,
            "period jitter": self.jitter,
            "commander turnaround": self.turnaround,
            "torque to write": self.write,
            "read to write": self.loop,
            "sensor to torque": self.round_trip,
        }

    def relinked(self) -> None:
        """A new connection: what was sent before says nothing about it."""
        self._frames = Unwrapper(32, LARGEST_GAP)
        self._last = None
        self._sent.clear()

    def arrived(self, telemetry: Telemetry, arrived_s: float, mapped_s: float) -> None:
        """Note a frame that was read at `arrived_s` and sampled at `mapped_s`, both on the monotonic clock."""
        self.ticks += 1
        self._frames.unwrap(telemetry.sequence)
        self.lost_frames += self._frames.missed
        self.lateness.add(max(0.0, arrived_s - mapped_s))
        if self._last is not None and telemetry.device_time_us > self._last[1]:
            due_s = self._last[0] + (telemetry.device_time_us - self._last[1]) * 1e-6
            self.jitter.add(abs(arrived_s - due_s))
        self._last = (arrived_s, telemetry.device_time_us)
        if telemetry.command_sequence != self._confirmed:
            self._confirmed = telemetry.command_sequence
            for sequence, observed_us in reversed(self._sent):
                if sequence == self._confirmed:
                    self.round_trip.add((telemetry.device_time_us - observed_us) * 1e-6)
                    break

    def written(self, sequence: int, observed_us: int, arrived_s: float, heard_s: float, now_s: float) -> None:
        """Note a command on the wire that answers the frame read at `arrived_s`; its torque was known at `heard_s`."""
        self._sent.append((sequence & 0xFFFFFFFF, observed_us))
        self.loop.add(now_s - arrived_s)
        self.write.add(now_s - heard_s)
        self.deadline_misses += now_s - arrived_s > self._period_s
