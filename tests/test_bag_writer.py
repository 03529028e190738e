# SPDX-License-Identifier: Apache-2.0
"""Bags are complete rosbag2 directories that other people's readers open, also after a crash or on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, Writer

from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, make_bag, odometry, swaying, text
from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import read_bag
from h2o_control.bag_settings import RESERVE_BYTES
from h2o_control.bag_writer import BagWriteError, BagWriter
from h2o_control.contract import Interface
from h2o_control.errors import DataError


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return make_bag(tmp_path / "walk", [{**swaying(100), "label": "first"}, swaying(50, seed=1)], Interface())


def test_rosbags_reads_every_message_of_every_episode(bag: Path) -> None:
    with AnyReader([bag]) as reader:
        odom = [c for c in reader.connections if c.topic == "/odom"]
        xs = [reader.deserialize(data, c.msgtype).pose.pose.position.x for c, _, data in reader.messages(odom)]
    assert xs == [*swaying(100)["states"][:, 0], *swaying(50, seed=1)["states"][:, 0]]


def test_rosbags_agrees_with_metadata_on_types_counts_times_and_qos(bag: Path) -> None:
    with Reader(bag) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        digests = {c.topic: c.digest for c in reader.connections}
        assert (reader.message_count, reader.start_time) == (sum(counts.values()), START_NS)
        assert reader.duration == 99 * STEP_NS + 1
        assert len(list(reader.messages())) == reader.message_count
    assert counts["/odom"] == counts["/joint_states"] == 150
    assert counts["/interface"] == 2
    assert counts["/battery"] == 0
    assert qos["/interface"].durability.name == "TRANSIENT_LOCAL"
    assert qos["/odom"].durability.name == "VOLATILE"
    assert digests["/odom"] == TYPESTORE.hash_rihs01("nav_msgs/msg/Odometry")


def test_mcap_reads_each_episode_file_by_itself_with_schema_and_metadata(bag: Path) -> None:
    for index, count in enumerate((100, 50)):
        with (bag / f"walk_{index}.mcap").open("rb") as stream:
            reader = make_reader(stream, validate_crcs=True)
            summary = reader.get_summary()
            odom = list(reader.iter_messages(["/odom"]))
            record = next(m for m in reader.iter_metadata() if m.name == "h2o")
            assert reader.get_header().profile == "ros2"
        assert len(odom) == count
        schema, channel, _ = odom[0]
        assert (schema.name, schema.encoding) == ("nav_msgs/msg/Odometry", "ros2msg")
        assert schema.data.decode().startswith("std_msgs/Header header")
        assert set(channel.metadata) == {"offered_qos_profiles", "topic_type_hash"}
        assert len(summary.channels) == len(topics.TYPES)
        assert record.metadata["h2o.interface_hash"] == Interface().hash
        assert json.loads(record.metadata["h2o.software"])["mcap"]


def test_metadata_yaml_is_version_9_and_names_the_episodes(bag: Path) -> None:
    info = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (info["version"], info["storage_identifier"]) == (9, "mcap")
    assert info["relative_file_paths"] == ["walk_0.mcap", "walk_1.mcap"]
    assert [f["message_count"] for f in info["files"]] == [302, 152]
    episodes = json.loads(info["custom_data"]["h2o.episodes"])
    assert [e["label"] for e in episodes] == ["first", ""]
    assert Interface.from_json(info["custom_data"]["h2o.interface"]) == Interface()
    assert not list(bag.glob(".*"))


def test_an_existing_directory_is_not_overwritten(bag: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        BagWriter(bag, TOPIC_TYPES)


def test_a_type_that_is_not_standard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="my_msgs/msg/Thing"):
        BagWriter(tmp_path / "b", {"/thing": "my_msgs/msg/Thing"})


def test_finished_episodes_stay_as_they_are_while_later_ones_are_recorded(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES)
    writer.start_episode()
    writer.write("/mode", text("balance"), 1)
    writer.end_episode()
    before = (tmp_path / "b" / "b_0.mcap").stat()
    writer.start_episode()
    with Reader(tmp_path / "b") as reader:  # while the second episode runs
        assert reader.message_count == 1
    writer.write("/mode", text("torque"), 2)
    writer.close()
    after = (tmp_path / "b" / "b_0.mcap").stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


def test_chunks_are_closed_by_time_and_by_size(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES)
    writer.start_episode()
    for k in range(200):  # one second of one topic: 0.2 s a chunk, small
        writer.write("/odom", odometry(k * STEP_NS, (0, 0, 0, 0)), k * STEP_NS)
    for k in range(400):  # 280 kB within a millisecond
        writer.write("/odom", odometry(0, (0, 0, 0, 0)), 10**9 + k)
    writer.close()
    with (tmp_path / "b" / "b_0.mcap").open("rb") as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    assert all(c.message_end_time - c.message_start_time <= 200_000_000 for c in chunks)
    assert max(c.uncompressed_size for c in chunks) < 128 * 1024
    assert len(chunks) >= 5 + 2


WRITE_FOREVER = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from bag_tools import TOPIC_TYPES, odometry, STEP_NS, text
    from h2o_control.bag_writer import BagWriter
    writer = BagWriter({path!r}, TOPIC_TYPES)
    for episode in range(2):
        writer.start_episode()
        for k in range(1000 if episode == 0 else 10**9):
            stamp = time.monotonic_ns()
            writer.write("/odom", odometry(stamp, (0.001 * k, 0, 0, 0)), stamp)
            if episode == 1:
                print(k, flush=True)
                time.sleep(0.005)
"""


