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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from h2o_control.contract import FloatArray
from h2o_control.errors import DataError
from h2o_training.effects import Effects, parameter, value_of, with_values
from h2o_training.sysid_problem import Kind, Problem, covariance_of, minimise
from h2o_training.windows import OUTPUTS, Windows
from wheel_leg_driver.robot import Robot

Verdict = Literal["identified", "confounded", "at bound", "weak", "doubtful"]
#: Fitted unless the caller names others.
DEFAULT = (
    "torque_factor",
    "dead_zone_nm",
    "coulomb_nm",
    "viscous_nms",
    "rolling_friction_m",
    "actuation_delay_s",
    "torque_lag_s",
    "body.com_height_m",
    "body.body_inertia_kgm2",
    "com_forward_m",
    "pitch_lag_s",
    "gyro_scale",
    "gyro_bias_radps",
    "velocity_lag_s",
)
#: Looked at after the fit, to say what could stand in for what was fitted.
OTHERS = (
    "body.body_mass_kg",
    "body.wheels_mass_kg",
    "body.armature_kgm2",
    "rolling_drag_nspm",
    "pitch_bias_rad",
    "gyro_lag_s",
    "odometry_scale",
    "odometry_pitch",
)
#: A parameter counts as identified where its 95 % interval is narrower than this share of its value ...
IDENTIFIED = 0.3
#: ... and as told apart from the others where no correlation is beyond this.
CONFOUNDED = 0.95
#: Share of the squared differences that a further parameter must explain to be named.
ASKED = 0.005
#: Steps of torque before a window that delay and lag may reach back to.
PAST = 24
ROUNDS: dict[Kind, int] = {"closed_form": 8, "mujoco": 4}
_Z95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """One fitted parameter.

    Attributes:
        name, unit: see effects.Parameter.
        start: value in the description. value: fitted. half_width: of the 95 % interval.
        verdict: "identified", "confounded" with `partners`, "at bound", "weak", or "doubtful" where the fitted model
            does not predict.
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
        asked: parameters that were not fitted and would explain much of what the fit leaves, with the share of it.
        starts: weighted cost that the search reached from each start, best first.
        noise: standard deviation of v, θ, θ̇ at the first step, over √2: measurement noise, and all else that is new.
        robot, effects: with the fitted values.
    """

    estimates: tuple[Estimate, ...]
    correlation: FloatArray
    alike: tuple[tuple[str, str], ...]
    asked: tuple[tuple[str, float], ...]
    starts: tuple[float, ...]
    noise: dict[str, float]
    robot: Robot
    effects: Effects

    @property
    def values(self) -> dict[str, float]:
        """Fitted values by name."""
        return {e.name: e.value for e in self.estimates}


@dataclass(frozen=True)
class Solution:
    """Fitted values and the covariance of their errors, in the parameters' own units.

    Attributes:
        names: of P parameters.
        values: [P]. covariance: [P, P]. at_bound: [P].
        costs: that the search reached from each start, best first.
        alike, asked, noise: see Fit.
    """

    names: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    at_bound: NDArray[np.bool_]
    costs: tuple[float, ...]
    alike: tuple[tuple[str, str], ...]
    asked: tuple[tuple[str, float], ...]
    noise: dict[str, float]


def fewest_windows(steps: int) -> int:
    """Return the number of windows below which the covariance of their `steps` steps says nothing."""
    return 3 * steps * len(OUTPUTS)


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
        starts: the search begins at the description and at starts − 1 random places within the beliefs; with 0 there is
            none, and the description is taken to be near.
        seed: of the starts.
        on_step: told what is being done.

    Raises:
        ConfigError: an unknown parameter.
        DataError: too few windows, or data in which nothing moves.
    """
    parameters = [parameter(name, robot) for name in names]
    rows, needed = len(windows), fewest_windows(windows.steps)
    if rows < needed:
        raise DataError(f"{rows} windows are too few to weigh {windows.steps} steps of them: at least {needed}")
    if not (windows.states[..., 1:].std(axis=(0, 1)) > 1e-6).all():
        raise DataError("in these data v, theta or theta_dot never changes: was the robot balancing at all?")
    # Starts are compared on fewer windows; only the best goes on.
    scout = Problem(robot, effects, windows[:: max(1, rows // 400)], parameters)
    rng = np.random.default_rng(seed)
    draws = [np.zeros(len(names)), *(rng.uniform(-1.0, 1.0, len(names)) for _ in range(starts - 1))]
    found: list[tuple[float, FloatArray]] = []
    for number, draw in enumerate(draws[:starts]):
        on_step(f"searching from start {number + 1} of {starts}")
        found.append(minimise(scout, draw, 30, loss="soft_l1"))
    found.sort(key=lambda pair: pair[0])
    problem = Problem(robot, effects, windows, parameters)
    x = found[0][1] if found else draws[0]
    for model in dict.fromkeys(("closed_form", kind)):
        problem.kind = model
        for number in range(ROUNDS[model]):
            on_step(f"fitting the {'3-D model' if model == 'mujoco' else 'closed form'}, weights {number + 1}")
            problem.weigh(x)
            before, x = x, minimise(problem, x, 10)[1]
            if np.abs(x - before).max() < 1e-3:
                break
    values = problem.centre + problem.scale * x
    fitted = with_values(robot, effects, dict(zip(names, map(float, values), strict=True)))
    return Solution(
        tuple(names),
        values,
        covariance_of(problem, x, windows) * np.outer(problem.scale, problem.scale),
        np.minimum(x - problem.low, problem.high - x) < 1e-3,
        tuple(cost for cost, _ in found),
        *_others(windows, *fitted, names, problem, x),
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
    return Fit(tuple(estimates), correlation, solution.alike, solution.asked, solution.costs, solution.noise, *fitted)


def _others(
    windows: Windows,
    robot: Robot,
    effects: Effects,
    names: Sequence[str],
    problem: Problem,
    x: FloatArray,
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, float], ...]]:
    """Look at parameters that were not fitted.

    Returns:
        those whose effect on the data the fitted ones imitate, each with the one that does most of it; and those that
        would explain more than ASKED of what the fit leaves (a step of Gauss and Newton), most first, with that share.
    """
    others = [name for name in (*DEFAULT, *OTHERS) if name not in names and _usable(name, robot)]
    if not others:
        return (), ()
    parameters = [parameter(name, robot) for name in others]
    second = Problem(robot, effects, windows, parameters)
    second.whiten = problem.whiten
    fitted = problem.jacobian(x)[: -len(x)]
    rest = problem.residual(x)[: -len(x)]
    alike, asked = [], []
    for name, column in zip(others, second.jacobian(np.zeros(len(others)))[: -len(others)].T, strict=True):
        weights, *_ = np.linalg.lstsq(fitted, column, rcond=None)
        left = column - fitted @ weights
        if left @ left < (1.0 - CONFOUNDED**2) * (column @ column):
            shares = np.abs(weights) * np.linalg.norm(fitted, axis=0)
            alike.append((name, names[int(np.argmax(shares))]))
        elif (share := float((left @ rest) ** 2 / (left @ left) / (rest @ rest))) > ASKED:
            asked.append((name, share))
    return tuple(alike), tuple(sorted(asked, key=lambda pair: -pair[1]))


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
