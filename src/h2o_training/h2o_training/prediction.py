# SPDX-License-Identifier: Apache-2.0
"""How well a fitted model predicts rows that it was not fitted to, beside what needs no model at all.

A linear map from state and actions to a later state is hard to beat on driving under feedback: the last actions tell
what the operator saw, long before they act. It is no simulator, since it knows what the operator will do about a fall
to come. Leaving those actions out of it shows how much of its success is that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import FloatArray
from h2o_training.effects import Effects
from h2o_training.sysid import Fit
from h2o_training.sysid_problem import Kind, predict
from h2o_training.windows import Windows, r_squared
from wheel_leg_driver.robot import Robot

NOTHING, LINEAR, BEFORE, FITTED, REST = (
    "nothing changes",
    "linear in state and actions",
    "description as it was",
    "fitted model",
    "fitted model, linear for the rest",
)


@dataclass(frozen=True)
class Comparison:
    """Predictions of held-back windows.

    Attributes:
        windows: that were predicted.
        paths: states [W, H + 1, 3] (v, θ, θ̇) by predictor.
        late: the number of last actions that cannot have acted before the end of a window.
    """

    windows: Windows
    paths: dict[str, FloatArray]
    late: int

    @property
    def explains(self) -> bool:
        """Whether the fitted model predicts each of v, θ, θ̇ better than that nothing changes."""
        scores = self.scores(self.windows.steps)
        return bool((scores[FITTED] > scores[NOTHING]).all())

    def scores(self, step: int) -> dict[str, FloatArray]:
        """R² [3] of v, θ, θ̇ after `step` steps, by predictor."""
        recorded = self.windows.states[:, step, 1:]
        return {name: r_squared(recorded, path[:, step]) for name, path in self.paths.items()}


def compare(fit: Fit, train: Windows, test: Windows, robot: Robot, effects: Effects, kind: Kind) -> Comparison:
    """Predict windows of held-back rows from their measured first state and the recorded actions.

    Args:
        fit: what was fitted to the rows of `train`.
        train: windows that the linear maps are fitted to, as dense as there are.
        test: windows of rows that nothing was fitted to.
        robot: with `effects`, the description that the fit began with.
        effects: see `robot`.
        kind: of the model.
    """
    late = math.ceil((fit.effects.actuation_delay_s + fit.effects.torque_lag_s) / fit.robot.interface.dt_s)
    models = {BEFORE: (robot, effects), FITTED: (fit.robot, fit.effects)}
    ours = {name: [_model(*pair, windows, kind) for windows in (train, test)] for name, pair in models.items()}
    steps = range(1, test.steps + 1)
    first = test.states[:, :1, 1:]
    paths = {NOTHING: np.repeat(first, test.steps + 1, axis=1)}
    for name, dropped in {LINEAR: 0, **({f"{LINEAR} but the last {late}": late} if late else {})}.items():
        maps = [_linear(train, test, k, dropped, train.states[:, k, 1:]) for k in steps]
        paths[name] = np.concatenate((first, np.stack(maps, axis=1)), axis=1)
    paths |= {name: pair[1] for name, pair in ours.items()}
    on_train, on_test = ours[FITTED]
    rest = [
        on_test[:, k]
        + _linear(train, test, k, 0, train.states[:, k, 1:] - on_train[:, k], (on_train[:, k], on_test[:, k]))
        for k in steps
    ]
    paths[REST] = np.concatenate((first, np.stack(rest, axis=1)), axis=1)
    return Comparison(test, paths, late)


def _model(robot: Robot, effects: Effects, windows: Windows, kind: Kind) -> FloatArray:
    nothing_new = {"torque_factor": np.array([effects.torque_factor])}
    return predict(robot, effects, windows, nothing_new, kind)[0, :, :, 1:]


def _linear(
    train: Windows,
    test: Windows,
    step: int,
    dropped: int,
    wanted: FloatArray,
    more: tuple[FloatArray, FloatArray] | None = None,
) -> FloatArray:
    """Least squares from (v, θ, θ̇), the actions up to `step` but the last `dropped`, a constant, and `more`."""
    inputs = []
    for index, windows in enumerate((train, test)):
        actions = windows.torque_nm[:, : max(step - dropped, 0)].mean(axis=2)
        columns = [windows.states[:, 0, 1:], actions, np.ones((len(windows), 1))]
        inputs.append(np.concatenate((*columns, more[index]) if more else columns, axis=1))
    weights, *_ = np.linalg.lstsq(inputs[0], wanted, rcond=None)
    return np.asarray(inputs[1] @ weights)
