# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot


@pytest.fixture
def stand_policy(tmp_path: Path) -> Path:
    """An ONNX policy that stands on the ideal robot: the driver's own gain as a network of one layer."""
    return linear_policy(tmp_path / "stand.onnx", list(lqr_gain(load_robot("ideal"))))
