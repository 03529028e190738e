# SPDX-License-Identifier: Apache-2.0
"""Repair keeps every whole chunk and touches nothing else; no reader yields a message that was not written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.data_stream import ReadDataStream
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import breakup_chunk
from rosbags.rosbag2 import Reader, Writer

import raw_bags
from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, make_bag, odometry, swaying, text
from disk_tools import small_files
from h2o_control import topics
from h2o_control.bag_info import bag_info
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_playback import to_play
from h2o_control.bag_reader import read_bag
from h2o_control.bag_repair import repair
from h2o_control.bag_source import StoredEpisode
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface, get_task
from h2o_control.errors import DataError, UserError
from raw_bags import Raw

N = 200


@cache
def intact() -> tuple[bytes, bytes, list[Raw], list[tuple[int, int, int]]]:
    """A bag with one episode: metadata.yaml, file, messages, and begin, end and message count of its chunks."""
    with tempfile.TemporaryDirectory() as name:
        bag = make_bag(Path(name) / "b", [{**swaying(N), "label": "success"}], Interface())
        messages = raw_bags.read_file(bag / "b_0.mcap")
        chunks = []
        with (bag / "b_0.mcap").open("rb") as stream:
            for index in make_reader(stream).get_summary().chunk_indexes:
                stream.seek(index.chunk_start_offset + 9)
                chunk = breakup_chunk(Chunk.read(ReadDataStream(stream)))
                end = index.chunk_start_offset + index.chunk_length
                chunks.append((index.chunk_start_offset, end, sum(isinstance(r, Message) for r in chunk)))
        assert sum(count for *_, count in chunks) == len(messages)
        return (bag / "metadata.yaml").read_bytes(), (bag / "b_0.mcap").read_bytes(), messages, chunks


def lay_out(folder: Path, data: bytes) -> Path:
    bag = folder / "b"
    bag.mkdir()
    (bag / "metadata.yaml").write_bytes(intact()[0])
    (bag / "b_0.mcap").write_bytes(data)
    return bag


def kept(damaged: set[int] | None = None, end: int | None = None) -> list[Raw]:
    """Messages of the chunks that do not hold the damaged bytes, or that end before `end`."""
    _, _, messages, chunks = intact()
    result, at = [], 0
    for begin, stop, count in chunks:
        if (end is None or stop <= end) and not any(begin <= place < stop for place in damaged or ()):
            result += messages[at : at + count]
        at += count
    return result


@given(share=st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_file_cut_off_anywhere_keeps_every_whole_chunk(share: float) -> None:
    data = intact()[1]
    end = int(share * (len(data) - 1))
    with tempfile.TemporaryDirectory() as name:
        bag = lay_out(Path(name), data[:end])
        report = repair(bag)
        assert [f.name for f in report.files] == ["b_0.mcap"]
        (found,) = raw_bags.read(bag)
        assert found == kept(end=end)
        with Reader(bag) as reader:
            assert len(list(reader.messages())) == reader.message_count == len(found)
        assert (bag / "b_0.mcap.damaged").read_bytes() == data[:end]
        before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in bag.iterdir()}
        again = repair(bag)
        assert (again.files, again.metadata, again.healthy) == ([], "", ["b_0.mcap"])
        assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in bag.iterdir()} == before


@given(share=st.floats(0.0, 1.0), value=st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_one_wrong_byte_costs_one_chunk_at_most_and_no_reader_yields_what_was_not_written(
    share: float, value: int
) -> None:
    _, whole, messages, _ = intact()
    data = bytearray(whole)
    place = int(share * (len(data) - 1))
    data[place] ^= value
    with tempfile.TemporaryDirectory() as name:
        bag = lay_out(Path(name), bytes(data))
        seen = []
        try:
            seen = [Raw(m.topic.name, m.log_ns, m.sequence, m.data) for m in StoredEpisode(bag / "b_0.mcap").messages()]
        except DataError:
            pass
        assert [m for m in messages if m in set(seen)] == seen
        for read in (lambda: bag_info(bag, check=True), lambda: bag_info(bag), lambda: to_play(bag)):
            try:
                read()
            except UserError:
                pass
        try:
            (episode,) = read_bag(bag, require=[topics.ODOM]).episodes
            truth = swaying(N)["states"][:, 0].tolist()
            assert episode.states[:, 0].tolist() == truth[: len(episode.states)]
            assert episode.recovered or len(episode.states) == N
        except UserError:
            pass
        report = repair(bag)
        (found,) = raw_bags.read(bag)
    assert found == kept(damaged={place})
    if len(found) < len(messages):
        assert report.files[0].loss.messages == len(messages) - len(found)
        assert report.files[0].loss.bytes > 0


def killed(tmp_path: Path, extra: bytes = b"") -> Path:
    """A bag with a finished episode and one whose recorder was killed in a chunk."""
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES, Interface(), {"robot": "worn"})
    for episode in range(2):
        writer.start_episode(label="first" if episode == 0 else "")
        writer.write("/interface", text(Interface().to_json()), START_NS + episode * 10**9)
        writer.write("/mode", text("balance: because"), START_NS + episode * 10**9)
        for k in range(100):
            stamp = START_NS + episode * 10**9 + k * STEP_NS
            writer.write("/odom", odometry(stamp, (0.001 * k, 0, 0, 0)), stamp)
        if episode == 0:
            writer.end_episode()
    shutil.copytree(tmp_path / "b", tmp_path / "killed" / "b")
    writer.close()
    bag = tmp_path / "killed" / "b"
    with (bag / "b_1.mcap").open("ab") as stream:
        stream.write(extra)
    return bag


def test_finished_episodes_stay_byte_identical_and_metadata_becomes_complete(tmp_path: Path) -> None:
    bag = killed(tmp_path, b"\x06\xff")
    first = (bag / "b_0.mcap").stat(), (bag / "b_0.mcap").read_bytes()
    assert raw_bags.information(bag)["relative_file_paths"] == ["b_0.mcap"]
    report = repair(bag)
    after = (bag / "b_0.mcap").stat()
    assert (after.st_ino, after.st_mtime_ns) == (first[0].st_ino, first[0].st_mtime_ns)
    assert (bag / "b_0.mcap").read_bytes() == first[1]
    assert report.healthy == ["b_0.mcap"]
    assert report.metadata == "it lists 1 of 2 files"
    done = report.files[0]
    assert (done.name, done.loss.bytes) == ("b_1.mcap", 2)
    assert 0.15 < done.loss.unwritten_s <= 0.2
    with Reader(bag) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts["/odom"] == 100 + done.messages - 2
        assert counts["/battery"] == 0
        assert len(counts) == len(TOPIC_TYPES)
    labels = [(row["label"], row["end_reason"]) for row in raw_bags.rows(bag)]
    assert labels == [("first", "stopped"), ("", "its recorder ended without finishing it")]
    assert raw_bags.rows(bag)[1]["repaired"]["lost_bytes"] == 2
    assert raw_bags.information(bag)["custom_data"]["robot"] == "worn"
    ours = read_bag(bag, require=[topics.ODOM])
    assert ours.interface == Interface()
    assert [e.recovered for e in ours.episodes] == [False, False]


def test_every_reader_opens_what_is_left_without_repair(tmp_path: Path) -> None:
    from h2o_training.dataset_build import build_dataset
    from h2o_training.mode_summary import write_bag_report

    bag = make_bag(tmp_path / "b", [swaying(N)], Interface())
    data = (bag / "b_0.mcap").read_bytes()
    (bag / "b_0.mcap").write_bytes(data[: len(data) // 2])
    (bag / "metadata.yaml").unlink()
    (episode,) = read_bag(bag).episodes
    assert episode.recovered
    assert 60 < len(episode.stamp_ns) < N
    assert len(episode.stamp_ns) - 3 < len(build_dataset([bag], get_task("stand"))) < len(episode.stamp_ns)
    assert write_bag_report(tmp_path / "report.html", bag, get_task("stand"), "cut off")
    assert to_play(bag).episodes[0].counts["/odom"] == len(episode.stamp_ns)
    assert bag_info(bag).episodes[0].state == "cut off"


def test_a_bag_that_is_being_written_is_refused(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES)
    writer.start_episode()
    writer.write("/odom", odometry(START_NS, (0, 0, 0, 0)), START_NS)
    writer.flush()
    with pytest.raises(DataError, match="being written by a running recorder"):
        repair(tmp_path / "b")
    writer.close()
    assert repair(tmp_path / "b").healthy == ["b_0.mcap"]


def test_a_file_that_another_recorder_has_open_is_refused(tmp_path: Path) -> None:
    bag = lay_out(tmp_path, intact()[1][:20_000])
    with (bag / "b_0.mcap").open("ab"):
        # Leases are refused by some file systems, and to who does not own the file: there is no telling then.
        try:
            with pytest.raises(DataError, match="open for writing"):
                repair(bag)
        except pytest.fail.Exception:
            pytest.skip("this file system has no leases")
    assert repair(bag).files


def test_a_bag_without_metadata_gets_one_from_its_files(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    (bag / "metadata.yaml").unlink()
    report = repair(bag)
    assert report.metadata == "it was missing"
    assert raw_bags.information(bag)["relative_file_paths"] == ["b_0.mcap", "b_1.mcap"]
    assert raw_bags.information(bag)["custom_data"]["h2o.interface"] == Interface().to_json()
    assert [row["label"] for row in raw_bags.rows(bag)] == ["first", ""]


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"rosbag2_bagfile_information: 3", b"\xff\xfe"])
def test_a_spoilt_metadata_is_replaced_and_kept(tmp_path: Path, content: bytes) -> None:
    bag = killed(tmp_path)
    (bag / "metadata.yaml").write_bytes(content)
    assert "no rosbag2 metadata" in repair(bag).metadata
    assert (bag / "metadata.yaml.damaged").read_bytes() == content
    assert len(raw_bags.read(bag)[0]) == 102


def test_damaged_originals_go_when_asked_to(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    assert repair(bag).kept == ["b_1.mcap.damaged"]
    assert repair(bag, delete_damaged=True).deleted == ["b_1.mcap.damaged"]
    assert sorted(p.name for p in bag.iterdir()) == ["b_0.mcap", "b_1.mcap", "metadata.yaml"]


def test_a_repair_that_was_stopped_halfway_is_done_again(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    os.replace(bag / "b_1.mcap", bag / "b_1.mcap.damaged")
    (bag / ".b_1.mcap.repair.tmp").write_bytes(b"half of it")
    assert [f.name for f in repair(bag).files] == ["b_1.mcap"]
    assert len(raw_bags.read(bag)) == 2
    assert not list(bag.glob(".*"))


@pytest.mark.parametrize("content", [b"", b"\x89MC"])
def test_a_file_that_was_only_begun_is_an_episode_without_messages(tmp_path: Path, content: bytes) -> None:
    bag = killed(tmp_path)
    (bag / "b_1.mcap").write_bytes(content)
    assert [len(e.stamp_ns) for e in read_bag(bag, require=[topics.ODOM]).episodes] == [100, 0]
    repair(bag)
    assert [len(c) for c in raw_bags.read(bag)] == [102, 0]
    with Reader(bag) as reader:
        assert reader.message_count == 102


def test_a_file_of_zeros_is_set_aside(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    (bag / "b_1.mcap").write_bytes(b"\0" * 100_000)
    report = repair(bag)
    assert (report.files[0].loss.bytes, report.kept) == (100_000, ["b_1.mcap.damaged"])
    assert [len(c) for c in raw_bags.read(bag)] == [102]
    again = repair(bag)
    assert (again.files, again.metadata) == ([], "")


def test_an_original_of_an_earlier_repair_is_not_overwritten(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    repair(bag)
    first = (bag / "b_1.mcap.damaged").read_bytes()
    data = (bag / "b_1.mcap").read_bytes()
    (bag / "b_1.mcap").write_bytes(data[:-100])
    assert repair(bag).kept == ["b_1.mcap.damaged", "b_1.mcap.damaged-2"]
    assert (bag / "b_1.mcap.damaged").read_bytes() == first


def test_a_disk_that_is_full_leaves_the_damaged_bag_as_it_was(tmp_path: Path) -> None:
    bag = lay_out(tmp_path, intact()[1][:-10])
    before = {p.name: p.read_bytes() for p in bag.iterdir()}
    with small_files(5_000), pytest.raises(DataError, match="File too large"):
        repair(bag)
    assert {p.name: p.read_bytes() for p in bag.iterdir()} == before


def test_one_file_is_repaired_alone(tmp_path: Path) -> None:
    bag = killed(tmp_path)
    report = repair(bag / "b_1.mcap")
    assert [f.name for f in report.files] == ["b_1.mcap"]
    assert raw_bags.information(bag)["relative_file_paths"] == ["b_0.mcap"]
    assert len(raw_bags.read_file(bag / "b_1.mcap")) == report.files[0].messages
    with (bag / "b_1.mcap").open("rb") as stream:
        record = next(m for m in make_reader(stream).iter_metadata() if m.name == "h2o.repair")
    assert json.loads(record.metadata["reasons"]) == ["it ends without an index"]


@pytest.mark.parametrize("content", [b"something else entirely", b"\0" * 100_000])
def test_what_is_no_mcap_file_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b_0.mcap").write_bytes(content)
    with pytest.raises(DataError, match="not an MCAP file"):
        repair(tmp_path / "b")
    assert (tmp_path / "b" / "b_0.mcap").read_bytes() == content
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["b_0.mcap"]


def test_a_sqlite_bag_is_left_to_sqlite(tmp_path: Path) -> None:
    with Writer(tmp_path / "b", version=9) as writer:
        writer.add_connection("/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE)
    with pytest.raises(DataError, match="ros2 bag reindex"):
        repair(tmp_path / "b")


def test_a_listed_file_that_is_gone_is_listed_no_more(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "b", [swaying(20), swaying(20, 1)], Interface())
    (bag / "b_0.mcap").unlink()
    assert repair(bag).metadata == "it lists b_0.mcap, which is gone"
    assert raw_bags.information(bag)["relative_file_paths"] == ["b_1.mcap"]
    assert (bag / "metadata.yaml.damaged").exists()


@pytest.mark.parametrize(("size", "name"), [(0, ""), (20_000, ""), (20_000, "b_0.mcap")])
def test_metadata_tells_what_a_cut_off_file_does_not_and_the_repaired_bag_keeps_it(
    tmp_path: Path, size: int, name: str
) -> None:
    bag = lay_out(tmp_path, intact()[1][:size])
    (done,) = repair(bag / name).files
    # Repaired alone, a file leaves metadata.yaml as it was.
    repair(bag)
    messages = intact()[2]
    (found,) = raw_bags.read(bag)
    assert done.loss.messages == len(messages) - len(found) > 0
    last_ns = found[-1].stamp_ns if found else messages[0].stamp_ns
    assert done.loss.seconds == pytest.approx((messages[-1].stamp_ns - last_ns) * 1e-9)
    assert done.loss.unwritten_s == 0.0
    for path in (bag, bag / "b_0.mcap"):
        (episode,) = bag_info(path, check=True).episodes
        assert (episode.state, episode.repaired) == ("finished", True)
        assert episode.missing is not None and episode.missing.messages == done.loss.messages
    lost = bag_info(bag).topics["/odom"].lost if found else raw_bags.rows(bag)[0]["repaired"]["lost"]["/odom"]
    assert lost == N - sum(m.topic == "/odom" for m in found)


def test_wrong_counts_of_topics_in_metadata_are_mended(tmp_path: Path) -> None:
    bag = lay_out(tmp_path, intact()[1])
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace(f"message_count: {N}\n", "message_count: 9\n"))
    assert repair(bag).metadata == "its counts of the topics are wrong"
    assert repair(bag).metadata == ""


def test_a_bag_whose_files_are_all_gone_is_left_as_it_is(tmp_path: Path) -> None:
    bag = lay_out(tmp_path, b"")
    (bag / "b_0.mcap").unlink()
    with pytest.raises(DataError, match=r"lacks b_0\.mcap.* nothing can be repaired"):
        repair(bag)
    assert (bag / "metadata.yaml").read_bytes() == intact()[0]


def test_what_was_appended_to_a_file_is_said_and_left_out(tmp_path: Path) -> None:
    data = intact()[1]
    bag = lay_out(tmp_path, data + data)
    (done,) = repair(bag).files
    assert (done.loss.bytes, done.loss.messages, done.loss.seconds) == (len(data), 0, 0.0)
    assert f"{len(data)} bytes behind the end" in str(done)
    assert raw_bags.read(bag) == [intact()[2]]


def test_a_chunk_whose_opcode_is_wrong_is_never_passed_over(tmp_path: Path) -> None:
    data = bytearray(intact()[1])
    begin = intact()[3][2][0]
    bag = lay_out(tmp_path, bytes(data))
    truth = swaying(N)["states"][:, 0].tolist()
    for opcode in (*range(6), *range(7, 17), 0x80, 0xFF):
        data[begin] = opcode
        (bag / "b_0.mcap").write_bytes(data)
        (episode,) = read_bag(bag, require=[topics.ODOM]).episodes
        assert episode.recovered
        assert episode.states[:, 0].tolist() == truth[: len(episode.states)]
        assert 0 < len(episode.states) < N
        stored = StoredEpisode(bag / "b_0.mcap")
        assert [m.data for m in stored.messages()] == [m.data for m in kept(damaged={begin})]
        assert len(stored.damages) == 1
