# SPDX-License-Identifier: Apache-2.0
"""The driver node over a real pseudo-terminal, in real time."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState, TimeReference
from std_msgs.msg import Bool, String

from graph import Nodes, Probe, graph
from h2o_control import topics
from h2o_control.clock import stamp_ns
from h2o_control.histogram import Histogram
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS
from wheel_leg_driver.driver_node import DriverNode
from wheel_leg_driver.emulator_control import EmulatorControl
from wheel_leg_driver.robot import load_robot

pytestmark = pytest.mark.ros


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[tuple[Nodes, Probe]]:
    with graph(tmp_path) as parts:
        yield parts


def test_driver_balances_the_emulated_robot_and_stops_it_on_request(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot()
    probe.arm()
    probe.commands.clear()
    probe.spin(3.0)
    assert probe.mode == topics.BALANCE, probe.reason
    assert len(probe.commands) > 400, "a command for nearly every one of 600 control steps"
    assert {mode for mode, _ in probe.commands} == {topics.BALANCE}
    assert probe.call(topics.ESTOP).success
    probe.wait(lambda: probe.mode == topics.FAULT, "fault")
    refused = probe.call(topics.ARM)
    assert not refused.success
    assert "disarm first" in refused.message
    assert probe.call(topics.DISARM).success
    probe.wait(lambda: probe.mode == topics.DISARMED, "disarmed")


def test_driver_on_one_processor_at_real_time_priority_does_not_wait_for_itself(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot("ideal", cpus="0")
    probe.arm()
    probe.spin(1.0)
    assert probe.mode == topics.BALANCE, probe.reason


def test_each_frames_device_time_and_sequence_go_with_its_stamp(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    times: list[TimeReference] = []
    said: list[String] = []
    probe.node.create_subscription(TimeReference, topics.DEVICE_TIME, times.append, STREAM_QOS)
    probe.node.create_subscription(String, topics.CONFIGURATION, said.append, LATCHED_QOS)
    nodes.start_robot(arm_rad=0.15)
    probe.wait(lambda: len(times) > 400 and bool(said), "frames")
    device_us = [t.time_ref.sec * 1_000_000 + t.time_ref.nanosec // 1000 for t in times]
    steps = [int(b.source) - int(a.source) for a, b in pairwise(times)]
    assert all(b - a == 5000 * n for (a, b), n in zip(pairwise(device_us), steps, strict=True))
    assert {stamp_ns(j.header.stamp) for j in probe.joints} & {stamp_ns(t.header.stamp) for t in times}
    used = json.loads(said[0].data)
    assert (used["robot"]["name"], used["limits"]["arm_rad"]) == ("worn", 0.15)
    assert used["calibration"]["encoder_signs"] == [1, 1]


def test_executed_torque_comes_back_in_joint_states(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot()
    probe.arm()
    probe.spin(1.0)
    executed = [sum(m.effort[:2]) / 2 for m in probe.joints[-100:]]
    assert any(abs(torque) > 0.01 for torque in executed)
    assert all(abs(torque) <= 3.0 for torque in executed)
    assert list(probe.joints[-1].name[:2]) == list(topics.WHEELS)


def test_robot_stays_up_when_its_commander_is_killed(rig: tuple[Nodes, Probe], stand_policy: Path) -> None:
    nodes, probe = rig
    nodes.start_robot("ideal")
    policy = nodes.start("policy_node", policy=str(stand_policy), priority=20)
    probe.wait(lambda: bool(probe.torques), "torque from the policy node")
    probe.arm()
    probe.spin(1.0)
    assert probe.call(topics.TORQUE_MODE, on=True).success
    probe.spin(2.0)
    assert probe.mode == topics.TORQUE, probe.reason
    policy.send_signal(signal.SIGKILL)
    probe.wait(lambda: probe.mode == topics.HOLD, "hold after the policy died", 5.0)
    assert "no fresh torque" in probe.reason
    probe.spin(2.0)
    assert probe.mode == topics.HOLD, probe.reason


def test_commander_of_another_robot_is_refused(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot()
    probe.arm()
    refused = probe.call(topics.TORQUE_MODE, on=True)
    assert "is a policy node running" in refused.message
    stranger = probe.node.create_publisher(JointState, topics.WHEEL_TORQUE, STREAM_QOS)
    message = JointState(name=list(topics.WHEELS), effort=[1.0, 1.0])
    message.header.frame_id = "another robot"
    probe.wait(lambda: stranger.get_subscription_count() > 1, "driver and probe listening")
    timer = probe.node.create_timer(0.005, lambda: stranger.publish(message))
    probe.spin(0.5)
    refused = probe.call(topics.TORQUE_MODE, on=True)
    probe.node.destroy_timer(timer)
    assert not refused.success
    assert "interface 'another robot'" in refused.message
    assert probe.mode == topics.BALANCE


def test_two_commanders_of_one_name_are_told_apart(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot()
    probe.arm()
    # A context of its own is a participant of its own, as another process is.
    other = rclpy.Context()
    other.init()
    twins = [rclpy.create_node("policy"), rclpy.create_node("policy", context=other)]
    message = JointState(name=list(topics.WHEELS), effort=[0.0, 0.0])
    message.header.frame_id = load_robot("worn").interface.hash
    commanders = [twin.create_publisher(JointState, topics.WHEEL_TORQUE, STREAM_QOS) for twin in twins]
    probe.wait(lambda: all(c.get_subscription_count() > 1 for c in commanders), "driver and probe listening")
    timer = probe.node.create_timer(0.005, lambda: [c.publish(message) for c in commanders])
    probe.spin(0.5)
    refused = probe.call(topics.TORQUE_MODE, on=True)
    probe.node.destroy_timer(timer)
    for twin in twins:
        twin.destroy_node()
    other.try_shutdown()
    assert not refused.success
    ids = re.findall(r"/policy \(([0-9a-f]{16})\)", refused.message)
    assert len(set(ids)) == 2, refused.message


def test_driver_that_is_stopped_leaves_the_robot_disarmed(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot()
    probe.arm()
    driver = nodes.processes[1]
    driver.send_signal(signal.SIGINT)
    assert driver.wait(10.0) == 0
    assert "Traceback" not in nodes.log("driver_node")
    nodes.start("driver_node", robot="worn", port=str(nodes.folder / "tty"), auto_activate="true")
    probe.modes.clear()
    probe.wait(lambda: "disarmed: start" in probe.modes, "a new driver")
    probe.spin(1.0)
    assert probe.mode == topics.DISARMED, "a driver never arms by itself, not after a restart either"


@contextmanager
def own_driver(folder: Path, robot: str = "worn") -> Iterator[tuple[DriverNode, Probe]]:
    """A driver in this process, so that a test can take it through its lifecycle."""
    nodes = Nodes(folder)
    link = folder / "tty"
    parameters = {"robot": robot, "port": link, "port_wait_s": 20.0, "auto_activate": "true"}
    node, probe = None, None
    try:
        nodes.start("emulator", "--robot", robot, "--link", str(link))
        rclpy.init(args=["--ros-args", *(a for k, v in parameters.items() for a in ("-p", f"{k}:={v}"))])
        node, probe = DriverNode(), Probe()
        probe._executor.add_node(node)
        yield node, probe
    finally:
        if node is not None:
            node.make_safe()
            node.destroy_node()
        if probe is not None:
            probe.node.destroy_node()
        rclpy.try_shutdown()
        nodes.stop()


def test_request_to_an_inactive_driver_is_refused_and_forgotten(tmp_path: Path) -> None:
    with own_driver(tmp_path) as (node, probe):
        node.trigger_deactivate()
        refused = probe.call(topics.ARM)
        assert not refused.success
        assert "not active" in refused.message
        node.trigger_cleanup()
        node.trigger_configure()
        node.trigger_activate()
        probe.joints.clear()
        probe.wait(lambda: len(probe.joints) > 100, "telemetry after activation")
        assert probe.mode == topics.DISARMED, "an activation arms nothing"
        assert node.count_services(node.resolve_service_name(topics.ARM)) == 1
        probe.arm()


def test_driver_finds_its_robot_again_and_does_not_arm_it(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    nodes.start_robot("ideal")
    probe.arm()
    probe.spin(0.5)
    control = EmulatorControl(str(nodes.folder / "tty"))
    control.inject("unplug for=0.5")
    probe.wait(lambda: probe.mode == topics.FAULT, "fault after the unplugging", 3.0)
    assert "link lost" in probe.reason
    assert not probe.call(topics.ARM).success
    probe.joints.clear()
    probe.wait(lambda: len(probe.joints) > 20, "telemetry after the replugging", 5.0)
    assert probe.mode == topics.FAULT, "what was latched stays so"
    assert not control.state().armed
    assert probe.call(topics.DISARM).success
    probe.spin(1.5)
    probe.arm()


def test_emergency_stop_by_topic_and_in_every_state_of_the_node(tmp_path: Path) -> None:
    with own_driver(tmp_path, "ideal") as (node, probe):
        probe.arm()
        stop = probe.node.create_publisher(Bool, topics.ESTOP_TOPIC, STREAM_QOS)
        probe.wait(lambda: stop.get_subscription_count() > 0, "driver listening")
        stop.publish(Bool(data=False))
        probe.spin(0.3)
        assert probe.mode == topics.BALANCE, "false does nothing"
        stop.publish(Bool(data=True))
        probe.wait(lambda: probe.mode == topics.FAULT, "fault")
        assert probe.reason == "emergency stop"
        node.trigger_deactivate()
        node.trigger_activate()
        probe.wait(lambda: probe.mode == topics.FAULT, "an emergency stop that outlives an activation")
        assert not probe.call(topics.ARM).success
        probe.call(topics.DISARM)
        node.trigger_deactivate()
        node.trigger_cleanup()
        assert probe.call(topics.ESTOP).success, "works unconfigured, too"
        node.trigger_configure()
        node.trigger_activate()
        probe.wait(lambda: probe.mode == topics.FAULT, "the stop of an unconfigured driver")
        probe.call(topics.DISARM)
        probe.spin(1.5)
        probe.arm()
        node.trigger_shutdown()
        assert not EmulatorControl(str(tmp_path / "tty")).state().armed


def test_diagnostics_tell_ages_rates_and_limits(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    found: dict[str, dict[str, str]] = {}

    def take(message: DiagnosticArray) -> None:
        found.update({s.name: {v.key: v.value for v in s.values} for s in message.status})

    probe.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, take, STREAM_QOS)
    nodes.start_robot("ideal")
    probe.arm()
    probe.spin(2.0)
    assert {"driver", "driver: link", "driver: timing", "driver: limits", "driver: power"} <= set(found)
    assert float(found["driver: link"]["telemetry rate (Hz)"]) == pytest.approx(200, rel=0.3)
    assert float(found["driver: power"]["battery (V)"]) > 20
    loop = Histogram.from_text(found["driver: timing"]["read to write histogram (ms)"])
    assert loop.count > 100
    assert 0 < loop.percentile(50) < 0.02
    trip = Histogram.from_text(found["driver: timing"]["sensor to torque histogram (ms)"])
    assert 0.004 < trip.percentile(50) < 0.03, "the frame that confirms a command is a step or two younger"


def test_backend_of_ones_own_takes_the_place_of_the_serial_port(rig: tuple[Nodes, Probe]) -> None:
    nodes, probe = rig
    backend = Path(__file__).parents[1] / "examples" / "my_motors.py"
    nodes.start("driver_node", backend=f"{backend}:MyMotors", robot="ideal", port="none", auto_activate="true")
    probe.arm()
    probe.spin(2.0)
    assert probe.mode == topics.BALANCE, probe.reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_error_in_the_control_thread_disarms_and_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("as a test")

    with own_driver(tmp_path) as (node, _):
        monkeypatch.setattr(node._core, "on_telemetry", fail)
        deadline = time.monotonic() + 10.0
        while not node.finished:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert node.exit_code == 70
        assert node._core is not None
        assert (node._core.mode, node._core.reason) == (topics.DISARMED, "internal error: ZeroDivisionError: as a test")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"port": "/dev/ttyNothingHere", "auto_activate": "true"}, "no serial port '/dev/ttyNothingHere'"),
        ({"robot": "idael", "auto_activate": "true"}, "Did you mean 'ideal'?"),
        ({"tilt_lim_rad": 0.3}, "Did you mean 'tilt_rad'?"),
        ({"staleness_s": 9.0}, "staleness_s must be float, between 0.002 and 0.029"),
        ({"tilt_action": "blance", "auto_activate": "true"}, "Did you mean 'balance'?"),
        ({"calibration": "nowhere.yaml", "auto_activate": "true"}, "nowhere.yaml"),
        ({"backend": "nowhere:Class", "auto_activate": "true"}, "cannot load backend 'nowhere:Class'"),
        ({"port": "usb:12345", "auto_activate": "true"}, "no USB serial device with the number '12345'"),
    ],
)
def test_wrong_parameter_ends_the_driver_with_status_2(
    tmp_path: Path, parameters: dict[str, object], expected: str
) -> None:
    nodes = Nodes(tmp_path)
    process = nodes.start("driver_node", **parameters)
    assert process.wait(20.0) == 2
    assert expected in nodes.log("driver_node")
    assert "Traceback" not in nodes.log("driver_node")
