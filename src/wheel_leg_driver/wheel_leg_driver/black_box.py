# SPDX-License-Identifier: Apache-2.0
"""What an emulated robot did: a ring of its last motor-loop steps, at a bounded cost in time and memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wheel_leg_driver.firmware import SUBSTEP_US

#: 30 s of a motor loop of 1 kHz.
TRACE_ROWS = 30_000


class TraceRow(NamedTuple):
    """What the black box keeps of a motor-loop step, at its end.

    Attributes:
        elapsed_us: device time that does not start again at a reset of the microcontroller.
        device_time_us: the microcontroller's clock.
        host_monotonic_s: this machine's.
        left_nm, right_nm: setpoints at the motors.
        theta_rad, x_m: where the body really is.
        armed: 1 while torque reaches the motors.
        fault_bits: latched faults, see protocol.Fault.
    """

    elapsed_us: float
    device_time_us: float
    host_monotonic_s: float
    left_nm: float
    right_nm: float
    theta_rad: float
    x_m: float
    armed: float
    fault_bits: float


class BlackBox:
    """Keeps the newest TRACE_ROWS rows; there is one for each motor-loop step since elapsed time 0."""

    def __init__(self) -> None:
        self._rows = np.zeros((TRACE_ROWS, len(TraceRow._fields)))
        self._newest = 0

    def add(self, row: TraceRow) -> None:
        """Keep the row of the motor-loop step that follows the last one."""
        self._rows[self._newest % TRACE_ROWS] = row
        self._newest += 1

    def since(self, since_us: float, rows: int = TRACE_ROWS) -> list[TraceRow]:
        """Return up to so many rows of steps that ended after `since_us` of elapsed time, oldest first."""
        first = max(0, self._newest - TRACE_ROWS, int(max(since_us, 0.0) // SUBSTEP_US))
        chosen = np.arange(first, min(self._newest, first + rows)) % TRACE_ROWS
        return [TraceRow(*row) for row in self._rows[chosen].tolist()]
