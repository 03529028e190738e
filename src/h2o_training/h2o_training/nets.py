# SPDX-License-Identifier: Apache-2.0
"""Networks: tanh-Gaussian policy, and ensembles whose members are computed as one batched matrix product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class EnsembleMlp(nn.Module):
    """`members` ReLU networks of one shape, evaluated together.

    Two critics cost one batched product a layer instead of two products, which at these sizes nearly halves the time.
    Initialised as torch.nn.Linear is, uniform in ±1/√fan_in.
    """

    def __init__(self, members: int, n_in: int, layers: Sequence[int], n_out: int = 1) -> None:
        super().__init__()
        sizes = [n_in, *layers, n_out]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1.0 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, fan_out).uniform_(-bound, bound)))
        self.members = members

    @torch.no_grad()
    def shift(self, value: float) -> None:
        """Add `value` to what every member answers."""
        self.biases[-1] += value

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Evaluate.

        Args:
            x: inputs [B, n_in] for all members, or [members, B, n_in].
            frozen: let gradients through to x but not into the weights (the policy's loss through the critic).

        Returns:
            [members, B, n_out], or [members, B] where n_out is 1.
        """
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            x = torch.baddbmm(bias, x, weight)
            if index < last:
                x = functional.relu(x)
        return x.squeeze(-1)


class Critic(nn.Module):
    """Twin action values Q(s, a)."""

    def __init__(self, n_obs: int, n_act: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.net = EnsembleMlp(2, n_obs + n_act, layers)

    def forward(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Return Q [2, B]; see EnsembleMlp.forward for `frozen`."""
        values: Tensor = self.net(torch.cat((observation, action), dim=-1), frozen)
        return values


class Value(nn.Module):
    """State value V(s)."""

    def __init__(self, n_obs: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.net = EnsembleMlp(1, n_obs, layers)

    def forward(self, observation: Tensor) -> Tensor:
        """Return V [B]."""
        values: Tensor = self.net(observation)[0]
        return values


class Policy(nn.Module):
    """Tanh-Gaussian policy; its log standard deviation passes a learnable scale and offset, as in the authors' code."""

    def __init__(self, n_obs: int, n_act: int, layers: Sequence[int]) -> None:
        super().__init__()
        sizes = [n_obs, *layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], 2 * n_act)
        self.log_std_scale = nn.Parameter(torch.tensor(1.0))
        self.log_std_offset = nn.Parameter(torch.tensor(-1.0))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [B, n_act] of the Gaussian under the tanh."""
        x = observation
        for layer in self.hidden:
            x = functional.relu(layer(x))
        mean, raw = self.head(x).chunk(2, dim=-1)
        return mean, (self.log_std_scale * raw + self.log_std_offset).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw actions [B, n_act] in (−1, 1) and their log-density [B], differentiable in the parameters."""
        mean, log_std = self(observation)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        raw = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)), finite where 1 − tanh² underflows.
        squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return torch.tanh(raw), (gaussian - squash).sum(-1)

    def act(self, observation: Tensor) -> Tensor:
        """Return the deterministic action tanh(mean) [B, n_act]."""
        return torch.tanh(self(observation)[0])


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target ← (1 − rate)·target + rate·online, in place."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
