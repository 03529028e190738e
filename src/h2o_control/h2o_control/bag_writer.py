# SPDX-License-Identifier: Apache-2.0
"""Write rosbag2 directories in MCAP: one directory a bag, one file an episode, little lost when the process is killed.

No ROS here: serialized (CDR) messages come in with topic, type and stamp. What a crash can cost is bounded by the
chunk: chunks are closed at 96 KiB or 0.2 s and go to the file at once. Finished episodes are never touched again, and
metadata.yaml lists finished files only, so that every rosbag2 reader opens them whatever happens to the one in
progress.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import yaml
from mcap.data_stream import RecordBuilder
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from h2o_control.bag_metadata import TYPESTORE, EpisodeInfo, bag_information, custom_data, qos_profile, write_metadata
from h2o_control.contract import Interface
from h2o_control.errors import DataError, UserError
from h2o_control.provenance import now_utc, software

CHUNK_BYTES = 96 * 1024
CHUNK_TIME_NS = 200_000_000
#: An episode ends while this much of the disk is still free, so that its index and metadata.yaml can be written.
RESERVE_BYTES = 32 * 1024 * 1024


class BagWriteError(UserError):
    """The bag cannot be written any further; what was written before is complete and readable."""


class _File:
    """Unbuffered output that writes all or raises; `mcap` would put a buffer in front of a raw file."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.position = 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            written = os.write(self.fd, view)
            self.position += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing is held back."""


class BagWriter:
    """A bag directory that takes one episode after another.

    Args:
        path: directory to create; it must not exist yet.
        topic_types: recorded topics (full names) and their message types; all types must be standard messages.
        interface: the robot's interface, where known; stored in metadata.yaml and in each file.
        labels: further key-value pairs for custom_data, e.g. robot and operator.
        free_bytes: free space at a path; tests replace it.

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
    ) -> None:
        self.path = Path(path)
        self.topic_types = dict(topic_types)
        for topic, kind in self.topic_types.items():
            if kind not in TYPESTORE.fielddefs:
                raise DataError(f"cannot record {topic}: message type {kind!r} is not a standard one")
        try:
            self.path.mkdir(parents=True)
            write_metadata(self.path, bag_information(self.topic_types, [], {}))
        except FileExistsError:
            raise DataError(f"{path} exists already and is not overwritten; give another name for the bag") from None
        except OSError as error:
            raise DataError(f"cannot create the bag {path}: {error.strerror}") from error
        self.interface = interface
        self.labels = dict(labels or {})
        self.software = software()
        self.episodes: list[EpisodeInfo] = []
        self.episode: EpisodeInfo | None = None
        self._free_bytes = free_bytes or _free_bytes
        try:
            self._check_space()
        except BagWriteError:
            self.close()
            raise

    def start_episode(self, label: str = "") -> EpisodeInfo:
        """Open the next file `<bag>_<k>.mcap`; a running episode is ended first."""
        if self.episode is not None:
            self.end_episode("next episode")
        index = len(self.episodes)
        episode = EpisodeInfo(index, f"{self.path.name}_{index}.mcap", label, now_utc())
        self._check_space()
        try:
            self._file = _File(self.path / episode.file)
        except OSError as error:
            raise BagWriteError(f"cannot create {self.path / episode.file}: {error.strerror}") from error
        self._mcap = Writer(self._file, chunk_size=1 << 30, compression=CompressionType.ZSTD)
        self._channels: dict[str, int] = {}
        self._pending_bytes = 0
        self._chunk_start_ns = 0
        self.episode = episode
        self._mark_good()
        try:
            self._mcap.start(profile="ros2", library="h2o_control")
            self._mcap.add_metadata("h2o", self._custom_data())
            self._register_channels()
            self._mark_good()
            self._write_metadata()
        except OSError as error:
            self._give_up(error)
        return episode

    def write(self, topic: str, data: bytes, stamp_ns: int) -> None:
        """Append one serialized message (CDR) received at `stamp_ns`.

        Raises:
            BagWriteError: disk full or another write error; the episode has been ended and is readable.
        """
        episode = self.episode
        if episode is None:
            raise DataError("no episode is being recorded: call start_episode first")
        if topic not in self._channels:
            raise DataError(f"topic {topic} was not declared when the bag was made")
        if episode.message_count == 0:
            episode.start_ns = stamp_ns
        if self._pending_bytes == 0:
            self._chunk_start_ns = stamp_ns
        self._mcap.add_message(self._channels[topic], stamp_ns, data, publish_time=stamp_ns)
        episode.counts[topic] += 1
        episode.start_ns = min(episode.start_ns, stamp_ns)
        episode.end_ns = max(episode.end_ns, stamp_ns)
        self._pending_bytes += len(data) + 31  # record header and message header
        if self._pending_bytes >= CHUNK_BYTES or stamp_ns - self._chunk_start_ns >= CHUNK_TIME_NS:
            self.flush()

    def flush(self) -> None:
        """Close the chunk in progress and hand it to the operating system; call at least every 0.2 s."""
        if self.episode is None or self._pending_bytes == 0:
            return
        try:
            self._check_space()
            self._mcap.flush()
        except BagWriteError:
            self.end_episode("disk full")
            raise
        except OSError as error:
            self._give_up(error)
        self._pending_bytes = 0
        self._mark_good()

    def end_episode(self, reason: str = "stopped") -> EpisodeInfo | None:
        """Write the file's index, then metadata.yaml; returns the finished episode, None where none was running."""
        episode = self.episode
        if episode is None:
            return None
        episode.end_reason = reason
        try:
            self._mcap.finish()
            os.fsync(self._file.fd)
        except OSError as error:
            self._give_up(error)
        episode.readable = True
        self._close(episode)
        return episode

    def close(self) -> None:
        """End a running episode; the bag is complete afterwards, and gone where it holds no episode."""
        self.end_episode("closed")
        if not self.episodes:
            # The name is free again for the next try.
            with contextlib.suppress(OSError):
                (self.path / "metadata.yaml").unlink(missing_ok=True)
                self.path.rmdir()

    def set_interface(self, interface: Interface) -> None:
        """Store the robot's interface once it is known; a robot that changes it needs a bag of its own."""
        if self.interface is not None and self.interface.hash != interface.hash:
            raise DataError(f"the interface changed from {self.interface.hash} to {interface.hash}: start another bag")
        self.interface = interface

    def _mark_good(self) -> None:
        """Remember where the file is whole and what is in it by then: what is left when a later write fails."""
        self._good_end = self._file.position
        self._good = copy.deepcopy(self.episode)

    def _check_space(self) -> None:
        free = self._free_bytes(self.path)
        if free < RESERVE_BYTES:
            raise BagWriteError(
                f"disk full: {free / 2**20:.0f} MiB left where {self.path} is written, {RESERVE_BYTES / 2**20:.0f} MiB "
                "are kept for the index; free some space and start another episode"
            )

    def _give_up(self, error: OSError) -> NoReturn:
        """Cut the file behind its last complete chunk and close it without an index; readers then scan it."""
        self.episode = episode = self._good
        assert episode is not None
        os.ftruncate(self._file.fd, self._good_end)
        os.lseek(self._file.fd, self._good_end, os.SEEK_SET)
        tail = RecordBuilder()
        DataEnd(0).write(tail)
        Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(tail)
        episode.end_reason = f"write error: {error.strerror}"
        try:
            self._file.write(tail.end() + MCAP0_MAGIC)
            episode.readable = True
        except OSError:
            episode.end_reason += ", file without footer"
        self._close(episode)
        raise BagWriteError(
            f"cannot write {self.path / episode.file}: {error.strerror}; the {episode.message_count} messages "
            "before are kept"
        ) from error

    def _close(self, episode: EpisodeInfo) -> None:
        os.close(self._file.fd)
        self.episode = None
        self.episodes.append(episode)
        try:
            self._write_metadata()
        except OSError as error:
            raise BagWriteError(f"cannot write {self.path / 'metadata.yaml'}: {error.strerror}") from error

    def _register_channels(self) -> None:
        schemas: dict[str, int] = {}
        assert self.episode is not None
        for topic, kind in self.topic_types.items():
            if kind not in schemas:
                text, _ = TYPESTORE.generate_msgdef(kind, ros_version=2)
                schemas[kind] = self._mcap.register_schema(kind, "ros2msg", text.encode())
            qos = yaml.safe_dump([qos_profile(topic)], sort_keys=False)
            meta = {"offered_qos_profiles": qos, "topic_type_hash": TYPESTORE.hash_rihs01(kind)}
            self._channels[topic] = self._mcap.register_channel(topic, "cdr", schemas[kind], meta)
            self.episode.counts[topic] = 0

    def _custom_data(self) -> dict[str, str]:
        running = [self.episode] if self.episode else []
        return custom_data(self.labels, self.software, self.interface, [*self.episodes, *running])

    def _write_metadata(self) -> None:
        readable = [e for e in self.episodes if e.readable]
        write_metadata(self.path, bag_information(self.topic_types, readable, self._custom_data()))


def _free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize
