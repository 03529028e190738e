# SPDX-License-Identifier: Apache-2.0
"""Defects that show in transitions themselves, whatever they come from: stuck, jumping, saturated, inconsistent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from h2o_control.contract import STATE, FloatArray
from h2o_training.dataset import BoolArray, Dataset
from h2o_training.dataset_check_rules import RULE, Finding, Tally
from h2o_training.windows import Recording, recordings

#: A column must hold the same bits for this long to be called stuck: the driver's own limit (limits.stuck_s).
STUCK_S = 0.05
#: And its partner must tell of this much motion meanwhile: many steps of any encoder, and more than any noise.
STUCK_MOTION = {"x": 0.005, "theta": 0.01}
#: A step further than the rate says by more than this (m, rad) is no motion.
JUMP = {"x": 0.02, "theta": 0.1}
#: Windows over which changes are held against integrals, s: long enough for noise to vanish, short enough to be many.
WINDOW_S = 0.1
#: With less motion than this (rms over the windows; m, rad), nothing can be told.
LEAST_MOTION = {"x": 0.002, "theta": 0.005}
#: A position whose steps follow its rate as closely as this was computed from it: real motion has accelerations.
COMPUTED = 1e-3
#: A torque within this share of the limit is at it.
AT_LIMIT = 0.99
RATE_OF = {"x": "v", "theta": "theta_dot"}


@dataclass(frozen=True)
class Consistency:
    """Changes of a position over windows against the integral of its rate.

    Attributes:
        name: "x" or "theta".
        gain: change = gain · integral, by least squares; NaN where there is too little motion.
        change, integral: float64 [n], m or rad.
        step_ratio: float64 [k], the same of single steps, of those with the fastest tenth of rates.
        computed: the position is the sum of rate times step to a thousandth, so it was computed from the rate.
    """

    name: str
    gain: float
    change: FloatArray
    integral: FloatArray
    step_ratio: FloatArray
    computed: bool


def check_rows(dataset: Dataset, name: str, tally: Tally) -> None:
    """Count stuck columns, jumps, rows that come twice, and torques at and beyond the limit in one dataset."""
    dt, parts = dataset.interface.dt_s, recordings(dataset)
    offset = 0.0
    for part in parts:
        for held, column in stuck_states(part, dt):
            start, steps = held.start, held.stop - held.start
            place = f"{column} {steps * dt:.2f} s from {offset + start * dt:.2f} s in {name}"
            tally.add("stuck", steps, 0, place)
        for column, steps_ in jumps(part, dt).items():
            # The step into a fall counts too: where a sensor jumped, the fall may never have happened.
            at = np.flatnonzero(steps_)
            step = np.diff(part.states[:, STATE.index(column)])
            unit = "m" if column == "x" else "rad"
            places = [f"{column} by {step[k]:+.3f} {unit} at {offset + k * dt:.2f} s in {name}" for k in at]
            tally.add("jumps", len(at), 0, *places)
        offset += len(part.torque_nm) * dt
    n = len(dataset)
    tally.add("stuck", 0, n)
    tally.add("jumps", 0, n)
    broken = spliced(dataset)
    places = [f"row {row} of {name} does not begin where row {row - 1} ends" for row in broken]
    tally.add("jumps", len(broken), 0, *places)
    tally.add("duplicates", repeated_rows(dataset), n, name)
    torque, limit = np.abs(dataset.wheel_torques).max(axis=1), dataset.interface.torque_limit_nm
    # In float32, as datasets hold it.
    beyond = torque > limit * (1 + 1e-6)
    tally.add("saturation", int(((torque >= AT_LIMIT * limit) & ~beyond).sum()), n)
    tally.add("over limit", int(beyond.sum()), n, f"up to {torque.max(initial=0.0):.3g} Nm in {name}")


def stuck_states(part: Recording, dt_s: float) -> Iterator[tuple[slice, str]]:
    """Yield stretches in which a state holds the same bits while its partner (x and v, theta and theta_dot) moves."""
    for name, rate in RATE_OF.items():
        position, speed = part.states[:, STATE.index(name)], part.states[:, STATE.index(rate)]
        travelled = np.concatenate(([0.0], np.cumsum(speed[:-1]) * dt_s))
        for run in same_bits(position, dt_s):
            if np.ptp(travelled[run]) > STUCK_MOTION[name]:
                yield run, name
        for run in same_bits(speed, dt_s):
            # Without motion of its own, a speed that is held explains what the position does.
            unexplained = position[run] - position[run.start] - (travelled[run] - travelled[run.start])
            if np.ptp(unexplained) > STUCK_MOTION[name]:
                yield run, rate


def same_bits(values: FloatArray, dt_s: float, least_s: float = STUCK_S) -> Iterator[slice]:
    """Yield stretches of equal values of at least `least_s`, and at least five."""
    ends = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1], [True])))
    lengths = np.diff(ends)
    for index in np.flatnonzero(lengths >= max(5, math.ceil(least_s / dt_s))):
        yield slice(int(ends[index]), int(ends[index + 1]))


def jumps(part: Recording, dt_s: float) -> dict[str, BoolArray]:
    """Tell for x and theta which steps [n] go further than the rates at both ends allow."""
    result = {}
    for name, rate in RATE_OF.items():
        position, speed = part.states[:, STATE.index(name)], part.states[:, STATE.index(rate)]
        allowed = JUMP[name] + 2.0 * np.maximum(np.abs(speed[1:]), np.abs(speed[:-1])) * dt_s
        result[name] = np.abs(np.diff(position)) > allowed
    return result


def spliced(dataset: Dataset) -> list[int]:
    """Rows that follow no end of an episode, yet do not begin at the next state of the row before."""
    goes_on = ~(dataset.terminals | dataset.timeouts)[:-1]
    differs = (dataset.states[1:] != dataset.next_states[:-1]).any(axis=1)
    return [int(row) + 1 for row in np.flatnonzero(goes_on & differs)]


def repeated_rows(dataset: Dataset) -> int:
    """Count transitions that are, bit for bit, one that came before."""
    packed = packed_rows(dataset)
    return len(packed) - len(np.unique(packed))


def shared_rows(one: Dataset, other: Dataset) -> int:
    """Count transitions of one dataset that the other holds bit for bit: it takes noise that comes twice to share one.

    Rows at perfect rest (nothing but zeros in v and theta_dot) tell nothing.
    """
    mine, theirs = (packed_rows(data)[data.states[:, [1, 3]].any(axis=1)] for data in (one, other))
    return int(np.isin(mine, theirs).sum())


def packed_rows(dataset: Dataset) -> NDArray[np.void]:
    """Return the bytes of each transition: state, next state, torques."""
    # Adding zero makes -0 and 0 the same bytes.
    rows = np.ascontiguousarray(
        np.concatenate((dataset.states, dataset.next_states, dataset.wheel_torques), axis=1) + np.float32(0)
    )
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def consistency(dataset: Dataset, name: str) -> Consistency:
    """Hold changes of "x" or "theta" against the integral of the rate (trapezia), over windows of 0.1 s."""
    dt = dataset.interface.dt_s
    steps = max(2, round(WINDOW_S / dt))
    change: list[FloatArray] = [np.zeros(0)]
    integral, moved, rates = list(change), list(change), list(change)
    for part in recordings(dataset):
        position = part.states[:, STATE.index(name)]
        speed = part.states[:, STATE.index(RATE_OF[name])]
        travelled = np.concatenate(([0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) * dt))
        change.append(np.diff(position[::steps]))
        integral.append(np.diff(travelled[::steps]))
        moved.append(np.diff(position))
        rates.append(np.stack((speed[:-1], speed[1:])).ravel("F"))
    changes, integrals = np.concatenate(change), np.concatenate(integral)
    rms = math.sqrt(float(np.mean(integrals**2))) if len(integrals) else 0.0
    gain = float(changes @ integrals / (integrals @ integrals)) if rms > LEAST_MOTION[name] else math.nan
    single, ends = np.concatenate(moved), np.concatenate(rates).reshape(-1, 2) * dt
    mean = ends.mean(axis=1)
    fast = np.abs(mean) > max(np.quantile(np.abs(mean), 0.9), 1e-9) if len(mean) else np.zeros(0, dtype=np.bool_)
    exact = np.abs(single[fast, None] - ends[fast]) < COMPUTED * np.abs(ends[fast])
    computed = bool(fast.any() and exact.mean(axis=0).max() > 0.9)
    return Consistency(name, gain, changes, integrals, single[fast] / mean[fast], computed)


def consistency_finding(c: Consistency) -> Finding:
    """Judge how far a gain is off 1."""
    rule = RULE["position" if c.name == "x" else "pitch"]
    if not math.isfinite(c.gain):
        return Finding(rule, math.nan, f"cannot tell: {c.name} hardly moves")
    text = f"{c.name} changes by {c.gain:.3f} times the integral of {RATE_OF[c.name]}"
    if c.computed:
        text += f" (it was computed from {RATE_OF[c.name]}, step by step: that confirms neither)"
    elif abs(c.gain - 1.0) > (rule.care or 0.0) and len(c.step_ratio):
        low, middle, high = np.quantile(c.step_ratio, (0.1, 0.5, 0.9))
        text += f"; in single fast steps {low:.2f} to {high:.2f} (80 % of them), {middle:.2f} at the median"
    return Finding(rule, abs(c.gain - 1.0), text)
