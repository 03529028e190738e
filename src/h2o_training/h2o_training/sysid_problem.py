# SPDX-License-Identifier: Apache-2.0
"""The least-squares problem of identification: windows simulated under many candidates at once, whitened differences.

See sysid.py for the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.optimize
import torch

from h2o_control.contract import FloatArray
from h2o_control.errors import ConfigError, nearest
from h2o_training.effects import Effects, Parameter, value_of, with_values
from h2o_training.twin import TwinConfig, make_twin
from h2o_training.windows import OUTPUTS, Windows
from wheel_leg_driver.robot import Robot

Kind = Literal["closed_form", "mujoco"]
#: What is believed before the data speak: standard deviations around the description's values.
BELIEFS = {
    "torque_factor": 0.5,
    "dead_zone_nm": 0.3,
    "actuation_delay_s": 0.01,
    "torque_lag_s": 0.01,
    "coulomb_nm": 0.3,
    "viscous_nms": 0.1,
    "rolling_friction_m": 0.005,
    "rolling_drag_nspm": 10.0,
    "com_forward_m": 0.03,
    "pitch_bias_rad": 0.05,
    "pitch_lag_s": 0.01,
    "gyro_scale": 0.3,
    "gyro_bias_radps": 0.05,
    "gyro_lag_s": 0.01,
    "velocity_lag_s": 0.01,
    "odometry_scale": 0.1,
    "odometry_pitch": 1.0,
}
#: Of the description's own numbers, as a share of their values.
BODY_BELIEF = 0.5
BODY = (
    "body.body_mass_kg",
    "body.body_inertia_kgm2",
    "body.com_height_m",
    "body.wheels_mass_kg",
    "body.wheels_inertia_kgm2",
    "body.armature_kgm2",
    "body.viscous_nms",
    "body.coulomb_nm",
)
#: Neighbouring windows whose gradients are taken to depend on each other.
LAGS = 4
_STEP = 1e-4


def belief(name: str, nominal: float) -> float:
    """Return the standard deviation of what is believed of a parameter.

    Raises:
        ConfigError: driving does not tell it, or only the 3-D model has it.
    """
    if name in BODY:
        return BODY_BELIEF * abs(nominal)
    if name not in BELIEFS:
        known = [*BELIEFS, *BODY]
        raise ConfigError(f"{name} cannot be fitted to windows of driving.{nearest(name, known)}")
    return BELIEFS[name]


def predict(
    robot: Robot, effects: Effects, windows: Windows, values: Mapping[str, FloatArray], kind: Kind = "closed_form"
) -> FloatArray:
    """Simulate every window under every candidate, all side by side.

    Args:
        robot: with `effects`, the parameters that are not varied.
        effects: see `robot`.
        windows: W windows of H steps.
        values: candidates [C] by parameter's name.
        kind: of twin, see TwinConfig.

    Returns:
        observed states [C, W, H + 1, 4] as they would have been.
    """
    if kind == "mujoco":
        # One model a candidate: its mass and friction are in the model.
        candidates = [dict(zip(values, map(float, row), strict=True)) for row in zip(*values.values(), strict=True)]
        changed = [with_values(robot, effects, candidate) for candidate in candidates]
        return np.concatenate([_run(*pair, kind, windows, {}, 1) for pair in changed])
    return _run(robot, effects, kind, windows, values, len(next(iter(values.values()))))


def _run(
    robot: Robot, effects: Effects, kind: Kind, windows: Windows, values: Mapping[str, FloatArray], count: int
) -> FloatArray:
    w = len(windows)
    config = TwinConfig(kind=kind, num_envs=count * w, effects=effects.changed)
    each = {name: torch.from_numpy(np.repeat(v, w)) for name, v in values.items()}
    bare = dataclasses.replace(robot, twin={})
    twin = make_twin(config, bare, torch.Generator(), parameters=each, dtype=torch.float64)
    states = torch.from_numpy(windows.states[:, 0]).repeat(count, 1)
    twin.set_observed(states, torch.from_numpy(windows.past_nm).repeat(count, 1, 1))
    torque = torch.from_numpy(windows.torque_nm).repeat(count, 1, 1)
    path = [states, *(twin.step(torque[:, k]) for k in range(windows.steps))]
    return torch.stack(path, dim=1).reshape(count, w, windows.steps + 1, 4).numpy()


class Problem:
    """Residuals of windows, whitened, with what is believed as further rows; parameters in units of their beliefs."""

    def __init__(self, robot: Robot, effects: Effects, windows: Windows, parameters: Sequence[Parameter]) -> None:
        self._robot, self._effects, self._windows = robot, effects, windows
        self.kind: Kind = "closed_form"
        self._names = [p.name for p in parameters]
        self.centre = centre = np.array([value_of(name, robot, effects) for name in self._names])
        self.scale = np.array([belief(p.name, c) for p, c in zip(parameters, centre, strict=True)])
        room = 1e-6 * np.array([p.high - p.low for p in parameters])
        low, high = np.array([p.low for p in parameters]) + room, np.array([p.high for p in parameters]) - room
        self.low, self.high = (low - centre) / self.scale, (high - centre) / self.scale
        spread = windows.states[..., 1:].std(axis=(0, 1))
        self._spread = np.where(spread > 0, spread, 1.0)
        self.whiten = np.eye(windows.steps * len(OUTPUTS)) * 1e-1

    def raw(self, x: FloatArray, kind: Kind) -> FloatArray:
        """Differences [C, W, H·3] in units of the outputs' spread, under candidates x [C, P]."""
        values = {name: self.centre[i] + self.scale[i] * x[:, i] for i, name in enumerate(self._names)}
        paths = predict(self._robot, self._effects, self._windows, values, kind)
        error = (paths - self._windows.states)[:, :, 1:, 1:] / self._spread
        return error.reshape(len(x), len(self._windows), -1)

    def weigh(self, x: FloatArray) -> None:
        """Take the covariance of the differences at x for the weights."""
        error = self.raw(x[None], self.kind)[0]
        covariance = error.T @ error / len(error)
        covariance += 1e-3 * np.diag(np.diag(covariance)) + 1e-12 * np.eye(len(covariance))
        # Lower triangular: each whitened value is what is new at its step, given the steps before it.
        self.whiten = np.linalg.inv(np.linalg.cholesky(covariance))

    def weighted(self, x: FloatArray, kind: Kind) -> FloatArray:
        """Whitened differences [C, W, H·3]."""
        return np.asarray(self.raw(x, kind) @ self.whiten.T)

    def residual(self, x: FloatArray) -> FloatArray:
        """All rows [W·H·3 + P] at x [P]."""
        return np.concatenate((self.weighted(x[None], self.kind).ravel(), x))

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Derivatives [W·H·3 + P, P] inside the bounds, of the closed form whatever the kind: all columns at once."""
        step = np.where(x + _STEP > self.high, -_STEP, _STEP)
        paths = self.weighted(np.concatenate((x[None], x + np.diag(step))), "closed_form").reshape(len(x) + 1, -1)
        return np.concatenate(((paths[1:] - paths[0]).T / step, np.eye(len(x))))

    def noise(self, x: FloatArray) -> dict[str, float]:
        """Standard deviation of each output's first difference over √2: noise of the start and of the next row."""
        error = self.raw(x[None], self.kind)[0][:, : len(OUTPUTS)] * self._spread
        return {name: float(s) for name, s in zip(OUTPUTS, error.std(axis=0) / np.sqrt(2.0), strict=True)}


