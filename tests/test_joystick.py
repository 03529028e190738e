# SPDX-License-Identifier: Apache-2.0
"""A joystick drives while its dead-man button is held, stops the robot at once, and never arms by accident."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Joy

from graph import Nodes, Probe, graph
from h2o_control import topics
from h2o_control.errors import ConfigError
from h2o_control.joystick import Joystick, Layout, Request
from h2o_control.node_tools import STREAM_QOS
from played_driver import PlayedDriver

LAYOUT = Layout()
IDLE = [0] * 11


def down(*numbers: int) -> list[int]:
    return [int(n in numbers) for n in range(11)]


def axes(speed: float = 0.0, yaw: float = 0.0) -> list[float]:
    return [yaw, speed, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def heard() -> Joystick:
    joystick = Joystick(LAYOUT)
    assert joystick.update(axes(), IDLE, 0.0) == []
    return joystick


def test_stick_drives_only_while_the_dead_man_button_is_held() -> None:
    joystick = heard()
    joystick.update(axes(speed=1.0, yaw=-1.0), IDLE, 0.05)
    assert joystick.command() == (0.0, 0.0)
    joystick.update(axes(speed=1.0, yaw=-1.0), down(LAYOUT.deadman_button), 0.1)
    assert joystick.command() == (LAYOUT.speed_mps, -LAYOUT.yaw_radps)
    joystick.update(axes(speed=1.0), IDLE, 0.15)
    assert joystick.command() == (0.0, 0.0)


@pytest.mark.parametrize(
    ("deflection", "share"), [(0.05, 0.0), (0.1, 0.0), (0.55, 0.5), (-0.55, -0.5), (1.5, 1.0), (float("nan"), 0.0)]
)
def test_deadzone_is_cut_out_and_the_rest_spread(deflection: float, share: float) -> None:
    joystick = heard()
    joystick.update(axes(speed=deflection), down(LAYOUT.deadman_button), 0.05)
    assert joystick.command()[0] == pytest.approx(share * LAYOUT.speed_mps)


def test_a_button_counts_once_a_press() -> None:
    joystick = heard()
    assert joystick.update(axes(), down(LAYOUT.arm_button), 0.05) == [Request.ARM]
    assert joystick.update(axes(), down(LAYOUT.arm_button), 0.1) == []
    assert joystick.update(axes(), IDLE, 0.15) == []
    assert joystick.update(axes(), down(LAYOUT.arm_button), 0.2) == [Request.ARM]


def test_what_is_down_at_the_start_or_after_a_silence_has_to_be_let_go_of_first() -> None:
    everything = down(LAYOUT.arm_button, LAYOUT.deadman_button, LAYOUT.policy_button)
    joystick = Joystick(LAYOUT)
    assert joystick.update(axes(speed=1.0), everything, 0.0) == []
    assert joystick.command() == (0.0, 0.0)
    joystick.update(axes(), IDLE, 0.1)
    assert joystick.update(axes(), down(LAYOUT.deadman_button), 0.2) == []
    assert joystick.driving
    assert joystick.update(axes(speed=1.0), everything, 0.5) == []
    assert not joystick.driving
    assert joystick.update(axes(speed=1.0), everything, 0.55) == []
    joystick.update(axes(), IDLE, 0.6)
    assert set(joystick.update(axes(), everything, 0.65)) == {Request.ARM, Request.POLICY}


def test_silence_is_told_once_and_stops() -> None:
    joystick = heard()
    joystick.update(axes(speed=1.0), down(LAYOUT.deadman_button), 0.05)
    assert not joystick.went_silent(0.05 + 0.99 * LAYOUT.stale_s)
    assert joystick.went_silent(0.05 + 1.01 * LAYOUT.stale_s)
    assert not joystick.went_silent(1.0)
    assert joystick.command() == (0.0, 0.0)


@given(
    st.lists(st.tuples(st.floats(0.0, 0.5), st.lists(st.booleans(), min_size=11, max_size=11)), min_size=1, max_size=30)
)
def test_arming_always_follows_a_release_that_was_heard(messages: list[tuple[float, list[bool]]]) -> None:
    joystick, now_s = Joystick(LAYOUT), 0.0
    arm = LAYOUT.arm_button
    history: list[tuple[float, bool]] = []
    for gap_s, buttons in messages:
        now_s += gap_s
        asked = joystick.update(axes(), [int(b) for b in buttons], now_s)
        if Request.ARM in asked:
            assert buttons[arm]
            assert history and not history[-1][1]
            assert gap_s <= LAYOUT.stale_s
        history.append((now_s, buttons[arm]))


def test_messages_too_short_for_the_layout_are_named() -> None:
    joystick = Joystick(LAYOUT)
    with pytest.raises(ConfigError, match="has 1 axes, numbered from 0; speed_axis 1 and yaw_axis 0 need 2"):
        joystick.update([0.0], IDLE, 0.0)
    with pytest.raises(ConfigError, match="5 buttons, numbered from 0, and none for arm_button 7, disarm_button 6"):
        joystick.update(axes(), [0] * 5, 0.0)
    assert joystick.stops([0, 1])
    assert not joystick.stops([0])


def test_a_layout_that_means_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="button 4 has more than one meaning"):
        Layout(arm_button=4)
    with pytest.raises(ValueError, match="axis 1 is both"):
        Layout(yaw_axis=1)


class Driver(PlayedDriver):
    """With a joystick beside it."""

    def __init__(self, probe: Probe) -> None:
        super().__init__(probe)
        self.probe = probe
        self.joy = probe.node.create_publisher(Joy, topics.JOY, STREAM_QOS)

    def hold(self, seconds: float, buttons: list[int], speed: float = 0.0) -> None:
        """Publish a joystick's state 50 times a second for a while."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.joy.publish(Joy(axes=axes(speed), buttons=buttons))
            self.probe.spin(0.02)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[tuple[Nodes, Probe, Driver]]:
    with graph(tmp_path) as (nodes, probe):
        driver = Driver(probe)
        driver.say("balance: armed")
        nodes.start("joystick_node")
        probe.wait(lambda: driver.joy.get_subscription_count() > 0, "joystick node")
        # Services are found one by one.
        probe.spin(1.5)
        yield nodes, probe, driver


