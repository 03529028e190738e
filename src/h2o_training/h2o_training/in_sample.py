# SPDX-License-Identifier: Apache-2.0
"""IQL, SQL, EQL and XQL: values learned on recorded actions alone, the policy by weighted regression on them.

They differ in the loss of V and in the weights, both in value.py (arXiv 2110.06169, 2303.15810, 2301.02328).
"""

from __future__ import annotations

import torch

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Drawn
from h2o_training.value import regression_weight


class InSample(Agent):
    """No action that the data do not show is ever valued, so that none can be overvalued."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        batch, config = drawn.real, self.config
        assert batch is not None and config.value is not None and config.extraction is not None
        with torch.no_grad():
            target_value = self.value(batch.next_observation)
            target = self.target(batch, target_value)
        q, error = self.squared_errors(batch, target)
        advantage = self.advantage(batch)
        weight = regression_weight(config.value, config.extraction, advantage.detach())
        losses = {
            "critic": error.mean(1).sum(),
            **self.value_losses(advantage),
            **self.regression_losses(batch, weight),
        }
        metrics = {
            "value/q_real": q.detach().mean(),
            "value/v_next": target_value.mean(),
            "policy/weight": weight.mean(),
        }
        return losses, metrics
