# SPDX-License-Identifier: Apache-2.0
"""Stand up, sit down, height: the driver moves the legs while it balances, and only then."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from h2o_control.errors import ConfigError
from h2o_training.model import leg_points
from lockstep import LockStep
from test_driver_core import law
from wheel_leg_driver.core import RefusedError
from wheel_leg_driver.posture import SPEED_MPS, Posture
from wheel_leg_driver.robot import load_robot


@pytest.mark.parametrize("share", [0.7, 0.85, 1.0])
def test_angles_put_the_hips_where_they_are_wanted(share: float) -> None:
    robot = load_robot("ideal")
    posture = Posture(robot)
    stand = leg_points(robot.body)[0]
    thigh, shin = posture.angles_rad(share * posture.standing_m)
    hip = leg_points(dataclasses.replace(robot.body, thigh_rad=thigh, shin_rad=shin))[0]
    assert hip[1] == pytest.approx(share * posture.standing_m, abs=1e-9)
    assert hip[0] == pytest.approx(stand[0], abs=1e-9)
    assert math.copysign(1.0, shin) == math.copysign(1.0, robot.body.shin_rad), "the knee does not flip"


@pytest.mark.parametrize("name", ["ideal", "worn", "carpet"])
def test_robot_sits_down_and_stands_up_under_its_own_balance(name: str) -> None:
    rig = LockStep(name, pitch_rad=0.02)
    rig.balance()
    posture = rig.core.posture
    worst = 0.0
    for goal in (posture.lowest_m, posture.standing_m):
        rig.core.move_to(goal)
        for _ in range(600):
            rig.step()
            worst = max(worst, abs(rig.plant.truth()[2]))
        assert posture.height_m == goal
        assert rig.telemetry is not None
        thigh, shin = rig.telemetry.sensors.leg_pos_rad[:2]
        assert (thigh, shin) == pytest.approx(posture.angles_rad(goal), abs=0.01)
    assert rig.core.mode == "balance"
    assert worst < 0.35


def test_height_changes_no_faster_than_declared() -> None:
    rig = LockStep()
    rig.balance()
    posture = rig.core.posture
    rig.core.move_to(posture.lowest_m)
    before = posture.height_m
    rig.seconds(0.5)
    assert before - posture.height_m == pytest.approx(0.5 * SPEED_MPS, rel=0.03)


def test_legs_found_elsewhere_at_arming_are_brought_up_slowly() -> None:
    rig = LockStep("ideal", pitch_rad=0.02)
    rig.balance()
    rig.core.move_to(rig.core.posture.lowest_m)
    rig.seconds(3.0)
    low = rig.core.posture.angles_rad(rig.core.posture.lowest_m)
    again = Posture(rig.robot)
    again.start_from((*low, *low))
    steps = [again.step() for _ in range(400)]
    assert steps[0] == pytest.approx(low, abs=0.01)
    assert steps[-1] == pytest.approx((rig.robot.body.thigh_rad, rig.robot.body.shin_rad), abs=1e-6)
    assert max(abs(b[1] - a[1]) for a, b in itertools.pairwise(steps)) < 0.02
    again.start_from((1.3, -1.3, 1.3, -1.3))
    assert again.step() == pytest.approx((1.3, -1.3), abs=0.01)
    again.start_from((math.nan,) * 4)
    assert again.standing


def test_requests_that_cannot_be_granted_say_why() -> None:
    rig = LockStep()
    rig.step()
    with pytest.raises(RefusedError, match="legs move only while the driver balances"):
        rig.core.move_to(0.2)
    rig.answer = law(rig)
    rig.balance()
    with pytest.raises(RefusedError, match="out of reach: between"):
        rig.core.move_to(0.5)
    with pytest.raises(RefusedError, match="out of reach"):
        rig.core.move_to(math.nan)
    rig.core.move_to(rig.core.posture.lowest_m)
    rig.seconds(0.3)
    with pytest.raises(RefusedError, match="stand up first"):
        rig.core.torque_mode(True)


def test_description_whose_legs_cannot_fold_so_low_is_refused() -> None:
    robot = load_robot("ideal")
    body = dataclasses.replace(robot.body, crouch_share=0.31)
    with pytest.raises(ConfigError, match="raise crouch_share"):
        Posture(dataclasses.replace(robot, body=body))
