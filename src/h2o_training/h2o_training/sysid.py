# SPDX-License-Identifier: Apache-2.0
"""Identification: the robot's parameters from recorded driving, with their uncertainty.

Each window starts at an observed state and is simulated with the torques that were executed; what is fitted is the
difference between simulated and observed v, θ, θ̇ at every step. Observed starts are noisy, the robot is pushed by
what no model has, and the loop is closed, so that differences of one window depend on each other. Their covariance is
estimated from the data and the differences are whitened in the order of time (feasible generalised least squares;
Ljung, System Identification, 2nd ed., 7.2 and 13.4: a prediction-error method stays consistent under feedback).
Intervals come from the spread of the windows' gradients (sandwich estimator, neighbouring windows together: Newey and
West, Econometrica 55, 1987), so that they hold where the noise is not what the weights take it for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray

from h2o_control.contract import FloatArray
from h2o_control.errors import DataError
from h2o_training.effects import Effects, Parameter, parameter, value_of, with_values
from h2o_training.twin import TwinConfig, make_twin
from h2o_training.windows import OUTPUTS, Windows
from wheel_leg_driver.robot import Robot

Kind = Literal["closed_form", "mujoco"]
Verdict = Literal["identified", "confounded", "at bound", "weak"]
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
#: Fitted unless the caller names others.
DEFAULT = (
    "torque_factor",
    "dead_zone_nm",
    "coulomb_nm",
    "viscous_nms",
    "rolling_friction_m",
    "rolling_drag_nspm",
    "actuation_delay_s",
    "torque_lag_s",
    "body.com_height_m",
    "body.body_inertia_kgm2",
    "com_forward_m",
    "pitch_lag_s",
    "gyro_scale",
    "gyro_bias_radps",
)
#: Looked at after the fit, to say what could stand in for what was fitted.
OTHERS = (
    "body.body_mass_kg",
    "body.wheels_mass_kg",
    "body.armature_kgm2",
    "pitch_bias_rad",
    "gyro_lag_s",
    "velocity_lag_s",
    "odometry_scale",
    "odometry_pitch",
)
#: A parameter counts as identified where its 95 % interval is narrower than this share of its value ...
IDENTIFIED = 0.3
#: ... and as told apart from the others where no correlation is beyond this.
CONFOUNDED = 0.95
#: Steps of torque before a window that delay and lag may reach back to.
PAST = 24
ROUNDS: dict[Kind, int] = {"closed_form": 8, "mujoco": 4}
_STEP = 1e-4
_Z95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """One fitted parameter.

    Attributes:
        name, unit: see effects.Parameter.
        start: value in the description. value: fitted. half_width: of the 95 % interval.
        verdict: "identified", "confounded" with `partners`, "at bound", or "weak".
        partners: parameters whose errors go along with this one's (|correlation| above CONFOUNDED).
    """

    name: str
    unit: str
    start: float
    value: float
    half_width: float
    verdict: Verdict
    partners: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """What identification found.

    Attributes:
        estimates: in the order asked for.
        correlation: float [P, P] between the estimates' errors.
        alike: pairs (parameter that was not fitted, fitted one that does most of what it would do).
        starts: weighted cost that the search reached from each start, best first.
        noise: standard deviation of v, θ, θ̇ at the first step, over √2: measurement noise, and all else that is new.
        robot, effects: with the fitted values.
    """

    estimates: tuple[Estimate, ...]
    correlation: FloatArray
    alike: tuple[tuple[str, str], ...]
    starts: tuple[float, ...]
    noise: dict[str, float]
    robot: Robot
    effects: Effects

    @property
    def values(self) -> dict[str, float]:
        """Fitted values by name."""
        return {e.name: e.value for e in self.estimates}


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


class _Problem:
    """Residuals of windows, whitened, with what is believed as further rows; parameters in units of their beliefs."""

    def __init__(self, robot: Robot, effects: Effects, windows: Windows, parameters: Sequence[Parameter]) -> None:
        self._robot, self._effects, self._windows = robot, effects, windows
        self.kind: Kind = "closed_form"
        self._names = [p.name for p in parameters]
        self.centre = centre = np.array([value_of(name, robot, effects) for name in self._names])
        self.scale = np.array(
            [BELIEFS.get(p.name, BODY_BELIEF * abs(c)) for p, c in zip(parameters, centre, strict=True)]
        )
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


@dataclass(frozen=True)
class Solution:
    """Fitted values and the covariance of their errors, in the parameters' own units.

    Attributes:
        names: of P parameters.
        values: [P]. covariance: [P, P]. at_bound: [P].
        costs: that the search reached from each start, best first.
        alike, noise: see Fit.
    """

    names: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    at_bound: NDArray[np.bool_]
    costs: tuple[float, ...]
    alike: tuple[tuple[str, str], ...]
    noise: dict[str, float]


def solve(
    windows: Windows,
    robot: Robot,
    effects: Effects,
    names: Sequence[str] = DEFAULT,
    kind: Kind = "closed_form",
    starts: int = 4,
    seed: int = 0,
    on_step: Callable[[str], object] = lambda _what: None,
) -> Solution:
    """Fit parameters to windows.

    Args:
        windows: of the recorded driving, stride at most their length.
        robot: with `effects`, where the search starts and what is not fitted.
        effects: see `robot`.
        names: of parameters, see effects.parameter.
        kind: "mujoco" refines what the closed form found on the 3-D model, with the closed form's derivatives.
        starts: the search begins at the description and at starts − 1 random places within the beliefs.
        seed: of the starts.
        on_step: told what is being done.

    Raises:
        ConfigError: an unknown parameter.
        DataError: too few windows, or data in which nothing moves.
    """
    parameters = [parameter(name, robot) for name in names]
    rows, needed = len(windows), 3 * windows.steps * len(OUTPUTS)
    if rows < needed:
        raise DataError(f"{rows} windows are too few to weigh {windows.steps} steps of them: at least {needed}")
    if not (windows.states[..., 1:].std(axis=(0, 1)) > 1e-6).all():
        raise DataError("in these data v, theta or theta_dot never changes: was the robot balancing at all?")
    # Starts are compared on fewer windows; only the best goes on.
    scout = _Problem(robot, effects, windows[:: max(1, rows // 400)], parameters)
    rng = np.random.default_rng(seed)
    draws = [np.zeros(len(names)), *(rng.uniform(-1.0, 1.0, len(names)) for _ in range(starts - 1))]
    found: list[tuple[float, FloatArray]] = []
    for number, draw in enumerate(draws):
        on_step(f"searching from start {number + 1} of {starts}")
        found.append(_minimise(scout, draw, 30, loss="soft_l1"))
    found.sort(key=lambda pair: pair[0])
    problem = _Problem(robot, effects, windows, parameters)
    x = found[0][1]
    for model in dict.fromkeys(("closed_form", kind)):
        problem.kind = model
        for number in range(ROUNDS[model]):
            on_step(f"fitting the {'3-D model' if model == 'mujoco' else 'closed form'}, weights {number + 1}")
            problem.weigh(x)
            before, x = x, _minimise(problem, x, 10)[1]
            if np.abs(x - before).max() < 1e-3:
                break
    values = problem.centre + problem.scale * x
    fitted = with_values(robot, effects, dict(zip(names, map(float, values), strict=True)))
    return Solution(
        tuple(names),
        values,
        _covariance(problem, x, windows) * np.outer(problem.scale, problem.scale),
        np.minimum(x - problem.low, problem.high - x) < 1e-3,
        tuple(cost for cost, _ in found),
        _alike(windows, *fitted, names, problem, x),
        problem.noise(x),
    )


def fit_of(solution: Solution, robot: Robot, effects: Effects) -> Fit:
    """Turn a solution into estimates with verdicts, and into a robot."""
    names = solution.names
    deviation = np.sqrt(np.diag(solution.covariance))
    correlation = solution.covariance / np.outer(deviation, deviation)
    estimates = []
    for i, name in enumerate(names):
        p = parameter(name, robot)
        # As many digits as anybody can use; what stopped at a bound lies on it.
        value = float(f"{solution.values[i]:.5g}")
        if solution.at_bound[i]:
            value = p.low if value - p.low < p.high - value else p.high
        half = float(_Z95 * deviation[i])
        order = np.argsort(-np.abs(correlation[i]))
        partners = tuple(names[j] for j in order if j != i and abs(correlation[i, j]) > CONFOUNDED)
        verdict: Verdict = "identified"
        if solution.at_bound[i]:
            verdict = "at bound"
        elif 2 * half > IDENTIFIED * abs(value):
            verdict = "confounded" if partners else "weak"
        start = value_of(name, robot, effects)
        estimates.append(Estimate(name, p.unit, start, value, half, verdict, partners))
    fitted = with_values(robot, effects, {e.name: e.value for e in estimates})
    return Fit(tuple(estimates), correlation, solution.alike, solution.costs, solution.noise, *fitted)


def _minimise(problem: _Problem, x: FloatArray, steps: int, loss: str = "linear") -> tuple[float, FloatArray]:
    inside = np.clip(x, problem.low + 1e-9, problem.high - 1e-9)
    found = scipy.optimize.least_squares(
        problem.residual,
        inside,
        problem.jacobian,
        bounds=(problem.low, problem.high),
        max_nfev=steps,
        loss=loss,
        xtol=1e-6,
        ftol=1e-8,
    )
    return float(found.cost), found.x


def _covariance(problem: _Problem, x: FloatArray, windows: Windows) -> FloatArray:
    """Covariance [P, P] of x: inverse Hessian around the spread of the windows' gradients."""
    n = len(x)
    jacobian = problem.jacobian(x)[:-n].reshape(len(windows), -1, n)
    error = problem.weighted(x[None], problem.kind)[0]
    gradients = np.einsum("wrp,wr->wp", jacobian, error)
    flat = jacobian.reshape(-1, n)
    meat = gradients.T @ gradients
    lags = 4
    for lag in range(1, lags + 1):
        together = windows.recording[lag:] == windows.recording[:-lag]
        cross = gradients[lag:][together].T @ gradients[:-lag][together]
        meat += (1.0 - lag / (lags + 1)) * (cross + cross.T)
    bread = np.linalg.inv(flat.T @ flat + np.eye(n))
    covariance: FloatArray = bread @ (meat + np.eye(n)) @ bread
    return covariance


