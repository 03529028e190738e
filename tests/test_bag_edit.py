# SPDX-License-Identifier: Apache-2.0
"""Merging, splitting and cutting keep payload bytes and stamps, say where things come from, and overwrite nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.data_stream import ReadDataStream
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import breakup_chunk
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer

import raw_bags
from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, make_bag, odometry, swaying, text
from disk_tools import small_files
from h2o_control.bag_edit import cut, merge, split
from h2o_control.bag_info import bag_info
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import read_bag
from h2o_control.bag_repair import repair
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface
from h2o_control.errors import ContractError, DataError
from raw_bags import LATCHED, Raw, episodes


def last_latched(messages: list[Raw]) -> set[tuple[str, bytes]]:
    return {(topic, m.data) for topic in LATCHED for m in [m for m in messages if m.topic == topic][-1:]}


@given(a=episodes(least=0), b=episodes(least=0))
@settings(max_examples=15, deadline=None)
def test_a_merged_bag_holds_the_messages_of_all_episodes_as_they_were(a: list[list[Raw]], b: list[list[Raw]]) -> None:
    # Later: what two bags share is refused.
    b = [[m._replace(stamp_ns=m.stamp_ns + 10**12) for m in messages] for messages in b]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw_bags.write(folder / "a", a)
        raw_bags.write(folder / "b", b)
        made = merge([folder / "a", folder / "b"], folder / "c")
        assert raw_bags.read(folder / "c") == [*a, *b]
        rows = raw_bags.rows(folder / "c")
        assert made.messages == sum(map(len, [*a, *b]))
    assert [row["label"] for row in rows] == [f"label {k}" for n in (len(a), len(b)) for k in range(n)]
    origins = [
        {"bag": name, "file": f"{name}_{k}.mcap"} for name, n in (("a", len(a)), ("b", len(b))) for k in range(n)
    ]
    assert [row["source"] for row in rows] == origins


@given(content=episodes(), every_ms=st.integers(20, 800))
@settings(max_examples=15, deadline=None)
def test_pieces_hold_every_message_once_and_begin_with_the_latched_ones(
    content: list[list[Raw]], every_ms: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw_bags.write(folder / "a", content)
        made = split(folder / "a", folder / "out", every_s=every_ms * 1e-3)
        seen: dict[str, list[Raw]] = {}
        for one in made:
            (messages,) = raw_bags.read(one.path)
            (row,) = raw_bags.rows(one.path)
            before = seen.setdefault(row["source"]["file"], [])
            repeated = messages[: one.repeated]
            assert {(m.topic, m.data) for m in repeated} == last_latched(before)
            first = content[int(row["source"]["file"][2])][0].stamp_ns
            begin = first + round(row["source"]["from_s"] * 1e9)
            assert all(begin <= m.stamp_ns < begin + every_ms * 10**6 for m in messages)
            before += messages[one.repeated :]
    assert list(seen.values()) == content


@given(content=episodes())
@settings(max_examples=15, deadline=None)
def test_a_bag_is_split_by_episode(content: list[list[Raw]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw_bags.write(folder / "a", content)
        made = split(folder / "a", folder / "out")
        assert [raw_bags.read(one.path) for one in made] == [[messages] for messages in content]
        assert [raw_bags.rows(one.path)[0]["label"] for one in made] == [f"label {k}" for k in range(len(content))]


@given(content=episodes(), share=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), which=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_a_cut_holds_what_was_received_in_that_time_after_the_latched_messages(
    content: list[list[Raw]], share: tuple[float, float], which: int
) -> None:
    k = which % len(content)
    messages = content[k]
    length_s = (messages[-1].stamp_ns - messages[0].stamp_ns) * 1e-9
    from_s, to_s = sorted(s * (length_s + 0.1) for s in share)
    begin, end = (messages[0].stamp_ns + round(s * 1e9) for s in (from_s, to_s))
    wanted = [m for m in messages if begin <= m.stamp_ns < end]
    before = last_latched([m for m in messages if m.stamp_ns < begin])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw_bags.write(folder / "a", content)
        if from_s == to_s or not wanted:
            with pytest.raises(DataError):
                cut(folder / "a", folder / "c", from_s, to_s, episode=k)
            assert sorted(p.name for p in folder.iterdir()) == ["a"]
            return
        made = cut(folder / "a", folder / "c", from_s, to_s, episode=k)
        (found,) = raw_bags.read(folder / "c")
    assert found[made.repeated :] == wanted
    assert {(m.topic, m.data) for m in found[: made.repeated]} == before
    assert all(m.stamp_ns == begin for m in found[: made.repeated])


def test_a_cut_stands_alone_for_our_readers_and_others(tmp_path: Path) -> None:
    make_bag(tmp_path / "a", [swaying(200)], Interface())
    cut(tmp_path / "a", tmp_path / "c", 0.5, 0.75)
    bag = read_bag(tmp_path / "c")
    (episode,) = bag.episodes
    assert bag.interface == Interface()
    assert episode.stamp_ns.tolist() == [START_NS + k * STEP_NS for k in range(100, 150)]
    assert [c.mode for c in episode.mode_changes] == ["balance"]
    assert not episode.recovered
    with AnyReader([tmp_path / "c"]) as reader:
        assert reader.message_count == 152
    provenance = json.loads(bag.custom_data["h2o.provenance"])
    assert (provenance["made_by"], provenance["bags"][0]["name"]) == ("cut", "a")
    assert len(provenance["bags"][0]["sha256"]) == 64


def test_bags_of_different_interfaces_are_not_merged(tmp_path: Path) -> None:
    make_bag(tmp_path / "a", [swaying(10)], Interface())
    make_bag(tmp_path / "b", [swaying(10)], Interface(rate_hz=500.0))
    make_bag(tmp_path / "c", [swaying(10)])
    with pytest.raises(ContractError, match=r"rate_hz: a 200\.0, b 500\.0"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(ContractError, match="does not say of which robot"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bags_of_two_namespaces_or_types_are_not_merged(tmp_path: Path) -> None:
    make_bag(tmp_path / "a", [swaying(10)], Interface())
    make_bag(tmp_path / "b", [swaying(10)], Interface(), prefix="/robot2/")
    with pytest.raises(DataError, match=r"has /odom, .* has /robot2/odom"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    for name, kind in (("c", "std_msgs/msg/String"), ("d", "std_msgs/msg/Bool")):
        writer = BagWriter(tmp_path / name, {"/thing": kind})
        writer.start_episode()
        writer.close()
    with pytest.raises(DataError, match=r"/thing is std_msgs/msg/String in .*c, std_msgs/msg/Bool in .*d"):
        merge([tmp_path / "c", tmp_path / "d"], tmp_path / "out")


def test_nothing_is_overwritten_and_no_bag_counts_twice(tmp_path: Path) -> None:
    a = make_bag(tmp_path / "a", [swaying(10)], Interface())
    before = (a / "a_0.mcap").read_bytes()
    for make in (lambda: merge([a], a), lambda: split(a, a), lambda: cut(a, a, 0.0, 1.0)):
        with pytest.raises(DataError, match="exists already"):
            make()
    with pytest.raises(DataError, match="given twice"):
        merge([a, tmp_path / "." / "a"], tmp_path / "out")
    assert (a / "a_0.mcap").read_bytes() == before


def damaged_bag(folder: Path) -> tuple[Path, int]:
    """A bag with a wrong byte in its middle chunk, and how many messages are in that one."""
    bag = make_bag(folder / "a", [swaying(200)], Interface())
    data = bytearray((bag / "a_0.mcap").read_bytes())
    with (bag / "a_0.mcap").open("rb") as stream:
        summary = make_reader(stream).get_summary()
        chunk = summary.chunk_indexes[len(summary.chunk_indexes) // 2]
        stream.seek(chunk.chunk_start_offset + 9)
        count = sum(isinstance(r, Message) for r in breakup_chunk(Chunk.read(ReadDataStream(stream))))
    data[chunk.chunk_start_offset + 100] ^= 1
    (bag / "a_0.mcap").write_bytes(data)
    return bag, count


def test_damaged_bags_are_refused_unless_asked_for_and_the_new_bag_counts_what_is_missing(tmp_path: Path) -> None:
    bag, count = damaged_bag(tmp_path)
    for make in (
        lambda: merge([bag], tmp_path / "out"),
        lambda: split(bag, tmp_path / "out"),
        lambda: split(bag, tmp_path / "out", 0.1),
        lambda: cut(bag, tmp_path / "out", 0.0, 1.0),
    ):
        with pytest.raises(DataError, match=rf"{count} messages, .* would be missing .*bag repair"):
            make()
        assert not (tmp_path / "out").exists()
    made = merge([bag], tmp_path / "out", damaged=True)
    assert f"{count} messages" in made.missing[0]
    info = bag_info(tmp_path / "out", check=True)
    assert (info.episodes[0].state, info.episodes[0].missing.messages) == ("finished", count)
    assert sum(t.lost or 0 for t in info.topics.values()) == count
    pieces = split(bag, tmp_path / "pieces", 0.25, damaged=True)
    seconds = [bag_info(one.path).episodes[0].missing for one in pieces]
    assert sum(lost.seconds for lost in seconds if lost) == pytest.approx(info.episodes[0].missing.seconds, abs=0.01)
    # The first stretch is whole.
    assert not cut(bag, tmp_path / "cut", 0.0, 0.1, damaged=True).missing


def test_what_a_repair_lost_travels_with_the_merged_bag(tmp_path: Path) -> None:
    bag, count = damaged_bag(tmp_path)
    repair(bag)
    merge([bag], tmp_path / "out")
    assert bag_info(tmp_path / "out").episodes[0].missing.messages == count


def test_copies_and_pieces_of_one_recording_are_not_merged(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "a", [swaying(100)], Interface())
    shutil.copytree(bag, tmp_path / "copy")
    cut(bag, tmp_path / "piece", 0.1, 0.3)
    for other, shared in (("copy", 100), ("piece", 40)):
        with pytest.raises(DataError, match=f"share {shared} /odom messages"):
            merge([bag, tmp_path / other], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_bags_of_robots_with_different_names_are_merged_only_when_asked_for(tmp_path: Path) -> None:
    for k, robot in enumerate(("worn", "ideal")):
        writer = BagWriter(tmp_path / robot, TOPIC_TYPES, Interface())
        writer.start_episode()
        writer.write("/configuration", text(json.dumps({"robot": {"name": robot}})), START_NS + k)
        writer.close()
    bags = [tmp_path / "worn", tmp_path / "ideal"]
    with pytest.raises(DataError, match=r"worn is of robot worn, .*ideal is of robot ideal .*--different-robots"):
        merge(bags, tmp_path / "out")
    merge(bags, tmp_path / "out", several_robots=True)
    assert bag_info(tmp_path / "out").robot == "worn, ideal"


def test_nothing_is_written_into_a_bag(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "a", [swaying(10)], Interface())
    for make in (
        lambda: merge([bag], bag / "sub"),
        lambda: split(bag, bag / "sub"),
        lambda: cut(bag / "a_0.mcap", bag / "deep" / "sub", 0.0, 1.0),
    ):
        with pytest.raises(DataError, match="would lie inside the bag"):
            make()
    assert sorted(p.name for p in bag.iterdir()) == ["a_0.mcap", "metadata.yaml"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    a = make_bag(tmp_path / "a", [swaying(200)], Interface())
    with small_files(10_000), pytest.raises(DataError, match="File too large"):
        merge([a], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("times", [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (0.0, float("nan"))])
def test_times_that_are_no_stretch_are_refused(tmp_path: Path, times: tuple[float, float]) -> None:
    a = make_bag(tmp_path / "a", [swaying(10)], Interface())
    with pytest.raises(DataError, match="no stretch of time"):
        cut(a, tmp_path / "out", *times)


def test_which_episode_must_be_said_where_there_are_several(tmp_path: Path) -> None:
    a = make_bag(tmp_path / "a", [swaying(10), swaying(10, 1)], Interface())
    with pytest.raises(DataError, match="has 2 episodes: say which by --episode 0 to 1"):
        cut(a, tmp_path / "out", 0.0, 1.0)
    with pytest.raises(DataError, match="no episode 2"):
        cut(a, tmp_path / "out", 0.0, 1.0, episode=2)


def test_a_sqlite_bag_of_another_recorder_is_cut_into_mcap(tmp_path: Path) -> None:
    with Writer(tmp_path / "b", version=9) as writer:
        connection = writer.add_connection("/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE)
        sent = [odometry(START_NS + k * STEP_NS, (k, 0, 0, 0)) for k in range(20)]
        for k, data in enumerate(sent):
            writer.write(connection, START_NS + k * STEP_NS, data)
    cut(tmp_path / "b", tmp_path / "c", 0.025, 0.05)
    (found,) = raw_bags.read(tmp_path / "c")
    assert [m.data for m in found] == sent[5:10]
    with AnyReader([tmp_path / "c"]) as reader:
        (connection,) = reader.connections
        assert connection.msgdef.data.startswith("std_msgs/Header header")


def test_bags_that_offer_a_topic_differently_are_merged_for_every_reader(tmp_path: Path) -> None:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    for k, (name, durability) in enumerate((("a", QosDurability.VOLATILE), ("b", QosDurability.TRANSIENT_LOCAL))):
        now = QosTime(0, 0)
        qos = Qos(
            QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, durability, now, now, QosLiveliness.AUTOMATIC, now, False
        )
        with Writer(tmp_path / name, version=9) as writer:
            connection = writer.add_connection(
                "/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE, offered_qos_profiles=[qos]
            )
            writer.write(connection, START_NS + k, odometry(START_NS, (0, 0, 0, 0)))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    with AnyReader([tmp_path / "c"]) as reader:
        assert [c.msgcount for c in reader.connections] == [1, 1]
        assert len(list(reader.messages())) == 2
