# SPDX-License-Identifier: Apache-2.0
"""Offline value backbones: losses L_f(Q̂(s, a) − V(s)) on real data (H2O+ paper Eq. 4). A new one is a function here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from h2o_training.train_config import H2oPlusConfig

#: From the advantages y = Q̂(s, a) − V(s) [B] to a scalar loss.
ValueLoss = Callable[[Tensor], Tensor]


def expectile_loss(advantage: Tensor, expectile: float) -> Tensor:
    """Mean of |τ − 1(y < 0)| y² over y = `advantage` [B] (IQL, arXiv 2110.06169 Eq. 5)."""
    weight = torch.where(advantage < 0.0, 1.0 - expectile, expectile)
    return (weight * advantage.square()).mean()


def make_value_loss(config: H2oPlusConfig) -> ValueLoss:
    """Return the loss of the backbone that `config` names."""
    backbones: dict[str, ValueLoss] = {"iql": partial(expectile_loss, expectile=config.expectile)}
    return backbones[config.backbone]
