# SPDX-License-Identifier: Apache-2.0
"""When a torque begins to show in the data, and which way: regression of accelerations on the torques before.

The change of v (or of theta_dot) over the step from k to k + 1 is regressed on the state at k and on the torque of one
step, k - d; d runs from 0 to 100 ms. The state takes the feedback out of the torque, so that what is left of it is what
exploration, stick and noise added. The lag is where the share of variance explained by the torque (the squared partial
correlation) is largest, between the steps by a parabola. Its spread is that of leaving out one twentieth of the data at
a time (block jackknife).

Where nothing was added, as under a policy or HOLD, the torque answers to the states before and to their noise: the
share is small, or stays on a plateau for as long as the loop rings, and where it is largest is no lag. So it must be of
some size, and fall to half of it later on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import STATE, FloatArray
from h2o_training.dataset import Dataset
from h2o_training.windows import Recording, recordings

#: Longest lag that is looked for.
LONGEST_S = 0.1
BLOCKS = 20
#: Columns that are known before the torque: 1, v, theta, theta_dot. Rows that are looked at together.
KNOWN, ROWS = 4, 4096
#: With less explained than this, or fewer steps, or a spread beyond this many steps, nothing can be told. Where torque
#: was added to the feedback it is 0.3 (the real robot) to 0.99; under a policy, or HOLD at rest, it is 0.06 to 0.12 in
#: theta_dot, with its peak at 0 ms where 9 ms are right.
LEAST_SHARE = 0.2
#: A peak falls to this share of its height within the longest lag; a plateau does not.
FALL = 0.5
LEAST_STEPS = 500
LARGEST_SPREAD_STEPS = 1.0
#: Torque forward speeds the wheels up and pitches the body back.
EXPECTED_SIGN = {"v": 1, "theta_dot": -1}


@dataclass(frozen=True)
class Lag:
    """When and which way one rate answers to the torque.

    Attributes:
        response: "v" or "theta_dot".
        told: whether the data tell; else `reason` says why not.
        lag_s: from the beginning of the step in which the torque was executed to that of the step in which it shows.
        spread_s: standard deviation of that.
        sign: of the response to a positive torque.
        share: float64 [D], variance explained by the torque of d steps before, d = 0 … D − 1.
    """

    response: str
    told: bool
    reason: str
    lag_s: float
    spread_s: float
    sign: int
    share: FloatArray


def action_lag(dataset: Dataset, response: str) -> Lag:
    """Estimate the lag of one response, "v" or "theta_dot"."""
    dt = dataset.interface.dt_s
    depth = max(4, math.ceil(LONGEST_S / dt)) + 1
    parts = [part for part in recordings(dataset) if len(part.torque_nm) >= depth]
    count = sum(len(part.torque_nm) - depth + 1 for part in parts)
    nothing = np.zeros(depth)
    if count < LEAST_STEPS:
        return Lag(response, False, f"{count} steps, {LEAST_STEPS} are needed", math.nan, math.nan, 0, nothing)
    grams = _grams(parts, response, depth, count)
    total = grams.sum(axis=0)
    share, sign = _explained(total, depth)
    best = int(share.argmax())
    lag = _peak(share)
    left_out = np.array([_peak(_explained(total - gram, depth)[0]) for gram in grams])
    spread = math.sqrt((BLOCKS - 1) / BLOCKS * float(np.square(left_out - left_out.mean()).sum()))
    reason = ""
    if share[best] < LEAST_SHARE:
        explained = f"{100 * share[best]:.2g} % of the changes of {response}"
        reason = f"the torque explains {explained}, {100 * LEAST_SHARE:g} % is needed"
    elif best == depth - 1:
        reason = f"no peak within {LONGEST_S * 1e3:g} ms"
    elif share[best:].min() > FALL * share[best]:
        reason = "what the torque explains does not fall off behind its peak (the feedback's own motion?)"
    elif spread > LARGEST_SPREAD_STEPS:
        reason = f"parts of the data disagree by {spread * dt * 1e3:.3g} ms"
    return Lag(response, not reason, reason, lag * dt, spread * dt, int(sign[best]), share)


def _grams(parts: Sequence[Recording], response: str, depth: int, count: int) -> FloatArray:
    """Products of columns [BLOCKS, c, c], summed over each twentieth of the rows, a few thousand rows at a time.

    Columns: 1, v, theta, theta_dot; torques of 0 … depth − 1 steps before; the change that followed.
    """
    grams = np.zeros((BLOCKS, KNOWN + depth + 1, KNOWN + depth + 1))
    done = 0
    for part in parts:
        torque = part.torque_nm.mean(axis=1)
        past = np.lib.stride_tricks.sliding_window_view(torque, depth)[:, ::-1]
        states = part.states[depth - 1 : -1, 1:]
        change = np.diff(part.states[depth - 1 :, STATE.index(response)])
        for begin in range(0, len(past), ROWS):
            rows = slice(begin, begin + ROWS)
            n = len(past[rows])
            table = np.concatenate((np.ones((n, 1)), states[rows], past[rows], change[rows, None]), axis=1)
            block = (done + np.arange(n)) * BLOCKS // count
            for number in range(block[0], block[-1] + 1):
                own = table[block == number]
                grams[number] += own.T @ own
            done += n
    return grams


def _explained(gram: FloatArray, depth: int) -> tuple[FloatArray, FloatArray]:
    """Squared partial correlation [depth] of the change with each torque, given the state, and its sign."""
    known, rest = slice(0, KNOWN), slice(KNOWN, None)
    # The pseudo-inverse: a state that never varies explains nothing.
    left = gram[rest, rest] - gram[rest, known] @ np.linalg.pinv(gram[known, known]) @ gram[known, rest]
    own = np.diagonal(left)
    scale = own[:depth] * own[depth]
    # A torque that the state determines has no variance of its own left but rounding.
    alive = (own[:depth] > 1e-9 * np.diagonal(gram)[KNOWN : KNOWN + depth]) & (scale > 0)
    share = np.where(alive, np.square(left[:depth, depth]) / np.where(alive, scale, 1.0), 0.0)
    return share, np.sign(left[:depth, depth])


def _peak(share: FloatArray) -> float:
    """Place of the largest value, between the steps by a parabola through its neighbours; 0 is the earliest."""
    best = int(share.argmax())
    if not 0 < best < len(share) - 1:
        return float(best)
    before, here, after = share[best - 1 : best + 2]
    bend = before - 2 * here + after
    return best + 0.5 * float((before - after) / bend) if bend < 0 else float(best)