def test_a_killed_recorder_loses_little_and_nothing_of_finished_episodes(tmp_path: Path) -> None:
    path = tmp_path / "b"
    program = textwrap.dedent(WRITE_FOREVER).format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = -1
    for line in process.stdout:
        written = int(line)
        if written >= 150:
            process.kill()
            break
    written = max([written, *(int(line) for line in process.stdout.read().split()[:-1])])
    process.wait()
    process.stdout.close()
    with Reader(path) as reader:  # the finished episode, for anybody's tools
        assert reader.message_count == 1000
    bag = read_bag(path, require=[topics.ODOM])
    assert [e.recovered for e in bag.episodes] == [False, True]
    first, second = bag.episodes
    assert len(first.stamp_ns) == 1000
    assert len(second.stamp_ns) >= written - 60  # 0.2 s at 200 Hz is 40
    assert second.states[-1, 0] == pytest.approx(0.001 * (len(second.stamp_ns) - 1))


@cache
def intact() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (make_bag(Path(folder) / "b", [swaying(300)], Interface()) / "b_0.mcap").read_bytes()


@given(share=st.floats(0.0, 1.0), flip=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_file_cut_off_or_damaged_anywhere_gives_a_clean_prefix_or_a_clear_error(share: float, flip: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "b_0.mcap"
        data = bytearray(intact())
        place = int(share * (len(data) - 1))
        if flip:
            data[place] ^= 0x5A
        else:
            del data[place:]
        file.write_bytes(data)
        try:
            (episode,) = read_bag(file, require=[topics.ODOM]).episodes
        except DataError:
            return
        whole = swaying(300)["states"][:, 0]
        assert episode.states[:, 0].tolist() == whole[: len(episode.states)].tolist()


def test_a_disk_that_fills_up_ends_the_episode_in_time(tmp_path: Path) -> None:
    free = [10 * RESERVE_BYTES]
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES, free_bytes=lambda _: free[0])
    writer.start_episode()

    def write(first: int, last: int) -> None:
        for k in range(first, last):
            writer.write("/odom", odometry(k * STEP_NS, (0, 0, 0, 0)), k * STEP_NS)

    write(0, 500)
    free[0] = RESERVE_BYTES // 2
    with pytest.raises(BagWriteError, match="disk full: 16 MiB left"):
        write(500, 1000)
    assert writer.episode is None
    with Reader(tmp_path / "b") as reader:
        assert 500 <= reader.message_count <= 541
    with pytest.raises(BagWriteError, match="disk full"):
        writer.start_episode()


WRITE_TO_LIMIT = """
    import signal, sys, resource
    sys.path.insert(0, {tests!r})
    from bag_tools import TOPIC_TYPES, odometry, STEP_NS
    from h2o_control.bag_writer import BagWriter, BagWriteError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    writer = BagWriter({path!r}, TOPIC_TYPES)
    writer.start_episode()
    try:
        for k in range(10**6):
            writer.write("/odom", odometry(k * STEP_NS, (0.001 * k, 0, 0, 0)), k * STEP_NS)
    except BagWriteError as error:
        print(k, error)
"""


def test_a_write_that_fails_halfway_leaves_a_readable_bag(tmp_path: Path) -> None:
    path = tmp_path / "b"
    program = textwrap.dedent(WRITE_TO_LIMIT).format(tests=str(Path(__file__).parent), path=str(path))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    tried, _, explanation = result.stdout.partition(" ")
    assert "File too large" in explanation
    with Reader(path) as reader:
        count = reader.message_count
        assert len(list(reader.messages())) == count
    assert int(tried) - 41 <= count <= int(tried)
    with (path / "b_0.mcap").open("rb") as stream:
        assert len(list(make_reader(stream).iter_messages())) == count


def test_writing_costs_little_time_a_message(tmp_path: Path) -> None:
    """2000 messages/s must leave most of a core: 100 µs a message is a fifth of what they allow."""
    data = odometry(START_NS, (0.1, 0.2, 0.3, 0.4))
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES)
    writer.start_episode()
    start = time.process_time()
    for k in range(4000):
        writer.write("/odom", data, START_NS + k * 500_000)
    used = time.process_time() - start
    writer.close()
    assert used / 4000 < 100e-6


def test_a_sqlite_bag_of_another_recorder_is_read(tmp_path: Path) -> None:
    with Writer(tmp_path / "b", version=9) as writer:
        connection = writer.add_connection("/robot/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE)
        for k in range(5):
            stamp = START_NS + k * STEP_NS
            writer.write(connection, stamp, odometry(stamp, (k, 0.5, 0.1, -0.2), yaw=2.0))
    (episode,) = read_bag(tmp_path / "b", require=[topics.ODOM]).episodes
    assert episode.states.tolist() == [pytest.approx([k, 0.5, 0.1, -0.2]) for k in range(5)]


def test_two_robots_in_one_bag_are_refused(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", {"/a/odom": "nav_msgs/msg/Odometry", "/b/odom": "nav_msgs/msg/Odometry"})
    writer.start_episode()
    for topic in ("/a/odom", "/b/odom"):
        writer.write(topic, odometry(START_NS, (0, 0, 0, 0)), START_NS)
    writer.close()
    with pytest.raises(DataError, match="/a/odom and /b/odom: record one robot in a bag"):
        read_bag(tmp_path / "b")
