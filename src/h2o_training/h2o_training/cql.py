# SPDX-License-Identifier: Apache-2.0
"""Conservative Q-learning on real data (Kumar et al. 2020, arXiv 2006.04779, CQL(H))."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Batch, Drawn


class ConservativeQLearning(Agent):
    """SAC on the dataset, whose critics are pushed down where the data show no action, and up where they do."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        batch = drawn.real
        assert batch is not None and self.config.cql is not None
        with torch.no_grad():
            target = self.target(batch, self.soft_value(batch.next_observation, noise, explore=False))
        q, error = self.squared_errors(batch, target)
        excess = self.log_sum_exp(batch, noise).mean(1) - q.mean(1)
        losses = {
            "critic": error.mean(1).sum() + self.config.cql.alpha * excess.sum(),
            **self.actor_losses(batch, noise),
        }
        metrics = {"value/q_real": q.detach().mean(), "value/excess": excess.detach().mean()}
        return losses, {**metrics, **self.exploration.metrics()}

    def log_sum_exp(self, batch: Batch, noise: Noise) -> Tensor:
        """Importance-sampled log Σ_a exp Q(s, a) [2, B], up to a constant (Appendix F of the paper).

        Actions are drawn uniformly, from π(·|s) and from π(·|s'); the last are taken at s too, as the authors do.
        """
        assert self.config.cql is not None
        draws, n, n_act = self.config.cql.draws, len(batch), self._n_act
        with torch.no_grad():
            uniform = 2.0 * noise.uniform(draws, n, n_act) - 1.0
            now, now_density = self.policy.sample(batch.observation, noise.normal(draws, n, n_act))
            then, then_density = self.policy.sample(batch.next_observation, noise.normal(draws, n, n_act))
            actions = torch.cat((uniform, now, then))
            flat = torch.full((draws, n), -n_act * math.log(2.0), dtype=now_density.dtype, device=uniform.device)
            log_density = torch.cat((flat, now_density, then_density))
        observation = batch.observation.expand(3 * draws, *batch.observation.shape)
        q = self.critic(observation.flatten(0, 1), actions.flatten(0, 1)).view(-1, 3 * draws, n)
        return torch.logsumexp(q - log_density, dim=1)
