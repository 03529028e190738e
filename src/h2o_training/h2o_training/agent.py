# SPDX-License-Identifier: Apache-2.0
"""What all algorithms share: networks, the update, and the parts that their losses are composed of."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from h2o_training.catalogue import CATALOGUE
from h2o_training.exploration import Entropy, Novelty
from h2o_training.nets import Critic, Policy, Value, polyak_update
from h2o_training.noise import Noise
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch, Drawn, Replay
from h2o_training.train_config import TrainConfig
from h2o_training.value import value_loss

#: Named scalars.
Scalars = dict[str, Tensor]


class Agent(nn.Module, ABC):
    """An algorithm: `losses` composes it of the parts below, `update` is the same for all.

    All losses are taken at the same parameters and share one backward pass and one Adam step: fewer kernel launches,
    and at a learning rate of 1e-3 or less the order of the partial updates makes no measured difference. (The authors'
    codes step one network after the other, so that theirs see V or the policy one step newer.)

    Args:
        config: hyperparameters; the groups that the algorithm needs are there (TrainConfig sees to it).
        n_obs, n_act: widths of observation and action.
        smoothness: weight of the squared change of the action from one state to the next (Shaping).
    """

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int, smoothness: float) -> None:
        super().__init__()
        entry = CATALOGUE[config.algorithm]
        self.config = config
        self.uses_real, self.uses_simulated = entry.uses_real, entry.uses_simulated
        self.exploration: Entropy | Novelty = (
            Entropy(config.exploration, n_act)
            if config.exploration.kind == "entropy"
            else Novelty(config.exploration, n_obs, n_act)
        )
        fixed_std = config.exploration.noise_std if config.exploration.kind == "novelty" else None
        self.policy = Policy(n_obs, n_act, config.policy_layers, fixed_std)
        self.critic = Critic(n_obs, n_act, config.critic_layers)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.averaged_policy = copy.deepcopy(self.policy).requires_grad_(False)
        if config.value is not None:
            self.value = Value(n_obs, config.value.layers, config.value.layer_norm)
        if config.ratio is not None:
            self.ratio = RatioEstimator(n_obs, n_act, config.ratio)
        self.value_bound = math.inf
        self.updates = 0
        self._n_act, self._smoothness = n_act, smoothness

    @abstractmethod
    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """Return named losses to be summed, and further metrics. No loss may reach another one's parameters."""

    def start(self) -> None:
        """Build the optimiser; called once all parameters exist and lie on their device."""
        config = self.config
        policy = list(self.policy.parameters())
        own = {id(p) for p in policy}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        groups = [{"params": policy, "lr": self._policy_rate()}]
        if others:
            groups.append({"params": others, "lr": config.learning_rate})
        self.optimiser = torch.optim.Adam(groups, fused=True)

    def fit(self, real: Batch) -> None:
        """Take from all real data what is fitted to them: the scales of the classifiers' inputs."""
        if self.config.ratio is not None:
            self.ratio.fit_inputs(real)

    def start_at_bound(self, value: float) -> None:
        """Let all values begin at `value`, and no target exceed it."""
        self.value_bound = value
        self.critic.net.shift(value)
        self.target_critic.net.shift(value)
        if self.config.value is not None:
            self.value.net.shift(value)

    def update(self, real: Replay | None, simulated: Replay | None, generator: torch.Generator) -> Scalars:
        """Do one update from freshly drawn batches; returns scalar metrics (0-dim tensors)."""
        losses, metrics = self.losses(self.draw(real, simulated, generator), Noise(generator))
        self.optimiser.param_groups[0]["lr"] = self._policy_rate()
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        polyak_update(self.target_critic, self.critic, self.config.polyak)
        polyak_update(self.averaged_policy, self.policy, 1.0 - self.config.policy_average)
        self.exploration.settle(losses)
        self.updates += 1
        return {**{f"loss/{name}": loss.detach() for name, loss in losses.items()}, **metrics}

    def draw(self, real: Replay | None, simulated: Replay | None, generator: torch.Generator) -> Drawn:
        """Draw what the next update works on; real, simulated and the classifiers' batches are independent."""
        config, batches = self.config, CATALOGUE[self.config.algorithm].batches
        of_real = of_simulated = classify_real = classify_simulated = None
        if "real" in batches:
            assert real is not None, "the trainer gives its dataset to who learns from it"
            of_real = real.sample(config.batch_real, generator)
        if "simulated" in batches:
            assert simulated is not None, "the trainer gives the twin's transitions to who learns from them"
            of_simulated = simulated.sample(config.batch_simulated, generator)
        if config.ratio is not None and self.updates % config.ratio.every == 0:
            assert real is not None and simulated is not None
            classify_real = real.sample(config.ratio.batch, generator)
            classify_simulated = simulated.sample(config.ratio.batch, generator)
        return Drawn(of_real, of_simulated, classify_real, classify_simulated)

    # The parts, in the order in which algorithms use them.

    def soft_value(self, observation: Tensor, noise: Noise, explore: bool = True) -> Tensor:
        """min Q̂(s, a) + e(s, a) [B] with a drawn from the policy; e is left out where not `explore`."""
        action, log_density = self.policy.sample(observation, noise.normal(len(observation), self._n_act))
        value: Tensor = self.target_critic(observation, action).amin(0)
        return value + self.exploration.term(observation, action, log_density) if explore else value

    def target(self, batch: Batch, next_value: Tensor) -> Tensor:
        """r + γ (1 − terminal)·next_value [B], at most value_bound; only true terminals cut the bootstrap."""
        target = batch.reward + self.config.discount * batch.proceeds * next_value
        return target.clamp_max(self.value_bound)

    def squared_errors(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q(s, a) and (Q(s, a) − target)² of both critics, [2, B] each."""
        q = self.critic(batch.observation, batch.action)
        return q, (q - target).square()

    def advantage(self, batch: Batch) -> Tensor:
        """min Q̂(s, a) − V(s) [B] of recorded actions; a gradient reaches V alone."""
        with torch.no_grad():
            q: Tensor = self.target_critic(batch.observation, batch.action).amin(0)
        v: Tensor = self.value(batch.observation)
        return q - v

    def value_losses(self, advantage: Tensor) -> Scalars:
        """Loss of V on real data, of the configured backbone (H2O+ paper Eq. 4)."""
        assert self.config.value is not None
        return {"value": value_loss(self.config.value, advantage)}

    def actor_losses(self, batch: Batch, noise: Noise) -> Scalars:
        """Policy loss −E[min Q(s, a) + e(s, a)], a ~ π (H2O+ paper Eq. 10), the exploration's own, and smoothness."""
        action, log_density = self.policy.sample(batch.observation, noise.normal(len(batch), self._n_act))
        q = self.critic(batch.observation, action, frozen=True).amin(0)
        gain = q + self.exploration.term(batch.observation, action, log_density)
        return {
            "policy": -gain.mean(),
            **self.exploration.losses(batch, log_density),
            **self.smoothness_losses(batch),
        }

    def regression_losses(self, batch: Batch, weight: Tensor | None = None) -> Scalars:
        """Policy loss −E[w log π(a|s)] of recorded actions, w [B] (None: 1), and smoothness."""
        log_density = self.policy.log_density(batch.observation, batch.action)
        weighted = log_density if weight is None else weight * log_density
        return {"policy": -weighted.mean(), **self.smoothness_losses(batch)}

    def smoothness_losses(self, batch: Batch) -> Scalars:
        """Temporal term of CAPS (arXiv 2012.06644), squared: E[(π(s) − π(s'))²] of the deterministic actions.

        Over one step of 5 ms the values of two actions differ by less than the critics' error, and the policy would
        learn that error as chatter between the torque limits.
        """
        if self._smoothness == 0.0:
            return {}
        change = self.policy.act(batch.observation) - self.policy.act(batch.next_observation)
        return {"smoothness": self._smoothness * (batch.proceeds * change.square().sum(-1)).mean()}

    def ratio_losses(self, drawn: Drawn, noise: Noise) -> Scalars:
        """Loss of the classifiers, in the updates in which they learn."""
        if drawn.classify_real is None or drawn.classify_simulated is None:
            return {}
        return {"ratio": self.ratio.loss(drawn.classify_real, drawn.classify_simulated, noise)}

    def _policy_rate(self) -> float:
        """Learning rate of the policy at this update; with policy_decay a cosine to 0 over the run."""
        config = self.config
        rate = config.learning_rate if config.policy_learning_rate is None else config.policy_learning_rate
        if not config.policy_decay:
            return rate
        return 0.5 * rate * (1.0 + math.cos(math.pi * min(self.updates / config.updates, 1.0)))
