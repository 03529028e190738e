# SPDX-License-Identifier: Apache-2.0
"""The losses of the whole family as their papers print them: plain and slow, one transition at a time.

Nothing here is shared with what it checks but the networks, each asked about one input at a time. Every function of
PLAIN takes a Case and the noise, and returns {name: scalar}; the scalars are differentiable, so that their gradients
can be compared as well as their values. What a loss holds constant is a Python float here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plain_parts import (
    Case,
    Losses,
    Row,
    actor,
    classifiers,
    importance,
    log_normal,
    log_ratio,
    log_sum_exp,
    mean,
    next_value,
    rows,
    smooth,
    spread,
    squared_errors,
    target,
)


def sac(case: Case, noise: Any) -> Losses:
    """Soft actor-critic in the twin (arXiv 1812.05905)."""
    batch = rows(case.drawn.simulated)
    return _soft(case, batch, [row.r for row in batch], noise)


def darc(case: Case, noise: Any) -> Losses:
    """DARC (arXiv 2006.13916): SAC in the twin with rewards r + clip(log P/P̂), both scaled."""
    batch = rows(case.drawn.simulated)
    return {**_soft(case, batch, [_corrected(case, row) for row in batch], noise), **classifiers(case, noise)}


def _corrected(case: Case, row: Row) -> float:
    clip = case.config.darc.reward_clip
    return row.r + case.config.reward_scale * min(max(log_ratio(case, row), -clip), clip)


def _soft(case: Case, batch: list[Row], rewards: list[float], noise: Any) -> Losses:
    n, n_act = len(batch), len(batch[0].a)
    xi = noise.normal(n, n_act)
    targets = [target(case, row, next_value(case, row, xi[i], True), rewards[i]) for i, row in enumerate(batch)]
    return {"critic": squared_errors(case, batch, targets), **actor(case, batch, noise.normal(n, n_act))}


def darc_plus(case: Case, noise: Any) -> Losses:
    """DARC with the real data, uncorrected, in critic and policy too (H2O paper, Sec. 6.2)."""
    real, simulated = rows(case.drawn.real), rows(case.drawn.simulated)
    both, n, n_act = [*real, *simulated], len(real), len(real[0].a)
    xi = noise.normal(len(both), n_act)
    rewards = [row.r for row in real] + [_corrected(case, row) for row in simulated]
    targets = [target(case, row, next_value(case, row, xi[i], True), rewards[i]) for i, row in enumerate(both)]
    critic = squared_errors(case, real, targets[:n]) + squared_errors(case, simulated, targets[n:])
    return {"critic": critic, **actor(case, both, noise.normal(len(both), n_act)), **classifiers(case, noise)}


def cloned(case: Case, batch: list[Row], weights: list[float]) -> Tensor:
    """−mean w·log N(a; tanh μ(s), σ(s)), the density that IQL's authors regress with."""
    densities = []
    for row in batch:
        centre, std = case.gaussian(row.s)
        densities.append(sum(log_normal(row.a[k], torch.tanh(centre[k]), std[k]) for k in range(len(row.a))))
    return -mean([w * density for w, density in zip(weights, densities, strict=True)])


def bc(case: Case, noise: Any) -> Losses:
    """Behaviour cloning: the likelihood of the recorded actions."""
    batch = rows(case.drawn.real)
    return {"policy": cloned(case, batch, [1.0] * len(batch)), **smooth(case, batch)}


def value_loss(case: Case, batch: list[Row]) -> Tensor:
    """min_V E_D L_f(Q̂(s, a) − V(s)) (H2O+ Eq. 4 and the forms of L_f beneath it)."""
    config = case.config.value
    assert config is not None
    y = [case.q_hat(row.s, row.a) - case.v(row.s) for row in batch]
    alpha = config.temperature
    if config.backbone == "iql":
        return mean([(1.0 - config.expectile if x.item() < 0 else config.expectile) * x**2 for x in y])
    if config.backbone == "sql":
        squares = [(1.0 + x / (2.0 * alpha)) ** 2 if 1.0 + x.item() / (2.0 * alpha) > 0 else 0.0 for x in y]
        return mean([square - x / alpha for square, x in zip(squares, y, strict=True)])
    # EQL and XQL: exp(y/α) − y/α with the exponent clipped and all of it divided by exp(m) (their authors' code).
    clip = torch.tensor(config.exponent_clip, dtype=torch.float64)
    z = [x / alpha for x in y]
    clipped = [clip if x.item() > config.exponent_clip else x for x in z]
    m = max(max(x.item() for x in clipped), -1.0)
    linear = clipped if config.backbone == "xql" else z
    return mean([torch.exp(c - m) - x * math.exp(-m) for c, x in zip(clipped, linear, strict=True)])


def in_sample(case: Case, noise: Any) -> Losses:
    """IQL (2110.06169 Eq. 5-7), SQL and EQL (2303.15810), XQL (2301.02328): Q from V, and regression on the actions."""
    batch = rows(case.drawn.real)
    targets = [target(case, row, case.v(row.s2).item()) for row in batch]
    weights = [_extraction_weight(case, case.q_hat(row.s, row.a) - case.v(row.s).item()) for row in batch]
    return {
        "critic": squared_errors(case, batch, targets),
        "value": value_loss(case, batch),
        "policy": cloned(case, batch, weights),
        **smooth(case, batch),
    }


def _extraction_weight(case: Case, advantage: float) -> float:
    """Weight of a recorded action: exp(βA) (IQL, XQL), max(1 + A/2α, 0) (SQL), exp(A/α) (EQL); their codes cap it."""
    value, extraction = case.config.value, case.config.extraction
    assert value is not None and extraction is not None
    if value.backbone == "sql":
        weight = max(1.0 + advantage / (2.0 * value.temperature), 0.0)
    elif value.backbone == "eql":
        weight = math.exp(min(advantage / value.temperature, 700.0))
    else:
        weight = math.exp(min(extraction.inverse_temperature * advantage, 700.0))
    return min(weight, extraction.weight_cap)


