# SPDX-License-Identifier: Apache-2.0
"""What `h2o-robot bag` says of bags: ours, cut off, damaged, being written, and those of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcap.reader import make_reader
from rosbags.rosbag2 import StoragePlugin, Writer

from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, make_bag, odometry, swaying, text
from h2o_control.bag_cli import command
from h2o_control.bag_info import CUT_OFF, DAMAGED, FINISHED, WRITING, bag_info
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface
from h2o_control.errors import DataError


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Two episodes; in the first, 3 messages on /odom and 2 frames were lost."""
    writer = BagWriter(tmp_path / "walk", TOPIC_TYPES, Interface())
    for number in range(2):
        episode = writer.start_episode(label="fall" if number else "", note="on carpet" if number else "")
        writer.write("/configuration", text(json.dumps({"robot": {"name": "worn"}})), START_NS + number * 10**9)
        for k in range(101):
            stamp = START_NS + number * 10**9 + k * STEP_NS
            writer.write("/odom", odometry(stamp, (0, 0, 0, 0)), stamp)
        if number == 0:
            episode.lost = {"/odom": 3, "/imu": 0}
            episode.frames_missing = 2
        writer.end_episode()
    writer.close()
    return tmp_path / "walk"


def test_it_says_what_the_recorder_knows(bag: Path) -> None:
    info = bag_info(bag)
    assert (info.robot, info.interface_hash, info.storage) == ("worn", Interface().hash, "mcap")
    assert info.software["h2o_control"]
    assert [e.state for e in info.episodes] == [FINISHED, FINISHED]
    assert [(e.label, e.note, e.end_reason) for e in info.episodes] == [
        ("", "", "stopped"),
        ("fall", "on carpet", "stopped"),
    ]
    first = info.episodes[0]
    assert (first.start, first.duration_s, first.messages) == ("2023-11-14T22:13:20+00:00", 0.5, 102)
    assert first.topics["/odom"].rate_hz == pytest.approx(202.0)
    assert (first.topics["/odom"].lost, first.topics["/imu"].lost, first.topics["/mode"].lost) == (3, 0, None)
    assert first.frames_missing == 2
    assert (info.topics["/odom"].messages, info.topics["/odom"].lost) == (202, 3)
    assert info.size_bytes == sum(f.stat().st_size for f in bag.glob("*.mcap"))


def test_a_file_that_travels_alone_says_it_too(bag: Path) -> None:
    info = bag_info(bag / "walk_1.mcap")
    assert [(e.label, e.note, e.end_reason) for e in info.episodes] == [("fall", "on carpet", "stopped")]
    assert (info.robot, info.interface_hash) == ("worn", Interface().hash)


def test_a_file_that_is_cut_off_is_told_from_one_that_is_being_written(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", TOPIC_TYPES)
    writer.start_episode()
    writer.write("/odom", odometry(START_NS, (0, 0, 0, 0)), START_NS)
    writer.flush()
    assert [e.state for e in bag_info(tmp_path / "b").episodes] == [WRITING]
    writer.close()
    file = tmp_path / "b" / "b_0.mcap"
    file.write_bytes(file.read_bytes()[:-20])
    (episode,) = bag_info(tmp_path / "b").episodes
    assert (episode.state, episode.messages) == (CUT_OFF, 1)


def test_wrong_bytes_within_a_finished_file_are_found_when_asked_to_check(bag: Path) -> None:
    file = bag / "walk_0.mcap"
    data = bytearray(file.read_bytes())
    with file.open("rb") as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[1]
    data[chunk.chunk_start_offset + 100] ^= 1
    file.write_bytes(data)
    assert bag_info(bag).episodes[0].state == FINISHED
    (found, _) = bag_info(bag, check=True).episodes
    assert found.state == DAMAGED
    # 3 on the way, the others out of the file.
    assert found.missing is not None and found.missing.messages == 102 - found.messages > 0
    assert found.topics["/odom"].lost == 3 + 101 - found.topics["/odom"].messages
    assert command(["info", str(bag)]) == 0
    assert command(["info", "--check", str(bag)]) == 1


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bags_of_others_are_described(tmp_path: Path, storage: StoragePlugin) -> None:
    with Writer(tmp_path / "b", version=8, storage_plugin=storage) as writer:
        connection = writer.add_connection("/robot/odom", "nav_msgs/msg/Odometry", typestore=TYPESTORE)
        for k in range(11):
            writer.write(connection, START_NS + k * 10**8, odometry(START_NS, (0, 0, 0, 0)))
    info = bag_info(tmp_path / "b")
    assert (info.robot, info.interface_hash, info.messages, info.duration_s) == ("", "", 11, 1.0)
    topic = info.topics["/robot/odom"]
    assert (topic.type, topic.messages, topic.lost) == ("nav_msgs/msg/Odometry", 11, None)


def test_names_stay_whole_in_a_narrow_terminal(
    bag: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command(["info", str(bag)]) == 0
    words = capsys.readouterr().out.split()
    assert {"walk_0.mcap", "walk_1.mcap", Interface().hash, *TOPIC_TYPES} <= set(words)


def test_a_spoilt_metadata_points_at_repair(bag: Path) -> None:
    for content in ("", "[ bad"):
        (bag / "metadata.yaml").write_text(content)
        with pytest.raises(DataError, match=r"is damaged or empty .* bag repair .*walk writes it anew"):
            bag_info(bag)


def test_json_is_whole_and_alone_on_the_output(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["info", "--json", str(bag), str(bag / "walk_0.mcap")]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["episodes"][1]["topics"]["/odom"]["messages"] == 101
    assert second["path"].endswith("walk_0.mcap")


def test_commands_do_what_they_say(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(["info", str(bag)]) == 0
    shown = capsys.readouterr().out
    assert "robot worn" in shown and "3 and 2 frames" in shown and "fall: on" in shown
    assert command(["repair", str(bag)]) == 0
    assert "nothing to do, 2 files are whole" in capsys.readouterr().out
    assert command(["cut", str(bag), "--episode", "1", "--from", "0.25", "-o", str(tmp_path / "c")]) == 0
    assert "1 episode, 0.2 s, 52 messages, 1 of them latched ones repeated" in capsys.readouterr().out
    assert (
        command(
            ["merge", str(bag), str(make_bag(tmp_path / "e", [swaying(3)], Interface())), "-o", str(tmp_path / "m")]
        )
        == 0
    )
    assert "3 episodes" in capsys.readouterr().out
    assert command(["split", str(tmp_path / "m"), "-o", str(tmp_path / "s")]) == 0
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["m_0", "m_1", "m_2"]
    capsys.readouterr()
    file = bag / "walk_1.mcap"
    file.write_bytes(file.read_bytes()[:-20])
    assert command(["repair", "--delete-damaged", str(bag)]) == 0
    shown = capsys.readouterr().out
    assert "walk_1.mcap: 102 messages kept; lost" in shown and "deleted walk_1.mcap.damaged" in shown


def test_what_is_no_bag_and_an_episode_that_is_not_there_are_refused(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such bag"):
        command(["info", str(tmp_path / "nothing")])
    with pytest.raises(DataError, match="has no episode 2: there are 0 to 1"):
        command(["info", str(bag), "--episode", "2"])
    make_bag(tmp_path / "d", [swaying(3)])
    with pytest.raises(DataError, match="is given twice"):
        command(["merge", str(bag), str(bag), "-o", str(tmp_path / "m")])


def test_notes_and_names_that_look_like_markup_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    writer = BagWriter(tmp_path / "o[b]", TOPIC_TYPES, Interface())
    writer.start_episode(note="see [/tmp/log] for [i]why")
    writer.write("/odom", odometry(START_NS, (0, 0, 0, 0)), START_NS)
    writer.end_episode()
    writer.close()
    assert command(["info", str(tmp_path / "o[b]"), "--episode", "0"]) == 0
    out = capsys.readouterr().out
    assert "see [/tmp/log] for [i]why" in out
    assert "topics of o[b]_0.mcap" in out
