# SPDX-License-Identifier: Apache-2.0
"""Somebody else's rosbag2 bag, whatever its messages: MCAP as our own readers do, up to damage; SQLite by rosbags.

Storage files are read one by one, not by their folder: there, rosbags passes over topics whose QoS is written otherwise
in metadata.yaml than in the file, as in bags that were converted. And each topic has types of its own, so that one
definition that rosbags cannot parse (service events) does not close the whole bag.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import yaml
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from h2o_control.bag_source import StoredEpisode
from h2o_control.bag_source import Topic as Declared
from h2o_control.errors import ConfigError, DataError
from h2o_training.bag_fields import numeric_fields

STORAGES = (".mcap", ".db3")
#: Between the parts of a definition in IDL, one a type.
_IDL_RULE = "=" * 80 + "\n"
#: What bytes that are no message of their type make rosbags raise.
_UNDECODABLE = (SerdeError, TypesysError, struct.error, ValueError, IndexError, KeyError, AssertionError)


@dataclass(frozen=True)
class Topic:
    """What a bag holds on a topic.

    Attributes:
        kind: message type. messages: how many.
        rate_hz: by the time they were received; 0 for less than two.
        fields: path and value of every number in the first message; None where it cannot be read, see `problem`.
        problem: why it cannot.
    """

    name: str
    kind: str
    messages: int
    rate_hz: float
    fields: list[tuple[str, float]] | None
    problem: str = ""


class ForeignBag:
    """An open bag; see `open_bag`."""

    def __init__(self, files: list[StoredEpisode | Reader], known: Typestore) -> None:
        self._files = files
        self._known = known
        self._stores: dict[str, Typestore] = {}

    @property
    def topics(self) -> dict[str, str]:
        """Message type by topic."""
        declared = (
            file.topics if isinstance(file, StoredEpisode) else map(_declared, file.connections) for file in self._files
        )
        return {topic.name: topic.type for of_file in declared for topic in of_file}

    @property
    def recovered(self) -> tuple[str, ...]:
        """Names of MCAP files that are cut off or damaged, as far as they were read."""
        stored = (file for file in self._files if isinstance(file, StoredEpisode))
        return tuple(file.name for file in stored if file.damages or not file.finished)

    def raw(self, topics: Collection[str]) -> Iterator[tuple[Declared, int, bytes]]:
        """Yield topic, receive stamp (ns) and bytes of each message on these topics, file by file."""
        for file in self._files:
            if isinstance(file, StoredEpisode):
                for message in file.messages():
                    if message.topic.name in topics:
                        yield message.topic, message.log_ns, message.data
                continue
            wanted = {c.id: _declared(c) for c in file.connections if c.topic in topics}
            if wanted:
                for connection, received_ns, data in file.messages([c for c in file.connections if c.id in wanted]):
                    yield wanted[connection.id], received_ns, bytes(data)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, receive stamp (ns) and message.

        Raises:
            DataError: a type that is not defined, or a message that is not of its type.
        """
        for topic, received_ns, data in self.raw(topics):
            yield topic.name, received_ns, self.decode(topic, data)

    def decode(self, topic: Declared, data: bytes) -> Any:
        """Turn bytes into a message; raises DataError where they are none, or their type is not defined."""
        kind = topic.type
        if topic.encoding != "cdr":
            raise DataError(f"{topic.name} is encoded as {topic.encoding!r}, only CDR can be read")
        if kind not in self._stores:
            self._stores[kind] = self._types(topic)
        try:
            return self._stores[kind].deserialize_cdr(data, kind)
        except _UNDECODABLE as error:
            raise DataError(f"a message on {topic.name} is no {kind}: {error!r}") from error

    def _types(self, topic: Declared) -> Typestore:
        kind, definition = topic.type, topic.schema.decode("utf-8", "replace")
        types: Typesdict = {}
        try:
            if topic.schema_encoding == "ros2msg" and definition:
                types = get_types_from_msg(definition, kind)
            elif topic.schema_encoding == "ros2idl" and definition:
                for part in definition.split(_IDL_RULE):
                    head, _, rest = part.partition("\n")
                    if part.strip():
                        types.update(get_types_from_idl(rest if head.startswith("IDL: ") else part))
            else:
                if kind not in self._known.fielddefs:
                    raise DataError(
                        f"the bag does not define {kind} of {topic.name}: name its .msg files under "
                        "`definitions` in the mapping"
                    )
                return self._known
            store = get_typestore(Stores.EMPTY)
            store.register(types)
        except TypesysError as error:
            what = " ".join(str(error).split())[:120]
            raise DataError(f"the definition of {kind} in the bag cannot be read: {what}") from error
        return store


