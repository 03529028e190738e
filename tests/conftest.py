# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from h2o_control import middleware
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

# Every node that a test starts inherits these; no other run of the tests on this machine is likely to use the domain.
middleware.apply_defaults()
# A shared machine that stands still for a moment is no bug of what is tested.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real-time tests run again, visibly, where the machine itself stood still for longer than the watchdog's 30 ms."""
    for item in items:
        if item.get_closest_marker("ros"):
            signs = ["watchdog", "no telemetry", "no fresh torque"]
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=signs))


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Training lets the processor round tiny numbers to zero, for its whole process; hypothesis wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def stand_policy(tmp_path: Path) -> Path:
    """An ONNX policy that stands on the ideal robot: the driver's own gain as a network of one layer."""
    return linear_policy(tmp_path / "stand.onnx", list(lqr_gain(load_robot("ideal"))))
