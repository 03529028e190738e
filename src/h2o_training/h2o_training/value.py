# SPDX-License-Identifier: Apache-2.0
"""Offline value backbones: losses L_f(y) of advantages y = Q̂(s, a) − V(s) on real data (H2O+ paper Eq. 4), and the
weights w(y) by which each draws a policy from the data. A new backbone is a pair of functions here."""

from __future__ import annotations

import torch
from torch import Tensor

from h2o_training.algorithm_config import ExtractionConfig, ValueConfig


def value_loss(config: ValueConfig, advantage: Tensor) -> Tensor:
    """Loss of the backbone that `config` names, mean over y = `advantage` [B]."""
    if config.backbone == "iql":
        return expectile_loss(advantage, config.expectile)
    if config.backbone == "sql":
        return sparse_loss(advantage, config.temperature)
    clip_linear = config.backbone == "xql"
    return exponential_loss(advantage, config.temperature, config.exponent_clip, clip_linear)


def expectile_loss(advantage: Tensor, expectile: float) -> Tensor:
    """Mean of |τ − 1(y < 0)| y² over y = `advantage` [B] (IQL, arXiv 2110.06169 Eq. 5)."""
    weight = torch.where(advantage < 0.0, 1.0 - expectile, expectile)
    return (weight * advantage.square()).mean()


def sparse_loss(advantage: Tensor, temperature: float) -> Tensor:
    """Mean of 1(1 + y/2α > 0)(1 + y/2α)² − y/α (SQL, arXiv 2303.15810)."""
    scaled = advantage / temperature
    return ((1.0 + 0.5 * scaled).clamp_min(0.0).square() - scaled).mean()


def exponential_loss(advantage: Tensor, temperature: float, clip: float, clip_linear: bool) -> Tensor:
    """Mean of exp(y/α) − y/α (EQL, arXiv 2303.15810; Gumbel regression, XQL, arXiv 2301.02328).

    Args:
        advantage: y [B].
        temperature: α.
        clip: y/α enters the exponent up to this.
        clip_linear: let the linear term be clipped alike (XQL's authors do, EQL's do not).

    The loss is divided by exp(m), m the largest clipped y/α of the batch and at least −1: the minimum stays where it
    is, and one lucky action cannot make the gradient explode.
    """
    scaled = advantage / temperature
    clipped = scaled.clamp_max(clip)
    largest = clipped.detach().amax().clamp_min(-1.0)
    linear = clipped if clip_linear else scaled
    return (torch.exp(clipped - largest) - torch.exp(-largest) * linear).mean()


def regression_weight(value: ValueConfig, extraction: ExtractionConfig, advantage: Tensor) -> Tensor:
    """Weights [B] of the log-likelihood of recorded actions with advantages y [B].

    iql and xql: exp(βy); sql: max(1 + y/2α, 0); eql: exp(y/α); none above the cap.
    """
    if value.backbone == "sql":
        weight = (1.0 + 0.5 * advantage / value.temperature).clamp_min(0.0)
    elif value.backbone == "eql":
        weight = torch.exp(advantage / value.temperature)
    else:
        weight = torch.exp(extraction.inverse_temperature * advantage)
    return weight.clamp_max(extraction.weight_cap)
