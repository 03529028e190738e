# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from h2o_control.contract import get_task
from h2o_training.driving import drive
from wheel_leg_driver.robot import load_robot

#: Standard deviations of x (m), v (m/s), theta (rad), theta_dot (rad/s), torque (Nm): 60 s of the real robot's log.
LOG = np.array([0.160, 0.172, 0.0387, 0.493, 0.532])


def test_its_operators_data_spread_as_the_real_robots_log_does() -> None:
    robot = load_robot("carpet")
    spreads, ranges, speeds, falls = [], [], [], 0
    for seed in range(4):
        data = drive(robot, get_task("stand"), 90.0, seed)
        torque = data.wheel_torques.mean(axis=1)
        spreads.append([*data.states.std(axis=0), torque.std()])
        ranges.append(np.ptp(data.states[:, 0]))
        speeds.append(np.abs(data.states[:, 1]).max())
        falls += int(data.terminals.sum())
    # One recording may stray, as the real one does; the usual one may not.
    ratios = np.median(spreads, axis=0) / LOG
    assert (np.abs(ratios - 1.0) < 0.3).all(), ratios
    assert np.median(ranges) == pytest.approx(0.8, abs=0.25)
    assert 0.7 < np.median(speeds) < 1.4
    assert falls <= 2