def _declared(connection: Any) -> Declared:
    definition = connection.msgdef
    language = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}.get(
        definition.format, ""
    )
    encoding = getattr(connection.ext, "serialization_format", "cdr")
    schema = definition.data.encode() if language else b""
    return Declared(connection.topic, connection.msgtype, encoding, schema_encoding=language, schema=schema)


def _open_mcap(path: Path) -> StoredEpisode:
    """Learn the topics of an MCAP file: from its index, or where that is gone from all that is whole of the file."""
    file = StoredEpisode(path)
    try:
        file.summarise()
    except DataError:
        for _ in file.messages():
            pass
    return file


@contextmanager
def open_bag(path: Path, definitions: Mapping[str, Path]) -> Iterator[ForeignBag]:
    """Open a bag; types come from the bag, else from `definitions` and the standard messages of ROS.

    Raises:
        DataError: not a bag that can be read.
        ConfigError: a definition that is none.
    """
    known = get_typestore(Stores.ROS2_JAZZY)
    types: Typesdict = {}
    for kind, file in definitions.items():
        try:
            types.update(get_types_from_msg(file.read_text("utf-8"), kind))
        except (OSError, UnicodeDecodeError, TypesysError) as error:
            raise ConfigError(f"{file} is no message definition: {error}") from error
    try:
        known.register(types)
    except TypesysError as error:
        raise ConfigError(f"definitions contradict the standard messages of ROS: {error}") from error
    with ExitStack() as stack:
        files: list[StoredEpisode | Reader] = []
        current = path
        try:
            for current in storage_files(path):
                is_mcap = current.is_file() and current.suffix == ".mcap"
                files.append(_open_mcap(current) if is_mcap else stack.enter_context(Reader(current)))
            yield ForeignBag(files, known)
        except (ReaderError, OSError, apsw.Error) as error:
            raise DataError(f"cannot read bag {current}: {str(error).rstrip('.')}") from error


def storage_files(path: Path) -> list[Path]:
    """Files of a bag in the order of recording; the folder itself where it is compressed, which rosbags undoes.

    Raises:
        DataError: no such bag, or one that lacks files.
    """
    if not path.exists():
        raise DataError(f"no such bag: {path} (a folder with metadata.yaml, or a {' or '.join(STORAGES)} file)")
    if not path.is_dir():
        return [path]
    if not (path / "metadata.yaml").is_file():
        files = sorted(p for p in path.iterdir() if p.suffix in STORAGES)
        if not files:
            raise DataError(f"{path} is not a bag: no metadata.yaml and no {' or '.join(STORAGES)} in it")
        return files
    try:
        information = yaml.safe_load((path / "metadata.yaml").read_text("utf-8"))["rosbag2_bagfile_information"]
        files = [path / Path(name).name for name in information["relative_file_paths"]]
        compressed = bool(information.get("compression_mode") or information.get("compression_format"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}/metadata.yaml is damaged or empty (no rosbag2 metadata); "
            f"h2o-robot bag repair {path} writes it anew"
        ) from error
    if compressed or not all(file.suffix in STORAGES for file in files):
        return [path]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"bag {path} lacks {', '.join(missing)}, which its metadata.yaml lists")
    # A recorder that was killed has not listed its last file yet; the tenth comes after the second.
    unlisted = {p for p in path.iterdir() if p.suffix in STORAGES} - set(files)
    files += sorted(unlisted, key=lambda p: (len(p.name), p.name))
    if not files:
        raise DataError(f"bag {path} holds no recording yet")
    return files


def list_topics(path: Path, definitions: Mapping[str, Path]) -> tuple[list[Topic], tuple[str, ...]]:
    """Topics, types and numeric fields of a bag, by name; and names of files that are cut off or damaged.

    Raises:
        DataError: not a bag.
    """
    with open_bag(path, definitions) as bag:
        first: dict[str, tuple[Declared, bytes]] = {}
        spans: dict[str, list[int]] = {}
        for topic, received_ns, data in bag.raw(bag.topics):
            span = spans.setdefault(topic.name, [0, received_ns, received_ns])
            span[0], span[2] = span[0] + 1, received_ns
            first.setdefault(topic.name, (topic, data))
        result = []
        for name, kind in sorted(bag.topics.items()):
            count, start, end = spans.get(name, [0, 0, 0])
            rate_hz = (count - 1) * 1e9 / (end - start) if end > start else 0.0
            fields, problem = None, "no message"
            if name in first:
                try:
                    fields, problem = list(numeric_fields(bag.decode(*first[name]))), ""
                except DataError as error:
                    problem = str(error)
            result.append(Topic(name, kind, count, rate_hz, fields, problem))
        recovered = bag.recovered
    return result, recovered
