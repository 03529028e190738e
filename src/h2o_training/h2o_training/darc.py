# SPDX-License-Identifier: Apache-2.0
"""DARC (Eysenbach et al. 2020, arXiv 2006.13916) and DARC+ (H2O paper, arXiv 2206.13464, Section 6.2)."""

from __future__ import annotations

import dataclasses

import torch

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Batch, Drawn, join


class Darc(Agent):
    """SAC in the twin with rewards r + log P/P̂: going where the twin is wrong does not pay."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        assert drawn.simulated is not None
        batch, correction = self.corrected(drawn.simulated)
        with torch.no_grad():
            target = self.target(batch, self.soft_value(batch.next_observation, noise))
        q, error = self.squared_errors(batch, target)
        losses = {
            "critic": error.mean(1).sum(),
            **self.actor_losses(batch, noise),
            **self.ratio_losses(drawn, noise),
        }
        return losses, {"value/q_simulated": q.detach().mean(), **correction, **self.exploration.metrics()}

    def corrected(self, simulated: Batch) -> tuple[Batch, Scalars]:
        """Add the clipped log ratio, scaled as rewards are, to simulated rewards; its mean is a metric too."""
        assert self.config.darc is not None
        clip = self.config.darc.reward_clip
        correction = self.ratio.log_ratio(simulated).clamp(-clip, clip)
        reward = simulated.reward + self.config.reward_scale * correction
        batch = dataclasses.replace(simulated, reward=reward)
        return batch, {"ratio/correction": correction.mean()}


class DarcPlus(Darc):
    """DARC whose critic and policy see the real transitions too, with their own rewards."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        assert drawn.real is not None and drawn.simulated is not None
        simulated, correction = self.corrected(drawn.simulated)
        batch, n = join(drawn.real, simulated), len(drawn.real)
        with torch.no_grad():
            target = self.target(batch, self.soft_value(batch.next_observation, noise))
        q, error = self.squared_errors(batch, target)
        losses = {
            "critic": error[:, :n].mean(1).sum() + error[:, n:].mean(1).sum(),
            **self.actor_losses(batch, noise),
            **self.ratio_losses(drawn, noise),
        }
        metrics = {"value/q_real": q.detach()[:, :n].mean(), "value/q_simulated": q.detach()[:, n:].mean()}
        return losses, {**metrics, **correction, **self.exploration.metrics()}