def minimise(problem: Problem, x: FloatArray, steps: int, loss: str = "linear") -> tuple[float, FloatArray]:
    """Search from x within the bounds; returns cost and place [P] of the best found in so many steps."""
    inside = np.clip(x, problem.low + 1e-9, problem.high - 1e-9)
    found = scipy.optimize.least_squares(
        problem.residual,
        inside,
        problem.jacobian,
        bounds=(problem.low, problem.high),
        max_nfev=steps,
        loss=loss,
        xtol=1e-5,
        ftol=1e-7,
    )
    return float(found.cost), found.x


def covariance_of(problem: Problem, x: FloatArray, windows: Windows) -> FloatArray:
    """Covariance [P, P] of x: inverse Hessian around the spread of the windows' gradients."""
    n = len(x)
    jacobian = problem.jacobian(x)[:-n].reshape(len(windows), -1, n)
    error = problem.weighted(x[None], problem.kind)[0]
    gradients = np.einsum("wrp,wr->wp", jacobian, error)
    flat = jacobian.reshape(-1, n)
    meat = gradients.T @ gradients
    for lag in range(1, LAGS + 1):
        together = windows.recording[lag:] == windows.recording[:-lag]
        cross = gradients[lag:][together].T @ gradients[:-lag][together]
        meat += (1.0 - lag / (LAGS + 1)) * (cross + cross.T)
    bread = np.linalg.inv(flat.T @ flat + np.eye(n))
    covariance: FloatArray = bread @ (meat + np.eye(n)) @ bread
    return covariance
