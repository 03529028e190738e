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
    Initialised as torch.nn.Linear is, uniform in ±1/√fan_in. With `layer_norm` each hidden layer is normalised before
    its ReLU (arXiv 1607.06450), each member with a scale and shift of its own.
    """

    def __init__(
        self, members: int, n_in: int, layers: Sequence[int], n_out: int = 1, layer_norm: bool = False
    ) -> None:
        super().__init__()
        sizes = [n_in, *layers, n_out]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.norm_scales, self.norm_shifts = nn.ParameterList(), nn.ParameterList()
        for width in layers if layer_norm else ():
            self.norm_scales.append(nn.Parameter(torch.ones(members, 1, width)))
            self.norm_shifts.append(nn.Parameter(torch.zeros(members, 1, width)))
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
                if len(self.norm_scales) > 0:
                    x = self._normalised(x, index, frozen)
                x = functional.relu(x)
        return x.squeeze(-1)

    def _normalised(self, x: Tensor, layer: int, frozen: bool) -> Tensor:
        scale, shift = self.norm_scales[layer], self.norm_shifts[layer]
        if frozen:
            scale, shift = scale.detach(), shift.detach()
        normalised: Tensor = functional.layer_norm(x, x.shape[-1:]) * scale + shift
        return normalised


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

    def __init__(self, n_obs: int, layers: Sequence[int], layer_norm: bool = False) -> None:
        super().__init__()
        self.net = EnsembleMlp(1, n_obs, layers, layer_norm=layer_norm)

    def forward(self, observation: Tensor) -> Tensor:
        """Return V [B]."""
        values: Tensor = self.net(observation)[0]
        return values


class Policy(nn.Module):
    """Tanh-Gaussian policy; its log standard deviation passes a learnable scale and offset, as in the authors' code.

    Args:
        n_obs, n_act: widths of observation and action.
        layers: hidden layers.
        fixed_std: standard deviation before the tanh, for a policy whose spread is not learned.
    """

    def __init__(self, n_obs: int, n_act: int, layers: Sequence[int], fixed_std: float | None = None) -> None:
        super().__init__()
        self._fixed_log_std = None if fixed_std is None else math.log(fixed_std)
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
        if self._fixed_log_std is not None:
            return mean, torch.full_like(raw, self._fixed_log_std)
        return mean, (self.log_std_scale * raw + self.log_std_offset).clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions in (−1, 1) and their log-density, differentiable in the parameters.

        Args:
            observation: [..., n_obs].
            noise: standard normal numbers [..., n_act]; may have more leading dimensions than the observation.

        Returns:
            actions like `noise`, and their log-density [...].
        """
        mean, log_std = self(observation)
        raw = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)), finite where 1 − tanh² underflows.
        squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return torch.tanh(raw), (gaussian - squash).sum(-1)

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log-density [B] of given actions [B, n_act] under a Gaussian around tanh(mean), not squashed itself.

        So IQL writes it (arXiv 2110.06169): under the squashed Gaussian an action at the torque limit has no density.
        """
        mean, log_std = self(observation)
        deviation = (action - torch.tanh(mean)) * torch.exp(-log_std)
        log_densities: Tensor = -0.5 * deviation.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return log_densities.sum(-1)

    def act(self, observation: Tensor) -> Tensor:
        """Return the deterministic action tanh(mean) [B, n_act]."""
        return torch.tanh(self(observation)[0])


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target ← (1 − rate)·target + rate·online, in place."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
