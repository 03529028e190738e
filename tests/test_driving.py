# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from h2o_control.contract import get_task
from h2o_control.errors import DataError
from h2o_training.driving import drive
from wheel_leg_driver.robot import PlantSpec, load_robot

STAND = get_task("stand")


def test_the_same_seed_drives_the_same_and_another_one_otherwise() -> None:
    robot = load_robot("worn")
    first, again, other = (drive(robot, STAND, 5.0, seed) for seed in (1, 1, 2))
    assert len(first) == 1000
    assert (first.states == again.states).all()
    assert not np.allclose(first.states, other.states)
    # Rows follow each other, and only the end is an end.
    assert (first.next_states[:-1] == first.states[1:]).all()
    assert first.timeouts.tolist() == [False] * 999 + [True]


def test_a_fall_ends_an_episode_and_the_robot_is_picked_up() -> None:
    robot = load_robot("ideal")
    weak = dataclasses.replace(robot, balance=dataclasses.replace(robot.balance, exploration_nm=2.5))
    data = drive(weak, STAND, 30.0, 0)
    assert len(data) == 6000
    assert data.terminals.any()
    falls = np.flatnonzero(data.terminals)
    assert (np.abs(data.next_states[falls, 2]) > STAND.fall_pitch_rad).all()
    # After it the robot stands again, at the origin.
    after = falls[falls < len(data) - 1] + 1
    assert (np.abs(data.states[after, 2]) < 0.2).all()
    assert (np.abs(data.states[after, 0]) < 0.05).all()


def test_a_robot_that_its_driver_cannot_hold_is_an_error_that_helps() -> None:
    robot = load_robot("ideal")
    hopeless = dataclasses.replace(robot, plant=PlantSpec(options={"torque_factor": 0.05}))
    with pytest.raises(DataError, match="torque factor"):
        drive(hopeless, STAND, 5.0, 0)
