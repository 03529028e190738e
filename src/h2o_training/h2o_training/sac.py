# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic in the twin (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

import torch

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Drawn


class SoftActorCritic(Agent):
    """Twin critics with targets, and a tanh-Gaussian policy that maximises value and entropy."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        batch = drawn.simulated
        assert batch is not None
        with torch.no_grad():
            target = self.target(batch, self.soft_value(batch.next_observation, noise))
        q, error = self.squared_errors(batch, target)
        losses = {"critic": error.mean(1).sum(), **self.actor_losses(batch, noise)}
        return losses, {"value/q_simulated": q.detach().mean(), **self.exploration.metrics()}