def cql(case: Case, noise: Any) -> Losses:
    """CQL(H) (arXiv 2006.04779 Eq. 4), its log-sum-exp by importance sampling as in its Appendix F.

    The Bellman error has no ½, as in its authors' code, to which the customary weight belongs.
    """
    batch, config = rows(case.drawn.real), case.config.cql
    assert config is not None
    n, n_act, draws = len(batch), len(batch[0].a), config.draws
    xi = noise.normal(n, n_act)
    targets = [target(case, row, next_value(case, row, xi[i], False)) for i, row in enumerate(batch)]
    uniform = noise.uniform(draws, n, n_act)
    here, there = noise.normal(draws, n, n_act), noise.normal(draws, n, n_act)
    critic = squared_errors(case, batch, targets)
    for i, row in enumerate(batch):
        candidates: list[tuple[Tensor, float]] = []  # actions, and the log-density that each was drawn with
        for k in range(draws):
            candidates.append((2.0 * uniform[k, i] - 1.0, -n_act * math.log(2.0)))
            for s, drawn in ((row.s, here), (row.s2, there)):
                a, log_pi = case.act(s, drawn[k, i])
                candidates.append((a.detach(), log_pi.item()))
        for member in (0, 1):
            soft_maximum = log_sum_exp([case.q(member, row.s, a) - density for a, density in candidates])
            critic = critic + config.alpha * (soft_maximum - case.q(member, row.s, row.a)) / n
    return {"critic": critic, **actor(case, batch, noise.normal(n, n_act))}


def h2o(case: Case, noise: Any) -> Losses:
    """H2O (arXiv 2206.13464 Eq. 6 and 8, Algorithm 1) with the switches of its Table 2."""
    config = case.config.h2o
    assert config is not None
    real, simulated = rows(case.drawn.real), rows(case.drawn.simulated)
    both, n, n_act = [*real, *simulated], len(real), len(real[0].a)
    xi = noise.normal(len(both), n_act)
    targets = [target(case, row, next_value(case, row, xi[i], False)) for i, row in enumerate(both)]
    # Eq. 8; the ratio weighs the squared error once, as the line above it in the paper derives.
    ratios = [importance(case, row) if config.reweight else 1.0 for row in simulated]
    critic = 0.5 * squared_errors(case, real, targets[:n])
    critic = critic + 0.5 * squared_errors(case, simulated, targets[n:], ratios)
    if config.regularise:
        omega = _gap_weights(case, simulated, noise) if config.adaptive else [1.0 / len(simulated)] * len(simulated)
        for member in (0, 1):
            weighted = [w * torch.exp(case.q(member, row.s, row.a)) for w, row in zip(omega, simulated, strict=True)]
            raised = mean([case.q(member, row.s, row.a) for row in real])
            critic = critic + config.beta * (torch.log(sum(weighted)) - raised)
    return {"critic": critic, **actor(case, both, noise.normal(len(both), n_act)), **classifiers(case, noise)}


def _gap_weights(case: Case, simulated: list[Row], noise: Any) -> list[float]:
    """ω = u / Σ u with u = E log P̂/P over s' ~ N(s', Σ_D); Σ_D's diagonal, as in the authors' code.

    Σ_D is that of the states, or (ours) of the steps s' − s.
    """
    config = case.config.h2o
    assert config is not None
    n_obs = len(simulated[0].s)
    data = [(row.s if config.gap_spread == "states" else row.s2 - row.s).tolist() for row in rows(case.real)]
    stds = [spread(column)[1] for column in zip(*data, strict=True)]
    xi = noise.normal(config.draws, len(simulated), n_obs)
    gaps = []
    for i, row in enumerate(simulated):
        around = [row.s2 + xi[k, i] * torch.tensor(stds, dtype=torch.float64) for k in range(config.draws)]
        gap = mean([-log_ratio(case, row, s2) for s2 in around])
        gaps.append(min(max(gap, config.gap_min), config.gap_max))
    return [gap / sum(gaps) for gap in gaps]


def h2o_plus(case: Case, noise: Any) -> Losses:
    """H2O+ (arXiv 2309.12716 Eq. 4, 7, 8, 10)."""
    config = case.config.h2o_plus
    assert config is not None
    real, simulated = rows(case.drawn.real), rows(case.drawn.simulated)
    both, n, n_act = [*real, *simulated], len(real), len(real[0].a)
    xi = noise.normal(len(both), n_act)
    targets = []
    for i, row in enumerate(both):
        online = next_value(case, row, xi[i], True)
        offline = case.v(row.s2).item()
        targets.append(target(case, row, config.lambda_v * offline + (1.0 - config.lambda_v) * online))
    weights = [1.0 if case.config.ratio is None else importance(case, row) for row in simulated]
    critic = squared_errors(case, real, targets[:n]) + squared_errors(case, simulated, targets[n:], weights)
    return {
        "critic": critic,
        "value": value_loss(case, real),
        **actor(case, both, noise.normal(len(both), n_act)),
        **classifiers(case, noise),
    }


PLAIN: dict[str, Callable[[Case, Any], Losses]] = {
    "sac": sac,
    "bc": bc,
    "cql": cql,
    "iql": in_sample,
    "sql": in_sample,
    "eql": in_sample,
    "xql": in_sample,
    "darc": darc,
    "darc_plus": darc_plus,
    "h2o": h2o,
    "h2o_plus": h2o_plus,
}
