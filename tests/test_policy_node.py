# SPDX-License-Identifier: Apache-2.0
"""The policy node in the graph: observations in by hand, torques out."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from bad_policies import misbehaving_policy
from graph import PATIENCE_S, Nodes, Probe, graph
from h2o_control import topics
from h2o_control.clock import stamp_ns
from h2o_control.contract import Interface
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS
from h2o_control.realtime import prioritise
from policy_tools import linear_policy

pytestmark = pytest.mark.ros
#: Torque is minus the pitch: easy to see through.
PITCH_ONLY = [0.0, 0.0, 1.0, 0.0]
DISPLACEMENT_ONLY = [1.0, 0.0, 0.0, 0.0]


class Robot:
    """Plays the driver's side of the graph for a policy node, and hears what is answered on one topic."""

    def __init__(self, probe: Probe, interface: Interface, answers: str = topics.WHEEL_TORQUE) -> None:
        self.probe = probe
        self.answers: list[JointState] = []
        self.heard_s: list[float] = []
        self.policies: list[dict[str, Any]] = []
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.odom: Publisher = probe.node.create_publisher(Odometry, topics.ODOM, STREAM_QOS)
        self.mode = probe.node.create_publisher(String, topics.MODE, LATCHED_QOS)
        self.interface = probe.node.create_publisher(String, topics.INTERFACE, LATCHED_QOS)
        self.interface.publish(String(data=interface.to_json()))
        # The test may be kept from the processor for longer than a robot's nodes are.
        probe.node.create_subscription(JointState, answers, self._on_answer, QoSProfile(depth=500))
        probe.node.create_subscription(
            String, topics.POLICY, lambda m: self.policies.append(json.loads(m.data)), LATCHED_QOS
        )
        probe.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, STREAM_QOS)

    def _on_answer(self, message: JointState) -> None:
        self.answers.append(message)
        self.heard_s.append(time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {v.key: v.value for v in status.values}

    def observe(self, pitch: float = 0.0, x: float = 0.0, age_s: float = 0.0) -> Time:
        """Send one observation and return its stamp."""
        message = Odometry()
        stamp = time.monotonic_ns() - int(age_s * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        message.pose.pose.position.x = x
        message.pose.pose.orientation.w = math.cos(pitch / 2)
        message.pose.pose.orientation.y = math.sin(pitch / 2)
        self.odom.publish(message)
        return message.header.stamp

    def ask(self, pitch: float = 0.0, x: float = 0.0, age_s: float = 0.0) -> list[float]:
        """Send one observation and return the effort that answers it."""
        self.answers.clear()
        stamp = self.observe(pitch, x, age_s)
        # Answers to the observations of `ready` may still be under way.
        self.probe.wait(lambda: any(t.header.stamp == stamp for t in self.answers), "answer")
        answer = self.answers[-1]
        assert answer.header.frame_id == Interface().hash
        return list(answer.effort)

    def ready(self) -> None:
        """Wait until observations are answered: the interface has arrived."""
        self.probe.wait(lambda: self.interface.get_subscription_count() > 0, "policy node")
        self.probe.wait(lambda: self._answered(), "first answer")

    def _answered(self) -> bool:
        self.observe()
        self.probe.spin(0.05)
        return bool(self.answers)

    def command(self) -> None:
        """Say that the policy is in command, and let that arrive."""
        self.mode.publish(String(data="torque: by request"))
        self.probe.spin(0.3)

    def stream(self, until: Callable[[], bool], pitch: float, at_least: int = 0) -> list[Time]:
        """Send observations at 100 Hz until the condition holds; returns their stamps."""
        stamps: list[Time] = []
        due_s = time.monotonic()
        end_s = due_s + PATIENCE_S
        while not until() or len(stamps) < at_least:
            assert time.monotonic() < end_s, "the condition never held"
            stamps.append(self.observe(pitch))
            due_s += 0.01
            while (left_s := due_s - time.monotonic()) > 0:
                self.probe._executor.spin_once(timeout_sec=left_s)
        return stamps


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
    nodes, probe, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", PITCH_ONLY)), max_age_s=0.5)
    robot.ready()
    assert robot.ask(pitch=math.nan) == []
    probe.spin(1.5)
    assert robot.ask(pitch=0.1, age_s=1.0) == []
    assert len(robot.ask(pitch=0.1)) == 2


def test_output_that_is_no_number_never_leaves_the_node(rig: tuple[Nodes, Probe, Robot], tmp_path: Path) -> None:
    nodes, probe, robot = rig
    # It overflows at large inputs only: where the file is checked it is sound.
    policy = linear_policy(tmp_path / "p.onnx", [3e38, 0.0, 0.0, 0.0], limited=False)
    nodes.start("policy_node", policy=str(policy), max_age_s=0.5)
    robot.ready()
    robot.ask(x=0.0)
    robot.command()
    assert robot.ask(x=2.0) == []
    probe.spin(0.2)
    assert "giving the robot back: the policy answers" in nodes.log("policy_node")


def test_displacement_counts_from_where_the_policy_took_command(
    rig: tuple[Nodes, Probe, Robot], tmp_path: Path
) -> None:
    nodes, _, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "p.onnx", DISPLACEMENT_ONLY)), max_age_s=0.5)
    robot.ready()
    assert robot.ask(x=2.0) == pytest.approx([0.0, 0.0])
    robot.command()
    assert robot.ask(x=2.5) == pytest.approx([-0.5, -0.5], abs=1e-6)


