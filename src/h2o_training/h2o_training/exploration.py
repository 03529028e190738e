# SPDX-License-Identifier: Apache-2.0
"""Exploration terms e(s, a), added to Q in targets and in the policy's objective: entropy, or novelty in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from h2o_training.algorithm_config import ExplorationConfig
from h2o_training.nets import EnsembleMlp
from h2o_training.replay import Batch

#: Step of the running mean by which the novelty is divided.
MEAN_RATE = 0.01


class Entropy(nn.Module):
    """−β log π(a|s), with β tuned so that the policy keeps a target entropy (SAC, arXiv 1812.05905)."""

    def __init__(self, config: ExplorationConfig, n_act: int) -> None:
        super().__init__()
        self.log_beta = nn.Parameter(torch.zeros(()))
        self._target = -float(n_act) if config.target_entropy is None else config.target_entropy

    def term(self, observation: Tensor, action: Tensor, log_density: Tensor) -> Tensor:
        """Return e [B]; no gradient reaches β."""
        return -self.log_beta.detach().exp() * log_density

    def losses(self, batch: Batch, log_density: Tensor) -> dict[str, Tensor]:
        """Loss that raises β where the entropy is below its target, and lowers it above.

        Args:
            batch: what the policy learned from.
            log_density: of the actions that the policy drew at its observations [B].
        """
        return {"temperature": -self.log_beta * (log_density.detach().mean() + self._target)}

    def settle(self, losses: dict[str, Tensor]) -> None:
        """After an update: nothing is left to do."""

    def metrics(self) -> dict[str, Tensor]:
        """What to watch."""
        return {"policy/beta": self.log_beta.detach().exp()}


class Novelty(nn.Module):
    """Error of predicting a fixed random network of (s, a) (random network distillation, arXiv 1810.12894)."""

    def __init__(self, config: ExplorationConfig, n_obs: int, n_act: int) -> None:
        super().__init__()
        self._weight = config.weight
        self.random = EnsembleMlp(1, n_obs + n_act, config.layers, n_out=config.layers[-1]).requires_grad_(False)
        self.predictor = EnsembleMlp(1, n_obs + n_act, config.layers, n_out=config.layers[-1])
        self.register_buffer("mean_error", torch.ones(()))
        self.mean_error: Tensor

    def term(self, observation: Tensor, action: Tensor, log_density: Tensor) -> Tensor:
        """Return e [B], differentiable in the action; no gradient reaches the predictor."""
        return self._weight * self._error(observation, action, frozen=True) / self.mean_error

    def losses(self, batch: Batch, log_density: Tensor) -> dict[str, Tensor]:
        """Loss of the predictor on what was done."""
        return {"novelty": self._error(batch.observation, batch.action, frozen=False).mean()}

    def settle(self, losses: dict[str, Tensor]) -> None:
        """After an update with these losses: move the running mean."""
        self.mean_error = self.mean_error.lerp(losses["novelty"].detach(), MEAN_RATE).clamp_min(1e-8)

    def metrics(self) -> dict[str, Tensor]:
        """What to watch."""
        return {"policy/novelty_error": self.mean_error}

    def _error(self, observation: Tensor, action: Tensor, frozen: bool) -> Tensor:
        x = torch.cat((observation, action), dim=-1)
        error: Tensor = self.predictor(x, frozen)[0] - self.random(x)[0]
        return error.square().mean(-1)
