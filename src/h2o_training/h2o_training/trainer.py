# SPDX-License-Identifier: Apache-2.0
"""The training loop, one for all algorithms: collect in the twin, update, log, evaluate on the twin, checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from h2o_control.contract import PolicyContract, Task
from h2o_control.errors import ConfigError
from h2o_training.algorithms import make_agent
from h2o_training.collector import Collector, Scaling, evaluate_on_twin
from h2o_training.dataset import Dataset
from h2o_training.divergence import DivergenceWatch, TrainingDivergedError, require_finite, what_is_left
from h2o_training.metrics_log import TENSORBOARD
from h2o_training.noise import Noise
from h2o_training.replay import Replay
from h2o_training.run_dir import Progress, RunDirectory
from h2o_training.train_config import TrainConfig, learned_task
from h2o_training.twin import make_twin

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from h2o_training.judge_while_training import Judge
from wheel_leg_driver.robot import Robot

#: More of the real data than this beyond the training's limits means that the limits are wrong.
LARGEST_SHARE_OUTSIDE = 0.05
#: Robots in one evaluation on the twin.
EVALUATION_ENVS = 16


class Trainer:
    """A training run.

    Args:
        config: hyperparameters.
        robot: whose body the twin has.
        contract: interface and task of the policy.
        dataset: real transitions; None for an algorithm that needs none.
    """

    def __init__(self, config: TrainConfig, robot: Robot, contract: PolicyContract, dataset: Dataset | None) -> None:
        self.config, self.contract, self._robot = config, contract, robot
        task, interface = contract.task, contract.interface
        n_obs = len(task.observation)
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.agent = make_agent(config, n_obs, 1, config.shaping_of(task).smoothness).to(config.device)
        if config.optimistic:
            bonus = learned_task(config, task).reward.bonus * config.reward_scale
            self.agent.start_at_bound(bonus / (1.0 - config.discount))
        self.agent.start()
        twin = make_twin(config.twin, robot, self.generator)
        self.twin_description = twin.describe()
        self.scaling = Scaling(n_obs).to(config.device)
        learned = learned_task(config, task)
        self.real = None if dataset is None else self._load_real(dataset, learned)
        if dataset is None and config.normalise:
            spread = config.twin.initial.sample(10_000, torch.Generator(config.device).manual_seed(0))
            self.scaling.fit(task.observe(spread))
        self.replay: Replay | None = None
        self.collector: Collector | None = None
        if self.agent.uses_simulated:
            self.replay = Replay(config.collect.replay_capacity, n_obs, 1, config.device)
            self.collector = Collector(
                twin,
                task,
                interface,
                learned,
                config.reward_scale,
                self.scaling,
                config.collect.episode_s,
                Noise(self.generator),
            )
        self._watch = DivergenceWatch(config.discount, self._largest_reward)
        self._judge: Judge | None = None
        if config.log.judge is not None:
            from h2o_training import judge_while_training  # brings simulator and ONNX: only where it is used

            self._judge = judge_while_training.Judge(config.log.judge, contract)
        #: Time that the training took so far, over all sessions of a resumed run.
        self.trained_s = 0.0

    def _load_real(self, dataset: Dataset, learned: Task) -> Replay:
        """Put the dataset into a buffer the way the learner sees it, and fit what is fitted to data."""
        device = self.config.device
        observation = torch.as_tensor(dataset.observations, device=device)
        if self.config.normalise:
            self.scaling.fit(observation)
        action = torch.as_tensor(dataset.actions, device=device)
        following = torch.as_tensor(dataset.next_states, device=device)
        torque = action[:, 0] * dataset.interface.torque_limit_nm
        terminal = torch.as_tensor(dataset.terminals, device=device)
        # A row beyond the task's own limits may be noise; limits set for training are meant for these rows too.
        shaping = self.config.shaping_of(learned)
        limits = dataclasses.replace(learned, x_limit_m=shaping.x_limit_m, v_limit_mps=shaping.v_limit_mps)
        failed = terminal | limits.failed(following)
        outside = (failed & ~terminal).float().mean().item()
        if outside > LARGEST_SHARE_OUTSIDE:
            raise ConfigError(
                f"{outside:.0%} of the real transitions lie beyond shaping.{learned.name}.x_limit_m={limits.x_limit_m} "
                f"or v_limit_mps={limits.v_limit_mps} and would be taught as failures: raise them, or null for none"
            )
        real = Replay(len(dataset), observation.shape[1], 1, device)
        real.add(
            self.scaling(observation),
            action,
            learned.rewards(following, torque) * self.config.reward_scale,
            self.scaling(torch.as_tensor(dataset.next_observations, device=device)),
            failed,
        )
        self.agent.fit(real.all())
        return real

    def run(
        self,
        directory: RunDirectory,
        report: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Train until config.updates (or the time limit, or `stop` answers true), with a checkpoint at the end.

        Args:
            directory: where logs and checkpoints go.
            report: called about twice a second with the latest progress.
            stop: asked between rounds; true writes a checkpoint and returns with state "interrupted".

        Raises:
            TrainingDivergedError: training diverged; the last checkpoint is left as it was.
        """
        from torch.utils.tensorboard import SummaryWriter  # slow to import: only where it is used

        config, agent = self.config, self.agent
        # What a session before has logged beyond its checkpoint is logged again; what belongs to the checkpoint is not.
        writer = SummaryWriter(str(directory.path / TENSORBOARD), purge_step=agent.updates + 1)
        started, before_s = time.monotonic(), self.trained_s
        saved = agent.updates if directory.has_checkpoint() else None
        clock = _Speed(agent.updates)
        progress = Progress(agent.updates, config.updates)
        last_report = last_write = -math.inf
        state = "failed"
        try:
            while agent.updates < config.updates:
                if stop():
                    state = "interrupted"
                    break
                if config.time_limit_s is not None and time.monotonic() - started > config.time_limit_s:
                    state = "finished"
                    break
                before = agent.updates
                metrics = self.round()
                after = agent.updates
                if _passed(before, after, config.log.every):
                    progress = self._log(progress, metrics, writer)
                if _passed(before, after, config.log.evaluate_every):
                    progress = self._evaluate(progress, writer)
                self.trained_s = before_s + time.monotonic() - started
                # The last good checkpoint stays while nobody knows whether this one would be.
                if _passed(before, after, config.log.checkpoint_every) and not self._watch.doubtful:
                    saved = self._save(directory)
                speed = clock.update(after)
                remaining = (config.updates - after) / speed if speed > 0 else 0.0
                progress = dataclasses.replace(
                    progress, update=after, updates_per_s=speed, remaining_s=remaining, trained_s=self.trained_s
                )
                now = time.monotonic()
                if now - last_report > 0.5:
                    last_report = now
                    report(progress)
                if now - last_write > 1.0:
                    last_write = now
                    directory.write_progress(progress)
            else:
                state = "finished"
            if state == "finished":
                progress = self._evaluate(progress, writer)
            self.trained_s = before_s + time.monotonic() - started
            self._save(directory)
        except TrainingDivergedError as error:
            state = "failed"
            raise TrainingDivergedError(f"{error}. {what_is_left(directory.path, saved, config)}") from None
        finally:
            progress = dataclasses.replace(
                progress, update=agent.updates, trained_s=self.trained_s, state=state, remaining_s=0.0
            )
            directory.write_progress(progress)
            report(progress)
            writer.close()
        return progress

    def round(self) -> dict[str, Tensor]:
        """Collect and update once (CollectConfig); returns the latest value of each metric.

        Raises:
            TrainingDivergedError: naming the first update at which something was wrong, and what.
        """
        config, agent = self.config, self.agent
        if self.collector is not None and self.replay is not None:
            self.collector.collect(agent.policy, self.replay, config.collect.steps)
        first, count = agent.updates + 1, min(config.collect.updates, config.updates - agent.updates)
        history = [agent.update(self.real, self.replay, self.generator) for _ in range(count)]
        self._watch.check(history, first)
        return {name: value for metrics in history for name, value in metrics.items()}

    def _largest_reward(self) -> float:
        """Largest |reward| that there is to learn from now."""
        stored = [replay.all().reward for replay in (self.real, self.replay) if replay is not None]
        return max((rewards.abs().max().item() for rewards in stored if len(rewards)), default=0.0)

    def _save(self, directory: RunDirectory) -> int:
        """Write the checkpoint, unless it would be one of a training that has diverged; returns its update."""
        state = self.state_dict()
        require_finite(state["agent"], self.agent.updates)
        directory.save_checkpoint(state)
        return self.agent.updates

    def _log(self, progress: Progress, metrics: dict[str, Tensor], writer: SummaryWriter) -> Progress:
        values = {name: float(value) for name, value in metrics.items()}
        progress = dataclasses.replace(progress, metrics=values)
        finished = None if self.collector is None else self.collector.finished()
        if finished is not None:
            progress = dataclasses.replace(progress, episode_return=finished[0])
            values = {**values, "twin/episode_return": finished[0], "twin/episode_steps": finished[1]}
        for name, value in values.items():
            writer.add_scalar(name, value, self.agent.updates)
        return progress

    def _evaluate(self, progress: Progress, writer: SummaryWriter) -> Progress:
        require_finite(self.agent.state_dict(), self.agent.updates)
        result = self.evaluate()
        judged = None if self._judge is None else self._judge(self.agent.averaged_policy, self.scaling)
        for group, values in (("evaluation", result), ("judge", judged or {})):
            for name, value in values.items():
                writer.add_scalar(f"{group}/{name}", value, self.agent.updates)
        return dataclasses.replace(progress, evaluation=result, judged=judged)

    def evaluate(self) -> dict[str, float]:
        """Judge the policy that would be exported, on a twin of its own with always the same initial states."""
        config = self.config
        twin_config = dataclasses.replace(config.twin, num_envs=EVALUATION_ENVS)
        twin = make_twin(twin_config, self._robot, torch.Generator(config.device).manual_seed(0))
        task, interface = self.contract.task, self.contract.interface
        policy = self.agent.averaged_policy
        return evaluate_on_twin(policy, twin, task, interface, self.scaling, config.log.evaluate_s)

    def state_dict(self) -> dict[str, Any]:
        """Everything that must be restored for the next update to be the same as without a stop."""
        simulated: dict[str, Any] = {}
        if self.replay is not None and self.collector is not None:
            simulated = {"replay": self.replay.state_dict(), "collector": self.collector.state_dict()}
        return {
            "agent": self.agent.state_dict(),
            "updates": self.agent.updates,
            "optimiser": self.agent.optimiser.state_dict(),
            "scaling": self.scaling.state_dict(),
            "trained_s": self.trained_s,
            **simulated,
            # As CPU bytes whatever the device: that is what a generator takes back.
            "generator": self.generator.get_state().cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.agent.load_state_dict(state["agent"])
        self.agent.updates = int(state["updates"])
        self.agent.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.scaling.load_state_dict(state["scaling"])
        self.trained_s = float(state["trained_s"])
        if self.replay is not None and self.collector is not None:
            self.replay.load_state_dict(state["replay"])
            self.collector.load_state_dict(state["collector"])
        self.generator.set_state(state["generator"].cpu())


class _Speed:
    """Updates per second over about the last ten seconds."""

    def __init__(self, update: int) -> None:
        self._marks = [(time.monotonic(), update)]

    def update(self, update: int) -> float:
        now = time.monotonic()
        self._marks.append((now, update))
        while len(self._marks) > 2 and now - self._marks[0][0] > 10.0:
            self._marks.pop(0)
        then, done = self._marks[0]
        return (update - done) / (now - then) if now > then else 0.0


def _passed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
