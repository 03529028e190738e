# SPDX-License-Identifier: Apache-2.0
"""The dynamics ratio P(s'|s,a) / P̂(s'|s,a) from two classifiers (H2O+ paper Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2o_training.algorithm_config import RatioConfig
from h2o_training.nets import EnsembleMlp
from h2o_training.noise import Noise
from h2o_training.replay import Batch, join


class RatioEstimator(nn.Module):
    """Two classifiers told real (1) from simulated (0): D_sas sees (s, a, s'), D_sa sees (s, a).

    log P/P̂ = logit D_sas − logit D_sa. As in the authors' code logit D_sas is the sum of both heads, so the log ratio
    is the head of (s, a, s') alone and the head of (s, a) takes up what is no dynamics: where the data lie.
    """

    def __init__(self, n_obs: int, n_act: int, config: RatioConfig) -> None:
        super().__init__()
        self._config = config
        self._n_given = n_obs + n_act
        self.net = EnsembleMlp(2, 2 * n_obs + n_act, config.layers)
        width = 2 * n_obs + n_act
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        # The second member must not see s'.
        visible = torch.ones(2, 1, width)
        visible[1, :, self._n_given :] = 0.0
        self.register_buffer("visible", visible)
        self.mean: Tensor
        self.scale: Tensor
        self.visible: Tensor

    def fit_inputs(self, real: Batch) -> None:
        """Take mean and standard deviation of the classifiers' inputs from all real data (relative only)."""
        if not self._config.relative:
            return
        raw = self._raw(real)
        self.mean.copy_(raw.mean(0))
        self.scale.copy_(raw.std(0).clamp_min(1e-6))

    def log_ratio(self, batch: Batch) -> Tensor:
        """Estimate log P/P̂ [B], bounded to ±logit_bound; no gradient."""
        with torch.no_grad():
            return self._logits(self._inputs(batch))[0]

    def weights(self, batch: Batch) -> Tensor:
        """Importance weights clip(P/P̂) [B] of simulated transitions; no gradient."""
        return self.log_ratio(batch).exp().clamp(self._config.clip_min, self._config.clip_max)

    def gap(self, batch: Batch, noise: Tensor, std: Tensor) -> Tensor:
        """Dynamics gap u(s, a) = E log P̂/P [B] over next states around the simulated one; no gradient.

        It stands for KL(P̂ ‖ P) (H2O paper, 4.2 and 4.4). Drawn wider than a control step moves the state it asks the
        classifiers about steps that neither system makes, and follows nothing (docs/ratio.md).

        Args:
            batch: simulated transitions.
            noise: standard normal numbers [draws, B, n_obs].
            std: of s' around the simulated one, [n_obs].
        """
        draws = noise.shape[0]
        around = (batch.next_observation + noise * std).flatten(0, 1)
        observation, action = batch.observation.repeat(draws, 1), batch.action.repeat(draws, 1)
        nothing = torch.empty(0)
        log_ratio = self.log_ratio(Batch(observation, action, nothing, around, nothing))
        return -log_ratio.view(draws, -1).mean(0)

    def classify(self, batch: Batch, noise: Noise | None = None) -> Tensor:
        """Logits [2, B] of D_sas and D_sa; with `noise`, on inputs disturbed as while learning."""
        inputs = self._inputs(batch)
        if noise is not None:
            inputs = inputs + self._config.noise_std * noise.normal(*inputs.shape)
        heads = self._logits(inputs)
        return torch.stack((heads[0] + heads[1], heads[1]))

    def loss(self, real: Batch, simulated: Batch, noise: Noise) -> Tensor:
        """Cross-entropy of both classifiers on real and simulated batches, each with noise on its inputs."""
        logits = self.classify(join(real, simulated), noise)
        n = len(real)
        return functional.softplus(-logits[:, :n]).mean(1).sum() + functional.softplus(logits[:, n:]).mean(1).sum()

    def _raw(self, batch: Batch) -> Tensor:
        last = batch.next_observation
        if self._config.relative:
            # In one control step s' is nearly s; only the difference shows the dynamics. The ratio is the same.
            last = last - batch.observation
        return torch.cat((batch.observation, batch.action, last), dim=-1)

    def _inputs(self, batch: Batch) -> Tensor:
        return (self._raw(batch) - self.mean) / self.scale

    def _logits(self, inputs: Tensor) -> Tensor:
        bound = self._config.logit_bound
        return bound * torch.tanh(self.net(inputs * self.visible) / bound)
