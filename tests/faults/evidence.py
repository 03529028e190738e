# SPDX-License-Identifier: Apache-2.0
"""What a run has left behind: the emulator's black box, what the driver said, and the time to safe from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faults.witness import Said, Sent
from h2o_control import topics
from wheel_leg_driver.emulated_robot import TraceRow

#: Torque that has been zero for this long at the end of the window counts as zero for good, µs of device time.
REST_US = 100_000
#: A command is looked for in the black box this long before the harness heard of it, s: the harness is not in a hurry.
HEARD_LATE_S = 0.3

ZERO, OWN, KEPT, UNSAFE = "zero torque", "own balance", "went on", "not safe"


@dataclass
class Evidence:
    """A run of one cell.

    Attributes:
        rows: the black box, a row a millisecond, from shortly before the fault to the end of the window.
        begins_us: when the fault began, in the rows' elapsed time.
        sent: commands that the driver said it had sent, in the same span.
        modes: what was said on /mode since the fault.
        mode_before: in command when the fault began.
        mode, reason: in command at the end.
        found: whatever else an action has seen, by name.
        driver_gone: whether the driver's process was killed: what it said last says nothing about the end.
    """

    rows: Sequence[TraceRow]
    begins_us: float
    sent: Sequence[Sent]
    modes: Sequence[Said]
    mode_before: str
    mode: str
    reason: str
    found: dict[str, Any] = field(default_factory=dict)
    driver_gone: bool = False

    def __post_init__(self) -> None:
        table = np.array(self.rows, dtype=np.float64).reshape(-1, len(TraceRow._fields))
        self._columns: dict[str, NDArray[np.float64]] = dict(zip(TraceRow._fields, table.T, strict=True))
        self.after = self._columns["elapsed_us"] > self.begins_us

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of the black box over the whole span."""
        return self._columns[name]

    @property
    def turning(self) -> NDArray[np.bool_]:
        """Where there is torque at a motor."""
        return (self._columns["left_nm"] != 0) | (self._columns["right_nm"] != 0)

    def ms(self, elapsed_us: float) -> float:
        """Time since the fault, ms of device time."""
        return float(elapsed_us - self.begins_us) * 1e-3

    @property
    def end(self) -> str:
        """How it ended: ZERO, OWN, KEPT or UNSAFE."""
        rest = self._columns["elapsed_us"] > self._columns["elapsed_us"][-1] - REST_US
        if not self.turning[rest].any() and not self._columns["armed"][rest].any():
            return ZERO
        if self._columns["armed"][-1] and self.mode in (topics.BALANCE, topics.HOLD):
            return OWN
        if self._columns["armed"][-1] and self.mode == topics.TORQUE:
            return KEPT
        return UNSAFE

    @property
    def zero_ms(self) -> float:
        """When the last torque at a motor ended, ms after the fault; 0 where there was none."""
        last = self._columns["elapsed_us"][self.turning & self.after]
        return self.ms(last[-1]) if len(last) else 0.0

    @property
    def own_ms(self) -> float:
        """When a command of the driver's own was at the motors, with none of a commander after it; nan: not found."""
        from_commander = [n for n, sent in enumerate(self.sent) if sent.mode == topics.TORQUE]
        if not from_commander:
            return 0.0
        first_own = from_commander[-1] + 1
        for sent in self.sent[first_own:]:
            row = self.arrival(sent)
            if row is not None:
                return max(0.0, self.ms(self._columns["elapsed_us"][row]))
        return float("nan")

    @property
    def last_answered_ms(self) -> float:
        """When the newest observation was sampled that a commander's obeyed torque answers, ms after the fault."""
        own = [sent for sent in self.sent if sent.mode != topics.TORQUE]
        obeyed = [sent for sent in self.sent if sent.mode == topics.TORQUE]
        own = [sent for sent in own if obeyed and sent.stamp_ns > obeyed[-1].stamp_ns]
        row = self.arrival(own[0]) if own else None
        if row is None:
            return float("nan")
        # The driver's own command answers the frame of the tick in which it arrives.
        sampled_us = (self._columns["device_time_us"][row] - 1000) // 5000 * 5000
        offset_us = self._columns["elapsed_us"][row] - self._columns["device_time_us"][row]
        return self.ms(sampled_us + offset_us) - (own[0].stamp_ns - obeyed[-1].stamp_ns) * 1e-6

    def arrival(self, sent: Sent) -> int | None:
        """Return the row in which this command's torque first was at the motors, None where it never was."""
        host_s = self._columns["host_monotonic_s"]
        near = (host_s > sent.host_s - HEARD_LATE_S) & (host_s < sent.host_s + HEARD_LATE_S)
        same = (self._columns["left_nm"] == np.float32(sent.left_nm)) & (
            self._columns["right_nm"] == np.float32(sent.right_nm)
        )
        found = np.flatnonzero(near & same & self.turning)
        return int(found[0]) if len(found) else None

    @property
    def safe_ms(self) -> float:
        """Time to safe, ms of device time; nan where it was never safe."""
        return {ZERO: self.zero_ms, OWN: self.own_ms, KEPT: 0.0}.get(self.end, float("nan"))

    def strange_torques(self) -> list[tuple[float, float]]:
        """Return torques that were at the motors after the fault but in no command that the driver said it had sent."""
        known = {(float(np.float32(s.left_nm)), float(np.float32(s.right_nm))) for s in self.sent}
        chosen = self.after & self.turning
        seen = dict.fromkeys(
            zip(self._columns["left_nm"][chosen].tolist(), self._columns["right_nm"][chosen].tolist(), strict=True)
        )
        return [torques for torques in seen if torques not in known]

    @property
    def story(self) -> str:
        """What happened, in a few words."""
        said = [f"{s.mode}: {s.reason}" for s in self.modes] + ["driver gone"] * self.driver_gone
        return " → ".join(dict.fromkeys(said)) or f"{self.mode}: as before"


def span(rows: Sequence[TraceRow], host_s: float) -> float:
    """Return the elapsed device time (µs) at a reading of `time.monotonic()`."""
    host = np.array([row.host_monotonic_s for row in rows])
    elapsed = np.array([row.elapsed_us for row in rows])
    return float(np.interp(host_s, host, elapsed))
