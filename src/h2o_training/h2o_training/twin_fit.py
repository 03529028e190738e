# SPDX-License-Identifier: Apache-2.0
"""Whether a dataset and a twin can be of the same robot at all: states, time step, and the answer to torque.

A twin may be wrong in everything that identification finds (weak motors, delays, biased sensors). What is refused here
is what no training survives: other units, another time step, a sign that is turned round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import STATE, FloatArray
from h2o_control.errors import DataError
from h2o_training.action_lag import EXPECTED_SIGN, Lag, action_lag
from h2o_training.dataset import Dataset
from h2o_training.dataset_check_rows import RATE_OF, consistency
from h2o_training.effects import Effects, effects_from
from h2o_training.sysid_problem import predict
from h2o_training.twin import TwinConfig
from h2o_training.windows import Windows, cut, recordings
from wheel_leg_driver.robot import Robot

#: Beyond these no robot balances: lying flat, the wheels at 300 rad/s, eight turns of the body a second.
POSSIBLE = {"v": (20.0, "m/s"), "theta": (math.pi / 2, "rad"), "theta_dot": (50.0, "rad/s")}
#: Torques beyond this many times the limit; those somewhat beyond are what was asked for and not executed.
POSSIBLE_TORQUE = 2.0
#: More rows than this beyond what is possible are no glitches of a sensor.
LARGEST_SHARE = 0.01
#: A position changes by at most this many times the integral of its rate, and by one over it at least. Gyros and wheels
#: are off by less than 2 (Effects); degrees for radians make 57.
LARGEST_GAIN = 5.0
#: Where both positions change by more than this much too much (or too little), and by as much as one another within
#: SAME_STEP (gyros that read low), it is time that is wrong.
LARGEST_STEP_ERROR, SAME_STEP = 1.25, 1.6
#: No motor is so many times as strong as described; degrees and millimetres are.
LARGEST_ANSWER = 10.0
#: Windows of the dataset in which the twin is asked for its answer, and how long lags may make them.
WINDOWS, LONGEST_LAG_S = 64, 0.1


@dataclass(frozen=True)
class Answer:
    """How the twin's v or θ̇ answers to a torque of 1 Nm: over a window (m/s or rad/s), and most in one step of it."""

    whole: float
    step: float


def require_twin_fits(dataset: Dataset, name: str, robot: Robot, config: TwinConfig) -> None:
    """Compare a dataset with the twin of a robot.

    Args:
        dataset: of the robot's interface.
        name: what the dataset is called.
        robot: whose twin it is.
        config: of the twin; what it randomises is at its nominal value here.

    Raises:
        DataError: they cannot be of one robot; with every reason.
    """
    reasons = [*_impossible(dataset), *_time_step(dataset), *_answers(dataset, robot, config)]
    if reasons:
        raise DataError(
            f"{name} and the twin of robot {robot.name!r} do not fit together: {'; '.join(reasons)}. "
            "Correct the data or the robot's file (h2o-robot dataset check shows the data); check_twin=false trains "
            "all the same"
        )


def _impossible(dataset: Dataset) -> Iterator[str]:
    """States and torques where no robot can be."""
    for name, (limit, unit) in POSSIBLE.items():
        values = np.abs(dataset.states[:, STATE.index(name)])
        share = float((values > limit).mean())
        if share > LARGEST_SHARE:
            yield (
                f"|{name}| is beyond {limit:.3g} {unit} in {share:.0%} of the rows, up to {values.max():.3g}, where no "
                f"twin can be: are these other units{', degrees for radians?' if unit.startswith('rad') else '?'}"
            )
    limit_nm = dataset.interface.torque_limit_nm
    torque = np.abs(dataset.wheel_torques).max(axis=1)
    share = float((torque > POSSIBLE_TORQUE * limit_nm).mean())
    if share > LARGEST_SHARE:
        yield (
            f"the torque of a wheel is beyond {POSSIBLE_TORQUE:g} times the limit of {limit_nm:g} Nm in {share:.0%} of "
            f"the rows, up to {torque.max():.3g}: is it in other units than Nm?"
        )


