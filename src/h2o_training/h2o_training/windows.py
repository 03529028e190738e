# SPDX-License-Identifier: Apache-2.0
"""Short windows of a recording: where each starts, what was commanded before and during it, what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from h2o_control.contract import STATE, FloatArray
from h2o_control.errors import DataError
from h2o_training.dataset import Dataset


@dataclass(frozen=True)
class Recording:
    """An unbroken stretch of driving: states [n + 1, 4] in the order of STATE, torques [n, 2] in Nm a wheel between."""

    states: FloatArray
    torque_nm: FloatArray


@dataclass(frozen=True)
class Windows:
    """W windows of H control steps.

    Attributes:
        states: float64 [W, H + 1, 4], observed; the first is where a prediction starts.
        past_nm: float64 [W, K, 2], torques executed before the window, oldest first.
        torque_nm: float64 [W, H, 2], torques executed in it.
        recording: int [W], the recording that each comes from; windows of one follow each other in time.
    """

    states: FloatArray
    past_nm: FloatArray
    torque_nm: FloatArray
    recording: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.states)

    @property
    def steps(self) -> int:
        """H."""
        return int(self.torque_nm.shape[1])

    def __getitem__(self, rows: slice) -> Windows:
        return Windows(self.states[rows], self.past_nm[rows], self.torque_nm[rows], self.recording[rows])


def recordings(dataset: Dataset) -> list[Recording]:
    """Cut a dataset at its ends of episodes and gaps."""
    ends = np.flatnonzero(dataset.terminals | dataset.timeouts)
    torque = dataset.wheel_torques.astype(np.float64)
    parts = []
    for rows in np.split(np.arange(len(dataset)), ends + 1):
        if len(rows):
            states = np.concatenate((dataset.states[rows], dataset.next_states[rows[-1:]])).astype(np.float64)
            parts.append(Recording(states, torque[rows]))
    return parts


def split(parts: Sequence[Recording], share: float) -> tuple[list[Recording], list[Recording]]:
    """Hold back the last `share` of the rows, in time, cutting one recording in two where need be."""
    kept = round((1.0 - share) * sum(len(part.torque_nm) for part in parts))
    first: list[Recording] = []
    second: list[Recording] = []
    for part in parts:
        n = min(kept, len(part.torque_nm))
        kept -= n
        if n:
            first.append(Recording(part.states[: n + 1], part.torque_nm[:n]))
        if n < len(part.torque_nm):
            second.append(Recording(part.states[n:], part.torque_nm[n:]))
    return first, second


def cut(parts: Sequence[Recording], steps: int, stride: int, past: int) -> Windows:
    """Cut recordings into windows that begin every `stride` rows.

    Args:
        parts: recordings.
        steps: H, length of a window.
        stride: rows from one start to the next.
        past: K, rows of torque that must be known before a window starts.

    Raises:
        DataError: no recording is long enough for one window.
    """
    states, before, torque, number = [], [], [], []
    for index, part in enumerate(parts):
        for start in range(past, len(part.torque_nm) - steps + 1, stride):
            states.append(part.states[start : start + steps + 1])
            before.append(part.torque_nm[start - past : start])
            torque.append(part.torque_nm[start : start + steps])
            number.append(index)
    if not states:
        longest = max((len(part.torque_nm) for part in parts), default=0)
        raise DataError(f"windows of {past} + {steps} rows are needed, the longest unbroken recording has {longest}")
    return Windows(np.array(states), np.array(before), np.array(torque), np.array(number))


def r_squared(recorded: FloatArray, predicted: FloatArray) -> FloatArray:
    """Share of the variance that a prediction explains, a column: 1 − Σ(y − ŷ)² / Σ(y − mean)²; [W, C] -> [C]."""
    error = np.square(recorded - predicted).sum(axis=0)
    share: FloatArray = 1.0 - error / np.square(recorded - recorded.mean(axis=0)).sum(axis=0)
    return share


#: What is predicted and scored: everything but x, whose change is the integral of v.
OUTPUTS = STATE[1:]
