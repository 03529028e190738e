# SPDX-License-Identifier: Apache-2.0
"""Judging a policy on an emulated robot while it is being trained: for people to watch, never for the training to use.

What is judged is the ONNX file that export would write, in lock-step, from the same starts each time.
"""

from __future__ import annotations

import copy

import numpy as np

from h2o_control.contract import PolicyContract
from h2o_control.errors import ConfigError
from h2o_control.policy import Policy as DeployedPolicy
from h2o_training.collector import Scaling
from h2o_training.episode_result import measure, summarise
from h2o_training.export import build_onnx
from h2o_training.lockstep import run_episode
from h2o_training.nets import Policy
from h2o_training.train_config import JudgeConfig
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.robot import load_robot


class Judge:
    """Judges the policy of a run.

    Nothing random of the training is drawn from here: starts and sensor noise have seeds of their own, 0, 1, 2, …

    Args:
        config: robot, episodes and their length.
        contract: of the policy.

    Raises:
        ConfigError: no such robot, one without a plant, or episodes too long for the task's range.
        ContractError: the robot has another interface than the policy.
    """

    def __init__(self, config: JudgeConfig, contract: PolicyContract) -> None:
        self._config, self._contract = config, contract
        self._robot = load_robot(config.robot)
        contract.require_interface(self._robot.interface, f"robot {self._robot.name!r} (log.judge)")
        make_plant(self._robot, 0)
        task = contract.task
        if task.x_limit_m is not None and abs(task.v_target_mps) * config.seconds >= task.x_limit_m:
            raise ConfigError(
                f"log.judge.seconds {config.seconds:g}: at {task.v_target_mps} m/s the robot is at the end of task "
                f"{task.name!r}'s range, {task.x_limit_m:g} m, before that; use shorter episodes"
            )

    def __call__(self, policy: Policy, scaling: Scaling) -> dict[str, float]:
        """Run the episodes.

        Returns:
            "survived", the share of episodes that stood to their end; "survival_s", mean time until the end; "return",
            mean return with the task's own reward; "x_abs_m", the farthest |x| of all.
        """
        task, episodes = self._contract.task, range(self._config.episodes)
        # A copy on the CPU: the policy in training is not touched, on whatever device it is.
        model = build_onnx(copy.deepcopy(policy).cpu(), copy.deepcopy(scaling).cpu(), self._contract, {})
        deployed = DeployedPolicy("the policy in training", model.SerializeToString())
        runs = [run_episode(deployed, self._robot, task, self._config.seconds, seed) for seed in episodes]
        results = [measure(run, task, seed) for run, seed in zip(runs, episodes, strict=True)]
        summary = summarise(results)
        return {
            "survived": summary["survived"] / len(results),
            "survival_s": float(np.mean([r.survival_s for r in results])),
            "return": summary["task_return"],
            "x_abs_m": summary["max_abs_x_m"],
        }
