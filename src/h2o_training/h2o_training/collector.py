# SPDX-License-Identifier: Apache-2.0
"""Episodes in the twin: what turns a simulator's states into the task's transitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from h2o_control.contract import Interface, Task
from h2o_training.nets import Policy
from h2o_training.noise import Noise
from h2o_training.replay import Replay
from h2o_training.twin import Twin


class Scaling(nn.Module):
    """What the networks see: (observation − mean) / std; identity until fitted. Also a layer of the exported graph."""

    def __init__(self, n_obs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_obs))
        self.register_buffer("std", torch.ones(n_obs))
        self.mean: Tensor
        self.std: Tensor

    def fit(self, observations: Tensor) -> None:
        """Take mean and standard deviation of observations [N, n_obs]; a constant column keeps scale 1."""
        self.mean.copy_(observations.mean(0))
        std = observations.std(0)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, observation: Tensor) -> Tensor:
        """Scale observations [..., n_obs] in SI units."""
        return (observation - self.mean) / self.std


class Collector:
    """Runs a policy in the twin and stores transitions; an episode ends by failure (terminal) or by time.

    Args:
        twin, interface: what is driven and how.
        task: observation and, for reports, reward.
        learned: the task as the learner sees it, with training-only changes to reward and failure.
        reward_scale: factor on its reward.
        scaling: what the networks see of an observation.
        episode_s: length at which an episode is cut.
        noise: of the policy.
    """

    def __init__(
        self,
        twin: Twin,
        task: Task,
        interface: Interface,
        learned: Task,
        reward_scale: float,
        scaling: Scaling,
        episode_s: float,
        noise: Noise,
    ) -> None:
        self._twin, self._task, self._limit = twin, task, interface.torque_limit_nm
        self._learned, self._reward_scale = learned, reward_scale
        self._scaling, self._noise = scaling, noise
        self._max_steps = max(1, round(episode_s / interface.dt_s))
        state = twin.state
        # Robots that start together would time out together; spread their clocks.
        self._age = torch.arange(twin.num_envs, device=state.device) * self._max_steps // twin.num_envs
        self._return = torch.zeros(twin.num_envs, device=state.device)
        self._length = torch.zeros(twin.num_envs, device=state.device)
        self._finished = torch.zeros(3, device=state.device)
        self.transitions = 0

    @torch.no_grad()
    def collect(self, policy: Policy, replay: Replay, steps: int) -> None:
        """Advance every simulated robot by `steps` control steps with sampled actions, into `replay`."""
        for _ in range(steps):
            state = self._twin.state
            observation = self._scaling(self._task.observe(state))
            action, _ = policy.sample(observation, self._noise.normal(len(observation), 1))
            torque = self._limit * action[:, 0]
            after = self._twin.step(torque)
            failed = self._learned.failed(after)
            reward = self._learned.rewards(after, torque) * self._reward_scale
            replay.add(observation, action, reward, self._scaling(self._task.observe(after)), failed)
            self._return += self._task.rewards(after, torque)
            self._length += 1
            self._age += 1
            over = failed | (self._age >= self._max_steps)
            done = over.to(self._return.dtype)
            self._finished += torch.stack((done.sum(), (done * self._return).sum(), (done * self._length).sum()))
            keep = 1.0 - done
            self._return *= keep
            self._length *= keep
            self._age *= ~over
            self._twin.reset(over)
        self.transitions += steps * self._twin.num_envs

    def finished(self) -> tuple[float, float] | None:
        """Mean return (task's reward) and length in steps of the episodes ended since the last call; None if none."""
        count, total, length = self._finished.tolist()
        self._finished.zero_()
        return (total / count, length / count) if count else None

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on exactly, the twin's state included."""
        tensors = {"age": self._age, "return": self._return, "length": self._length, "finished": self._finished}
        return {
            "twin": self._twin.state_dict(),
            "transitions": self.transitions,
            **{k: v.clone() for k, v in tensors.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self._twin.load_state_dict(state["twin"])
        self.transitions = int(state["transitions"])
        self._age, self._return = state["age"].clone(), state["return"].clone()
        self._length, self._finished = state["length"].clone(), state["finished"].clone()


@torch.no_grad()
def evaluate_on_twin(
    policy: Policy, twin: Twin, task: Task, interface: Interface, scaling: Scaling, duration_s: float
) -> dict[str, float]:
    """Run the deterministic policy on a twin from its initial states, without noise, judged by the true states.

    Returns:
        mean "return" with the task's own reward (a robot that failed collects nothing more), "survived" fraction,
        and mean "x_abs_m" of the robots at the end.
    """
    twin.reset()
    alive = torch.ones(twin.num_envs, dtype=torch.bool, device=twin.state.device)
    total = torch.zeros(twin.num_envs, device=alive.device)
    for _ in range(round(duration_s / interface.dt_s)):
        torque = interface.torque_limit_nm * policy.act(scaling(task.observe(twin.state)))[:, 0]
        # A fallen robot is left alone: its equations go on but nothing it does counts.
        twin.step(torque * alive)
        state = twin.truth
        alive &= ~task.failed(state)
        total += torch.where(alive, task.rewards(state, torque), 0.0)
    x_abs = twin.truth[:, 0].abs()
    standing = x_abs[alive].mean().item() if bool(alive.any()) else float("nan")
    return {"return": total.mean().item(), "survived": alive.float().mean().item(), "x_abs_m": standing}
