# SPDX-License-Identifier: Apache-2.0
"""Where in the state-action space the data are, against a reference region, and what to drive where they are thin."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import STATE, FloatArray
from h2o_training.dataset import BoolArray, Dataset

#: Half-axes of the reference region about rest: 94 to 99 % of the rows of the papers' robot's log lie within each. The
#: torque's is a share of the limit (1 Nm of 3 there). Beyond, falls begin; to stand and to drive needs no more.
REGION = {"v": 0.5, "theta": 0.1, "theta_dot": 1.0, "tau": 1.0 / 3.0}
UNITS = {"v": "m/s", "theta": "rad", "theta_dot": "rad/s", "tau": "Nm"}
#: Planes in which cells are counted. Of all six pairs, those that a balancing robot fills, not just its diagonal.
PLANES = (("v", "theta"), ("theta", "theta_dot"), ("theta", "tau"), ("v", "tau"))
#: Cells along a half-axis, and how long the robot must have been in one for it to count.
CELLS = 5
CELL_S = 0.05
#: A wish that is fulfilled to this share is not told.
ENOUGH = 0.9


@dataclass(frozen=True)
class Plane:
    """Occupancy of one pair of quantities.

    Attributes:
        names: of the horizontal and the vertical one.
        edges: float64 [2, 2·CELLS·2 + 1], of the cells, to twice the half-axes; in units of the quantities.
        seconds: float64 [vertical, horizontal], time in each cell.
        inside: bool, cells whose centre lies in the reference ellipse.
        covered: bool, cells inside in which the robot was for at least CELL_S.
    """

    names: tuple[str, str]
    edges: FloatArray
    seconds: FloatArray
    inside: BoolArray
    covered: BoolArray

    @property
    def share(self) -> float:
        """Of the cells inside that are covered."""
        return float(self.covered.sum() / self.inside.sum())


@dataclass(frozen=True)
class Wish:
    """Something to drive, and how much of it there is.

    Attributes:
        text: what to do.
        seconds, wanted_s: there is, there should be.
    """

    text: str
    seconds: float
    wanted_s: float

    def __str__(self) -> str:
        return f"{self.text}: {self.seconds:.1f} s of it so far, {self.wanted_s:g} s wanted"


def region(torque_limit_nm: float) -> dict[str, float]:
    """Half-axes of the reference region in the quantities' units."""
    return {**REGION, "tau": REGION["tau"] * torque_limit_nm}


def quantities(dataset: Dataset) -> dict[str, FloatArray]:
    """Columns [n] by name: v, theta, theta_dot, and tau, the mean of both wheels in Nm."""
    columns: dict[str, FloatArray] = {n: dataset.states[:, STATE.index(n)].astype(np.float64) for n in STATE[1:]}
    return {**columns, "tau": dataset.wheel_torques.mean(axis=1, dtype=np.float64)}


def planes(dataset: Dataset) -> list[Plane]:
    """Count the time in each cell of each plane."""
    columns, half = quantities(dataset), region(dataset.interface.torque_limit_nm)
    # Twice the region, so that a picture shows what lies around it.
    unit = np.linspace(-2.0, 2.0, 4 * CELLS + 1)
    centres = (unit[1:] + unit[:-1]) / 2
    inside = np.hypot(centres[:, None], centres[None, :]) <= 1.0
    result = []
    for names in PLANES:
        edges = np.stack([unit * half[name] for name in names])
        counts, _, _ = np.histogram2d(columns[names[1]], columns[names[0]], bins=[edges[1], edges[0]])
        seconds = counts * dataset.interface.dt_s
        # Half a step: a sum of steps of 5 ms is not quite 50 ms.
        covered = inside & (seconds > CELL_S - dataset.interface.dt_s / 2)
        result.append(Plane(names, edges, seconds, inside, covered))
    return result


def coverage(parts: Sequence[Plane]) -> float:
    """Mean share of the reference region that is covered, over the planes."""
    return float(np.mean([plane.share for plane in parts]))


def wishes(dataset: Dataset) -> list[Wish]:
    """Say what is thin, thinnest first; nothing of turning, which no state of a dataset tells."""
    columns, half, dt = quantities(dataset), region(dataset.interface.torque_limit_nm), dataset.interface.dt_s
    masks: list[tuple[str, float, BoolArray]] = []
    v, theta, theta_dot, tau = columns.values()
    for (way, sign), (low, high) in itertools.product((("forwards", 1), ("backwards", -1)), ((0.1, 0.3), (0.3, 0.5))):
        masks.append((f"drive {way} at {low:g}–{high:g} m/s", 3.0, (sign * v >= low) & (sign * v < high)))
    masks.append(("stand still", 3.0, np.abs(v) < 0.05))
    for lean, sign in (("forward", 1), ("back", -1)):
        push = f"push it so that it leans {lean}: pitch beyond {sign * half['theta'] / 2:+g} rad is rare"
        masks.append((push, 1.0, sign * theta > half["theta"] / 2))
        tip = f"tip it {lean} quickly: pitch rate beyond {sign * half['theta_dot'] / 2:+g} rad/s is rare"
        masks.append((tip, 1.0, sign * theta_dot > half["theta_dot"] / 2))
    for side, sign in (("forwards", 1), ("backwards", -1)):
        pull = f"start and stop harder, or explore more: torque {side} beyond {half['tau'] / 2:.2g} Nm is rare"
        masks.append((pull, 1.0, sign * tau > half["tau"] / 2))
    corners = {
        "speed up while driving forwards": (1, 1),
        "brake while driving forwards": (1, -1),
        "speed up while driving backwards": (-1, -1),
        "brake while driving backwards": (-1, 1),
    }
    for text, (rolls, leans) in corners.items():
        masks.append((text, 2.0, (rolls * v > 0.1) & (leans * theta > 0.02)))
    found = [Wish(text, float(mask.sum() * dt), wanted_s) for text, wanted_s, mask in masks]
    return sorted((w for w in found if w.seconds < ENOUGH * w.wanted_s), key=lambda w: w.seconds / w.wanted_s)


def spread(dataset: Dataset) -> Mapping[str, tuple[float, float, float]]:
    """Standard deviation, least and largest value of each quantity; zeros of nothing."""
    return {
        name: (float(c.std()), float(c.min()), float(c.max())) if len(c) else (0.0, 0.0, 0.0)
        for name, c in quantities(dataset).items()
    }
