# SPDX-License-Identifier: Apache-2.0
"""rosbag2's own storage: the calls it expects, in the order it expects them, and the real one where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.metadata import parse_qos

from bag_tools import START_NS, STEP_NS, TOPIC_TYPES, odometry, text
from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import read_bag
from h2o_control.bag_settings import BagSettings
from h2o_control.bag_storage import BagStorage
from h2o_control.bag_writer import BagWriteError
from h2o_control.contract import Interface
from h2o_control.errors import ConfigError, DataError
from h2o_control.rosbag2_backend import Rosbag2Writer, load


class StandIn:
    """rosbag2_py's names and argument lists, as its bindings have them, and its order of calls; rosbags writes."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.open_writers = 0
        stand_in = self

        class StorageOptions:
            def __init__(
                self,
                uri: str,
                storage_id: str = "",
                max_bagfile_size: int = 0,
                max_bagfile_duration: int = 0,
                max_cache_size: int = 0,
                storage_preset_profile: str = "",
                storage_config_uri: str = "",
                snapshot_mode: bool = False,
            ) -> None:
                self.uri, self.storage_id, self.storage_config_uri = uri, storage_id, storage_config_uri

        class ConverterOptions:
            def __init__(self, input_serialization_format: str = "", output_serialization_format: str = "") -> None:
                self.formats = input_serialization_format, output_serialization_format

        class HumbleTopic:
            name = type = serialization_format = offered_qos_profiles = None

            def __init__(self, name: str, type: str, serialization_format: str, offered_qos_profiles: str = "") -> None:
                assert isinstance(offered_qos_profiles, str)
                self.name, self.type = name, type
                (self.qos,) = parse_qos(offered_qos_profiles)

        class JazzyTopic:
            id = name = type = serialization_format = offered_qos_profiles = type_description_hash = None

            def __init__(
                self,
                id: int,
                name: str,
                type: str,
                serialization_format: str,
                offered_qos_profiles: list[Any] = [],  # noqa: B006 - as there
                type_description_hash: str = "",
            ) -> None:
                self.name, self.type = name, type
                (self.qos,) = offered_qos_profiles

        class SequentialWriter:
            def __init__(self) -> None:
                self._writer: Writer | None = None
                self._connections: dict[str, Any] = {}

            def open(self, storage: StorageOptions, converter: ConverterOptions) -> None:
                assert converter.formats == ("cdr", "cdr")
                if Path(storage.uri).is_dir():
                    raise RuntimeError("Bag directory already exists")
                assert Path(storage.storage_config_uri).read_text() == "chunkSize: 98304\ncompression: Zstd\n"
                self._writer = Writer(Path(storage.uri), version=9, storage_plugin=StoragePlugin.MCAP)
                self._writer.open()
                stand_in.open_writers += 1

            def create_topic(self, topic: Any) -> None:
                if self._writer is None:
                    raise RuntimeError("Bag is not open. Call open() before writing.")
                assert type(topic) is stand_in.TopicMetadata
                connection = self._writer.add_connection(
                    topic.name, topic.type, typestore=TYPESTORE, offered_qos_profiles=[topic.qos]
                )
                self._connections[topic.name] = connection

            def write(self, topic: str, message: bytes, time_stamp: int) -> None:
                if self._writer is None:
                    raise RuntimeError("Bag is not open. Call open() before writing.")
                if topic not in self._connections:
                    raise RuntimeError(f"Failed to write on topic '{topic}'. Call create_topic() before first write.")
                if message == b"full":
                    raise RuntimeError("No space left")
                self._writer.write(self._connections[topic], time_stamp, message)

            def _finish(self) -> None:
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
                    stand_in.open_writers -= 1

            def __del__(self) -> None:
                self._finish()

        class SequentialWriterWithClose(SequentialWriter):
            def close(self) -> None:
                self._finish()

        self.StorageOptions, self.ConverterOptions = StorageOptions, ConverterOptions
        self.TopicMetadata: Any = HumbleTopic
        self.SequentialWriter = SequentialWriter
        if release == "jazzy":
            self.TopicMetadata, self.SequentialWriter = JazzyTopic, SequentialWriterWithClose
            self.to_rclcpp_qos_vector = lambda text, version: parse_qos(text) if version == 9 else []

    def get_registered_writers(self) -> set[str]:
        return {"mcap", "sqlite3"}


