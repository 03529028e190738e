# SPDX-License-Identifier: Apache-2.0
"""H2O+ (Niu et al. 2023, arXiv 2309.12716): a value learned on real data alone anchors what is learned in the twin."""

from __future__ import annotations

import torch

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Batch, Drawn, join


class H2oPlus(Agent):
    """One update is the paper's five steps: ratio, value, mixed target, weighted critic, policy on all data."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        assert drawn.real is not None and drawn.simulated is not None
        batch, n = join(drawn.real, drawn.simulated), len(drawn.real)
        with torch.no_grad():
            target = self.mixed_target(batch, noise)
        q, error = self.squared_errors(batch, target)
        without_ratio = self.config.ratio is None
        weight = torch.ones_like(error[0, n:]) if without_ratio else self.ratio.weights(drawn.simulated)
        losses = {
            "critic": error[:, :n].mean(1).sum() + (weight * error[:, n:]).mean(1).sum(),
            **self.value_losses(self.advantage(drawn.real)),
            **self.actor_losses(batch, noise),
            **self.ratio_losses(drawn, noise),
        }
        metrics = {
            "value/q_real": q.detach()[:, :n].mean(),
            "value/q_simulated": q.detach()[:, n:].mean(),
            "ratio/weight": weight.mean(),
        }
        return losses, {**metrics, **self.exploration.metrics()}

    def mixed_target(self, batch: Batch, noise: Noise) -> torch.Tensor:
        """r + γ (1 − terminal) [λ V(s') + (1 − λ)(min Q̂ + e)(s', a')] [B] (Eq. 7), for real and simulated alike."""
        assert self.config.h2o_plus is not None
        mix = self.config.h2o_plus.lambda_v
        soft = self.soft_value(batch.next_observation, noise)
        return self.target(batch, mix * self.value(batch.next_observation) + (1.0 - mix) * soft)
