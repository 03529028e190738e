# SPDX-License-Identifier: Apache-2.0
"""Other people's bags go in through a mapping: their numbers at our steps, nothing across a gap, errors that help."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from bag_tools import START_NS, make_bag, swaying
from foreign_bags import (
    MOTOR_MSG,
    TELEMETRY,
    TELEMETRY_MSG,
    Row,
    imu,
    joints,
    ros2_control_rows,
    telemetry,
    write_bag,
)
from h2o_control.bag_metadata import qos_profile
from h2o_control.config import find_config, from_mapping
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ConfigError, ContractError, DataError
from h2o_training.bag_fields import FieldError, numeric_fields, parse_path, value_at
from h2o_training.bag_foreign import list_topics
from h2o_training.bag_import import BagImport, import_bag, resample
from h2o_training.bag_mapping import BagMapping, Signal, load_mapping, roll_rad
from h2o_training.bag_signals import Samples, read_signals
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset
from h2o_training.dataset_cli import command
from make_golden_bags import GOLDEN

EXAMPLE, EXAMPLE_PATH = load_mapping("example")
STEP_NS = 5_000_000
QOS = qos_profile("/any")


def imported(bag: Path, mapping: BagMapping = EXAMPLE, rate_hz: float = 200.0, task: str = "stand") -> BagImport:
    return import_bag(bag, mapping, EXAMPLE_PATH, Interface(rate_hz=rate_hz), TASKS[task])


def changed(**signals: dict[str, Any]) -> BagMapping:
    """The example with some keys of some signals changed."""
    new = {name: dataclasses.replace(getattr(EXAMPLE, name), **keys) for name, keys in signals.items()}
    return dataclasses.replace(EXAMPLE, **new)


def robot_file(path: Path, **interface: float) -> str:
    """A robot that is `ideal` but for its interface."""
    data = yaml.safe_load(find_config("robots", "ideal").read_text())
    path.write_text(yaml.safe_dump({**data, "interface": {**data["interface"], **interface}}))
    return str(path)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_the_example_mapping_gives_what_the_robot_did(tmp_path: Path, storage: StoragePlugin) -> None:
    rows, truth = ros2_control_rows(50)
    result = imported(write_bag(tmp_path / "bag", rows, storage))
    d = result.dataset
    assert len(d) == 49 and result.runs == 1 and not result.sparse
    np.testing.assert_allclose(d.states, truth[:-1, :4], atol=1e-6)
    np.testing.assert_allclose(d.next_states, truth[1:, :4], atol=1e-6)
    np.testing.assert_allclose(d.wheel_torques, truth[:-1, 4:], atol=1e-6)
    assert np.flatnonzero(d.timeouts).tolist() == [48] and not d.terminals.any()
    assert d.provenance["mapping"]["x"]["scale"] == 0.065
    assert d.provenance["messages"]["theta"] == 50


def test_a_single_file_and_a_folder_without_metadata_are_read_too(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(10)[0])
    (file,) = bag.glob("*.mcap")
    assert len(imported(file).dataset) == 9
    (bag / "metadata.yaml").unlink()
    assert len(imported(bag).dataset) == 9


def test_our_own_bag_gives_the_same_through_a_mapping_as_by_build(tmp_path: Path) -> None:
    interface = Interface()
    bag = make_bag(tmp_path / "bag", [swaying(40)], interface)
    odom = {"topic": "/odom"}
    executed = {"topic": "/joint_states", "interpolation": "next"}
    data = {
        "rate_hz": 200,
        "max_gap_s": 0.01,
        "x": {**odom, "fields": ["pose.pose.position.x"]},
        "v": {**odom, "fields": ["twist.twist.linear.x"]},
        "theta": {**odom, "fields": ["pose.pose.orientation"], "convert": "pitch"},
        "theta_dot": {**odom, "fields": ["twist.twist.angular.y"]},
        "torque_left": {**executed, "fields": ["effort[left_wheel]"]},
        "torque_right": {**executed, "fields": ["effort[right_wheel]"]},
    }
    there = imported(bag, from_mapping(BagMapping, data)).dataset
    ours = build_dataset([bag], TASKS["stand"])
    # The torque after the last state is never reported, so that step is known to neither.
    assert len(ours) - len(there) == 1
    np.testing.assert_allclose(there.states, ours.states[:-1], atol=1e-6)
    np.testing.assert_allclose(there.wheel_torques, ours.wheel_torques[:-1], atol=1e-6)
    np.testing.assert_allclose(there.next_states, ours.next_states[:-1], atol=1e-6)


@settings(max_examples=25)
@given(
    lost=st.lists(st.tuples(st.sampled_from(["/imu/data", "/joint_states", "/effort_controller/commands"]),
                            st.integers(1, 58), st.integers(1, 12)), max_size=4),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_no_transition_spans_a_gap(
    lost: list[tuple[str, int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, truth = ros2_control_rows(60)
    rng = np.random.default_rng(seed)
    dropped = {(topic, k) for topic, start, count in lost for k in range(start, start + count)}
    counts: dict[str, int] = {}
    kept: list[Row] = []
    steps: dict[str, list[int]] = {}
    for topic, kind, received, content in rows:
        k = counts[topic] = counts.get(topic, -1) + 1
        if (topic, k) not in dropped:
            kept.append((topic, kind, received, content))
            steps.setdefault(topic, []).append(k)
    order = np.argsort(np.arange(len(kept)) + rng.uniform(0, 6, len(kept)))  # received in another order
    bag = write_bag(tmp_path_factory.mktemp("gap") / "bag", [kept[i] for i in order])
    d = imported(bag).dataset
    # Six steps of 5 ms are the 30 ms that the example still bridges.
    gaps = [(a, b) for k in steps.values() for a, b in itertools.pairwise(k) if b - a > 6]
    begins, ends = d.states[:, 0] / 0.005, d.next_states[:, 0] / 0.005
    np.testing.assert_allclose(ends - begins, 1.0, atol=1e-4)
    for a, b in gaps:
        assert not ((begins < b - 1e-3) & (ends > a + 1e-3)).any()
    whole = len(truth) - 1 - sum(b - a for a, b in gaps)
    assert len(d) >= whole - 2 * sum(count for _, _, count in lost)
    runs_end = np.append(np.abs(np.diff(begins) - 1.0) > 1e-3, True)
    assert (d.timeouts == runs_end).all()


def test_values_between_messages_are_interpolated_held_or_taken_from_the_next() -> None:
    samples = Samples(np.array([0, 10, 20, 60]), np.array([0.0, 1.0, 3.0, 4.0]), 0, 0)
    at = np.array([-1, 0, 5, 10, 15, 20, 40, 60, 61])
    known = [False, True, True, True, True, True, False, True, False]
    for kind, expected in (
        ("linear", [0, 0.5, 1, 2, 3, 4]),
        ("previous", [0, 0, 1, 1, 3, 4]),
    ):
        values, found = resample(samples, at, kind, 10)  # type: ignore[arg-type]
        assert found.tolist() == known
        np.testing.assert_array_equal(values[found], expected)
    values, found = resample(samples, at, "next", 10)
    assert found.tolist() == [False, True, True, True, True, False, False, False, False]
    np.testing.assert_array_equal(values[found], [1, 1, 3, 3])


def test_scale_offset_and_roll_turn_their_numbers_into_ours(tmp_path: Path) -> None:
    rows, truth = ros2_control_rows(10)
    mapping = changed(theta_dot={"scale": -2.0, "offset": 0.5}, theta={"offset": 0.25})
    d = imported(write_bag(tmp_path / "bag", rows), mapping).dataset
    np.testing.assert_allclose(d.states[:, 3], -2 * truth[:-1, 3] + 0.5, atol=1e-6)
    np.testing.assert_allclose(d.states[:, 2], truth[:-1, 2] + 0.25, atol=1e-6)
    assert roll_rad(math.cos(0.1), math.sin(0.1), 0.0, 0.0) == pytest.approx(0.2)


def test_a_fall_is_a_terminal_and_what_lies_after_it_begins_nothing(tmp_path: Path) -> None:
    rows, _ = ros2_control_rows(20)
    theta = [0.0] * 6 + [0.6] * 8 + [0.0] * 6
    rows = [
        (topic, kind, at, imu(START_NS + (k // 3) * STEP_NS, theta[k // 3], 0.0) if topic == "/imu/data" else content)
        for k, (topic, kind, at, content) in enumerate(rows)
    ]
    d = imported(write_bag(tmp_path / "bag", rows)).dataset
    np.testing.assert_allclose(d.states[:, 0], [*(0.005 * np.arange(6)), *(0.005 * np.arange(14, 19))], atol=1e-6)
    assert np.flatnonzero(d.terminals).tolist() == [5]
    assert np.flatnonzero(d.timeouts).tolist() == [10]


def test_sparse_signals_and_clipped_torques_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = ros2_control_rows(40, step_ns=20_000_000)
    bag = write_bag(tmp_path / "bag", rows)
    robot = robot_file(tmp_path / "weak.yaml", torque_limit_nm=0.5)
    arguments = [str(bag), "--mapping", "example", "--robot", robot, "-o", str(tmp_path / "d.h5")]
    assert command(["import-bag", *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "less often than 200 times a second come x, v, theta, theta_dot, torque_left, torque_right" in printed
    d = Dataset.load(tmp_path / "d.h5")
    clipped = int((np.abs(d.wheel_torques) > 0.5).any(axis=1).sum())
    assert f"{clipped} rows with |torque| > 0.5 Nm clipped" in printed
    assert np.abs(d.actions).max() <= 1.0


def test_joints_of_several_publishers_on_one_topic_are_told_apart(tmp_path: Path) -> None:
    rows, truth = ros2_control_rows(20)
    other = [
        ("/joint_states", "sensor_msgs/msg/JointState", at, joints(START_NS, ["head"], [7.0], [7.0]))
        for topic, _, at, _ in rows
        if topic == "/imu/data"
    ]
    result = imported(write_bag(tmp_path / "bag", [*rows, *other]))
    np.testing.assert_allclose(result.dataset.states[:, 1], truth[:-1, 1], atol=1e-6)
    assert result.samples["x"].skipped == 20 and result.samples["theta"].skipped == 0


# --- messages of their own --------------------------------------------------------------------------------------------


def telemetry_bag(path: Path, storage: StoragePlugin) -> Path:
    rows = []
    for k in range(20):
        t = k * 0.01
        message = telemetry(k, 0.1 * t, (t, -t), (1.0, -1.0), (1000.0 * t, -1000.0 * t))
        rows.append(("/telemetry", TELEMETRY, START_NS + k * 10_000_000, message))
    return write_bag(path, rows, storage)


TELEMETRY_MAPPING = {
    "rate_hz": 100,
    "max_gap_s": 0.02,
    "stamp": "received",
    "x": {"topic": "/telemetry", "fields": ["motors[0].q"], "scale": 0.1},
    "v": {"topic": "/telemetry", "fields": ["motors[1].dq"], "scale": -0.1},
    "theta": {"topic": "/telemetry", "fields": [f"quaternion[{i}]" for i in range(4)], "convert": "roll"},
    "theta_dot": {"topic": "/telemetry", "fields": ["tick"], "scale": 0.0001},
    "torque": {"topic": "/telemetry", "fields": ["motors[0].current_ma"], "scale": 0.002},
}


def test_messages_that_the_bag_defines_itself_are_read(tmp_path: Path) -> None:
    bag = telemetry_bag(tmp_path / "bag", StoragePlugin.MCAP)
    d = imported(bag, from_mapping(BagMapping, TELEMETRY_MAPPING), rate_hz=100.0).dataset
    t = 0.01 * np.arange(19)
    np.testing.assert_allclose(d.states, np.stack([0.1 * t, 0.1 + 0 * t, 0.1 * t, 0.01 * t], axis=1), atol=1e-6)
    np.testing.assert_allclose(d.wheel_torques, np.stack([2 * t, 2 * t], axis=1), atol=1e-6)


def test_definitions_in_idl_are_read(tmp_path: Path) -> None:
    content = "module their_msgs { module msg { struct Speed { double mps; }; }; };"
    idl = f"{'=' * 80}\nIDL: their_msgs/msg/Speed\n{content}\n"
    with (tmp_path / "idl.mcap").open("wb") as stream:
        writer = McapWriter(stream)
        writer.start(profile="ros2")
        schema = writer.register_schema("their_msgs/msg/Speed", "ros2idl", idl.encode())
        channel = writer.register_channel("/speed", "cdr", schema)
        for k in range(3):
            writer.add_message(channel, START_NS + k, b"\0\1\0\0" + np.float64(2.5).tobytes(), START_NS + k)
        writer.finish()
    (topic,), _ = list_topics(tmp_path / "idl.mcap", {})
    assert (topic.name, topic.messages, topic.fields) == ("/speed", 3, [("mps", 2.5)])


def test_messages_without_definition_need_their_msg_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = telemetry_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    # As ROS 2 wrote SQLite before Iron.
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM message_definitions")
    mapping = dict(TELEMETRY_MAPPING)
    path = tmp_path / "theirs.yaml"
    robot = robot_file(tmp_path / "r.yaml", rate_hz=100)
    arguments = [str(bag), "--mapping", str(path), "--robot", robot, "-o", str(tmp_path / "d.h5")]
    path.write_text(yaml.safe_dump(mapping))
    with pytest.raises(
        DataError, match=r"does not define their_msgs/msg/Telemetry of /telemetry: name its \.msg files"
    ):
        command(["import-bag", *arguments])
    assert command(["import-bag", str(bag), "--list"]) == 0
    assert "(the bag does not define their_msgs/msg/Telemetry" in capsys.readouterr().out
    folder = tmp_path / "their_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Telemetry.msg").write_text(TELEMETRY_MSG)
    (folder / "Motor.msg").write_text(MOTOR_MSG)
    path.write_text(yaml.safe_dump({**mapping, "definitions": ["their_msgs"]}))
    assert command(["import-bag", *arguments]) == 0
    assert len(Dataset.load(tmp_path / "d.h5")) == 19
    assert command(["import-bag", str(bag), "--list", "--mapping", str(path)]) == 0
    listed = capsys.readouterr().out
    assert "/telemetry  their_msgs/msg/Telemetry  20 messages, 100.0 Hz" in listed
    assert "    motors[1].dq = -1\n" in listed
    path.write_text(yaml.safe_dump({**mapping, "definitions": ["absent"]}))
    with pytest.raises(ConfigError, match=r"no \.msg file at"):
        command(["import-bag", *arguments])


def test_topics_that_nobody_asked_for_do_not_close_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0], extra=True)
    assert len(imported(bag).dataset) == 8
    assert command(["import-bag", str(bag), "--list"]) == 0
    printed = capsys.readouterr().out
    assert "(the definition of their_msgs/srv/Add_Event in the bag cannot be read" in printed
    assert "    angular_velocity.y = 0.3\n" in printed


def test_metadata_with_another_qos_than_the_file_loses_no_message(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0])
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    for topic in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = [{**QOS, "depth": 7}]
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert len(imported(bag).dataset) == 8


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_compressed_bags_are_read(tmp_path: Path, mode: CompressionMode) -> None:
    storage = StoragePlugin.MCAP if mode is CompressionMode.STORAGE else StoragePlugin.SQLITE3
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0], storage, compression=mode)
    assert len(imported(bag).dataset) == 8


# --- what is wrong is said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"x": {"topic": "/joint_state"}}, r"no topic '/joint_state' for x. Did you mean '/joint_states'"),
        (
            {"theta_dot": {"fields": ("angular_velocity.yy",)}},
            r"theta_dot is in none of the 9 messages of /imu/data: no field 'yy'. Did you mean 'angular_velocity.y'",
        ),
        (
            {"v": {"fields": ("velocity[left_wheel]",)}},
            r"no joint 'left_wheel' among arm, right_wheel_joint, left_wheel_joint. Did you mean "
            r"'velocity\[left_wheel_joint\]'",
        ),
        ({"v": {"fields": ("effort[left_wheel_joint]",)}}, r"v is in none .* entry 2 of a list of 0"),
        ({"theta": {"fields": ("angular_velocity",)}}, r"no field 'w'"),
        ({"torque_left": {"stamp": None}}, r"/effort_controller/commands have no header: set `stamp: received`"),
    ],
)
def test_wrong_topics_and_fields_are_named_with_the_nearest(
    tmp_path: Path, signals: dict[str, Any], message: str
) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0])
    with pytest.raises(DataError, match=message):
        imported(bag, changed(**signals))


def test_an_attitude_that_nobody_measures_is_refused(tmp_path: Path) -> None:
    rows, _ = ros2_control_rows(9)
    for topic, _, _, content in rows:
        if topic == "/imu/data":
            content.orientation.w = content.orientation.y = 0.0
    with pytest.raises(DataError, match="quaternion of length 0"):
        imported(write_bag(tmp_path / "bag", rows))


def test_clocks_that_go_back_stand_still_or_do_not_meet_are_refused(tmp_path: Path) -> None:
    rows, _ = ros2_control_rows(30)
    again = [(topic, kind, at + 10**9, content) for topic, kind, at, content in rows]
    with pytest.raises(DataError, match=r"stamps of /\S+ go back by 0.145 s at message 30 of 60"):
        imported(write_bag(tmp_path / "twice", [*rows, *again]))
    for _, _, _, content in rows:
        if hasattr(content, "header"):
            content.header.stamp.sec -= 1_000_000
    with pytest.raises(DataError, match=r"torque_left .* are their clocks the same"):
        imported(write_bag(tmp_path / "other", rows))
    for _, _, _, content in rows:
        if hasattr(content, "header"):
            content.header.stamp.sec = content.header.stamp.nanosec = 0
    with pytest.raises(DataError, match=r"all 30 messages of .* have the same stamp: use `stamp: received`"):
        imported(write_bag(tmp_path / "zero", rows))
    assert len(imported(tmp_path / "zero", dataclasses.replace(EXAMPLE, stamp="received")).dataset) == 28


def test_a_bag_whose_recorder_was_killed_is_read_as_far_as_it_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    topics, recovered = list_topics(GOLDEN / "killed", {})
    assert recovered == ("killed_0.mcap",)
    assert {t.name: t.kind for t in topics}["/odom"] == "nav_msgs/msg/Odometry"
    assert command(["import-bag", str(GOLDEN / "killed"), "--list"]) == 0
    assert "cut off (was the recorder killed?)" in capsys.readouterr().out


def test_a_bag_that_is_damaged_is_read_around_the_damage(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "worn" / "worn_0.mcap").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "flipped.mcap").write_bytes(content)
    topics, recovered = list_topics(tmp_path / "flipped.mcap", {})
    whole, none = list_topics(GOLDEN / "worn" / "worn_0.mcap", {})
    assert (recovered, none) == (("flipped.mcap",), ())
    counts = [next(t.messages for t in those if t.name == "/odom") for those in (topics, whole)]
    assert counts[1] / 2 < counts[0] < counts[1]


def test_a_bag_that_is_cut_off_gives_what_is_whole_of_it(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(4000)[0])
    (file,) = bag.glob("*.mcap")
    whole = imported(bag)
    assert whole.recovered == ()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    part = imported(bag)
    assert part.recovered == (file.name,) == tuple(part.dataset.provenance["recovered"])
    assert 0 < len(part.dataset) < len(whole.dataset)


def test_a_bag_that_is_none_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such bag"):
        imported(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a bag"):
        imported(tmp_path / "empty")
    for storage, suffix in ((StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")):
        bag = write_bag(tmp_path / suffix, ros2_control_rows(200)[0], storage)
        (file,) = bag.glob(f"*.{suffix}")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match=r"cannot read bag|has no topic|is whole"):
            imported(bag)


def test_another_rate_or_no_transition_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0])
    with pytest.raises(ContractError, match="resamples to 200 Hz, the robot is controlled at 100 Hz"):
        imported(bag, rate_hz=100.0)
    with pytest.raises(
        DataError, match=r"no transitions in .*theta, whose median is 1.\d+ rad, means a fall beyond 0.5"
    ):
        imported(bag, changed(theta={"offset": 1.0}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torque": {"topic": "/t", "fields": ["data"]}}, "give either torque, or both"),
        ({"torque_left": None}, "give either torque, or both"),
        ({"max_gap_s": 0.001}, "shorter than a control step"),
        ({"rate_hz": 0}, "rate_hz must be positive"),
        ({"theeta": 1}, "unknown key 'theeta'. Did you mean 'theta'"),
        ({"x": {"topic": "/j", "fields": []}}, "fields is empty"),
        ({"x": {"topic": "/j", "fields": ["a..b"]}}, "no path to a field"),
        ({"x": {"topic": "/j", "fields": ["a"], "scale": 0}}, "scale is 0"),
        ({"theta": {"topic": "/j", "fields": ["a", "b"], "convert": "pitch"}}, "one quaternion or its w, x, y, z"),
    ],
)
def test_a_wrong_mapping_names_its_key(change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(EXAMPLE_PATH.read_text())
    with pytest.raises(ConfigError, match=message):
        from_mapping(BagMapping, {**data, **change}, "theirs.yaml")


def test_paths_lead_to_every_number_of_a_message() -> None:
    content = joints(START_NS, ["a", "b"], [1.0, 2.0], [3.0, 4.0])
    found = dict(numeric_fields(content))
    assert found["position[b]"] == 2.0 and found["velocity[a]"] == 3.0 and found["header.stamp.sec"] == 1_700_000_000
    for path, value in found.items():
        assert float(value_at(content, parse_path(path))) == value
    assert value_at(content, parse_path("position[1]")) == 2.0
    for path in ("positions[a]", "position[2]", "header[0]", "position[a][b]"):
        with pytest.raises(FieldError):
            value_at(content, parse_path(path))


def test_the_template_is_a_mapping_and_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["import-bag", "--template"]) == 0
    printed = capsys.readouterr().out
    assert printed == find_config("mappings", "example").read_text()
    assert from_mapping(BagMapping, yaml.safe_load(printed)) == EXAMPLE
    with pytest.raises(DataError, match="give a BAG"):
        command(["import-bag"])
    with pytest.raises(DataError, match="--mapping, --robot, --output missing"):
        command(["import-bag", "bag"])


def test_signals_are_read_once_each_with_its_own_clock(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", ros2_control_rows(9)[0])
    samples, _ = read_signals(bag, changed(theta={"stamp": "received"}), {})
    assert samples["theta"].stamp_ns[0] - samples["theta_dot"].stamp_ns[0] == 400_000
    shutil.rmtree(bag)


def test_a_signal_is_the_mean_of_its_fields() -> None:
    signal = Signal("/joint_states", ("position[a]", "position[b]"), scale=2.0, offset=1.0)
    assert signal.read(joints(START_NS, ["b", "a"], [3.0, 5.0], [0, 0])) == 9.0
    mirrored = Signal("/joint_states", ("position[a]", "-position[b]"))
    assert mirrored.read(joints(START_NS, ["b", "a"], [3.0, 5.0], [0, 0])) == 1.0


PUBLIC_BAGS = os.environ.get("H2O_FOREIGN_BAGS")
ROVER = Path(PUBLIC_BAGS or ".") / "abitobot" / "rosbag"


@pytest.mark.skipif(
    not (ROVER / "metadata.yaml").is_file(),
    reason="needs github.com/vbarcena2020/abitobot, cloned into the folder that H2O_FOREIGN_BAGS names",
)
def test_a_bag_that_somebody_else_recorded_goes_in() -> None:
    """A simulated four-wheeled rover (Gazebo, ROS 2 Jazzy, MCAP): 95 s, IMU at 50 Hz, joint states at 20 Hz."""

    def wheels(kind: str, *sides: str) -> list[str]:
        signs = {"left": "", "right": "-"}  # mirrored
        return [f"{signs[side]}{kind}[wheel_{side}_{place}_joint]" for side in sides for place in ("front", "back")]

    joint_states = {"topic": "/joint_states"}
    data = {
        "rate_hz": 20,
        "max_gap_s": 0.1,
        "x": {**joint_states, "fields": wheels("position", "left", "right"), "scale": 0.3},
        "v": {**joint_states, "fields": wheels("velocity", "left", "right"), "scale": 0.3},
        "theta": {"topic": "/imu/data", "fields": ["orientation"], "convert": "pitch"},
        "theta_dot": {"topic": "/imu/data", "fields": ["angular_velocity.y"]},
        "torque_left": {**joint_states, "fields": wheels("effort", "left"), "interpolation": "next"},
        "torque_right": {**joint_states, "fields": wheels("effort", "right"), "interpolation": "next"},
    }
    result = imported(ROVER, from_mapping(BagMapping, data), rate_hz=20.0)
    assert {name: len(s.values) for name, s in result.samples.items() if name in ("x", "theta")} == {
        "x": 1866,
        "theta": 4712,
    }
    d = result.dataset
    assert len(d) == 1864 and result.runs == 1
    speed = (d.next_states[:, 0].astype(float) - d.states[:, 0]) * 20
    mean = (d.next_states[:, 1].astype(float) + d.states[:, 1]) / 2
    # It drives 3 m; way and speed, pitch and pitch rate tell the same.
    assert d.states[:, 0].max() > 3.0 and d.states[:, 1].max() == pytest.approx(0.5, abs=0.01)
    assert np.polyfit(mean, speed, 1)[0] == pytest.approx(1.0, abs=0.01)
    turning = np.diff(d.states[:, 2].astype(float)) * 20
    assert np.corrcoef(turning, (d.states[1:, 3] + d.states[:-1, 3]) / 2)[0, 1] > 0.95


def test_the_page_lists_every_key_of_a_mapping() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    for field in (*dataclasses.fields(BagMapping), *dataclasses.fields(Signal)):
        assert f"`{field.name}`" in page, field.name
