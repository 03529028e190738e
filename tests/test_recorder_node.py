# SPDX-License-Identifier: Apache-2.0
"""The recorder among real nodes: what it is asked, what it loses and says of it, a disk that fills up."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mcap.reader import make_reader
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from disk_tools import fill, small_disk
from graph import BIN, Nodes, Probe, graph
from h2o_control import topics
from h2o_control.bag_metadata import LABEL_FALL, TYPESTORE
from h2o_control.bag_reader import read_bag
from h2o_control.losses import LossCounter
from h2o_control.node_tools import STREAM_QOS
from h2o_control.reception import Reception
from wheel_leg_driver.emulator_control import EmulatorControl

pytestmark = pytest.mark.ros
TESTS = Path(__file__).parent


class Listener:
    """What the recorder says of itself."""

    def __init__(self, probe: Probe) -> None:
        self.status = DiagnosticStatus()
        self.said: list[str] = []
        probe.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._take, STREAM_QOS)

    def _take(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "recorder":
                self.status = status
                self.said.append(status.message)

    def values(self) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.status.values}


def start_rates(nodes: Nodes, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(TESTS / "robot_rates.py"), *arguments]
    process = subprocess.Popen(command, env=nodes.environment, stdout=subprocess.PIPE)
    nodes.processes.append(process)
    return process


def custom(bag: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(read_bag(bag, require=[]).custom_data["h2o.episodes"])
    return rows


def operate(nodes: Nodes, probe: Probe, *arguments: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [str(BIN / "h2o-robot"), "operate", "--timeout", "15", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**nodes.environment, "COLUMNS": "200"},
    )
    nodes.processes.append(process)  # type: ignore[arg-type]
    probe.wait(lambda: process.poll() is not None, f"end of operate {arguments}", 60.0)
    assert process.stdout is not None
    return process.returncode, process.stdout.read().strip()


def test_episodes_are_started_labelled_noted_and_discarded_on_request(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        listener = Listener(probe)
        recorder = nodes.start("recorder_node", bag=str(tmp_path / "b"))
        refused = probe.call(topics.START_EPISODE)
        assert not refused.success
        assert refused.message.startswith("nothing on /odom, /joint_states, /wheel_command, /mode, /interface yet")
        rates = start_rates(nodes, "--messages", "400")
        probe.wait(lambda: listener.status.message == "ready", "a recorder that is ready")
        steps = (
            (topics.START_EPISODE, "recording b_0.mcap"),
            (topics.LABEL_FALL, "b_0.mcap: fall"),
            (topics.STOP_EPISODE, "stopped b_0.mcap: 0 lost"),
            (topics.START_EPISODE, "recording b_1.mcap"),
            (topics.DISCARD_EPISODE, "b_1.mcap is discarded"),
        )
        for service, said in steps[:3]:
            if service == topics.STOP_EPISODE:
                # Of an episode without a frame nobody knows what was lost; on a busy machine the first takes a moment.
                time.sleep(1.0)
            answer = probe.call(service)
            assert (answer.success, answer.message) == (True, said)
        assert operate(nodes, probe, "record", "success") == (0, "b_0.mcap: success")
        for service, said in steps[3:]:
            answer = probe.call(service)
            assert (answer.success, answer.message) == (True, said)
        status, said = operate(nodes, probe, "record", "discard")
        assert (status, said.startswith("refused: b_1.mcap was discarded")) == (1, True)
        assert probe.call(topics.STOP_EPISODE).message == "no episode is being recorded"
        assert operate(nodes, probe, "record", "note", "for the next: soft tyres") == (0, "noted")
        status, said = operate(nodes, probe, "record", "note", "")
        assert (status, "the note is empty" in said) == (1, True)
        assert probe.call(topics.START_EPISODE).success
        probe.wait(lambda: listener.status.message == "recording b_2.mcap, 0 lost", "what is recorded")
        assert listener.values()["note"] == "for the next: soft tyres"
        split = probe.call(topics.START_EPISODE)
        assert (split.success, split.message) == (True, "recording b_3.mcap; that ended b_2.mcap, which is kept")
        assert probe.call(topics.DISCARD_EPISODE).success
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(10.0) == 0
        rates.terminate()
        rows = custom(tmp_path / "b")
    assert [(row["file"], row["label"], row["note"]) for row in rows] == [
        ("b_0.mcap", "success", ""),
        ("b_2.mcap", "", "for the next: soft tyres"),
    ]
    assert rows[0]["lost"]["/odom"] == rows[0]["frames_missing"] == 0


def test_a_publisher_that_is_there_and_does_not_match_is_not_recorded(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        unreliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        probe.node.create_publisher(Odometry, topics.ODOM, unreliable)
        nodes.start("recorder_node", bag=str(tmp_path / "b"))
        probe.wait(lambda: probe.node.count_subscribers(topics.ODOM) > 0, "recorder")
        probe.spin(1.0)
        assert (
            "/odom (published, not matched: is it reliable, and latched where it should be?), /joint_states, "
            in probe.call(topics.START_EPISODE).message
        )


def ticks(file: Path) -> dict[str, list[int]]:
    """Stamps by topic, as messages were received."""
    found: dict[str, list[int]] = {}
    with file.open("rb") as stream:
        for schema, channel, message in make_reader(stream).iter_messages():
            if channel.topic.strip("/") in (topics.ODOM, topics.IMU, topics.DEVICE_TIME, topics.WHEEL_COMMAND):
                stamp = TYPESTORE.deserialize_cdr(message.data, schema.name).header.stamp
                found.setdefault(channel.topic, []).append(stamp.sec * 10**9 + stamp.nanosec)
    return found


def test_what_a_recorder_that_stood_still_lost_is_counted_to_the_message(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        listener = Listener(probe)
        recorder = nodes.start("recorder_node", bag=str(tmp_path / "b"), auto_start="true")
        rates = start_rates(nodes)
        probe.wait(lambda: "recording" in listener.status.message, "recording")
        probe.spin(1.0)
        recorder.send_signal(signal.SIGSTOP)
        probe.spin(2.0)
        recorder.send_signal(signal.SIGCONT)
        probe.wait(lambda: listener.status.level == DiagnosticStatus.WARN, "a warning")
        assert " lost (" in listener.status.message
        probe.spin(1.0)
        rates.terminate()
        probe.wait(lambda: rates.poll() is not None, "end of the publisher")
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(10.0) == 0
        assert "messages are lost" in nodes.log("recorder_node")
        (row,) = custom(tmp_path / "b")
    step_ns = 4_000_000
    received = ticks(tmp_path / "b" / "b_0.mcap")
    assert len(received) == 4
    for topic, stamps in received.items():
        sent = (stamps[-1] - stamps[0]) // step_ns + 1
        assert row["received"][topic] == len(stamps)
        assert row["lost"][topic] == sent - len(stamps), topic
        assert row["lost"][topic] > 0
    # The robot's link lost nothing: every frame that is missing here had come to the driver.
    assert row["frames_missing"] == 0


def test_a_subscription_of_depth_one_that_is_slow_counts_what_it_loses() -> None:
    rclpy.init()
    node = rclpy.create_node("slow")
    counter, seen, lost = LossCounter(), [], []

    def take(name: str, data: bytes, number: int | None, publisher: bytes) -> None:
        assert number is not None
        seen.append(TYPESTORE.deserialize_cdr(data, "std_msgs/msg/String").data)  # type: ignore[attr-defined]
        lost.append(counter.update(publisher, number))
        time.sleep(0.005)

    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    reception = Reception(node, {"words": (String, qos)}, take)
    sender = node.create_publisher(String, "words", STREAM_QOS)
    reception.start()
    try:
        wait_for(lambda: reception.matched("words") and sender.get_subscription_count() > 0)
        for k in range(500):
            sender.publish(String(data=str(k)))
            time.sleep(0.001)
        wait_for(lambda: seen[-1:] == ["499"])
    finally:
        reception.stop()
        node.destroy_node()
        rclpy.shutdown()
    assert sum(lost) > 0
    assert len(seen) + sum(lost) == 499 - int(seen[0]) + 1
    assert [int(b) - int(a) - 1 for a, b in itertools.pairwise(seen)] == lost[1:]


def test_a_bag_that_is_deleted_while_it_is_written_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        listener = Listener(probe)
        recorder = nodes.start("recorder_node", bag=str(tmp_path / "b"), auto_start="true")
        start_rates(nodes)
        probe.wait(lambda: "recording" in listener.status.message, "recording")
        shutil.rmtree(tmp_path / "b")
        probe.wait(lambda: listener.status.level == DiagnosticStatus.ERROR, "the end of the recording")
        assert "b cannot be written any more, No such file or directory" in listener.status.message
        said = len(listener.said)
        probe.wait(lambda: len(listener.said) > said + 4, "a recorder that stays alive")
        assert listener.status.level == DiagnosticStatus.ERROR
        refused = probe.call(topics.START_EPISODE)
        assert (refused.success, "was it deleted or moved" in refused.message) == (False, True)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(10.0) == 1
        assert "Traceback" not in nodes.log("recorder_node")
    assert not (tmp_path / "b").exists()


def test_a_recorder_of_few_topics_hears_what_it_needs_and_says_what_the_bag_is_not_good_for(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        listener = Listener(probe)
        home = {**nodes.environment, "HOME": str(tmp_path)}
        nodes.environment = home
        recorder = nodes.start("recorder_node", bag="~/b", auto_start="true", topics="[odom, imu]")
        rates = start_rates(nodes)
        probe.wait(lambda: "recording" in listener.status.message, "recording")
        probe.spin(1.0)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(10.0) == 0
        rates.terminate()
        said = "no dataset can be built of this bag: 'topics' lacks joint_states, wheel_command, mode, interface"
        assert said in nodes.log("recorder_node")
        (row, *_) = custom(tmp_path / "b")
    assert set(row["received"]) == {"/odom", "/imu"}
    assert row["received"]["/odom"] > 10


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_ends_the_recording_and_nothing_else_and_what_follows_is_recorded_well(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 48) as folder, graph(tmp_path) as (nodes, probe):
        listener = Listener(probe)
        nodes.start_robot()
        settings = {"keep_free_mib": 16, "warn_free_mib": 24, "auto_start": "true"}
        recorder = nodes.start("recorder_node", bag=str(folder / "b"), **settings)
        probe.wait(lambda: listener.status.message == "ready", "a recorder that is ready")
        probe.arm()
        probe.wait(lambda: "recording b_0.mcap" in listener.status.message, "recording")
        fill(folder, 22)
        probe.wait(lambda: "MiB left on the disk; recording stops at 16 MiB" in listener.status.message, "warning")
        assert "recording b_0.mcap" in listener.status.message
        (folder / "filler").unlink()
        fill(folder, 10)
        probe.wait(lambda: listener.status.level == DiagnosticStatus.ERROR, "the end of the recording")
        assert "disk full: 10 MiB left" in listener.status.message
        bag = read_bag(folder / "b")
        assert not bag.episodes[0].recovered
        probe.spin(2.0)
        assert probe.mode == topics.BALANCE, probe.reason
        refused = probe.call(topics.START_EPISODE)
        assert (refused.success, "disk full" in refused.message) == (False, True)
        (folder / "filler").unlink()
        assert probe.call(topics.START_EPISODE).success
        probe.spin(0.5)
        with EmulatorControl(str(tmp_path / "tty")) as hands:
            hands.inject("drop_telemetry share=0.1 for=1")
            probe.spin(2.0)
            assert probe.modes[0] == "disarmed: start"
            assert len(probe.modes) == 2, probe.modes
            # As far as the driver can tell, the robot fell.
            hands.inject("bias_pitch rad=0.9")
            probe.wait(lambda: probe.mode == topics.FAULT, "fall")
        probe.wait(lambda: listener.values()["label"] == LABEL_FALL, "label")
        probe.wait(lambda: not listener.status.message.startswith("recording"), "the end of the episode")
        recorder.send_signal(signal.SIGINT)
        # Whoever started it learns that something was cut.
        assert recorder.wait(10.0) == 1
        full, fall = custom(folder / "b")
        assert (full["end_reason"], full["label"], full["frames_missing"]) == ("disk full", "", 0)
        assert fall["end_reason"].startswith("fallen: pitch ")
        assert (fall["label"], set(fall["lost"].values())) == (LABEL_FALL, {0})
        sequence = read_bag(folder / "b").episodes[1].sequence
        missing = int(sequence[-1] - sequence[0]) + 1 - len(sequence)
        assert fall["frames_missing"] == missing
        assert 5 < missing < 60