def drive(writer: BagStorage, first: int, count: int) -> None:
    writer.write("/mode", text("balance: test"), START_NS + first * STEP_NS, 1)
    for k in range(first, first + count):
        stamp = START_NS + k * STEP_NS
        writer.write("/odom", odometry(stamp, (k, 0, 0, 0)), stamp, k)


@pytest.mark.parametrize("release", ["humble", "jazzy"])
def test_each_episode_is_a_bag_with_label_interface_and_the_same_payloads(tmp_path: Path, release: str) -> None:
    rosbag2: Any = StandIn(release)
    writer = Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), rosbag2)
    writer.set_interface(Interface())
    for k in range(2):
        assert writer.start_episode(note="by hand").file == f"walk_{k}"
        drive(writer, 100 * k, 50)
        writer.flush()
        assert writer.end_episode() is writer.latest
        assert rosbag2.open_writers == 0
    writer.describe(label="success")
    writer.start_episode()
    assert writer.discard_episode().file == "walk_2"
    writer.close()
    assert sorted(p.name for p in (tmp_path / "walk").iterdir()) == ["walk_0", "walk_1"]
    for k, label in enumerate(("", "success")):
        bag = read_bag(tmp_path / "walk" / f"walk_{k}", require=[topics.ODOM])
        assert bag.interface == Interface()
        assert [e.label for e in bag.episodes] == [label]
        (row,) = json.loads(bag.custom_data["h2o.episodes"])
        assert (row["note"], row["end_reason"], row["received"]["/odom"]) == ("by hand", "stopped", 50)
        with Reader(tmp_path / "walk" / f"walk_{k}") as reader:
            sent = [odometry(START_NS + j * STEP_NS, (j, 0, 0, 0)) for j in range(100 * k, 100 * k + 50)]
            assert [data for c, _, data in reader.messages() if c.topic == "/odom"] == sent
            durability = {c.topic: c.ext.offered_qos_profiles[0].durability.name for c in reader.connections}
        assert (durability["/mode"], durability["/odom"]) == ("TRANSIENT_LOCAL", "VOLATILE")


def test_an_error_of_rosbag2_ends_the_episode_and_keeps_what_came_before(tmp_path: Path) -> None:
    rosbag2: Any = StandIn("jazzy")
    writer = Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), rosbag2)
    writer.start_episode()
    drive(writer, 0, 10)
    with pytest.raises(BagWriteError, match="No space left; what came before is kept"):
        writer.write("/odom", b"full", START_NS)
    assert writer.episode is None
    writer.close()
    with Reader(tmp_path / "walk" / "walk_0") as reader:
        assert reader.message_count == 11


def test_an_episode_ends_while_there_is_space_for_its_index(tmp_path: Path) -> None:
    rosbag2: Any = StandIn("jazzy")
    writer = Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), rosbag2)
    writer.start_episode()
    drive(writer, 0, 10)
    writer.settings = BagSettings(reserve_bytes=1 << 60)
    with pytest.raises(BagWriteError, match="disk full"):
        writer.flush()
    assert [e.end_reason for e in writer.episodes] == ["disk full"]
    writer.close()


def test_an_existing_folder_and_an_empty_recording_are_as_with_mcap(tmp_path: Path) -> None:
    rosbag2: Any = StandIn("jazzy")
    Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), rosbag2).close()
    assert not (tmp_path / "walk").exists()
    (tmp_path / "walk").mkdir()
    with pytest.raises(DataError, match="exists already"):
        Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), rosbag2)


def test_its_absence_is_said_with_what_to_do() -> None:
    try:
        import rosbag2_py  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="apt install"):
            load()
    else:
        assert load() is not None


def test_the_real_one_writes_what_our_readers_read(tmp_path: Path) -> None:
    pytest.importorskip("rosbag2_py", reason="rosbag2_py comes with ROS, not from PyPI")
    writer = Rosbag2Writer(tmp_path / "walk", TOPIC_TYPES, BagSettings(), load())
    writer.set_interface(Interface())
    writer.start_episode(label="success")
    drive(writer, 0, 50)
    writer.close()
    (episode,) = read_bag(tmp_path / "walk" / "walk_0", require=[topics.ODOM]).episodes
    assert episode.stamp_ns.tolist() == [START_NS + k * STEP_NS for k in range(50)]
    assert episode.label == "success"
