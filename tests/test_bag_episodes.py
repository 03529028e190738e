# SPDX-License-Identifier: Apache-2.0
"""Episodes of a bag: discarded, labelled, written in the background; what a full or dead disk and a power cut leave."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcap.reader import make_reader
from rosbags.rosbag2 import Reader

from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, odometry
from disk_tools import fill, small_disk, small_files
from h2o_control import bag_lock, bag_writer, disk, topics
from h2o_control.bag_metadata import LABEL_FALL, LABEL_SUCCESS
from h2o_control.bag_reader import read_bag
from h2o_control.bag_settings import BagSettings
from h2o_control.bag_writer import BagWriteError, BagWriter
from h2o_control.errors import ConfigError, DataError
from power_cut import UnluckyDisk


def writer(path: Path, **settings: Any) -> BagWriter:
    return BagWriter(path, TOPIC_TYPES, settings=BagSettings(**settings))


def write(bag: BagWriter, first: int, last: int) -> None:
    for k in range(first, last):
        stamp = START_NS + k * STEP_NS
        bag.write("/odom", odometry(stamp, (0.001 * k, 0, 0, 0)), stamp, sequence=k)


def episode(bag: BagWriter, first: int, last: int, **about: str) -> None:
    bag.start_episode(**about)
    write(bag, first, last)
    bag.end_episode()


def rows(path: Path) -> list[dict[str, Any]]:
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    told: list[dict[str, Any]] = json.loads(information["custom_data"]["h2o.episodes"])
    return told


def listed(path: Path) -> list[str]:
    names: list[str] = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"][
        "relative_file_paths"
    ]
    return names


def digests(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.glob("*.mcap")}


def test_a_discarded_episode_leaves_no_trace_and_its_number_is_not_given_again(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b")
    episode(bag, 0, 10)
    bag.start_episode()
    write(bag, 10, 20)
    assert bag.discard_episode().file == "b_1.mcap"  # while it runs
    assert listed(tmp_path / "b") == ["b_0.mcap"]
    episode(bag, 20, 30)
    assert bag.discard_episode().file == "b_2.mcap"  # after it has ended
    assert [row["file"] for row in rows(tmp_path / "b")] == listed(tmp_path / "b") == ["b_0.mcap"]
    with pytest.raises(DataError, match=r"b_2\.mcap was discarded: there is none to discard"):
        bag.discard_episode()
    with pytest.raises(DataError, match=r"b_2\.mcap was discarded: there is none to label"):
        bag.describe(label=LABEL_SUCCESS)
    episode(bag, 30, 40)
    bag.close()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["b_0.mcap", "b_3.mcap", "metadata.yaml"]
    with Reader(tmp_path / "b") as reader:
        assert reader.message_count == 20


def test_a_bag_whose_only_episode_was_discarded_is_gone(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b", background=True)
    bag.start_episode()
    write(bag, 0, 10)
    bag.discard_episode()
    bag.close()
    assert not (tmp_path / "b").exists()


def test_labels_and_notes_reach_metadata_and_leave_finished_files_as_they_are(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b")
    with pytest.raises(DataError, match="no episode has been recorded yet"):
        bag.describe(label=LABEL_FALL)
    episode(bag, 0, 10)
    before = digests(tmp_path / "b")
    bag.describe(label=LABEL_SUCCESS)
    bag.describe(note="new tyres: \"soft\"\n'ü'")
    assert digests(tmp_path / "b") == before
    (row,) = rows(tmp_path / "b")
    assert (row["label"], row["note"]) == (LABEL_SUCCESS, "new tyres: \"soft\"\n'ü'")
    bag.start_episode()
    bag.describe(label=LABEL_FALL)
    # Killed now, it is still known.
    assert [row["label"] for row in rows(tmp_path / "b")] == [LABEL_SUCCESS, LABEL_FALL]
    bag.close()
    assert [e.label for e in read_bag(tmp_path / "b", require=[]).episodes] == [LABEL_SUCCESS, LABEL_FALL]


def test_the_end_of_a_file_says_what_was_received_and_lost(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b")
    running = bag.start_episode()
    write(bag, 0, 10)
    running.lost["/odom"] = 3
    running.frames_missing = 2
    bag.end_episode("fallen")
    bag.close()
    (row,) = rows(tmp_path / "b")
    assert (row["received"], row["lost"], row["frames_missing"]) == ({"/odom": 10}, {"/odom": 3}, 2)
    with (tmp_path / "b" / "b_0.mcap").open("rb") as stream:
        reader = make_reader(stream)
        told = next(m.metadata for m in reader.iter_metadata() if m.name == "h2o.episode")
        assert [message.sequence for _, _, message in reader.iter_messages()] == list(range(10))
    assert (told["end_reason"], told["received"], told["lost"]) == ("fallen", '{"/odom": 10}', '{"/odom": 3}')


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_every_compression_is_read_by_mcap_rosbags_and_us(tmp_path: Path, compression: str) -> None:
    bag = writer(tmp_path / "b", compression=compression)
    episode(bag, 0, 100)
    bag.close()
    with (tmp_path / "b" / "b_0.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        chunks = reader.get_summary().chunk_indexes
        assert {chunk.compression for chunk in chunks} == {"" if compression == "none" else compression}
        assert len(list(reader.iter_messages())) == 100
    with Reader(tmp_path / "b") as other:
        assert len(list(other.messages())) == 100
    assert len(read_bag(tmp_path / "b", require=[topics.ODOM]).episodes[0].stamp_ns) == 100


def test_a_compression_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compression is 'zst'\. Did you mean 'zstd'\?"):
        BagSettings(compression="zst")


def test_in_the_background_the_same_bag_is_written(tmp_path: Path) -> None:
    for name, background in (("a", False), ("b", True)):
        bag = writer(tmp_path / name / "x", background=background)
        episode(bag, 0, 300, note="carpet")
        episode(bag, 300, 310)
        bag.close()
    a, b = (
        [(m.log_time, m.data) for file in ("x_0.mcap", "x_1.mcap") for m in messages(tmp_path / name / "x" / file)]
        for name in ("a", "b")
    )
    assert a == b
    assert len(a) == 310
    one, other = (rows(tmp_path / name / "x") for name in ("a", "b"))
    assert [{**row, "recorded_at": ""} for row in one] == [{**row, "recorded_at": ""} for row in other]


def messages(file: Path) -> list[Any]:
    with file.open("rb") as stream:
        return [message for _, _, message in make_reader(stream).iter_messages()]


def test_a_chunk_is_closed_when_it_is_old_enough_though_nothing_comes(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b", chunk_time_ns=200_000_000)
    bag.start_episode()
    file = tmp_path / "b" / "b_0.mcap"
    before = file.stat().st_size
    write(bag, 0, 1)
    bag.flush(START_NS + 199_999_999)
    assert file.stat().st_size == before
    bag.flush(START_NS + 200_000_000)
    assert file.stat().st_size > before
    bag.close()


def test_a_disk_that_takes_nothing_for_long_ends_the_episode_and_receives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_writer, "BACKLOG_BYTES", 100_000)
    bag = writer(tmp_path / "b", background=True, compression="none")
    stuck = threading.Event()
    bag._disk.do(lambda: stuck.wait(20.0) and None)
    bag.start_episode()
    with pytest.raises(BagWriteError, match="0 MiB behind"):
        write(bag, 0, 10_000)
    stuck.set()
    bag.close()
    with Reader(tmp_path / "b") as reader:
        assert 0 < reader.message_count < 1000
        assert len(list(reader.messages())) == reader.message_count
    assert rows(tmp_path / "b")[0]["end_reason"] == "disk stalled"


@pytest.fixture
def ignored_signal() -> Iterator[None]:
    """A file that grows too large is an error of the call, not the end of the process."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGXFSZ, before)


