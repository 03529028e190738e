# SPDX-License-Identifier: Apache-2.0
"""Bags as they are stored, whoever recorded them: topics with definitions, messages with payload bytes and stamps.

MCAP files are streamed, finished or not (`bag_scan`); other storages are read by rosbags.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mcap.reader import make_reader
from mcap.records import Channel, Metadata, Schema
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import dump_qos_v9, parse_qos
from rosbags.typesys import TypesysError

from h2o_control import topics
from h2o_control.bag_index import NOT_A_RECORD, read_index
from h2o_control.bag_messages import bag_files
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_scan import Damage, McapScan
from h2o_control.contract import Interface
from h2o_control.errors import DataError

#: Called with the name of each file before it is read.
Progress = Callable[[str], object]


def silent(name: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Topic:
    """A topic as a file declares it.

    Attributes:
        qos: offered profiles, YAML as rosbag2 writes it; "" where unknown.
        type_hash: RIHS01, "" where unknown.
        schema_encoding, schema: the type's definition and in what language, empty where the file has none.
    """

    name: str
    type: str
    encoding: str = "cdr"
    qos: str = ""
    type_hash: str = ""
    schema_encoding: str = ""
    schema: bytes = b""

    @property
    def latched(self) -> bool:
        """Whether a late subscriber still gets the last message."""
        return any(profile["durability"] == "transient_local" for profile in self.qos_profiles())

    def qos_profiles(self) -> list[dict[str, Any]]:
        """Offered profiles in the words of rosbag2 version 9, whatever the version they were written in."""
        try:
            return [dict(profile) for profile in dump_qos_v9(parse_qos(self.qos))]
        except (ReaderError, KeyError, TypeError):
            return []


class RawMessage(NamedTuple):
    """A serialized message: received at `log_ns`, published at `publish_ns` where the recorder knew, else the same."""

    topic: Topic
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


@dataclass
class StoredEpisode:
    """One file of a bag; what follows `path` is complete once `messages` is exhausted.

    Attributes:
        topics: declared, in order of their ids.
        counts: messages by topic name.
        start_ns, end_ns: first and last receive stamp, None where there is no message.
        finished: the file has its end and index; else its recorder was killed, or still runs.
        damages: what of it is lost.
        metadata: the MCAP file's metadata records.
        scan: of an MCAP file that has been read or is being read; up to date while it is.
    """

    path: Path
    topics: list[Topic] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    start_ns: int | None = None
    end_ns: int | None = None
    finished: bool = True
    damages: list[Damage] = field(default_factory=list)
    metadata: list[Metadata] = field(default_factory=list)
    scan: McapScan | None = None

    @property
    def name(self) -> str:
        """File name; the folder's for a bag whose files are compressed as a whole."""
        return self.path.name

    @property
    def duration_s(self) -> float:
        """From the first to the last message, s."""
        return 0.0 if self.start_ns is None or self.end_ns is None else (self.end_ns - self.start_ns) * 1e-9

    def messages(self) -> Iterator[RawMessage]:
        """Yield all whole messages in the order of the file.

        Raises:
            DataError: not a file that mcap or rosbags can read.
        """
        self.counts.clear()
        self.start_ns = self.end_ns = None
        for message in self._mcap() if self.path.suffix == ".mcap" else self._other():
            self.count(message.topic.name, message.log_ns)
            yield message

    def count(self, topic: str, stamp_ns: int) -> None:
        """Take one more message into account."""
        self.counts[topic] += 1
        self.start_ns = stamp_ns if self.start_ns is None else min(stamp_ns, self.start_ns)
        self.end_ns = stamp_ns if self.end_ns is None else max(stamp_ns, self.end_ns)

    def summarise(self) -> None:
        """Fill in what `messages` would, from the index of a finished file, else by reading it; checks no chunk.

        Raises:
            DataError: as `messages`.
        """
        index = read_index(self.path) if self.path.suffix == ".mcap" else None
        if index is None or index.statistics is None:
            if self.path.suffix == ".mcap":
                for _ in self.messages():
                    pass
            else:
                self._ask_reader()
            return
        statistics = index.statistics
        self.topics = [topic_of(c, index.schemas.get(c.schema_id)) for _, c in sorted(index.channels.items())]
        self.counts.clear()
        for channel, count in statistics.channel_message_counts.items():
            self.counts[index.channels[channel].topic] += count
        if statistics.message_count:
            self.start_ns, self.end_ns = statistics.message_start_time, statistics.message_end_time
        try:
            with self.path.open("rb") as stream:
                self.metadata = list(make_reader(stream).iter_metadata())
        except NOT_A_RECORD as error:
            raise DataError(f"{self.path} is damaged: {error}; h2o-robot bag repair keeps what is whole") from error

    def _mcap(self) -> Iterator[RawMessage]:
        self.scan = scan = McapScan(self.path)
        known: dict[int, Topic] = {}
        self.metadata = []
        for part in scan.parts():
            if isinstance(part, Metadata):
                self.metadata.append(part)
            if not isinstance(part, list):
                continue
            for m in part:
                topic = known.get(m.channel_id)
                if topic is None:
                    channel = scan.channels[m.channel_id]
                    topic = known[m.channel_id] = topic_of(channel, scan.schemas.get(channel.schema_id))
                yield RawMessage(topic, m.log_time, m.publish_time, m.sequence, m.data)
        if not scan.is_mcap:
            raise DataError(f"{self.path} is not an MCAP file, or nothing of it is whole")
        self.topics = [topic_of(c, scan.schemas.get(c.schema_id)) for _, c in sorted(scan.channels.items())]
        self.finished, self.damages = scan.finished, scan.damages

    def _other(self) -> Iterator[RawMessage]:
        with self._reader() as reader:
            by_id = {id(c): _topic_of_connection(c) for c in reader.connections}
            self.topics = list(by_id.values())
            for connection, stamp_ns, data in reader.messages():
                yield RawMessage(by_id[id(connection)], stamp_ns, stamp_ns, 0, bytes(data))
            if self.counts.total() != reader.message_count:
                raise DataError(
                    f"{self.path} holds {reader.message_count} messages, {self.counts.total()} of them can be read by "
                    "rosbags: convert it with `ros2 bag convert`"
                )

    def _ask_reader(self) -> None:
        with self._reader() as reader:
            self.topics = [_topic_of_connection(c) for c in reader.connections]
            self.counts = Counter({c.topic: c.msgcount for c in reader.connections})
            if reader.message_count:
                self.start_ns, self.end_ns = reader.start_time, reader.end_time - 1

    @contextmanager
    def _reader(self) -> Iterator[AnyReader]:
        try:
            with AnyReader([self.path], default_typestore=TYPESTORE) as reader:
                yield reader
        except (AnyReaderError, ReaderError, TypesysError) as error:
            raise DataError(f"cannot read {self.path}: {error}") from error


