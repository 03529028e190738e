# SPDX-License-Identifier: Apache-2.0
"""Write messages of other bags as they are: payload bytes, stamps, sequence and definitions unchanged.

`bag_writer` makes bags out of what is recorded now; this makes them out of what was. An hour passes through in
constant memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from h2o_control.bag_source import RawMessage, StoredEpisode, Topic
from h2o_control.errors import DataError

#: As our recorder's; small chunks cost little and let readers skip.
CHUNK_BYTES = 96 * 1024


class CopiedFile:
    """A new MCAP file; raises OSError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.episode = StoredEpisode(path)
        self._stream = path.open("wb")
        self._mcap = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._mcap.start(profile="ros2", library="h2o_control")
        self._schemas: dict[tuple[str, str, bytes], int] = {}
        self._channels: dict[Topic, int] = {}

    def declare(self, topics: Iterable[Topic]) -> None:
        """Declare topics, so that those without a message are in the file too."""
        for topic in topics:
            self._channel(topic)

    def write(self, message: RawMessage) -> None:
        """Append one message."""
        channel = self._channel(message.topic)
        self._mcap.add_message(channel, message.log_ns, message.data, message.publish_ns, message.sequence)
        self.episode.count(message.topic.name, message.log_ns)

    def add_metadata(self, name: str, content: Mapping[str, str]) -> None:
        """Append a metadata record."""
        self._mcap.add_metadata(name, dict(content))

    def finish(self) -> StoredEpisode:
        """Write index and end, wait for the disk; returns what is in the file."""
        self._mcap.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return self.episode

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._stream.close()

    def _channel(self, topic: Topic) -> int:
        if topic in self._channels:
            return self._channels[topic]
        schema = 0
        if topic.type:
            key = (topic.type, topic.schema_encoding, topic.schema)
            if key not in self._schemas:
                self._schemas[key] = self._mcap.register_schema(*key)
            schema = self._schemas[key]
        described = {"offered_qos_profiles": topic.qos, "topic_type_hash": topic.type_hash}
        known = {key: text for key, text in described.items() if text}
        self._channels[topic] = self._mcap.register_channel(topic.name, topic.encoding, schema, known)
        self.episode.topics.append(topic)
        return self._channels[topic]


def bag_information(episodes: Sequence[StoredEpisode], custom: Mapping[str, str], ros_distro: str) -> dict[str, Any]:
    """Content of metadata.yaml, version 9, for files of any recorder that were read or written completely."""
    # An entry for each way in which a topic was offered: rosbags finds messages by name, type and QoS together.
    declared: dict[tuple[str, str], Topic] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for episode in episodes:
        seen: set[str] = set()
        for topic in episode.topics:
            key = topic.name, json.dumps(topic.qos_profiles())
            declared.setdefault(key, topic)
            # Two publishers of one topic in one file are counted together.
            counts[key] += 0 if topic.name in seen else episode.counts[topic.name]
            seen.add(topic.name)
    start = min((e.start_ns for e in episodes if e.start_ns is not None), default=0)
    end = max((e.end_ns for e in episodes if e.end_ns is not None), default=0)
    return {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": counts.total(),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": topic.encoding,
                    "offered_qos_profiles": topic.qos_profiles(),
                    "type_description_hash": topic.type_hash,
                },
                "message_count": counts[key],
            }
            for key, topic in declared.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [e.name for e in episodes],
        "files": [
            {
                "path": e.name,
                "starting_time": {"nanoseconds_since_epoch": e.start_ns or 0},
                "duration": {"nanoseconds": (e.end_ns or 0) - (e.start_ns or 0)},
                "message_count": e.counts.total(),
            }
            for e in episodes
        ],
        "custom_data": dict(custom),
        "ros_distro": ros_distro or "unknown",
    }


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into that takes its place at `path` once all went well, and is gone otherwise.

    Raises:
        DataError: there is something at `path` already, or the disk refuses.
    """
    if path.exists():
        raise DataError(f"{path} exists already and is not overwritten; give another name")
    hidden = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        hidden.mkdir(parents=True)
        yield hidden
        hidden.rename(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