def _time_step(dataset: Dataset) -> Iterator[str]:
    """Positions that change by another amount than their rates and the interface's step say."""
    found = [c for c in (consistency(dataset, name) for name in RATE_OF) if math.isfinite(c.gain) and not c.computed]
    odd = [c for c in found if not 1.0 / LARGEST_GAIN < c.gain < LARGEST_GAIN]
    for c in odd:
        yield (
            f"{c.name} changes by {c.gain:.3g} times the integral of {RATE_OF[c.name]}: one of them has "
            + ("the other sign" if c.gain < 0 else "other units")
        )
    if odd or len(found) < 2:
        return
    gains = [c.gain for c in found]
    off = min(gains) > LARGEST_STEP_ERROR or max(gains) < 1.0 / LARGEST_STEP_ERROR
    if off and max(gains) < SAME_STEP * min(gains):
        step_ms = 1e3 * dataset.interface.dt_s
        yield (
            f"x and theta change by {gains[0]:.3g} and {gains[1]:.3g} times what their rates say: rows are about "
            f"{step_ms * gains[0]:.3g} ms apart and not {step_ms:.3g} ms, the interface's step"
        )


def _answers(dataset: Dataset, robot: Robot, config: TwinConfig) -> Iterator[str]:
    """Rates that answer to torque the other way, or many times as much, where the data tell (see action_lag)."""
    lags = [lag for lag in (action_lag(dataset, response) for response in EXPECTED_SIGN) if lag.told]
    answers = twin_answers(dataset, robot, config) if lags else None
    if answers is None:
        return
    for lag in lags:
        answer, slope = answers[lag.response], recorded_answer(dataset, lag)
        unit = {"v": "m/s", "theta_dot": "rad/s"}[lag.response]
        numbers = f"{slope:+.3g} {unit} a step and Nm in the data, {answer.step:+.3g} in the twin"
        share = f"explains {lag.share.max():.0%} of its changes, {1e3 * lag.lag_s:.3g} ms later"
        if lag.sign * answer.whole < 0:
            yield (
                f"{lag.response} answers to torque with the opposite sign ({numbers}; in the data the torque {share}): "
                "a sign is turned round"
            )
        elif abs(slope) > LARGEST_ANSWER * abs(answer.step):
            yield (
                f"{lag.response} answers to torque {abs(slope / answer.step):.0f} times as much as in the twin "
                f"({numbers}): are these other units?"
            )


def recorded_answer(dataset: Dataset, lag: Lag) -> float:
    """Regress the change over a step on the torque `lag` before, given the state; per Nm."""
    late = int(lag.share.argmax())
    inputs, changes = [], []
    for part in recordings(dataset):
        torque = part.torque_nm.mean(axis=1)
        n = len(torque) - late
        if n > 0:
            inputs.append(np.column_stack((np.ones(n), part.states[late:-1, 1:], torque[:n])))
            changes.append(np.diff(part.states[late:, STATE.index(lag.response)]))
    weights, *_ = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(changes), rcond=None)
    return float(weights[-1])


def twin_answers(dataset: Dataset, robot: Robot, config: TwinConfig) -> dict[str, Answer] | None:
    """Ask the twin at states of the dataset: full torque forward against full torque backward, held for a window.

    Returns:
        answers by "v" and "theta_dot"; None where no stretch of the data is long enough to begin from.
    """
    effects = effects_from({**robot.twin, **config.effects}, "twin.effects")
    dt, limit = dataset.interface.dt_s, dataset.interface.torque_limit_nm
    late = math.ceil((effects.observation_delay_s + effects.actuation_delay_s) / dt)
    # Long enough for lags to let most of the answer through, and too short to fall over.
    lag_s = effects.torque_lag_s + max(effects.velocity_lag_s, effects.gyro_lag_s)
    past, steps = late + 1, late + 2 + math.ceil(min(3.0 * lag_s, LONGEST_LAG_S) / dt)
    try:
        windows = cut(recordings(dataset), steps, max(1, len(dataset) // WINDOWS), past)
    except DataError:
        return None
    forward, backward = (_held(robot, effects, windows, torque, config) for torque in (limit, -limit))
    # Both are simulated with the same noise, which drops out.
    difference = (forward - backward) / (2.0 * limit)
    answers = {}
    for name in EXPECTED_SIGN:
        path = difference[:, :, STATE.index(name)].mean(axis=0)
        increments = np.diff(path)
        answers[name] = Answer(float(path[-1] - path[0]), float(increments[np.abs(increments).argmax()]))
    return answers


def _held(robot: Robot, effects: Effects, windows: Windows, torque_nm: float, config: TwinConfig) -> FloatArray:
    held = Windows(windows.states, windows.past_nm, np.full_like(windows.torque_nm, torque_nm), windows.recording)
    paths = predict(robot, effects, held, {"torque_factor": np.array([effects.torque_factor])}, config.kind)
    path: FloatArray = paths[0]
    return path
