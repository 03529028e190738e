# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.clock import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from h2o_control.errors import ConfigError
from h2o_control.node_tools import STREAM_QOS, Parameter, declare, publisher, steady_timer, subscription, value

pytestmark = pytest.mark.ros


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("tools", context=context)
    try:
        yield made
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)


def spin(node: Node, seconds: float) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.02)
    executor.remove_node(node)


def test_a_steady_timer_calls_back_and_does_not_follow_the_wall_clock(node: Node) -> None:
    calls: list[float] = []
    timer = steady_timer(node, 0.05, lambda: calls.append(time.monotonic()))
    assert timer.clock.clock_type == ClockType.STEADY_TIME
    spin(node, 0.6)
    assert 3 <= len(calls) <= 13


def test_quiet_endpoints_carry_messages_and_burden_the_executor_with_nothing_else(node: Node) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    ear = subscription(node, String, "said", lambda message, info: heard.append((message.data, info)), STREAM_QOS)
    mouth = publisher(node, String, "said", STREAM_QOS)
    usual = node.create_publisher(String, "usual", STREAM_QOS)
    assert (len(mouth.event_handlers), len(ear.event_handlers)) == (0, 0)
    assert len(usual.event_handlers) > 0
    deadline = time.monotonic() + 10.0
    while not heard and time.monotonic() < deadline:
        mouth.publish(String(data="hello"))
        spin(node, 0.05)
    assert heard[0][0] == "hello"
    assert "source_timestamp" in heard[0][1]


def start(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = f"import sys; from {module} import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", run, *arguments], capture_output=True, text=True, timeout=30.0)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("h2o_control.joystick_node", "estop_button (int, default"),
        ("h2o_control.policy_node", "shadow (bool, default false): "),
        ("h2o_control.recorder_node", "bag (str, default "),
        ("h2o_control.teleop_node", "max_falls (int, default "),
        ("h2o_control.bag_player_node", "rate (float, default 1.0, "),
        ("wheel_leg_driver.driver_node", "fall_rad (float, default 0.6, 0.1 to 1.5): "),
    ],
)
def test_help_lists_a_nodes_parameters_and_does_not_start_it(module: str, line: str) -> None:
    # As with an alias that brings arguments of its own.
    done = start(module, "--ros-args", "-p", "priority:=20", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n  {line}" in done.stdout
    assert "--ros-args -p" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stale_s:=0.5",), "no argument 'stale_s:=0.5'"),
        (("--priority", "20", "--ros-args", "-p", "stale_s:=0.5"), "no argument '--priority'"),
        (("--ros-args", "stale_s:=0.5"), "ROS refuses its arguments, ['stale_s:=0.5']"),
        (("--ros-args", "-p", "stale_s"), "Couldn't parse parameter override rule"),
    ],
)
def test_arguments_that_ros_would_drop_are_refused(arguments: tuple[str, ...], said: str) -> None:
    done = start("h2o_control.joystick_node", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "-p NAME:=VALUE" in done.stderr


def test_a_node_whose_terminal_is_closed_stops_cleanly(tmp_path: Path) -> None:
    run = [sys.executable, "-c", "from h2o_control.recorder_node import main; main()", "--ros-args"]
    run += ["-p", f"bag:={tmp_path / 'bag'}", "-p", "auto_start:=true"]
    process = subprocess.Popen(run)
    try:
        deadline = time.monotonic() + 30.0
        while not (tmp_path / "bag").is_dir():
            assert time.monotonic() < deadline and process.poll() is None, "no bag was begun"
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30.0) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(("given", "got"), [("2", 2.0), ("2.5", 2.5), ("9", None), ("true", None), ("far", None)])
def test_an_integer_is_taken_for_a_double_within_its_range_and_nothing_else_is(given: str, got: float | None) -> None:
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "-p", f"distance_m:={given}"], context=context)
    node = rclpy.create_node("tools", context=context)
    parameters = [Parameter("distance_m", 1.0, "how far, m", 0.5, 3.0)]
    try:
        if got is None:
            with pytest.raises(ConfigError, match=r"distance_m must be float, between 0\.5 and 3\.0"):
                declare(node, parameters)
        else:
            declare(node, parameters)
            assert isinstance(value(node, "distance_m"), float)
            assert value(node, "distance_m") == got
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
