# SPDX-License-Identifier: Apache-2.0
"""What the model that is fitted leaves out, taken out of the estimates: indirect inference.

A closed form has rigid legs, one wheel and smooth friction. So the emulated robot, which has none of these
simplifications, is given the estimates and driven as the robot was; fitting that recording shows how far the fit lands
from what was put in, and by so much the estimates are corrected (Gourieroux, Monfort and Renault, Journal of Applied
Econometrics 8, 1993). What is left in the intervals: the noise of both recordings, how much the last round still
moved, half of the correction itself, since the robot differs from its emulation too, and a fiftieth of a step of time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from h2o_control.contract import get_task
from h2o_training.driving import UndrivableError, drive
from h2o_training.effects import Effects, parameter, value_of, with_values
from h2o_training.sysid import DEFAULT, PAST, Fit, Solution, fit_of, noise_effects, solve
from h2o_training.sysid_problem import Kind, belief
from h2o_training.windows import Recording, cut, recordings
from wheel_leg_driver.robot import PlantSpec, Robot

#: Steps of a window: 0.1 s at 200 Hz, beyond which small errors of an unstable robot outgrow everything.
STEPS = 20
CORRECTIONS = 2
#: Share of a correction that may be wrong (a standard deviation).
DOUBT = 0.5
#: Share of a control step below which times are not told (a standard deviation): torques act once a millisecond.
RESOLVED = 0.02


def emulated(robot: Robot, effects: Effects) -> Robot:
    """Return a robot whose plant has these effects, and whose driver knows its dead zone and torque factor."""
    balance = dataclasses.replace(robot.balance, dead_zone_nm=effects.dead_zone_nm, torque_factor=effects.torque_factor)
    return dataclasses.replace(robot, balance=balance, plant=PlantSpec(options=effects.changed), twin={})


def identify(
    parts: Sequence[Recording],
    robot: Robot,
    effects: Effects,
    names: Sequence[str] = DEFAULT,
    kind: Kind = "closed_form",
    steps: int = STEPS,
    as_driven: bool = True,
    seed: int = 0,
    on_step: Callable[[str], object] = lambda _what: None,
    on_undrivable: Callable[[UndrivableError], object] | None = None,
) -> Fit:
    """Fit parameters to recordings and correct them.

    Args:
        parts: recorded driving.
        robot: with `effects`, where the search starts and what is not fitted.
        effects: see `robot`.
        names: of parameters, see effects.parameter.
        kind: of the model, see sysid.solve.
        steps: length of a window.
        as_driven: correct the estimates: the driver's balance drove, with the exploration of the robot's file.
        seed: of starts and of driving the emulated robot.
        on_step: told what is being done.
        on_undrivable: told why nothing could be corrected; without it that is raised.

    Raises:
        ConfigError: an unknown parameter.
        DataError: too few data.
        UndrivableError: the emulated robot with the estimates cannot be driven as the recorded one was.
    """
    windows = cut(parts, steps, steps, PAST)
    solution = solve(windows, robot, effects, names, kind, seed=seed, on_step=on_step)
    if as_driven:
        seconds = sum(len(part.torque_nm) for part in parts) * robot.interface.dt_s
        try:
            solution = correct(solution, robot, effects, seconds, steps, kind, seed, on_step)
        except UndrivableError as error:
            if on_undrivable is None:
                raise
            on_undrivable(error)
    return fit_of(solution, robot, effects)


def correct(
    solution: Solution,
    robot: Robot,
    effects: Effects,
    seconds: float,
    steps: int,
    kind: Kind = "closed_form",
    seed: int = 0,
    on_step: Callable[[str], object] = lambda _what: None,
) -> Solution:
    """Correct a solution by what fitting the emulated robot shows.

    Args:
        solution: of the recorded robot.
        robot: with `effects`, what was not fitted.
        effects: see `robot`.
        seconds: of driving a round, as much as was recorded.
        steps: of a window, as in the solution.
        kind: of the model, as in the solution.
        seed: of the driving.
        on_step: told what is being done.

    Raises:
        UndrivableError: the emulated robot with these values cannot be driven by its driver's balance.
    """
    bounds = [parameter(name, robot) for name in solution.names]
    low, high = np.array([p.low for p in bounds]), np.array([p.high for p in bounds])
    beliefs = np.array([belief(p.name, value_of(p.name, robot, effects)) for p in bounds])
    values = solution.values
    moved = np.zeros_like(values)
    spread = solution.covariance
    for number in range(CORRECTIONS):
        on_step(f"driving the emulated robot, correction {number + 1} of {CORRECTIONS}")
        guess = with_values(robot, effects, dict(zip(solution.names, map(float, values), strict=True)))
        with_noise = dataclasses.replace(guess[1], **noise_effects(solution.noise, *guess))
        data = drive(emulated(guess[0], with_noise), get_task("stand"), seconds, seed + number)
        on_step(f"fitting the emulated robot, correction {number + 1} of {CORRECTIONS}")
        again = solve(cut(recordings(data), steps, steps, PAST), *guess, solution.names, kind, starts=0)
        new = np.clip(solution.values - (again.values - values), low, high)
        moved, values, spread = new - values, new, again.covariance
    doubt = DOUBT * (values - solution.values)
    unresolved = np.array([RESOLVED * robot.interface.dt_s if p.unit == "s" else 0.0 for p in bounds])
    return dataclasses.replace(
        solution,
        values=values,
        covariance=solution.covariance
        + spread
        + np.diag(np.square(moved / 2) + np.square(doubt) + np.square(unresolved)),
        at_bound=np.minimum(values - low, high - values) < 1e-3 * beliefs,
    )
