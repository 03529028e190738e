# SPDX-License-Identifier: Apache-2.0
"""The best static map for a robot, a task and its reward: evolution in the closed form, then a trim in lock-step.

Hundreds of maps drive robots with the emulated robot's imperfections side by side (scipy's differential evolution,
vectorised). What the closed form leaves out, such as legs that sag under a load, moves the pitch of balance by a few
milliradians; therefore the robots searched on differ in it, and the map's trim is set on the emulator itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import differential_evolution, minimize_scalar
from torch import Tensor

from h2o_control.contract import STATE, FloatArray, Task
from h2o_control.errors import ConfigError
from h2o_training.distribution import Distribution
from h2o_training.effects import effects_from
from h2o_training.lockstep import START_PITCH_RAD, START_PITCH_RATE_RADPS, run_episode
from h2o_training.static_map import StaticMap
from h2o_training.twin import ONLY_MUJOCO, InitialStates, TwinConfig, make_twin
from wheel_leg_driver.robot import PlantSpec, Robot

#: Ranges searched, over the torque limit: gains per m, m/s, rad, rad/s, then bias, compensation and width.
BOUNDS = {
    "x": (0.02, 5.0),
    "v": (0.05, 8.0),
    "theta": (0.7, 20.0),
    "theta_dot": (0.05, 3.0),
    "bias_nm": (-0.7, 0.7),
    "compensation_nm": (0.0, 0.7),
    "width_nm": (0.007, 0.2),
}
#: What matters by its ratio is searched by its logarithm.
LOGARITHMIC = (*STATE, "width_nm")
#: How much the pitch of balance is uncertain to the closed form, standard deviation.
TRIM_STD_RAD = 0.003
#: How far, in pitch, the trim may be moved in lock-step.
TRIM_RANGE_RAD = 0.02
#: Start of an episode that is not counted in the mean speed: the robot gets going.
SETTLE_SHARE = 1 / 3
#: What a mean speed beyond the tolerance costs, in reward a step per m/s: more than any reward gains by it.
SPEED_COST_SPMPS = 20.0


@dataclass(frozen=True)
class Search:
    """How long and how widely to search.

    Attributes:
        seed: of everything random.
        generations, population: of the evolution.
        episodes, seconds: on which a map is scored in the closed form.
        trials: of the trim in lock-step; trial_episodes, trial_seconds: each of them.
    """

    seed: int = 0
    generations: int = 50
    population: int = 112
    episodes: int = 8
    seconds: float = 10.0
    trials: int = 10
    trial_episodes: int = 2
    trial_seconds: float = 12.0


@dataclass(frozen=True)
class Goal:
    """What is wanted of a map.

    Attributes:
        task: whose reward counts.
        observation: which of contract.STATE the map may use.
        v_ref_mps: speed at which its gain on v gives nothing.
        speed_mps: mean speed that it must keep within `tolerance_mps`; None leaves that to the reward.
    """

    task: Task
    observation: tuple[str, ...]
    v_ref_mps: float
    speed_mps: float | None = None
    tolerance_mps: float = 0.0

    @classmethod
    def of(cls, task: Task) -> Goal:
        """The task done: the reward, and where it wants a speed, that speed within a twentieth."""
        speed = task.v_target_mps
        return cls(task, task.observation, speed, speed or None, 0.05 * abs(speed))

    @classmethod
    def free(cls, task: Task) -> Goal:
        """Whatever earns most under the task's reward, done or not."""
        return cls(task, task.observation, task.v_target_mps)

    @classmethod
    def standing_still(cls, task: Task, tolerance_mps: float = 0.02) -> Goal:
        """The most that standing still can earn under the task's reward, with all of the state to do it by."""
        return cls(task, STATE, 0.0, 0.0, tolerance_mps)


def find_static_map(
    robot: Robot, goal: Goal, search: Search, report: Callable[[float, float], None] | None = None
) -> StaticMap:
    """Return the best map found; it may still fall, judge it.

    Args:
        robot: emulated by h2o_training.plant:MujocoPlant, whose imperfections the closed form is given.
        goal: what is wanted.
        search: how long and how widely.
        report: called with the share of work done and the best score so far (mean reward a step; a fall earns none).

    Raises:
        ConfigError: the robot's plant is none that the closed form can imitate.
    """
    names = [name for name in BOUNDS if name not in STATE or name in goal.observation]
    score = _scorer(robot, goal, search, names)
    best, generation = -np.inf, 0
    steps = search.generations + search.trials

    def negative(points: FloatArray) -> FloatArray:
        nonlocal best, generation
        scores = score(points.T)
        best, generation = max(best, float(scores.max())), generation + 1
        if report is not None:
            report(min(generation, search.generations) / steps, best)
        negated: FloatArray = -scores
        return negated

    found = differential_evolution(
        negative,
        _bounds(names),
        maxiter=search.generations - 1,
        popsize=max(1, round(search.population / len(names))),
        vectorized=True,
        updating="deferred",
        polish=False,
        tol=0.0,
        seed=search.seed,
    )
    values = _values(found.x[None], names, robot)[0]
    best_map = StaticMap(
        **{name: float(value) for name, value in zip(BOUNDS, values, strict=True)},
        v_ref_mps=goal.v_ref_mps,
        limit_nm=robot.interface.torque_limit_nm,
    )
    return _trim(robot, goal, search, best_map, report)


def _bounds(names: Sequence[str]) -> list[tuple[float, float]]:
    return [
        (math.log(BOUNDS[name][0]), math.log(BOUNDS[name][1])) if name in LOGARITHMIC else BOUNDS[name]
        for name in names
    ]