def topic_of(channel: Channel, schema: Schema | None) -> Topic:
    """Return the topic that an MCAP channel stands for."""
    return Topic(
        channel.topic,
        schema.name if schema else "",
        channel.message_encoding,
        channel.metadata.get("offered_qos_profiles", ""),
        channel.metadata.get("topic_type_hash", ""),
        schema.encoding if schema else "",
        schema.data if schema else b"",
    )


def _topic_of_connection(connection: Any) -> Topic:
    kind, definition = connection.msgtype, connection.msgdef
    language = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}.get(
        definition.format, ""
    )
    text = definition.data
    if not language and kind in TYPESTORE.fielddefs:
        language, (text, _) = "ros2msg", TYPESTORE.generate_msgdef(kind, ros_version=2)
    qos = yaml.safe_dump(dump_qos_v9(connection.ext.offered_qos_profiles), sort_keys=False)
    encoding = connection.ext.serialization_format
    return Topic(connection.topic, kind, encoding, qos, connection.digest, language, text.encode() if language else b"")


@dataclass
class StoredBag:
    """A bag: its files in order and what metadata.yaml says of them.

    Attributes:
        information: content of metadata.yaml, empty where there is none.
        custom: its custom data, key to text.
    """

    path: Path
    episodes: list[StoredEpisode]
    information: dict[str, Any]
    custom: dict[str, str]

    def row(self, episode: StoredEpisode) -> dict[str, Any]:
        """What our recorder says about an episode (label, end_reason, …); empty for other people's bags."""
        # Labels that come after the end are in metadata.yaml alone; a killed recorder leaves what it knew at first.
        sources = [_rows(self.custom.get("h2o.episodes"))]
        for record in episode.metadata[::-1]:
            if record.name == "h2o.episode":
                sources.append([{key: _value(text) for key, text in record.metadata.items()}])
            elif record.name == "h2o":
                sources.append(_rows(record.metadata.get("h2o.episodes")))
        return next((row for rows in sources for row in rows if row.get("file") == episode.name), {})

    def interface(self) -> Interface | None:
        """The robot's interface: from metadata.yaml or the files; None where nothing says.

        Raises:
            ContractError: there is something that is no interface this version knows.
        """
        if "h2o.interface" in self.custom:
            return Interface.from_json(self.custom["h2o.interface"], str(self.path))
        for record in (m for e in self.episodes for m in e.metadata if "h2o.interface" in m.metadata):
            return Interface.from_json(record.metadata["h2o.interface"], str(self.path))
        for episode in self.episodes:
            text = first_text(episode, topics.INTERFACE)
            if text is not None:
                return Interface.from_json(text, f"{episode.path}: /{topics.INTERFACE}")
        return None


def open_bag(path: str | Path) -> StoredBag:
    """Find the files of a bag, or of one .mcap file.

    Raises:
        DataError: not a bag, or a file that metadata.yaml lists is gone.
    """
    path = Path(path)
    files, information = bag_files(path)
    if str(information.get("compression_mode", "")).lower() not in ("", "none"):
        # Such files rosbags reads by their folder only. Others are read one by one: of a folder, it passes over topics
        # whose QoS is written otherwise in metadata.yaml than in the file, as `ros2 bag convert` does.
        files = [path]
    custom = {str(k): str(v) for k, v in (information.get("custom_data") or {}).items()}
    return StoredBag(path, [StoredEpisode(file) for file in files], information, custom)


def first_text(episode: StoredEpisode, name: str, within: int = 2000) -> str | None:
    """Return the first std_msgs/String on a topic whose last path component is `name`, None where there is none.

    Args:
        episode: where to look.
        name: as in h2o_control.topics.
        within: how many messages to look at; our recorder begins each episode with the latched ones.
    """
    for _, message in zip(range(within), StoredEpisode(episode.path).messages(), strict=False):
        if message.topic.name.rpartition("/")[2] == name and message.topic.type == topics.TYPES[name]:
            return str(TYPESTORE.deserialize_cdr(message.data, message.topic.type).data)  # type: ignore[attr-defined]
    return None


def robot_names(bag: StoredBag) -> list[str]:
    """Names of the robots that the episodes are of, by their /configuration; empty where nothing says."""
    names: dict[str, None] = {}
    for episode in bag.episodes:
        text = first_text(episode, topics.CONFIGURATION)
        try:
            names[str(json.loads(text or "")["robot"]["name"])] = None
        except (ValueError, KeyError, TypeError):
            continue
    return list(names)


def _value(text: str) -> Any:
    """Undo what the recorder does to values of metadata records: text as it is, everything else as JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | int) else text


def _rows(text: str | None) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text or "[]")
    except ValueError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
