# SPDX-License-Identifier: Apache-2.0
"""One commander at a time; everybody else is refused and named."""

from __future__ import annotations

import pytest

from lockstep import LockStep
from test_driver_core import commanded, law
from wheel_leg_driver.authority import MOST, Authority
from wheel_leg_driver.core import RefusedError


def test_second_publisher_never_reaches_the_motors_and_is_named() -> None:
    rig = commanded()
    rig.core.publisher_names["b"] = "/intruder"
    hash_ = rig.robot.interface.hash
    for _ in range(200):
        rig.step()
        assert rig.core.on_torque(3.0, rig.core.device_time_us, hash_, "b") is None
    assert rig.core.mode == "torque", rig.core.reason
    assert rig.core.intruders == {"/intruder": 200}
    assert abs(rig.plant.truth()[2]) < 0.1


def test_command_goes_to_nobody_while_two_offer_it() -> None:
    rig = LockStep()
    rig.answer = law(rig)
    rig.balance()
    rig.core.on_torque(0.0, rig.core.device_time_us, rig.robot.interface.hash, "b")
    with pytest.raises(RefusedError, match=r"2 publishers answer on /wheel_torque .*stop all but one"):
        rig.core.torque_mode(True)
    rig.seconds(0.2)
    rig.core.torque_mode(True)
    assert rig.core.mode == "torque", "the other one has fallen silent"


def test_another_robots_commander_beside_the_right_one_changes_nothing() -> None:
    rig = commanded()
    for _ in range(20):
        rig.step()
        rig.core.on_torque(1.0, rig.core.device_time_us, "another robot", "b")
    assert rig.core.mode == "torque"


def test_publishers_by_the_thousand_are_no_leak() -> None:
    authority = Authority(25_000)
    authority.offer("first", "", 0)
    authority.grant("first")
    for n in range(1000):
        assert not authority.offer(f"p{n}", "", n)
        assert authority.offer("first", "", n)
    assert len(authority.heard) <= MOST
    assert len(authority.refused) <= MOST