@pytest.mark.parametrize("kind", ["nan", "inf", "shape", "error", "slow"])
def test_a_policy_that_misbehaves_under_way_is_given_back_and_offers_again(tmp_path: Path, kind: str) -> None:
    with graph(tmp_path) as (nodes, probe):
        robot = Robot(probe, Interface())
        policy = misbehaving_policy(tmp_path / "p.onnx", kind)
        nodes.start("policy_node", policy=str(policy), max_age_s=0.05)
        robot.ready()
        probe.wait(lambda: len(robot.ask(pitch=0.1)) == 2, "sane answer")
        robot.command()
        assert robot.ask(pitch=0.1, x=1.5) == []
        robot.mode.publish(String(data="hold: the commander gave the robot back"))
        probe.wait(lambda: robot.ask(pitch=0.1) == pytest.approx([-0.1, -0.1], abs=1e-6), "sane answer")
        probe.wait(lambda: int(robot.diagnostics.get("policy", {}).get("given back", "0")) >= 1, "diagnostics")
        assert robot.diagnostics["policy"]["last reason"]


def test_a_shadow_answers_beside_and_never_on_the_torque_topic(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        robot = Robot(probe, Interface(), answers=topics.SHADOW_TORQUE)
        sent = probe.node.create_publisher(JointState, topics.WHEEL_COMMAND, STREAM_QOS)
        file = linear_policy(tmp_path / "p.onnx", DISPLACEMENT_ONLY)
        nodes.start("policy_node", policy=str(file), shadow="true", max_age_s=0.5)
        robot.ready()
        probe.wait(lambda: sent.get_subscription_count() > 0, "shadow that listens to what is sent")
        assert robot.ask(x=2.0) == pytest.approx([0.0, 0.0])
        robot.command()
        # Whoever commands, the driver's own balance included.
        for mode, x in ((topics.TORQUE, 2.3), (topics.BALANCE, 2.4), (topics.HOLD, 2.5), (topics.DISARMED, 2.6)):
            # Left and right differ by steering: what is compared is their mean.
            torque = -(x - 2.0)
            assert robot.ask(x=x) == pytest.approx([torque, torque], abs=1e-6)
            command = JointState(effort=[0.2 + torque, 0.6 + torque])
            command.header.stamp, command.header.frame_id = robot.answers[-1].header.stamp, mode
            sent.publish(command)
        key = "answers compared with what was sent"
        probe.wait(lambda: robot.diagnostics.get("policy, shadow", {}).get(key) == "3", "comparison")
        said = robot.diagnostics["policy, shadow"]
        assert float(said["difference from what was sent, rms (Nm)"]) == pytest.approx(0.4, abs=1e-3)
        assert float(said["difference from what was sent, largest (Nm)"]) == pytest.approx(0.4, abs=1e-3)
        # Of the torque sent, 0.1 + 0 - 0.1 Nm, the shadow had the sign of the last alone.
        assert said["same sign as what was sent (% of that torque)"] == "50"
        assert said["in command"] == "False"
        assert not probe.torques
        assert probe.node.count_publishers(topics.WHEEL_TORQUE) == 0
        assert not robot.policies
        assert "policy" not in robot.diagnostics


@contextmanager
def on_time() -> Iterator[None]:
    """Give this process's threads, those of its middleware included, the priority that the policy node's have.

    The node answers on time on a loaded machine, but keeps its last ten answers only: a listener that does not get the
    processor for a tenth of a second misses some.
    """
    prioritise(25)
    try:
        yield
    finally:
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def swap(probe: Probe, robot: Robot, file: object) -> tuple[Trigger.Response, list[Time]]:
    """Name a candidate and ask for the swap while observations come at 100 Hz; the answer, and their stamps."""
    settings = probe.node.create_client(SetParameters, "policy/set_parameters")
    trigger = probe.node.create_client(Trigger, f"policy/{topics.SWAP}")
    probe.wait(lambda: settings.service_is_ready() and trigger.service_is_ready(), "services of the policy node")
    parameter = Parameter("candidate", value=str(file)).to_parameter_msg()
    done = settings.call_async(SetParameters.Request(parameters=[parameter]))
    probe.wait(done.done, "parameter")
    assert done.result().results[0].successful
    robot.answers.clear()
    robot.heard_s.clear()
    with on_time():
        swapped = trigger.call_async(Trigger.Request())
        stamps = robot.stream(swapped.done, pitch=0.1)
        stamps += robot.stream(lambda: len(robot.answers) >= len(stamps), pitch=0.1, at_least=50)
        probe.wait(lambda: len(robot.answers) >= len(stamps), "answers to all observations")
    return swapped.result(), stamps


def test_a_swap_takes_place_between_two_observations_and_misses_none(
    rig: tuple[Nodes, Probe, Robot], tmp_path: Path
) -> None:
    nodes, probe, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "a.onnx", PITCH_ONLY)), max_age_s=0.5, priority=20)
    robot.ready()
    robot.command()
    candidate = linear_policy(tmp_path / "b.onnx", [0.0, 0.0, 2.0, 0.0])
    answer, stamps = swap(probe, robot, candidate)
    assert answer.success, answer.message
    assert "b.onnx answers" in answer.message
    assert [a.header.stamp for a in robot.answers] == stamps
    probe.wait(lambda: len(robot.policies) >= 2, "what is said on /policy")
    before, after = robot.policies
    assert before["after_stamp_ns"] is None
    assert (before["file"][-6:], after["file"][-6:]) == ("a.onnx", "b.onnx")
    assert before["sha256"] != after["sha256"]
    assert after["provenance"] == {"made": "by hand"}
    for stamp, given in zip(stamps, robot.answers, strict=True):
        expected = -0.2 if stamp_ns(stamp) > after["after_stamp_ns"] else -0.1
        assert list(given.effort) == pytest.approx([expected] * 2, abs=1e-6)
    assert stamp_ns(stamps[0]) <= after["after_stamp_ns"] < stamp_ns(stamps[-1])


