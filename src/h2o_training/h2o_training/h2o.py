# SPDX-License-Identifier: Apache-2.0
"""H2O (Niu et al. 2022, arXiv 2206.13464): dynamics-aware hybrid offline-and-online reinforcement learning."""

from __future__ import annotations

import torch
from torch import Tensor

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Batch, Drawn, join
from h2o_training.train_config import TrainConfig


class H2o(Agent):
    """Values are pushed down on simulated samples, most where the twin is wrong, and up on real ones (Eq. 4).

    Eq. 8 prints the ratio inside the square; its derivation and the authors' code weigh the squared error by it once,
    and so does this.
    """

    def __init__(self, config: TrainConfig, n_obs: int, n_act: int, smoothness: float) -> None:
        super().__init__(config, n_obs, n_act, smoothness)
        # Standard deviation of s' around the simulated one: Σ_D of the paper, of the data and not of a padded buffer.
        self.register_buffer("spread", torch.ones(n_obs))
        self.spread: Tensor

    def fit(self, real: Batch) -> None:
        """See Agent.fit; takes the spread of the real states, or of their change, too."""
        super().fit(real)
        assert self.config.h2o is not None
        steps = self.config.h2o.gap_spread == "steps"
        states = real.next_observation - real.observation if steps else real.observation
        self.spread.copy_(states.std(0))

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        settings = self.config.h2o
        assert settings is not None and drawn.real is not None and drawn.simulated is not None
        batch, n = join(drawn.real, drawn.simulated), len(drawn.real)
        with torch.no_grad():
            # The authors leave the entropy out of the backup.
            target = self.target(batch, self.soft_value(batch.next_observation, noise, explore=False))
        q, error = self.squared_errors(batch, target)
        weight = self.ratio.weights(drawn.simulated) if settings.reweight else torch.ones_like(error[0, n:])
        critic = 0.5 * error[:, :n].mean(1) + 0.5 * (weight * error[:, n:]).mean(1)
        metrics = {"value/q_real": q.detach()[:, :n].mean(), "value/q_simulated": q.detach()[:, n:].mean()}
        if settings.regularise:
            gap = self.gap(drawn.simulated, noise)
            log_omega = gap.log() - gap.sum().log()
            regularisation = torch.logsumexp(log_omega + q[:, n:], dim=1) - q[:, :n].mean(1)
            critic = critic + settings.beta * regularisation
            metrics |= {"ratio/gap": gap.mean(), "value/regularisation": regularisation.detach().mean()}
        losses = {
            "critic": critic.sum(),
            **self.actor_losses(batch, noise),
            **self.ratio_losses(drawn, noise),
        }
        return losses, {**metrics, "ratio/weight": weight.mean(), **self.exploration.metrics()}

    def gap(self, simulated: Batch, noise: Noise) -> Tensor:
        """u(s, a) [B], clipped; 1 everywhere where the regularisation is not to follow the gap."""
        settings = self.config.h2o
        assert settings is not None
        if not settings.adaptive:
            return torch.ones_like(simulated.reward)
        draws = noise.normal(settings.draws, *simulated.next_observation.shape)
        return self.ratio.gap(simulated, draws, self.spread).clamp(settings.gap_min, settings.gap_max)
