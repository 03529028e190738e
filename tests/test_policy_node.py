# SPDX-License-Identifier: Apache-2.0
"""The policy node in the graph: observations in by hand, torques out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from nav_msgs.msg import Odometry
from rclpy.publisher import Publisher
from std_msgs.msg import String

from graph import Nodes, Probe, graph
from h2o_control import topics
from h2o_control.contract import Interface
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS
from policy_tools import linear_policy

pytestmark = pytest.mark.ros
#: Torque is minus the pitch: easy to see through.
PITCH_ONLY = [0.0, 0.0, 1.0, 0.0]
DISPLACEMENT_ONLY = [1.0, 0.0, 0.0, 0.0]


class Robot:
    """Plays the driver's side of the graph for a policy node."""

    def __init__(self, probe: Probe, interface: Interface) -> None:
        self.probe = probe
        self.odom: Publisher = probe.node.create_publisher(Odometry, topics.ODOM, STREAM_QOS)
        self.mode = probe.node.create_publisher(String, topics.MODE, LATCHED_QOS)
        self.interface = probe.node.create_publisher(String, topics.INTERFACE, LATCHED_QOS)
        self.interface.publish(String(data=interface.to_json()))

    def ask(self, pitch: float = 0.0, x: float = 0.0, age_s: float = 0.0) -> list[float]:
        """Send one observation and return the effort that answers it."""
        self.probe.wait(lambda: self.odom.get_subscription_count() > 0, "policy node")
        message = Odometry()
        stamp = self.probe.node.get_clock().now().nanoseconds - int(age_s * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        message.pose.pose.position.x = x
        message.pose.pose.orientation.w = math.cos(pitch / 2)
        message.pose.pose.orientation.y = math.sin(pitch / 2)
        self.probe.torques.clear()
        self.odom.publish(message)
        # Answers to the observations of `ready` may still be under way.
        self.probe.wait(lambda: any(t.header.stamp == message.header.stamp for t in self.probe.torques), "answer")
        answer = self.probe.torques[-1]
        assert answer.header.frame_id == Interface().hash
        return list(answer.effort)

    def ready(self) -> None:
        """Wait until observations are answered: the interface has arrived."""
        self.probe.wait(lambda: self.interface.get_subscription_count() > 0, "policy node")
        self.probe.wait(lambda: self._answered(), "first answer")

    def _answered(self) -> bool:
        self.odom.publish(Odometry())
        self.probe.spin(0.05)
        return bool(self.probe.torques)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[tuple[Nodes, Probe, Robot]]:
    with graph(tmp_path) as (nodes, probe):
        yield nodes, probe, Robot(probe, Interface())


def test_each_observation_is_answered_with_a_torque(rig: tuple[Nodes, Probe, Robot], tmp_path: Path) -> None:
    nodes, _, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", PITCH_ONLY)), max_age_s=0.5)
    robot.ready()
    assert robot.ask(pitch=0.25) == pytest.approx([-0.25, -0.25], abs=1e-6)


def test_bad_input_is_given_back_and_good_input_answered_again(rig: tuple[Nodes, Probe, Robot], tmp_path: Path) -> None:
    nodes, _, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", PITCH_ONLY)), max_age_s=0.5)
    robot.ready()
    assert robot.ask(pitch=math.nan) == []
    assert robot.ask(pitch=0.1, age_s=2.0) == []
    assert len(robot.ask(pitch=0.1)) == 2


def test_output_that_is_no_number_never_leaves_the_node(rig: tuple[Nodes, Probe, Robot], tmp_path: Path) -> None:
    nodes, probe, robot = rig
    # It overflows at large inputs only: where the file is checked it is sound.
    policy = linear_policy(tmp_path / "p.onnx", [3e38, 0.0, 0.0, 0.0], limited=False)
    nodes.start("policy_node", policy=str(policy), max_age_s=0.5)
    robot.ready()
    robot.ask(x=0.0)
    robot.mode.publish(String(data="torque: by request"))
    probe.spin(0.3)
    assert robot.ask(x=2.0) == []
    probe.spin(0.2)
    assert "giving the robot back: the policy answers" in nodes.log("policy_node")


def test_displacement_counts_from_where_the_policy_took_command(
    rig: tuple[Nodes, Probe, Robot], tmp_path: Path
) -> None:
    nodes, probe, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", DISPLACEMENT_ONLY)), max_age_s=0.5)
    robot.ready()
    assert robot.ask(x=2.0) == pytest.approx([0.0, 0.0])
    robot.mode.publish(String(data="torque: by request"))
    probe.spin(0.3)
    assert robot.ask(x=2.5) == pytest.approx([-0.5, -0.5], abs=1e-6)


def test_policy_of_another_robot_ends_with_status_2(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        Robot(probe, Interface(wheel_radius_m=0.1))
        node = nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", PITCH_ONLY)))
        probe.wait(lambda: node.poll() is not None, "end of the policy node")
        assert node.returncode == 2
        assert "wheel_radius_m: policy 0.065, the robot 0.1" in nodes.log("policy_node")
        assert "Traceback" not in nodes.log("policy_node")


def test_missing_policy_ends_with_status_2(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    assert nodes.start("policy_node", policy="nowhere.onnx").wait(20.0) == 2
    assert "cannot read policy nowhere.onnx" in nodes.log("policy_node")
