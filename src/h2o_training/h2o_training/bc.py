# SPDX-License-Identifier: Apache-2.0
"""Behaviour cloning: maximum likelihood of the recorded actions."""

from __future__ import annotations

from h2o_training.agent import Agent, Scalars
from h2o_training.noise import Noise
from h2o_training.replay import Drawn


class BehaviourCloning(Agent):
    """Does what the operator did, as far as that follows from the observation."""

    def losses(self, drawn: Drawn, noise: Noise) -> tuple[Scalars, Scalars]:
        """See Agent.losses."""
        assert drawn.real is not None
        return self.regression_losses(drawn.real), {}
