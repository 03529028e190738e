# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic in the twin (arXiv 1812.05905), and the parts that H2O+ shares with it."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from h2o_training.nets import Critic, Policy, polyak_update
from h2o_training.replay import Batch, Replay
from h2o_training.train_config import TrainConfig

Metrics = dict[str, Tensor]


class SoftActorCritic(nn.Module):
    """SAC: twin critics with targets, tanh-Gaussian policy, temperature β tuned to a target entropy.

    All losses are taken at the same parameters and share one backward pass and one Adam step: fewer kernel launches,
    and at a learning rate of 1e-3 or less the order of the partial updates makes no measured difference.
    """

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int = 1) -> None:
        super().__init__()
        self.config = config
        self.policy = Policy(n_obs, n_act, config.policy_layers)
        self.critic = Critic(n_obs, n_act, config.critic_layers)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_beta = nn.Parameter(torch.zeros(()))
        self.averaged_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.target_entropy = -float(n_act) if config.target_entropy is None else config.target_entropy
        self.value_bound = math.inf
        self.updates = 0

    def start(self) -> None:
        """Build the optimiser; called once all parameters exist and lie on their device."""
        learned = [p for p in self.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(learned, lr=self.config.learning_rate, fused=True)

    def start_at_bound(self, value: float) -> None:
        """Let all values begin at `value`, and no target exceed it."""
        self.value_bound = value
        self.critic.net.shift(value)
        self.target_critic.net.shift(value)

    def update(self, real: Replay | None, simulated: Replay, generator: torch.Generator) -> Metrics:
        """Do one update from freshly drawn batches; returns scalar metrics (0-dim tensors)."""
        losses, metrics = self.losses(real, simulated, generator)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        polyak_update(self.target_critic, self.critic, self.config.polyak)
        polyak_update(self.averaged_policy, self.policy, 1.0 - self.config.policy_average)
        self.updates += 1
        return {**{f"loss/{name}": loss.detach() for name, loss in losses.items()}, **metrics}

    def losses(
        self,
        real: Replay | None,
        simulated: Replay,
        generator: torch.Generator,
    ) -> tuple[Metrics, Metrics]:
        """Return named losses to be summed, and further metrics."""
        batch = simulated.sample(self.config.batch_simulated, generator)
        with torch.no_grad():
            target = self.target(batch, self.soft_value(batch.next_observation, generator))
        q = self.critic(batch.observation, batch.action)
        losses = {"critic": (q - target).square().mean(1).sum(), **self.actor_losses(batch, generator)}
        return losses, {"value/q": q.detach().mean(), "policy/beta": self.log_beta.detach().exp()}

    def soft_value(self, next_observation: Tensor, generator: torch.Generator) -> Tensor:
        """min Q̂(s', a') − β log π(a'|s') [B] with a' drawn from the policy."""
        action, log_prob = self.policy.sample(next_observation, generator)
        q: Tensor = self.target_critic(next_observation, action).amin(0)
        return q - self.log_beta.exp() * log_prob

    def target(self, batch: Batch, next_value: Tensor) -> Tensor:
        """r + γ (1 − terminal)·next_value [B], at most value_bound; only true terminals cut the bootstrap."""
        target = batch.reward + self.config.discount * batch.proceeds * next_value
        return target.clamp_max(self.value_bound)

    def actor_losses(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """Policy loss E[β log π(a|s) − min Q(s, a)] (H2O+ paper Eq. 10), the temperature's loss, and smoothness.

        Smoothness is the temporal term of CAPS (arXiv 2012.06644), squared: E[(π(s) − π(s'))²] of the deterministic
        actions. Over one step of 5 ms the values of two actions differ by less than the critics' error, and the policy
        would learn that error as chatter between the torque limits.
        """
        action, log_prob = self.policy.sample(batch.observation, generator)
        q = self.critic(batch.observation, action, frozen=True).amin(0)
        policy = (self.log_beta.detach().exp() * log_prob - q).mean()
        temperature = -self.log_beta * (log_prob.detach().mean() + self.target_entropy)
        losses = {"policy": policy, "temperature": temperature}
        if self.config.smoothness > 0.0:
            change = self.policy.act(batch.observation) - self.policy.act(batch.next_observation)
            losses["smoothness"] = self.config.smoothness * (batch.proceeds * change.square().sum(-1)).mean()
        return losses