def _alike(
    windows: Windows,
    robot: Robot,
    effects: Effects,
    names: Sequence[str],
    problem: _Problem,
    x: FloatArray,
) -> tuple[tuple[str, str], ...]:
    """Find parameters whose effect on the data the fitted ones can imitate, and the one that does most of it."""
    others = [name for name in OTHERS if name not in names and _usable(name, robot)]
    if not others:
        return ()
    parameters = [parameter(name, robot) for name in others]
    second = _Problem(robot, effects, windows, parameters)
    second.whiten = problem.whiten
    fitted = problem.jacobian(x)[: -len(x)]
    found = []
    for name, column in zip(others, second.jacobian(np.zeros(len(others)))[: -len(others)].T, strict=True):
        weights, *_ = np.linalg.lstsq(fitted, column, rcond=None)
        left = column - fitted @ weights
        if left @ left < (1.0 - CONFOUNDED**2) * (column @ column):
            shares = np.abs(weights) * np.linalg.norm(fitted, axis=0)
            found.append((name, names[int(np.argmax(shares))]))
    return tuple(found)


def _usable(name: str, robot: Robot) -> bool:
    return not name.startswith("body.") or getattr(robot.body, name.removeprefix("body.")) != 0


def noise_effects(noise: Mapping[str, float], robot: Robot, effects: Effects) -> dict[str, float]:
    """Turn a solution's noise into the sensors' that would make it; v holds the gyro's times the radius."""
    from_gyro = robot.interface.wheel_radius_m * effects.odometry_pitch * noise["theta_dot"]
    return {
        "pitch_noise_rad": noise["theta"],
        "gyro_noise_radps": noise["theta_dot"],
        "velocity_noise_mps": float(np.sqrt(max(0.0, noise["v"] ** 2 - from_gyro**2))),
    }
