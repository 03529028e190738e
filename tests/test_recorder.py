# SPDX-License-Identifier: Apache-2.0
"""The recorder starts, stops and survives; every episode's file stands alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from bag_tools import START_NS, STEP_NS, header, joint_torques, message, odometry, text
from h2o_control import recorder_node, topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import read_bag
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface
from h2o_control.errors import DataError, UserError
from h2o_control.recorder import GRACE_NS, Recorder
from h2o_control.recorder_status import ERROR, OK, WARN, Watch, report

NAMES = {name: f"/robot1/{name}" for name in topics.TYPES}


def recorder(tmp_path: Path, auto_start: bool = False) -> Recorder:
    types = {full: topics.TYPES[name] for name, full in NAMES.items()}
    return Recorder(BagWriter(tmp_path / "b", types), NAMES, auto_start, lambda line: None)


def everything(_: str) -> bool:
    return True


def drive(r: Recorder, first: int, last: int, mode: str = topics.BALANCE, pitch: float = 0.0) -> None:
    """Feed steps first..last as the driver would, ticking every 100 ms."""
    for k in range(first, last):
        stamp = START_NS + k * STEP_NS
        if k % 20 == 0:
            r.tick(stamp, everything)
        r.take(topics.ODOM, odometry(stamp, (0.001 * k, 0, pitch, 0)), stamp)
        r.take(topics.JOINT_STATES, joint_torques(stamp, (0.1, 0.1)), stamp)
        r.take(topics.WHEEL_COMMAND, joint_torques(stamp, (0.1, 0.1), mode), stamp)


def time_reference(stamp_ns: int, source: str) -> bytes:
    kind = topics.TYPES[topics.DEVICE_TIME]
    sent = message(kind, header=header(stamp_ns), time_ref=header(stamp_ns).stamp, source=source)
    return bytes(TYPESTORE.serialize_cdr(sent, kind))


def latch(r: Recorder, mode: str, k: int, reason: str = "because") -> None:
    r.take(topics.MODE, text(f"{mode}: {reason}"), START_NS + k * STEP_NS)


def test_every_episode_begins_with_the_latched_messages(tmp_path: Path) -> None:
    r = recorder(tmp_path)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.BALANCE, 0)
    for first in (10, 100):
        r.start(START_NS + first * STEP_NS)
        drive(r, first, first + 50)
        r.stop()
    r.close()
    bag = read_bag(tmp_path / "b")
    assert bag.interface == Interface()
    assert [len(e.stamp_ns) for e in bag.episodes] == [50, 50]
    assert [e.label for e in bag.episodes] == ["", ""]
    for episode in bag.episodes:
        assert [(c.mode, c.reason) for c in episode.mode_changes] == [("balance", "because")]
    alone = read_bag(tmp_path / "b" / "b_1.mcap")
    assert alone.interface == Interface()


def test_it_records_from_arming_until_half_a_second_after_disarming(tmp_path: Path) -> None:
    r = recorder(tmp_path, auto_start=True)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.DISARMED, 0)
    drive(r, 0, 100, topics.DISARMED)
    assert not r.recording
    latch(r, topics.BALANCE, 100)
    drive(r, 100, 300)
    latch(r, topics.FAULT, 300)
    drive(r, 300, 500, topics.FAULT)
    assert not r.recording
    r.close()
    (episode,) = read_bag(tmp_path / "b").episodes
    begin, end = ((t - START_NS) // STEP_NS for t in (episode.stamp_ns[0], episode.stamp_ns[-1]))
    assert begin == 100
    assert 300 + GRACE_NS // STEP_NS <= end + 1 <= 300 + GRACE_NS // STEP_NS + 20
    assert [c.mode for c in episode.mode_changes] == ["balance", "fault"]


def test_after_a_stop_by_hand_it_waits_for_the_next_arming(tmp_path: Path) -> None:
    r = recorder(tmp_path, auto_start=True)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.BALANCE, 0)
    drive(r, 0, 50)
    r.stop()
    drive(r, 50, 100)
    assert not r.recording
    latch(r, topics.DISARMED, 100)
    latch(r, topics.BALANCE, 110)
    drive(r, 120, 150)
    assert r.recording
    r.close()
    assert len(read_bag(tmp_path / "b").episodes) == 2


def test_it_says_which_essential_topics_are_lacking(tmp_path: Path) -> None:
    r = recorder(tmp_path)
    assert r.lacking(lambda name: name != topics.ODOM) == ["/robot1/odom", "/robot1/mode", "/robot1/interface"]
    latch(r, topics.DISARMED, 0)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    assert r.lacking(everything) == []


def test_a_changed_interface_ends_the_episode_with_an_error(tmp_path: Path) -> None:
    r = recorder(tmp_path)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.BALANCE, 0)
    r.start(START_NS)
    drive(r, 0, 10)
    with pytest.raises(DataError, match="interface changed"):
        r.take(topics.INTERFACE, text(Interface(torque_limit_nm=2.0).to_json()), START_NS + 1)
    assert not r.recording
    assert len(read_bag(tmp_path / "b").episodes[0].stamp_ns) == 10


def ready(tmp_path: Path, auto_start: bool = True) -> Recorder:
    r = recorder(tmp_path, auto_start)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.BALANCE, 0)
    return r


def episodes(tmp_path: Path) -> list[tuple[str, str, str]]:
    rows = json.loads(read_bag(tmp_path / "b").custom_data["h2o.episodes"])
    return [(row["file"], row["label"], row["end_reason"]) for row in rows]


def test_a_fall_ends_the_episode_and_labels_it(tmp_path: Path) -> None:
    r = ready(tmp_path)
    drive(r, 0, 100)
    latch(r, topics.FAULT, 100, "fallen: pitch +0.71 rad is beyond 0.6 rad")
    drive(r, 100, 300, topics.FAULT, pitch=1.2)
    latch(r, topics.DISARMED, 300)
    latch(r, topics.BALANCE, 310)
    drive(r, 320, 400)
    latch(r, topics.FAULT, 400, "emergency stop")
    drive(r, 400, 600, topics.FAULT, pitch=1.2)
    r.close()
    assert episodes(tmp_path) == [
        ("b_0.mcap", "fall", "fallen: pitch +0.71 rad is beyond 0.6 rad"),
        # Nobody called it a fall, but it fell.
        ("b_1.mcap", "fall", "fault: emergency stop"),
    ]


def test_a_robot_that_falls_within_a_second_after_a_fault_fell_though_its_episode_has_ended(tmp_path: Path) -> None:
    r = ready(tmp_path)
    for first, mode, falls_after in ((0, topics.FAULT, 140), (1000, topics.FAULT, 260), (2000, topics.DISARMED, 50)):
        latch(r, topics.BALANCE, first)
        drive(r, first, first + 100)
        latch(r, mode, first + 100, "watchdog")
        drive(r, first + 100, first + 100 + falls_after, mode)
        drive(r, first + 100 + falls_after, first + 600, mode, pitch=1.5)
        assert not r.recording
    r.close()
    # 0.7 s and 1.3 s after the fault, and after a disarm by request, when a person lays it down.
    assert [label for _, label, _ in episodes(tmp_path)] == ["fall", "", ""]


def test_an_armed_robot_that_leans_too_far_fell_and_may_go_on_in_another_episode(tmp_path: Path) -> None:
    r = ready(tmp_path)
    drive(r, 0, 100)
    drive(r, 100, 300, pitch=-0.55)
    drive(r, 300, 400)
    r.close()
    first, second = episodes(tmp_path)
    assert first == ("b_0.mcap", "fall", "fallen: pitch -0.55 rad is beyond 0.5 rad")
    assert second[1] == ""
    ended, begun = (e.stamp_ns for e in read_bag(tmp_path / "b").episodes)
    # Found at a tick, 20 steps apart; then half a second.
    assert ended[-1] - START_NS == pytest.approx(200 * STEP_NS, abs=40 * STEP_NS)
    assert begun[0] == START_NS + 320 * STEP_NS


def test_an_episode_that_was_begun_by_hand_is_labelled_by_a_fall_and_goes_on(tmp_path: Path) -> None:
    r = ready(tmp_path, auto_start=False)
    r.start(START_NS)
    drive(r, 0, 50)
    latch(r, topics.FAULT, 50, "fallen: pitch +0.71 rad is beyond 0.6 rad")
    drive(r, 50, 400, topics.FAULT, pitch=1.2)
    assert r.recording
    r.label("success")  # the operator knows better
    r.close()
    assert episodes(tmp_path) == [("b_0.mcap", "success", "recorder stopped")]


def test_armed_again_at_once_is_another_episode(tmp_path: Path) -> None:
    r = ready(tmp_path)
    drive(r, 0, 100)
    latch(r, topics.DISARMED, 100)
    drive(r, 100, 120, topics.DISARMED)
    latch(r, topics.BALANCE, 120)
    drive(r, 120, 300)
    r.close()
    assert [len(e.stamp_ns) for e in read_bag(tmp_path / "b").episodes] == [120, 180]


def test_a_discarded_episode_is_not_followed_by_another_before_the_next_arming(tmp_path: Path) -> None:
    r = ready(tmp_path)
    drive(r, 0, 50)
    r.discard()
    drive(r, 50, 100)
    assert not r.recording
    latch(r, topics.DISARMED, 100)
    latch(r, topics.BALANCE, 110)
    drive(r, 120, 150)
    r.close()
    assert [row[0] for row in episodes(tmp_path)] == ["b_1.mcap"]


def test_a_note_waits_for_an_episode_and_then_belongs_to_the_latest(tmp_path: Path) -> None:
    r = ready(tmp_path, auto_start=False)
    assert r.note("carpet") is None
    with pytest.raises(DataError, match="the note is empty"):
        r.note(" ")
    notes = []
    for first in (0, 100):
        r.start(START_NS + first * STEP_NS)
        drive(r, first, first + 50)
        r.stop()
    r.note("tiles")
    r.note("wet")
    r.close()
    notes = [row["note"] for row in json.loads(read_bag(tmp_path / "b").custom_data["h2o.episodes"])]
    assert notes == ["carpet", "tiles; wet"]


def test_topics_that_are_needed_but_not_recorded_start_the_episode_and_stay_out_of_the_bag(tmp_path: Path) -> None:
    recorded = (topics.JOINT_STATES, topics.WHEEL_COMMAND)
    writer = BagWriter(tmp_path / "b", {NAMES[name]: topics.TYPES[name] for name in recorded})
    r = Recorder(writer, NAMES, True, lambda line: None, recorded=recorded)
    r.take(topics.INTERFACE, text(Interface().to_json()), START_NS)
    latch(r, topics.BALANCE, 0)
    drive(r, 0, 100)
    latch(r, topics.DISARMED, 100)
    drive(r, 100, 300, topics.DISARMED)
    assert not r.recording
    r.close()
    (row,) = json.loads(read_bag(tmp_path / "b", require=[]).custom_data["h2o.episodes"])
    assert set(row["received"]) == {NAMES[name] for name in recorded}
    assert row["end_reason"] == "disarmed: because"


def test_losses_are_counted_per_episode_and_topic(tmp_path: Path) -> None:
    r = ready(tmp_path, auto_start=False)

    def take(name: str, k: int, data: bytes, number: int | None) -> None:
        r.take(name, data, START_NS + k * STEP_NS, number, b"driver")

    def frame(k: int) -> bytes:
        return time_reference(START_NS + k * STEP_NS, f"{k:010d}")

    take(topics.ODOM, 1, odometry(START_NS, (0, 0, 0, 0)), 5)
    take(topics.DEVICE_TIME, 1, frame(1), 5)
    r.start(START_NS)
    for k, number in ((2, 6), (3, 9), (6, 10)):
        take(topics.ODOM, k, odometry(START_NS + k * STEP_NS, (0, 0, 0, 0)), number)
    # Four frames are missing; of three of them the message was lost here, so the robot's link lost one.
    for k, number in ((2, 6), (7, 10)):
        take(topics.DEVICE_TIME, k, frame(k), number)
    take(topics.IMU, 3, b"", None)
    r.stop()
    r.start(START_NS + 10 * STEP_NS)
    take(topics.ODOM, 11, odometry(START_NS + 11 * STEP_NS, (0, 0, 0, 0)), 11)
    r.close()
    first, second = json.loads(read_bag(tmp_path / "b", require=[]).custom_data["h2o.episodes"])
    assert first["lost"] == {"/robot1/odom": 2, "/robot1/device_time": 3}
    assert first["received"]["/robot1/odom"] == 3
    assert first["frames_missing"] == 1
    assert (second["lost"], second["frames_missing"]) == ({"/robot1/odom": 0}, 0)


def test_the_recorder_says_how_it_is(tmp_path: Path) -> None:
    r = ready(tmp_path, auto_start=False)
    watch = Watch(warn_free_bytes=0, keep_free_bytes=0)
    assert (report(r, [], watch, "").level, report(r, [], watch, "").message) == (OK, "ready")
    assert report(r, ["/odom"], watch, "").message == "waiting for /odom"
    running = r.start(START_NS)
    r.take(topics.ODOM, odometry(START_NS, (0, 0, 0, 0)), START_NS, 1, b"driver")
    assert report(r, [], watch, "").message == "recording b_0.mcap, 0 lost"
    assert not watch.new_losses(running)
    r.take(topics.ODOM, odometry(START_NS, (0, 0, 0, 0)), START_NS, 4, b"driver")
    assert (watch.new_losses(running), watch.new_losses(running)) == (True, False)
    said = report(r, [], watch, "")
    assert (said.level, said.message) == (WARN, "recording b_0.mcap, 2 lost (/robot1/odom 2)")
    scarce = Watch(warn_free_bytes=1 << 60, keep_free_bytes=32 << 20)
    assert "MiB left on the disk; recording stops at 32 MiB" in report(r, [], scarce, "").space
    r.stop()
    said = report(r, [], watch, "disk full")
    assert (said.level, said.message) == (ERROR, "disk full")
    r.close()


PUBLISHER = """
    import time
    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String
    from h2o_control import topics
    from h2o_control.contract import Interface

    rclpy.init()
    node = rclpy.create_node("fake_driver")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    mode = node.create_publisher(String, topics.MODE, latched)
    interface = node.create_publisher(String, topics.INTERFACE, latched)
    odom = node.create_publisher(Odometry, topics.ODOM, 10)
    joints = node.create_publisher(JointState, topics.JOINT_STATES, 10)
    command = node.create_publisher(JointState, topics.WHEEL_COMMAND, 10)
    interface.publish(String(data=Interface().to_json()))
    mode.publish(String(data="disarmed: start"))
    deadline = time.monotonic() + 20
    while odom.get_subscription_count() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    mode.publish(String(data="balance: armed"))
    time.sleep(0.5)
    wheels = JointState(name=list(topics.WHEELS), effort=[0.5, 0.5])
    start = time.monotonic()
    for k in range(400):
        message = Odometry()
        message.header.stamp.sec, message.header.stamp.nanosec = 1000 + k // 200, (k % 200) * 5_000_000
        message.pose.pose.position.x = 0.001 * k
        message.pose.pose.orientation.w = 1.0
        odom.publish(message)
        wheels.header.stamp, wheels.header.frame_id = message.header.stamp, "balance"
        joints.publish(wheels)
        command.publish(wheels)
        time.sleep(max(0.0, start + k * 0.005 - time.monotonic()))
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()
"""


def start_node(tmp_path: Path, *parameters: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("recorder_node")), "--ros-args"]
    for parameter in parameters:
        command += ["-p", parameter]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def publish() -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(PUBLISHER)], check=True)


@pytest.mark.ros
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_node_records_a_driver_and_leaves_a_complete_bag_on_a_signal(tmp_path: Path, stop: signal.Signals) -> None:
    node = start_node(tmp_path, "bag:=out/run", "auto_start:=true", "note:=carpet")
    try:
        publish()
        node.send_signal(stop)
        _, stderr = node.communicate(timeout=20)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0, stderr
    bag = read_bag(tmp_path / "out" / "run")
    (episode,) = bag.episodes
    assert not episode.recovered
    (row,) = json.loads(bag.custom_data["h2o.episodes"])
    assert row["note"] == "carpet"
    assert row["received"]["/odom"] == 400
    assert row["lost"]["/odom"] == 0
    assert bag.interface == Interface()
    assert len(episode.stamp_ns) == len(episode.executed.stamp_ns) == len(episode.command.stamp_ns) == 400
    assert set(episode.modes()) == {"balance"}


def test_the_parameter_file_says_what_the_recorder_does_without_it() -> None:
    (values,) = yaml.safe_load((Path(__file__).parents[1] / "config" / "recorder.yaml").read_text()).values()
    defaults = {p.name: p.default for p in recorder_node.PARAMETERS}
    given = values["ros__parameters"]
    assert given == {name: defaults[name] for name in given}
    # These belong to one recording, not to all.
    assert set(defaults) - set(given) == {"bag", "auto_start", "note", "end_with_clock"}


@pytest.mark.ros
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "parameter 'bag' is not set"),
        (["bag:=there"], "exists already"),
        (["bag:=new", "topics:=[odom, imux]"], "Did you mean 'imu'"),
        (["bag:=new", "compression:=zst"], "Did you mean 'zstd'"),
    ],
)
def test_the_node_refuses_wrong_parameters_with_exit_status_2(
    tmp_path: Path, parameters: list[str], message: str
) -> None:
    (tmp_path / "there").mkdir()
    node = start_node(tmp_path, *parameters)
    _, stderr = node.communicate(timeout=30)
    assert node.returncode == 2
    assert message in stderr


def test_a_bag_in_which_nothing_was_recorded_leaves_its_name_free(tmp_path: Path) -> None:
    recorder(tmp_path, auto_start=True).close()
    assert not (tmp_path / "b").exists()


def test_a_disk_that_is_full_is_found_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="disk full: 1 MiB left"):
        BagWriter(tmp_path / "bag", {"/odom": "nav_msgs/msg/Odometry"}, free_bytes=lambda _: 2**20)
    assert not (tmp_path / "bag").exists()