def _values(points: FloatArray, names: Sequence[str], robot: Robot) -> FloatArray:
    """Parameters [P, len(BOUNDS)] in SI units of points [P, len(names)] in the units of the search."""
    values = np.zeros((len(points), len(BOUNDS)))
    for column, name in enumerate(names):
        raw = points[:, column]
        values[:, list(BOUNDS).index(name)] = np.exp(raw) if name in LOGARITHMIC else raw
    return robot.interface.torque_limit_nm * values


def _scorer(robot: Robot, goal: Goal, search: Search, names: list[str]) -> Callable[[FloatArray], FloatArray]:
    """Return a function from points [P, len(names)] to scores [P]."""
    effects = closed_form_effects(robot)
    steps = round(search.seconds * robot.interface.rate_hz)
    start = InitialStates(0.0, 0.0, START_PITCH_RAD, START_PITCH_RATE_RADPS)
    trim = {"pitch_bias_rad": Distribution(normal=(0.0, TRIM_STD_RAD), offset=True)}

    @torch.no_grad()
    def score(points: FloatArray) -> FloatArray:
        config = TwinConfig(num_envs=len(points) * search.episodes, effects=effects, randomise=trim, initial=start)
        # The same starts and noise in every generation: a map is not better for its luck.
        twin = make_twin(config, robot, torch.Generator().manual_seed(search.seed))
        values = torch.from_numpy(_values(points, names, robot))
        maps = values.float().repeat_interleave(search.episodes, 0).T.contiguous()
        total = torch.zeros(config.num_envs)
        alive = torch.ones(config.num_envs, dtype=torch.bool)
        settled_x = twin.truth[:, 0]
        for step in range(steps):
            if step == round(SETTLE_SHARE * steps):
                settled_x = twin.truth[:, 0]
            torque = _torque_nm(maps, twin.state, goal.v_ref_mps).clamp(
                -robot.interface.torque_limit_nm, robot.interface.torque_limit_nm
            )
            twin.step(torque)
            truth = twin.truth
            alive &= ~goal.task.failed(truth)
            total += torch.where(alive, goal.task.rewards(truth, torque), 0.0)
        speed = (twin.truth[:, 0] - settled_x) / (search.seconds * (1.0 - SETTLE_SHARE))
        scores = (total / steps).view(-1, search.episodes).mean(1).double().numpy()
        result: FloatArray = scores - _speed_cost(goal, speed.view(-1, search.episodes).mean(1).double().numpy())
        return np.nan_to_num(result, nan=-np.inf, posinf=-np.inf)

    return score


def _torque_nm(maps: Tensor, state: Tensor, v_ref_mps: float) -> Tensor:
    """Torques [N] of maps [7, N] (order of BOUNDS) for states [N, 4], not limited."""
    k_x, k_v, k_theta, k_theta_dot, bias, compensation, width = maps.unbind(0)
    x, v, theta, theta_dot = state.unbind(1)
    u = k_x * x + k_v * (v - v_ref_mps) + k_theta * theta + k_theta_dot * theta_dot + bias
    return u + compensation * torch.tanh(u / width)


def _speed_cost(goal: Goal, speed_mps: FloatArray) -> FloatArray:
    if goal.speed_mps is None:
        return np.zeros_like(speed_mps)
    excess: FloatArray = np.maximum(np.abs(speed_mps - goal.speed_mps) - goal.tolerance_mps, 0.0)
    return SPEED_COST_SPMPS * excess


def closed_form_effects(robot: Robot) -> dict[str, float]:
    """Return the emulated robot's imperfections as far as the closed form has equations for them.

    Raises:
        ConfigError: no plant, or one that is not described by effects.
    """
    if robot.plant is None or robot.plant.path != PlantSpec.path:
        path = "none" if robot.plant is None else robot.plant.path
        raise ConfigError(
            f"robot {robot.name!r} has plant {path}: a map can be searched only for one that {PlantSpec.path} plays, "
            "because the closed form imitates its options"
        )
    effects = effects_from(robot.plant.options, f"robot {robot.name!r}: plant options").changed
    return {name: value for name, value in effects.items() if name not in ONLY_MUJOCO}


def _trim(
    robot: Robot, goal: Goal, search: Search, found: StaticMap, report: Callable[[float, float], None] | None
) -> StaticMap:
    """Return the map with the bias that scores best in lock-step with the emulated robot."""
    trials = 0
    scores: dict[float, float] = {}

    def negative(bias_nm: float) -> float:
        nonlocal trials
        candidate = dataclasses.replace(found, bias_nm=float(bias_nm))
        rewards, speeds = [], []
        for k in range(search.trial_episodes):
            run = run_episode(candidate, robot, goal.task, search.trial_seconds, search.seed + k)
            steps = search.trial_seconds * robot.interface.rate_hz
            rewards.append(float(goal.task.rewards(run.truth[1:], run.executed_nm).sum()) / steps)
            speeds.append(float(run.truth[round(SETTLE_SHARE * len(run.truth)) :, 1].mean()))
        score = float(np.mean(rewards)) - float(_speed_cost(goal, np.array([np.mean(speeds)]))[0])
        scores[candidate.bias_nm] = score
        trials += 1
        if report is not None:
            share = (search.generations + min(trials, search.trials)) / (search.generations + search.trials)
            report(share, max(scores.values()))
        return -score

    negative(found.bias_nm)
    reach = max(TRIM_RANGE_RAD * found.theta, 1e-3)
    bounds = (found.bias_nm - reach, found.bias_nm + reach)
    minimize_scalar(negative, bounds=bounds, method="bounded", options={"maxiter": search.trials - 1})
    return dataclasses.replace(found, bias_nm=max(scores, key=scores.__getitem__))