@pytest.mark.ros
def test_joystick_drives_and_its_silence_stops_robot_and_policy(rig: tuple[Nodes, Probe, Driver]) -> None:
    nodes, probe, driver = rig
    driver.hold(0.2, IDLE)
    assert not driver.speeds, "a joystick that lies on the table says nothing"
    driver.hold(0.5, down(LAYOUT.deadman_button), speed=1.0)
    assert driver.speeds[-1] == pytest.approx((LAYOUT.speed_mps, 0.0))
    assert len(driver.speeds) >= 5
    driver.say("torque: by request")
    driver.hold(0.3, down(LAYOUT.deadman_button), speed=1.0)
    assert driver.asked == []
    probe.wait(lambda: f"{topics.TORQUE_MODE} False" in driver.asked, "command taken back", 3.0)
    assert driver.speeds[-1] == (0.0, 0.0)
    count = len(driver.speeds)
    probe.spin(0.5)
    assert len(driver.speeds) <= count + 1
    assert "joystick silent for 0.2 s: speed zero, taking command back" in nodes.log("joystick_node")
    # It comes back with the stick forward and the button still down.
    driver.hold(0.4, down(LAYOUT.deadman_button, LAYOUT.arm_button), speed=1.0)
    assert len(driver.speeds) <= count + 1
    assert driver.asked == [f"{topics.TORQUE_MODE} False"]


@pytest.mark.ros
def test_estop_acts_on_press_without_dead_man_by_topic_and_service(rig: tuple[Nodes, Probe, Driver]) -> None:
    _, probe, driver = rig
    driver.joy.publish(Joy(axes=axes(), buttons=down(LAYOUT.estop_button)))
    probe.wait(lambda: len(driver.asked) >= 2, "e-stop by both ways")
    assert sorted(driver.asked) == [topics.ESTOP, "estop topic True"]
    driver.asked.clear()
    # A short message is not obeyed, but its e-stop is.
    driver.joy.publish(Joy(axes=[], buttons=[0, 0]))
    driver.joy.publish(Joy(axes=[], buttons=[0, 1]))
    probe.wait(lambda: len(driver.asked) >= 2, "e-stop by a short message")


@pytest.mark.ros
def test_buttons_ask_the_driver_and_short_messages_are_explained(rig: tuple[Nodes, Probe, Driver]) -> None:
    nodes, probe, driver = rig
    wanted = (
        (LAYOUT.arm_button, topics.ARM),
        (LAYOUT.policy_button, f"{topics.TORQUE_MODE} True"),
        (LAYOUT.disarm_button, topics.DISARM),
    )
    for (button, _), count in zip(wanted, itertools.count(1), strict=False):
        driver.hold(0.1, IDLE)
        driver.hold(0.1, down(button))
        probe.wait(lambda count=count: len(driver.asked) >= count, "request")  # type: ignore[misc]
        driver.hold(0.2, IDLE)
    assert driver.asked == [what for _, what in wanted]
    driver.joy.publish(Joy(axes=[0.0], buttons=IDLE))
    probe.wait(lambda: "has 1 axes, numbered from 0" in nodes.log("joystick_node"), "explanation")
