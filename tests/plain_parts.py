# SPDX-License-Identifier: Apache-2.0
"""What plain_losses.py is written with: noise that is handed out twice, networks asked about one input at a time, and
the pieces that several algorithms have. What a loss holds constant is a Python float here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from h2o_training.replay import Batch, Drawn
from h2o_training.train_config import TrainConfig

Losses = dict[str, Tensor]


class Tape:
    """Noise that remembers what it handed out; `again` hands out the same numbers, in the same order and shapes."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.drawn: list[tuple[str, Tensor]] = []

    def normal(self, *shape: int) -> Tensor:
        return self._record("normal", torch.randn(shape, generator=self._generator, dtype=torch.float64))

    def uniform(self, *shape: int) -> Tensor:
        return self._record("uniform", torch.rand(shape, generator=self._generator, dtype=torch.float64))

    def _record(self, kind: str, numbers: Tensor) -> Tensor:
        self.drawn.append((kind, numbers))
        return numbers

    def again(self) -> Replayed:
        return Replayed(list(self.drawn))


class Replayed:
    """The numbers of a Tape once more; whoever asks for others, or leaves some, follows other equations."""

    def __init__(self, drawn: list[tuple[str, Tensor]]) -> None:
        self._left = drawn

    def normal(self, *shape: int) -> Tensor:
        return self._next("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._next("uniform", shape)

    def _next(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        assert self._left, f"{kind}{shape} drawn once too often"
        drawn, numbers = self._left.pop(0)
        assert (drawn, tuple(numbers.shape)) == (kind, shape)
        return numbers

    @property
    def exhausted(self) -> bool:
        return not self._left


@dataclass(frozen=True)
class Row:
    """One transition."""

    s: Tensor
    a: Tensor
    r: float
    s2: Tensor
    proceeds: float


def rows(batch: Batch) -> list[Row]:
    """Take a batch apart."""
    return [
        Row(
            batch.observation[i],
            batch.action[i],
            batch.reward[i].item(),
            batch.next_observation[i],
            batch.proceeds[i].item(),
        )
        for i in range(len(batch))
    ]


@dataclass(frozen=True)
class Case:
    """An agent, its batches, and the real data that its scales were fitted to."""

    agent: Any
    config: TrainConfig
    drawn: Drawn
    real: Batch
    smoothness: float = 0.0
    bound: float = math.inf

    # Networks, one input at a time.

    def q(self, member: int, s: Tensor, a: Tensor) -> Tensor:
        return self.agent.critic(s[None], a[None])[member, 0]

    def q_hat(self, s: Tensor, a: Tensor) -> float:
        """Minimum of both target critics."""
        return min(self.agent.target_critic(s[None], a[None])[member, 0].item() for member in (0, 1))

    def v(self, s: Tensor) -> Tensor:
        return self.agent.value(s[None])[0]

    def gaussian(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [n_act] under the policy's tanh."""
        mean, log_std = self.agent.policy(s[None])
        if self.config.exploration.kind == "novelty":
            return mean[0], torch.full_like(mean[0], self.config.exploration.noise_std)
        return mean[0], torch.exp(log_std[0])

    def act(self, s: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Action a = tanh(u), u = μ + σξ, and log π(a|s) = Σ log N(u; μ, σ) − log(1 − tanh² u) (SAC, App. C).

        1 − tanh² u = 1/cosh² u, which stays exact where tanh saturates.
        """
        mean, std = self.gaussian(s)
        u = mean + std * xi
        log_pi = sum(log_normal(u[k], mean[k], std[k]) + 2.0 * torch.log(torch.cosh(u[k])) for k in range(len(u)))
        return torch.tanh(u), log_pi

    def beta(self) -> float:
        return math.exp(self.agent.exploration.log_beta.item())

    @cached_property
    def scales(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each input of the classifiers: of the real data, or 0 and 1."""
        data = [raw_inputs(self, row.s, row.a, row.s2) for row in rows(self.real)]
        return [spread(column) if self.config.ratio.relative else (0.0, 1.0) for column in zip(*data, strict=True)]


def log_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((x - mean) ** 2) / (2.0 * std**2) - torch.log(std) - math.log(2.0 * math.pi) / 2.0


def mean(values: Sequence[Any]) -> Any:
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, the latter unbiased."""
    centre = mean(values)
    return centre, math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))


def log_sum_exp(values: Sequence[Tensor]) -> Tensor:
    return torch.log(sum(torch.exp(value) for value in values))


# Exploration: entropy (SAC), or novelty (random network distillation, arXiv 1810.12894) in its place.


def bonus(case: Case, s: Tensor, a: Tensor, log_pi: Tensor) -> Tensor:
    """e(s, a): −β log π, or the weighted novelty over its running mean as it was before this update."""
    if case.config.exploration.kind == "entropy":
        return -case.beta() * log_pi
    return case.config.exploration.weight * prediction_error(case, s, a) / case.agent.exploration.mean_error.item()


def prediction_error(case: Case, s: Tensor, a: Tensor) -> Tensor:
    """Mean square by which the predictor misses the random network's answer."""
    x = torch.cat((s, a))[None]
    exploration = case.agent.exploration
    answer, truth = exploration.predictor(x).flatten(), exploration.random(x).flatten()
    return mean([(answer[k] - truth[k]) ** 2 for k in range(len(truth))])


# The pieces that algorithms share.


def target(case: Case, row: Row, tail: float, reward: float | None = None) -> float:
    """r + γ (1 − terminal)·tail, at most the bound that optimism set."""
    r = row.r if reward is None else reward
    return min(r + case.config.discount * row.proceeds * tail, case.bound)


def next_value(case: Case, row: Row, xi: Tensor, with_bonus: bool) -> float:
    """min Q̂(s', a') with a' ~ π(·|s'), and e(s', a') on top of it."""
    a, log_pi = case.act(row.s2, xi)
    e = bonus(case, row.s2, a, log_pi).item() if with_bonus else 0.0
    return case.q_hat(row.s2, a) + e


def squared_errors(case: Case, batch: list[Row], targets: list[float], weights: list[float] | None = None) -> Tensor:
    """Σ_j mean over the batch of w·(Q_j(s, a) − y)²."""
    w = weights or [1.0] * len(batch)
    return sum(
        mean([w[i] * (case.q(member, row.s, row.a) - targets[i]) ** 2 for i, row in enumerate(batch)])
        for member in (0, 1)
    )


def actor(case: Case, batch: list[Row], xi: Tensor) -> Losses:
    """SAC's policy (Eq. 7 of arXiv 1812.05905; H2O Algorithm 1, line 7; H2O+ Eq. 10) and its temperature (Eq. 18)."""
    objectives, densities = [], []
    for i, row in enumerate(batch):
        a, log_pi = case.act(row.s, xi[i])
        first, second = case.q(0, row.s, a), case.q(1, row.s, a)
        lower = first if first.item() < second.item() else second
        objectives.append(lower + bonus(case, row.s, a, log_pi))
        densities.append(log_pi.item())
    losses = {"policy": -mean(objectives), **smooth(case, batch)}
    if case.config.exploration.kind == "novelty":
        losses["novelty"] = mean([prediction_error(case, row.s, row.a) for row in batch])
        return losses
    wanted = case.config.exploration.target_entropy
    wanted = -float(xi.shape[1]) if wanted is None else wanted
    losses["temperature"] = -case.agent.exploration.log_beta * (mean(densities) + wanted)
    return losses


def smooth(case: Case, batch: list[Row]) -> Losses:
    """Weight times the squared change of the deterministic action from s to s', none across a terminal."""
    if case.smoothness == 0.0:
        return {}
    changes = []
    for row in batch:
        now, then = torch.tanh(case.gaussian(row.s)[0]), torch.tanh(case.gaussian(row.s2)[0])
        changes.append(row.proceeds * sum((now - then) ** 2))
    return {"smoothness": case.smoothness * mean(changes)}


# The dynamics ratio (H2O Eq. 7, H2O+ Eq. 9; DARC).


def raw_inputs(case: Case, s: Tensor, a: Tensor, s2: Tensor) -> list[float]:
    """(s, a, s'), or (s, a, s' − s) for relative classifiers."""
    return [*s.tolist(), *a.tolist(), *((s2 - s) if case.config.ratio.relative else s2).tolist()]


def classifier_inputs(case: Case, s: Tensor, a: Tensor, s2: Tensor) -> list[float]:
    """What the classifiers see: relative ones see all less the mean, over the standard deviation of the real data."""
    given = raw_inputs(case, s, a, s2)
    return [(x - centre) / std for x, (centre, std) in zip(given, case.scales, strict=True)]


def heads(case: Case, inputs: list[float], n_given: int) -> tuple[Tensor, Tensor]:
    """Bounded heads of (s, a, s') and of (s, a), the latter blind to s'."""
    blind = [x if column < n_given else 0.0 for column, x in enumerate(inputs)]
    x = torch.tensor([[inputs], [blind]], dtype=torch.float64)
    bound = case.config.ratio.logit_bound
    both = case.agent.ratio.net(x).flatten()
    return bound * torch.tanh(both[0] / bound), bound * torch.tanh(both[1] / bound)


def log_ratio(case: Case, row: Row, s2: Tensor | None = None) -> float:
    """log P/P̂ = log [(1 − D_sa)/D_sa] − log [(1 − D_sas)/D_sas], with logit D_sas the sum of both heads."""
    inputs = classifier_inputs(case, row.s, row.a, row.s2 if s2 is None else s2)
    sas, sa = heads(case, inputs, len(row.s) + len(row.a))
    d_sas, d_sa = torch.sigmoid(sas + sa).item(), torch.sigmoid(sa).item()
    return math.log((1.0 - d_sa) / d_sa) - math.log((1.0 - d_sas) / d_sas)


def importance(case: Case, row: Row) -> float:
    """The ratio, clipped."""
    config = case.config.ratio
    return min(max(math.exp(log_ratio(case, row)), config.clip_min), config.clip_max)


def classifiers(case: Case, noise: Any) -> Losses:
    """Cross-entropy of real (1) and simulated (0) samples for D_sas and D_sa, with noise on the inputs."""
    if case.drawn.classify_real is None:
        return {}
    real, simulated = rows(case.drawn.classify_real), rows(case.drawn.classify_simulated)
    width = 2 * len(real[0].s) + len(real[0].a)
    xi = noise.normal(len(real) + len(simulated), width)
    terms: dict[bool, list[Tensor]] = {True: [], False: []}
    for i, row in enumerate([*real, *simulated]):
        inputs = classifier_inputs(case, row.s, row.a, row.s2)
        noisy = [x + case.config.ratio.noise_std * e for x, e in zip(inputs, xi[i].tolist(), strict=True)]
        sas, sa = heads(case, noisy, len(row.s) + len(row.a))
        is_real = i < len(real)
        for logit in (sas + sa, sa):
            p_real = torch.sigmoid(logit)
            terms[is_real].append(-torch.log(p_real if is_real else 1.0 - p_real))
    return {"ratio": sum(terms[True]) / len(real) + sum(terms[False]) / len(simulated)}
