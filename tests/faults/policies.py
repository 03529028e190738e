# SPDX-License-Identifier: Apache-2.0
"""Policies that stand like the driver does, and misbehave once the robot has rolled a few centimetres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bad_policies import misbehaving_policy
from h2o_control.contract import STATE, TASKS
from h2o_control.policy_check import NEAR_BALANCE

#: Displacement since the policy took over: further than any observation on which it is tried before it may answer,
#: and less than it takes to stop the robot, which is given to it while it rolls.
BEYOND_M = NEAR_BALANCE[0] + 0.02


def failing_policy(path: Path, kind: str, gain: Sequence[float]) -> Path:
    """Write a policy that balances with this gain (in the order of STATE) up to BEYOND_M; kinds as in bad_policies."""
    misbehaving_policy(path, kind, BEYOND_M)
    model = onnx.load(str(path))
    weights = [[-gain[STATE.index(name)]] for name in TASKS["stand"].observation]
    for constant in model.graph.initializer:
        if constant.name == "gain":
            constant.CopyFrom(numpy_helper.from_array(np.array(weights, np.float32), "gain"))
    onnx.save(model, str(path))
    return path
