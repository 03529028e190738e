# SPDX-License-Identifier: Apache-2.0
"""The other storage: episodes written by ROS's own rosbag2, where it is installed (it is not on PyPI).

Same topics, same serialized payloads, same stamps as `bag_writer`. What differs is rosbag2's: each episode is a bag of
its own in the folder of the recording, since its Python interface of Humble cannot begin another file; chunks are
closed by size alone; a publisher's numbers are not stored; and what a crash costs is up to it.

Checked against the bindings of rosbag2 0.15 (Humble), 0.22 (Iron), 0.26 (Jazzy) and 0.29 (rolling, October 2024),
which differ in how a topic is described and in whether a writer has `close`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import yaml
from rosbags.rosbag2.metadata import dump_qos_v8, parse_qos

from h2o_control import bag_lock
from h2o_control.bag_metadata import TYPESTORE, EpisodeInfo, custom_data, qos_profile, write_metadata
from h2o_control.bag_settings import BagSettings
from h2o_control.bag_writer import BagWriteError, check_space, free_space
from h2o_control.contract import Interface
from h2o_control.errors import ConfigError, DataError
from h2o_control.provenance import now_utc, software

#: Version of the profiles that `qos_profile` writes.
QOS_VERSION = 9
_COMPRESSION = {"zstd": "Zstd", "lz4": "Lz4", "none": "None"}
_OPTIONS = "mcap_writer_options.yaml"


class SequentialWriter(Protocol):
    """rosbag2_py.SequentialWriter; `close` is there since Iron."""

    def open(self, storage_options: object, converter_options: object, /) -> None:
        """Create the folder of the bag; RuntimeError where it exists."""

    def create_topic(self, topic: object, /) -> None:
        """Declare a topic."""

    def write(self, topic: str, message: bytes, time_stamp: int, /) -> None:
        """Append a message; RuntimeError where its topic was not declared."""


class Rosbag2(Protocol):
    """The module rosbag2_py, as far as it is used here."""

    SequentialWriter: Callable[[], SequentialWriter]
    StorageOptions: Callable[..., object]
    ConverterOptions: Callable[..., object]
    TopicMetadata: Callable[..., object]

    def get_registered_writers(self) -> set[str]:
        """Names of the storage plugins that can write."""


def load() -> Rosbag2:
    """Import rosbag2_py; raises ConfigError where it is absent, saying what to do."""
    try:
        return cast(Rosbag2, importlib.import_module("rosbag2_py"))
    except ImportError as error:
        raise ConfigError(
            f"storage is 'rosbag2_py', which cannot be imported here ({error}): source the setup.bash of a ROS 2 that "
            "has it (apt install ros-$ROS_DISTRO-rosbag2-py), or set storage to 'mcap'"
        ) from error


class Rosbag2Writer:
    """A `bag_storage.BagStorage` on rosbag2_py: a folder with a bag `<folder>_<k>` for each episode.

    Args:
        path: folder to create; it must not exist yet.
        topic_types: recorded topics (full names) and their message types.
        settings: compression and size of chunks, and the reserve of the disk, are kept; rosbag2 knows no others.
        rosbag2: the module, as `load` returns it.

    Raises:
        DataError: the folder exists, or cannot be created.
    """

    def __init__(
        self, path: str | Path, topic_types: Mapping[str, str], settings: BagSettings, rosbag2: Rosbag2
    ) -> None:
        self.path = Path(path)
        self.settings = settings
        self.topic_types = dict(topic_types)
        self.interface: Interface | None = None
        self.software = software()
        self.episodes: list[EpisodeInfo] = []
        self.episode: EpisodeInfo | None = None
        self.latest: EpisodeInfo | None = None
        self._rosbag2 = rosbag2
        self._writer: SequentialWriter | None = None
        self._started = 0
        # Humble finds MCAP where its plugin is installed.
        self._storage = "mcap" if "mcap" in rosbag2.get_registered_writers() else "sqlite3"
        try:
            self.path.mkdir(parents=True)
            self._lock = bag_lock.hold(self.path)
            options = {"chunkSize": settings.chunk_bytes, "compression": _COMPRESSION[settings.compression]}
            (self.path / _OPTIONS).write_text(yaml.safe_dump(options), "utf-8")
        except FileExistsError:
            raise DataError(f"{path} exists already and is not overwritten; give another name for the bag") from None
        except OSError as error:
            raise DataError(f"cannot create the bag {path}: {error.strerror}") from error

    @property
    def free_bytes(self) -> int:
        """Free space where the bag is written; BagWriteError where that is gone."""
        return free_space(self.path)

    def start_episode(self, label: str = "", note: str = "") -> EpisodeInfo:
        """Open the next bag `<folder>_<k>`; a running episode is ended first.

        Raises:
            BagWriteError: rosbag2 cannot, or the disk is full.
        """
        if self.episode is not None:
            self.end_episode("next episode")
        self._check_space()
        name = f"{self.path.name}_{self._started}"
        episode = EpisodeInfo(self._started, name, label, now_utc(), note=note)
        mcap = self._storage == "mcap"
        try:
            writer = self._rosbag2.SequentialWriter()
            writer.open(
                self._rosbag2.StorageOptions(
                    uri=str(self.path / name),
                    storage_id=self._storage,
                    storage_config_uri=str(self.path / _OPTIONS) if mcap else "",
                ),
                # The same on both sides: what comes in is written as it is.
                self._rosbag2.ConverterOptions("cdr", "cdr"),
            )
            for number, (topic, kind) in enumerate(self.topic_types.items(), start=1):
                writer.create_topic(self._describe_topic(number, topic, kind))
        except RuntimeError as error:
            raise BagWriteError(f"rosbag2 cannot begin {self.path / name}: {error}") from error
        self._started += 1
        self._writer = writer
        episode.counts = dict.fromkeys(self.topic_types, 0)
        self.episode = self.latest = episode
        return episode

    def write(self, topic: str, data: bytes, stamp_ns: int, sequence: int = 0) -> None:
        """Append one serialized message received at `stamp_ns`; rosbag2 has no place for `sequence`.

        Raises:
            BagWriteError: rosbag2 cannot; the episode has been ended.
        """
        episode = self.episode
        if episode is None or self._writer is None:
            raise DataError("no episode is being recorded: call start_episode first")
        if topic not in episode.counts:
            raise DataError(f"topic {topic} was not declared when the bag was made")
        try:
            self._writer.write(topic, data, stamp_ns)
        except RuntimeError as error:
            self._give_up(error)
        episode.start_ns = min(episode.start_ns, stamp_ns) if episode.message_count else stamp_ns
        episode.end_ns = max(episode.end_ns, stamp_ns)
        episode.counts[topic] += 1

    def flush(self, now_ns: int | None = None) -> None:
        """Look after the disk; rosbag2 writes when it sees fit.

        Raises:
            BagWriteError: too little space is left; the episode has been ended.
        """
        if self.episode is None:
            return
        try:
            self._check_space()
        except BagWriteError:
            self.end_episode("disk full")
            raise

    def end_episode(self, reason: str = "stopped") -> EpisodeInfo | None:
        """Close the episode's bag and tell its metadata.yaml what the recorder knows; None where none was running."""
        episode = self.episode
        if episode is None:
            return None
        episode.end_reason = reason
        self.episode = None
        self.episodes.append(episode)
        self._close_writer()
        episode.readable = True
        self._write_custom(episode)
        return episode

    def describe(self, label: str | None = None, note: str | None = None) -> EpisodeInfo:
        """Label the latest episode, or give it a note; raises DataError where there is none."""
        episode = self._latest("label")
        episode.label = episode.label if label is None else label
        episode.note = episode.note if note is None else note
        if episode is not self.episode:
            self._write_custom(episode)
        return episode

    def discard_episode(self) -> EpisodeInfo:
        """Delete the bag of the latest episode; raises DataError where there is none."""
        episode = self._latest("discard")
        if self.episode is episode:
            self.episode = None
            self._close_writer()
        else:
            self.episodes.remove(episode)
        self.latest = None
        try:
            shutil.rmtree(self.path / episode.file)
        except OSError as error:
            raise BagWriteError(f"cannot delete {self.path / episode.file}: {error.strerror}") from error
        return episode

    def set_interface(self, interface: Interface) -> None:
        """Store the robot's interface once it is known; a robot that changes it needs a recording of its own."""
        if self.interface is not None and self.interface.hash != interface.hash:
            raise DataError(f"the interface changed from {self.interface.hash} to {interface.hash}: start another bag")
        self.interface = interface

    def close(self) -> None:
        """End a running episode; the folder is gone where it holds none."""
        self.end_episode("closed")
        with contextlib.suppress(OSError):
            (self.path / _OPTIONS).unlink(missing_ok=True)
            if not self.episodes:
                self.path.rmdir()
            os.close(self._lock)

    def _latest(self, what: str) -> EpisodeInfo:
        if self.latest is None:
            raise DataError(f"there is no episode to {what}: none was recorded, or it was discarded")
        return self.latest

    def _describe_topic(self, number: int, topic: str, kind: str) -> object:
        """rosbag2_py.TopicMetadata, whose arguments depend on the release."""
        described: dict[str, Any] = {"name": topic, "type": kind, "serialization_format": "cdr"}
        profiles = yaml.safe_dump([qos_profile(topic)], sort_keys=False)
        metadata = self._rosbag2.TopicMetadata
        # Since Jazzy a topic has a number, and its profiles are objects.
        if hasattr(metadata, "id"):
            described["id"] = number
            described["offered_qos_profiles"] = cast(Any, self._rosbag2).to_rclcpp_qos_vector(profiles, QOS_VERSION)
        else:
            described["offered_qos_profiles"] = dump_qos_v8(parse_qos(profiles))
        if hasattr(metadata, "type_description_hash"):
            described["type_description_hash"] = TYPESTORE.hash_rihs01(kind)
        return metadata(**described)

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        # Humble closes when the object goes: nothing else may hold it.
        close: Callable[[], None] = getattr(writer, "close", lambda: None)
        try:
            close()
        except RuntimeError as error:
            raise BagWriteError(f"rosbag2 cannot finish the bag in {self.path}: {error}") from error

    def _write_custom(self, episode: EpisodeInfo) -> None:
        """Add label, interface and the rest to the metadata.yaml that rosbag2 wrote."""
        folder = self.path / episode.file
        try:
            information = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))["rosbag2_bagfile_information"]
            named = {**episode.row(), "file": Path(information["relative_file_paths"][0]).name}
            information["custom_data"] = custom_data({}, self.software, self.interface, [episode])
            information["custom_data"]["h2o.episodes"] = json.dumps([named])
            write_metadata(folder, information)
        except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
            raise BagWriteError(f"cannot add labels to {folder / 'metadata.yaml'}: {error!r}") from error

    def _check_space(self) -> None:
        check_space(self.path, self.free_bytes, self.settings.reserve_bytes)

    def _give_up(self, error: RuntimeError) -> NoReturn:
        with contextlib.suppress(BagWriteError):
            self.end_episode(f"write error: {error}")
        raise BagWriteError(f"rosbag2 cannot write {self.path}: {error}; what came before is kept") from error