def write_until_refused(bag: BagWriter) -> None:
    """Write chunk by chunk, each of which the disk has or refuses before the next."""
    for first in range(41, 41_000, 41):
        write(bag, first, first + 41)
        bag._disk.wait()


@pytest.mark.usefixtures("ignored_signal")
def test_a_write_that_fails_in_the_background_is_reported_and_what_came_before_is_kept(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b", background=True)
    episode(bag, 0, 50)
    bag.start_episode()
    with small_files(40_000), pytest.raises(BagWriteError, match=r"b_1.mcap: File too large; the \d+ messages before"):
        write_until_refused(bag)
    assert bag.episode is None
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 40_000
    episode(bag, 0, 20)
    bag.close()
    with Reader(tmp_path / "b") as reader:
        assert len(list(reader.messages())) == reader.message_count
    whole, cut, after = rows(tmp_path / "b")
    assert (whole["end_reason"], after["end_reason"]) == ("stopped", "stopped")
    assert cut["end_reason"] == "write error: File too large"
    assert cut["received"]["/odom"] % 41 == 0
    assert len(messages(tmp_path / "b" / "b_1.mcap")) == cut["received"]["/odom"]


@pytest.mark.usefixtures("ignored_signal")
def test_an_episode_that_fails_late_is_reported_while_the_next_one_runs_on(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b", background=True)
    stuck = threading.Event()
    bag._disk.do(lambda: stuck.wait(20.0) and None)
    episode(bag, 0, 1000)
    bag.start_episode()
    with small_files(40_000):
        stuck.set()
        bag._disk.wait()
        with pytest.raises(BagWriteError, match=r"b_0.mcap: File too large; the \d+ messages before are kept"):
            bag.flush()
    write(bag, 1000, 1050)
    bag.close()
    first, second = rows(tmp_path / "b")
    assert (first["end_reason"], second["end_reason"]) == ("write error: File too large", "closed")
    assert 0 < first["received"]["/odom"] < 1000
    with Reader(tmp_path / "b") as reader:
        assert len(list(reader.messages())) == reader.message_count == first["received"]["/odom"] + 50


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_without_any_room_keeps_what_it_has(tmp_path: Path, background: bool) -> None:
    with small_disk(tmp_path / "disk", 4) as folder:
        bag = writer(folder / "b", reserve_bytes=0, background=background)
        episode(bag, 0, 50)
        bag.start_episode()
        write(bag, 0, 41)
        filler = fill(folder, 0.05)
        with pytest.raises(BagWriteError, match=r"b_1.mcap: No space left on device; the \d+ messages before are kept"):
            write_until_refused(bag)
        assert len(read_bag(folder / "b", require=[]).episodes) == 2
        filler.unlink()
        episode(bag, 0, 30)
        bag.close()
        with Reader(folder / "b") as reader:
            assert len(list(reader.messages())) == reader.message_count
        before, cut, after = (row["end_reason"] for row in rows(folder / "b"))
        assert (before, after) == ("stopped", "stopped")
        # A page may be left for the footer, or none.
        assert cut.startswith("write error: No space left on device")


def test_with_fsync_a_power_cut_at_any_moment_costs_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlucky = UnluckyDisk(monkeypatch)
    path = tmp_path / "b"
    bag = writer(path, fsync=True)
    moment = 0
    for number in range(3):
        bag.start_episode()
        first = number * 1000
        for k in range(0, 200, 25):
            write(bag, first + k, first + k + 25)
            left = unlucky.after_power_cut(path, tmp_path / str(moment))
            moment += 1
            episodes = read_bag(left, require=[]).episodes
            assert len(episodes) == number + 1, "no episode is lost, not even the one that runs"
            assert [len(e.stamp_ns) for e in episodes[:-1]] == [200] * number
            assert len(episodes[-1].stamp_ns) >= k + 25 - 41, "0.2 s at 200 Hz"
            assert set(listed(left)) == {f"b_{n}.mcap" for n in range(number)}
        bag.end_episode()
        left = unlucky.after_power_cut(path, tmp_path / str(moment))
        moment += 1
        with Reader(left) as reader:
            assert len(list(reader.messages())) == reader.message_count == 200 * (number + 1)
    bag.close()


def test_without_fsync_a_finished_episode_is_waited_for_and_a_running_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky = UnluckyDisk(monkeypatch)
    bag = writer(tmp_path / "b")
    bag.start_episode()
    unlucky.calls.clear()
    write(bag, 0, 500)
    assert unlucky.calls == []
    bag.end_episode()
    assert unlucky.calls[0] == "fsync b_0.mcap"
    bag.close()


def test_a_bag_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    bag = writer(tmp_path / "b")
    bag.start_episode()
    assert bag_lock.is_held(tmp_path / "b")
    bag.close()
    assert not bag_lock.is_held(tmp_path / "b")


def test_a_folder_is_synchronised_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlucky = UnluckyDisk(monkeypatch)
    disk.sync_folder(tmp_path)
    assert unlucky.calls == [f"fsync {tmp_path.name}"]
