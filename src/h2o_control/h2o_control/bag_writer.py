# SPDX-License-Identifier: Apache-2.0
"""Write rosbag2 directories in MCAP: one directory a bag, one file an episode, little lost when the process is killed.

No ROS here: serialized (CDR) messages come in with topic, type and stamp. What a crash can cost is bounded by the
chunk: chunks are closed at 96 KiB or 0.2 s and go to the file at once. Finished episodes are never touched again, and
metadata.yaml lists finished files only, so that every rosbag2 reader opens them whatever happens to the one in
progress.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from mcap.writer import Writer

from h2o_control import bag_lock
from h2o_control.bag_metadata import TYPESTORE, EpisodeInfo, bag_information, custom_data, qos_profile, write_metadata
from h2o_control.bag_settings import COMPRESSION, BagSettings
from h2o_control.contract import Interface
from h2o_control.disk import Disk, sync_folder
from h2o_control.episode_file import ChunkBuffer, EpisodeFile
from h2o_control.errors import DataError, UserError
from h2o_control.provenance import now_utc, software

#: A disk that is this far behind has stalled: the episode ends before the memory is full.
BACKLOG_BYTES = 64 * 1024 * 1024
#: MCAP keeps 32 bits of a publisher's number.
_SEQUENCE_MASK = 0xFFFFFFFF


class BagWriteError(UserError):
    """The bag cannot be written any further; what was written before is complete and readable."""


class BagGoneError(BagWriteError):
    """The folder of the bag is not there any more: it was deleted or moved, or its disk was taken away."""


class BagWriter:
    """A bag directory that takes one episode after another.

    Args:
        path: directory to create; it must not exist yet.
        topic_types: recorded topics (full names) and their message types; all types must be standard messages.
        interface: the robot's interface, where known; stored in metadata.yaml and in each file.
        labels: further key-value pairs for custom_data, e.g. robot and operator.
        free_bytes: free space at a path; tests replace it.
        settings: see there.

    Raises:
        DataError: the directory exists, cannot be created, or a type is not known.
    """

    def __init__(
        self,
        path: str | Path,
        topic_types: Mapping[str, str],
        interface: Interface | None = None,
        labels: Mapping[str, str] | None = None,
        free_bytes: Callable[[Path], int] | None = None,
        settings: BagSettings | None = None,
    ) -> None:
        self.path = Path(path)
        self.settings = settings or BagSettings()
        self.topic_types = dict(topic_types)
        for topic, kind in self.topic_types.items():
            if kind not in TYPESTORE.fielddefs:
                raise DataError(f"cannot record {topic}: message type {kind!r} is not a standard one")
        self._schemas = {kind: _schema(kind) for kind in self.topic_types.values()}
        self.interface = interface
        self.labels = dict(labels or {})
        self.software = software()
        self.episodes: list[EpisodeInfo] = []
        self.episode: EpisodeInfo | None = None
        #: The running episode, else the one before; None where that was discarded or none has been started.
        self.latest: EpisodeInfo | None = None
        self._started = 0
        self._files: list[tuple[EpisodeFile, EpisodeInfo]] = []
        self._free_bytes = free_bytes or _free_bytes
        self._metadata_error: OSError | None = None
        new_folders = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True)
            self._lock = bag_lock.hold(self.path)
            write_metadata(self.path, bag_information(self.topic_types, [], {}))
            if self.settings.fsync:
                for folder in new_folders:
                    sync_folder(folder)
                    sync_folder(folder.parent)
        except FileExistsError:
            raise DataError(f"{path} exists already and is not overwritten; give another name for the bag") from None
        except OSError as error:
            raise DataError(f"cannot create the bag {path}: {error.strerror}") from error
        self._disk = Disk(self.settings.background)
        try:
            self._check_space()
        except BagWriteError:
            self.close()
            raise

    @property
    def free_bytes(self) -> int:
        """Free space where the bag is written; BagWriteError where that is gone."""
        return free_space(self.path, self._free_bytes)

    def start_episode(self, label: str = "", note: str = "") -> EpisodeInfo:
        """Open the next file `<bag>_<k>.mcap`; a running episode is ended first.

        Raises:
            BagWriteError: the file cannot be made, or the disk is full.
        """
        if self.episode is not None:
            self.end_episode("next episode")
        episode = EpisodeInfo(self._started, f"{self.path.name}_{self._started}.mcap", label, now_utc(), note=note)
        self._check_space()
        try:
            self._file = EpisodeFile(self.path / episode.file, self.settings.fsync)
        except OSError as error:
            raise BagWriteError(f"cannot create {self.path / episode.file}: {error.strerror}") from error
        self._started += 1
        self._files.append((self._file, episode))
        # It is written anew below: what the disk refused before there was room again is history.
        self._metadata_error = None
        self._buffer = ChunkBuffer()
        # `flush` closes the chunks; mcap by itself knows their size only.
        compression = COMPRESSION[self.settings.compression]
        self._mcap = Writer(self._buffer, chunk_size=1 << 30, compression=compression)
        self._channels: dict[str, int] = {}
        self._pending_bytes = 0
        self._chunk_start_ns = 0
        self.episode = self.latest = episode
        self._mcap.start(profile="ros2", library="h2o_control")
        self._mcap.add_metadata("h2o", self._custom_data([*self.episodes, episode]))
        self._register_channels()
        self._hand_over()
        self._write_metadata()
        return episode

    def write(self, topic: str, data: bytes, stamp_ns: int, sequence: int = 0) -> None:
        """Append one serialized message (CDR) received at `stamp_ns`; `sequence` is its publisher's number for it.

        Raises:
            BagWriteError: disk full or another write error; the episode that it names has been ended and is readable.
        """
        episode = self.episode
        if episode is None:
            raise DataError("no episode is being recorded: call start_episode first")
        if topic not in self._channels:
            raise DataError(f"topic {topic} was not declared when the bag was made")
        if self._pending_bytes == 0:
            self._chunk_start_ns = stamp_ns
            if episode.message_count == 0:
                episode.start_ns = stamp_ns
        channel = self._channels[topic]
        self._mcap.add_message(channel, stamp_ns, data, publish_time=stamp_ns, sequence=sequence & _SEQUENCE_MASK)
        episode.counts[topic] += 1
        episode.start_ns = min(episode.start_ns, stamp_ns)
        episode.end_ns = max(episode.end_ns, stamp_ns)
        self._pending_bytes += len(data) + 31  # record header and message header
        settings = self.settings
        if self._pending_bytes >= settings.chunk_bytes or stamp_ns - self._chunk_start_ns >= settings.chunk_time_ns:
            self.flush()

    def flush(self, now_ns: int | None = None) -> None:
        """Close the chunk in progress and hand it to the disk.

        Args:
            now_ns: where given, only a chunk that is old enough by then is closed. Call it so several times a second:
                `write` closes chunks too, but only when messages come.

        Raises:
            BagWriteError: as `write`; also where the disk refused something since the last call.
        """
        self._check_disk()
        if self.episode is None or self._pending_bytes == 0:
            return
        if now_ns is not None and now_ns - self._chunk_start_ns < self.settings.chunk_time_ns:
            return
        try:
            self._check_space()
        except BagGoneError:
            # What the end of the episode then cannot write follows from that.
            with contextlib.suppress(BagWriteError):
                self.end_episode("bag is gone")
            raise
        except BagWriteError:
            self.end_episode("disk full")
            raise
        behind = self._disk.waiting_bytes
        if behind > BACKLOG_BYTES:
            self.end_episode("disk stalled")
            raise BagWriteError(
                f"the disk is {behind / 2**20:.0f} MiB behind with {self.path}: the episode ends; look at the disk, "
                "then start another one"
            )
        self._mcap.flush()
        self._pending_bytes = 0
        self._hand_over()

    def end_episode(self, reason: str = "stopped") -> EpisodeInfo | None:
        """Write the file's index, then metadata.yaml; returns the finished episode, None where none was running."""
        episode = self.episode
        if episode is None:
            return None
        episode.end_reason = reason
        self._mcap.flush()
        # Beside the one at the beginning: what only the end knows.
        self._mcap.add_metadata("h2o.episode", {key: _text(value) for key, value in episode.row().items()})
        self._mcap.finish()
        file, data = self._file, self._buffer.take()
        self._disk.do(lambda: file.finish(data, episode), len(data))
        self._close(episode)
        # In the background the disk has its say later.
        self._check_disk()
        return episode

    def describe(self, label: str | None = None, note: str | None = None) -> EpisodeInfo:
        """Label the running episode, or else the one before, or give it a note; its file stays as it is.

        Raises:
            DataError: there is no such episode, or it was discarded.
        """
        episode = self._latest("label")
        episode.label = episode.label if label is None else label
        episode.note = episode.note if note is None else note
        self._write_metadata()
        return episode

    def discard_episode(self) -> EpisodeInfo:
        """Delete the running episode, or else the one before; no number is given twice.

        Raises:
            DataError: there is no such episode, or it was discarded already.
        """
        episode, file = self._latest("discard"), self._file
        if self.episode is episode:
            self.episode = None
            self._disk.do(file.abandon)
        else:
            self.episodes.remove(episode)
        self.latest = None
        # First metadata.yaml, then the file: killed in between, the bag has an episode too many, and none that is gone.
        self._write_metadata()
        self._disk.do(lambda: self._delete(self.path / episode.file))
        self._check_disk()
        return episode

    def close(self) -> None:
        """End a running episode; the bag is complete afterwards, and gone where it holds no episode.

        Raises:
            BagWriteError: the last of it could not be written.
        """
        try:
            self.end_episode("closed")
            self._disk.wait()
            self._check_disk()
        finally:
            self._disk.close()
            if not self.episodes:
                # The name is free again for the next try.
                with contextlib.suppress(OSError):
                    (self.path / "metadata.yaml").unlink(missing_ok=True)
                    self.path.rmdir()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def set_interface(self, interface: Interface) -> None:
        """Store the robot's interface once it is known; a robot that changes it needs a bag of its own."""
        if self.interface is not None and self.interface.hash != interface.hash:
            raise DataError(f"the interface changed from {self.interface.hash} to {interface.hash}: start another bag")
        self.interface = interface

    def _latest(self, what: str) -> EpisodeInfo:
        if self.latest is None and self._started:
            file = f"{self.path.name}_{self._started - 1}.mcap"
            raise DataError(f"{file} was discarded: there is none to {what} before the next one")
        if self.latest is None:
            raise DataError(f"no episode has been recorded yet: there is none to {what}")
        return self.latest

    def _hand_over(self) -> None:
        """Give the disk what has been written since, together with what is in the file by then."""
        assert self.episode is not None
        file, data, so_far = self._file, self._buffer.take(), self.episode.snapshot()
        self._disk.do(lambda: file.append(data, so_far), len(data))
        self._check_disk()

    def _check_disk(self) -> None:
        """Raise what the disk has refused, once, and end the episode that it concerns."""
        # In the background, an episode may have begun before the disk is through with the one before.
        for file, episode in self._files[:]:
            if file.done or file.error is not None:
                self._files.remove((file, episode))
            if file.done or file.error is None:
                continue
            if self.episode is episode:
                file.settle(episode)
                self._close(episode)
            raise BagWriteError(
                f"cannot write {self.path / episode.file}: {file.error.strerror}; the {episode.message_count} messages "
                "before are kept"
            ) from file.error
        if self._metadata_error is not None:
            error, self._metadata_error = self._metadata_error, None
            raise BagWriteError(f"cannot write {self.path / 'metadata.yaml'}: {error.strerror}") from error

    def _check_space(self) -> None:
        check_space(self.path, self.free_bytes, self.settings.reserve_bytes)

    def _close(self, episode: EpisodeInfo) -> None:
        self.episode = None
        self.episodes.append(episode)
        self._write_metadata()

    def _register_channels(self) -> None:
        assert self.episode is not None
        numbers: dict[str, int] = {}
        for topic, kind in self.topic_types.items():
            text, digest = self._schemas[kind]
            if kind not in numbers:
                numbers[kind] = self._mcap.register_schema(kind, "ros2msg", text)
            qos = yaml.safe_dump([qos_profile(topic)], sort_keys=False)
            meta = {"offered_qos_profiles": qos, "topic_type_hash": digest}
            self._channels[topic] = self._mcap.register_channel(topic, "cdr", numbers[kind], meta)
            self.episode.counts[topic] = 0

    def _custom_data(self, episodes: list[EpisodeInfo]) -> dict[str, str]:
        return custom_data(self.labels, self.software, self.interface, episodes)

    def _write_metadata(self) -> None:
        episodes = [*self.episodes, *([self.episode] if self.episode else [])]
        self._disk.do(lambda: self._write_metadata_now(episodes))

    def _write_metadata_now(self, episodes: list[EpisodeInfo]) -> None:
        readable = [e for e in episodes if e.readable]
        try:
            # Writing would make the folder anew, where a disk was taken away on another one.
            os.stat(self.path)
            write_metadata(self.path, bag_information(self.topic_types, readable, self._custom_data(episodes)))
            if self.settings.fsync:
                sync_folder(self.path)
        except OSError as error:
            self._metadata_error = error

    def _delete(self, path: Path) -> None:
        try:
            path.unlink()
            if self.settings.fsync:
                sync_folder(self.path)
        except OSError as error:
            self._metadata_error = error


def _schema(kind: str) -> tuple[bytes, str]:
    """Definition of a message type with those in it, and its hash."""
    text, _ = TYPESTORE.generate_msgdef(kind, ros_version=2)
    return text.encode(), TYPESTORE.hash_rihs01(kind)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_space(path: Path, free_bytes: int, reserve_bytes: int) -> None:
    """Raise BagWriteError where less than the reserve is left of the disk that holds `path`."""
    if free_bytes < reserve_bytes:
        raise BagWriteError(
            f"disk full: {free_bytes / 2**20:.0f} MiB left where {path} is written, {reserve_bytes / 2**20:.0f} MiB "
            "are kept for the index; free some space and start another episode"
        )


def free_space(path: Path, look: Callable[[Path], int] | None = None) -> int:
    """Free space where a bag is written; raises BagGoneError where its folder cannot be looked at."""
    try:
        return (look or _free_bytes)(path)
    except OSError as error:
        raise BagGoneError(
            f"the bag {path} cannot be written any more, {error.strerror}: was it deleted or moved, or its disk taken "
            "away? Start the recorder again for another one"
        ) from error


def _free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize
