# SPDX-License-Identifier: Apache-2.0
"""H2O+ (arXiv 2309.12716): SAC's parts, plus a value learned on real data alone and the dynamics ratio."""

from __future__ import annotations

import torch

from h2o_training.nets import Value
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch, Replay
from h2o_training.sac import Metrics, SoftActorCritic
from h2o_training.train_config import TrainConfig
from h2o_training.value import make_value_loss


class H2oPlus(SoftActorCritic):
    """One update is the paper's five steps: ratio, value, mixed target, weighted critic, policy on all data."""

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int = 1) -> None:
        super().__init__(config, n_obs, n_act)
        assert config.h2o is not None, "TrainConfig guarantees the group h2o"
        self.h2o = config.h2o
        self.value = Value(n_obs, self.h2o.value_layers)
        self.value_loss = make_value_loss(self.h2o)
        self.ratio = RatioEstimator(n_obs, n_act, self.h2o.ratio)

    def start_at_bound(self, value: float) -> None:
        """Let all values begin at `value`, and no target exceed it."""
        super().start_at_bound(value)
        self.value.net.shift(value)

    def losses(self, real: Replay | None, simulated: Replay, generator: torch.Generator) -> tuple[Metrics, Metrics]:
        """Return named losses to be summed, and further metrics."""
        assert real is not None, "the trainer gives h2o_plus its dataset"
        n = self.config.batch_real
        real_rows = real.sample_rows(n, generator)
        sim_rows = simulated.sample_rows(self.config.batch_simulated, generator)
        # One pass over D ∪ B: the first n rows are real.
        batch = real.unpack(torch.cat((real_rows, sim_rows)))
        weight = self.ratio.weights(simulated.unpack(sim_rows))
        with torch.no_grad():
            q_data = self.target_critic(batch.observation[:n], batch.action[:n]).amin(0)
            target = self.mixed_target(batch, generator)
        q = self.critic(batch.observation, batch.action)
        error = (q - target).square()
        losses = {
            "critic": error[:, :n].mean(1).sum() + (weight * error[:, n:]).mean(1).sum(),
            "value": self.value_loss(q_data - self.value(batch.observation[:n])),
            **self.actor_losses(batch, generator),
        }
        if self.updates % self.h2o.ratio.every == 0:
            size = self.h2o.ratio.batch
            losses["ratio"] = self.ratio.loss(
                real.sample(size, generator), simulated.sample(size, generator), generator
            )
        metrics = {
            "value/q_real": q.detach()[:, :n].mean(),
            "value/q_simulated": q.detach()[:, n:].mean(),
            "ratio/weight": weight.mean(),
            "policy/beta": self.log_beta.detach().exp(),
        }
        return losses, metrics

    def mixed_target(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """r + γ (1 − terminal) [λ V(s') + (1 − λ)(min Q̂ − β log π)] [B] (Eq. 7), for real and simulated alike."""
        soft = self.soft_value(batch.next_observation, generator)
        mixed = self.h2o.lambda_v * self.value(batch.next_observation) + (1.0 - self.h2o.lambda_v) * soft
        return self.target(batch, mixed)
