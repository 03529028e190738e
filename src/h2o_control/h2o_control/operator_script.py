# SPDX-License-Identifier: Apache-2.0
"""An operator that drives like a person: varied speeds, stops, reversals and small mistakes, within a small field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Habits:
    """How the scripted operator drives.

    Attributes:
        field_m: beyond this distance from the start the operator turns back.
        slow_mps, fast_mps: range of speeds; most are slow.
        pause_share: share of segments spent standing.
        mistake_share: share of moves that start the wrong way round for a moment.
        tremble_mps: how unsteady the stick is held.
        yaw_radps: how much the operator corrects heading.
    """

    field_m: float = 0.15
    slow_mps: float = 0.05
    fast_mps: float = 0.45
    pause_share: float = 0.35
    mistake_share: float = 0.15
    tremble_mps: float = 0.05
    yaw_radps: float = 0.2


class ScriptedOperator:
    """Gives speed commands from the clock and where the robot is; the same seed drives the same way."""

    def __init__(self, seed: int, habits: Habits | None = None) -> None:
        self._habits = habits or Habits()
        self._rng = np.random.default_rng(seed)
        self._until_s = 0.0
        self._mistake_until_s = 0.0
        self._target = (0.0, 0.0)
        self._tremble = 0.0
        self._stick = 0.0

    def command(self, time_s: float, x_m: float) -> tuple[float, float]:
        """Return speed (m/s) and yaw rate (rad/s) to command now; call about 20 times a second.

        Args:
            time_s: since driving began.
            x_m: the robot's displacement.
        """
        habits, rng = self._habits, self._rng
        straying = abs(x_m) > habits.field_m and self._target[0] * x_m >= 0.0
        if time_s >= self._until_s or straying:
            self._choose(time_s, x_m)
        wanted = self._target[0]
        if time_s < self._mistake_until_s:
            wanted = -wanted
        self._tremble = 0.9 * self._tremble + 0.44 * habits.tremble_mps * float(rng.standard_normal())
        # A thumb moves the stick within a fifth of a second.
        self._stick += 0.25 * (wanted - self._stick)
        return self._stick + self._tremble, self._target[1]

    def _choose(self, time_s: float, x_m: float) -> None:
        habits, rng = self._habits, self._rng
        if abs(x_m) < habits.field_m and rng.random() < habits.pause_share:
            self._target = (0.0, 0.0)
            self._until_s = time_s + float(rng.uniform(0.5, 3.0))
            return
        speed = habits.slow_mps + (habits.fast_mps - habits.slow_mps) * float(rng.beta(1.2, 2.0))
        homeward = abs(x_m) >= habits.field_m / 2
        sign = -np.sign(x_m) if homeward else rng.choice((-1.0, 1.0))
        self._target = (float(sign) * speed, float(rng.normal(0.0, habits.yaw_radps)))
        self._until_s = time_s + float(rng.uniform(0.4, 2.0))
        if rng.random() < habits.mistake_share:
            self._mistake_until_s = time_s + float(rng.uniform(0.1, 0.4))
