# SPDX-License-Identifier: Apache-2.0
"""The bag player as a real process: what it plays, with which clock, and how it says that it cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bag_tools import START_NS, make_bag, swaying
from h2o_control import topics
from h2o_control.contract import Interface
from h2o_control.up import find_executable

N = 200


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", sys.prefix)


def player(**parameters: object) -> subprocess.Popen[str]:
    given = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    command = [str(find_executable("h2o_control", "bag_player_node")), "--ros-args", *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.ros
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "cut off"])
def test_player_plays_what_the_robot_said_and_nothing_that_answered_it(
    tmp_path: Path, domain: None, finished: bool
) -> None:
    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.executors import SingleThreadedExecutor
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String

    from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS

    bag = make_bag(tmp_path / "bag", [swaying(N)], Interface())
    if not finished:  # as a recorder that was killed leaves it
        (bag / "metadata.yaml").unlink()
        (bag / "bag_0.mcap").write_bytes((bag / "bag_0.mcap").read_bytes()[:-500])
    odometry: list[int] = []
    clock: list[int] = []
    interface: list[str] = []
    answers: list[object] = []
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def nanoseconds(stamp: object) -> int:
        return stamp.sec * 10**9 + stamp.nanosec  # type: ignore[attr-defined]

    node.create_subscription(Odometry, topics.ODOM, lambda m: odometry.append(nanoseconds(m.header.stamp)), STREAM_QOS)
    node.create_subscription(Clock, "/clock", lambda m: clock.append(nanoseconds(m.clock)), STREAM_QOS)
    node.create_subscription(String, topics.INTERFACE, lambda m: interface.append(m.data), LATCHED_QOS)
    for name in (topics.WHEEL_TORQUE, topics.WHEEL_COMMAND):
        node.create_subscription(JointState, name, answers.append, STREAM_QOS)
    process = player(bag=bag, rate=2.0)
    try:
        end_s = time.monotonic() + 30.0
        while process.poll() is None and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.02)
        output, _ = process.communicate(timeout=10)
        while len(odometry) < N and time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.02)
    finally:
        process.kill()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert process.returncode == 0, output
    assert odometry == [START_NS + k * 5_000_000 for k in range(N)]
    assert clock == odometry
    assert [Interface.from_json(text) for text in interface] == [Interface()]
    assert answers == []
    assert ("bag_0.mcap is cut off or damaged: what of it is whole was played" in output) == (not finished)


@pytest.mark.ros
def test_player_gives_up_when_nobody_listens(tmp_path: Path, domain: None) -> None:
    bag = make_bag(tmp_path / "bag", [swaying(20)], Interface())
    process = player(bag=bag, wait_s=0.5)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "0 of 1 listen on /odom and 0 on /clock" in output


@pytest.mark.ros
def test_player_refuses_a_bag_without_odometry(tmp_path: Path, domain: None) -> None:
    bag = make_bag(tmp_path / "bag", [{**swaying(0)}], Interface())
    process = player(bag=bag)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "no messages on /odom" in output
    assert "Traceback" not in output


@pytest.mark.ros
def test_player_refuses_a_folder_that_is_no_bag(tmp_path: Path, domain: None) -> None:
    process = player(bag=tmp_path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert str(tmp_path) in output
    assert "Traceback" not in output
