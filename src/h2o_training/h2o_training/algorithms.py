# SPDX-License-Identifier: Apache-2.0
"""From the name of an algorithm to an agent."""

from __future__ import annotations

import importlib

from h2o_training.agent import Agent
from h2o_training.catalogue import CATALOGUE
from h2o_training.train_config import TrainConfig


def make_agent(config: TrainConfig, n_obs: int, n_act: int = 1, smoothness: float = 0.0) -> Agent:
    """Build the agent of `config.algorithm`, its parameters drawn from torch's global generator."""
    module, _, name = CATALOGUE[config.algorithm].path.partition(":")
    agent: Agent = getattr(importlib.import_module(module), name)(config, n_obs, n_act, smoothness)
    return agent