def test_a_bad_candidate_changes_nothing_and_the_answer_says_why(
    rig: tuple[Nodes, Probe, Robot], tmp_path: Path
) -> None:
    nodes, probe, robot = rig
    nodes.start("policy_node", policy=str(linear_policy(tmp_path / "a.onnx", PITCH_ONLY)), max_age_s=0.5, priority=20)
    robot.ready()
    (tmp_path / "text.onnx").write_text("hello")
    bad = {
        tmp_path / "absent.onnx": "cannot read policy",
        tmp_path / "text.onnx": "is not an ONNX file",
        linear_policy(tmp_path / "other.onnx", PITCH_ONLY, interface=Interface(torque_limit_nm=2.0)): (
            "torque_limit_nm: policy 2.0, the running policy 3.0"
        ),
        linear_policy(tmp_path / "narrow.onnx", PITCH_ONLY, n_obs=3): "needs float [n, 4]",
        misbehaving_policy(tmp_path / "nan.onnx", "nan", beyond_m=-1.0): "answers a zero observation with nan",
        misbehaving_policy(tmp_path / "slow.onnx", "slow", beyond_m=-1.0, seconds=0.02): "ms for an answer",
    }
    for file, reason in bad.items():
        answer, stamps = swap(probe, robot, file)
        assert not answer.success
        assert reason in answer.message
        assert "The policy stays as it was" in answer.message
        assert [a.header.stamp for a in robot.answers] == stamps
        assert all(list(a.effort) == pytest.approx([-0.1, -0.1], abs=1e-6) for a in robot.answers)
    assert len(robot.policies) == 1


def test_displacement_goes_on_over_a_swap(rig: tuple[Nodes, Probe, Robot], tmp_path: Path) -> None:
    nodes, probe, robot = rig
    file = linear_policy(tmp_path / "a.onnx", DISPLACEMENT_ONLY)
    nodes.start("policy_node", policy=str(file), max_age_s=0.5, priority=20)
    robot.ready()
    robot.ask(x=0.0)
    robot.command()
    answer, _ = swap(probe, robot, linear_policy(tmp_path / "b.onnx", [2.0, 0.0, 0.0, 0.0]))
    assert answer.success, answer.message
    assert robot.ask(x=0.5) == pytest.approx([-1.0, -1.0], abs=1e-6)


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


def test_a_node_that_was_given_no_policy_says_which_parameter_is_missing(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    assert nodes.start("policy_node").wait(20.0) == 2
    assert "which policy? Give an ONNX file, -p policy:=" in nodes.log("policy_node")
