# SPDX-License-Identifier: Apache-2.0
"""Messages out of any rosbag2 directory, finished or cut off, one stored file after the other.

MCAP files are streamed from their beginning: an index is not needed, so that a file whose recorder was killed is read
like any other, up to its last whole chunk. Other storages are read by rosbags.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, DataEnd, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError

from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.errors import DataError

#: What a file that ends in the middle of a record makes the streaming reader raise.
_CUT_OFF = (McapError, struct.error, zstandard.ZstdError, ValueError)


Converters = Mapping[str, Callable[[Any], Any]]


@dataclass
class StoredFile:
    """One file of a bag, read completely.

    Attributes:
        name: file name.
        topics: full topic name to message type, for all topics that the file declares.
        messages: (topic, receive stamp in ns, converted message) of the topics asked for, in file order.
        recovered: the file is cut off (its recorder was killed) or damaged; this is what came before.
    """

    name: str
    topics: dict[str, str] = field(default_factory=dict)
    messages: list[tuple[str, int, Any]] = field(default_factory=list)
    recovered: bool = False


def bag_files(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """Return the stored files of a bag in order and its metadata (empty where the recorder wrote none).

    Files that metadata.yaml does not list yet (the recorder was killed) come last.

    Raises:
        DataError: not a bag, or a file that metadata.yaml lists is gone.
    """
    if path.is_file() and path.suffix == ".mcap":
        return [path], {}
    if not path.is_dir():
        raise DataError(f"no such bag: {path} (a bag is the directory that holds metadata.yaml)")
    metadata: dict[str, Any] = {}
    if (path / "metadata.yaml").is_file():
        try:
            metadata = yaml.safe_load((path / "metadata.yaml").read_text("utf-8"))["rosbag2_bagfile_information"]
            listed = [path / Path(name).name for name in metadata["relative_file_paths"]]
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}/metadata.yaml is not rosbag2 metadata: {error!r}") from error
        missing = [file.name for file in listed if not file.is_file()]
        if missing:
            raise DataError(f"bag {path} lacks {', '.join(missing)}, which its metadata.yaml lists")
    else:
        listed = []
    files = [*listed, *sorted(set(path.glob("*.mcap")) - set(listed), key=_episode_order)]
    if not files:
        what = "holds no recording yet" if metadata else "is not a bag: no metadata.yaml and no *.mcap in it"
        raise DataError(f"{path} {what}")
    return files, metadata


def read_file(path: Path, converters: Converters) -> StoredFile:
    """Read the messages of topics whose last path component is a key of `converters`, each through its converter.

    Messages are converted one by one, since an hour of them would fill the memory. A topic of another type than
    h2o_control.topics gives it is listed, not read.

    Raises:
        DataError: not a file that mcap or rosbags can read, or a message that is not of its type.
    """
    stored = StoredFile(path.name)
    mcap = path.suffix == ".mcap"
    try:
        for topic, kind, stamp_ns, data in _mcap_messages(path, stored) if mcap else _other_messages(path, stored):
            name = topic.rpartition("/")[2]
            if name in converters and kind == topics.TYPES[name]:
                message = converters[name](TYPESTORE.deserialize_cdr(data, kind))
                stored.messages.append((topic, stamp_ns, message))
    except (AnyReaderError, ReaderError, SerdeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return stored


def _mcap_messages(path: Path, stored: StoredFile) -> Iterator[tuple[str, str, int, bytes]]:
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    stored.recovered = True
    for record in _records(path):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
            stored.topics[record.topic] = schemas[record.schema_id].name
        elif isinstance(record, Message):
            topic = channels[record.channel_id].topic
            yield topic, stored.topics[topic], record.log_time, record.data
        elif isinstance(record, DataEnd):
            stored.recovered = False
            return


def _records(path: Path) -> Iterator[object]:
    with path.open("rb") as stream:
        if stream.read(8) != b"\x89MCAP0\r\n":
            raise DataError(f"{path} is not an MCAP file")
        stream.seek(0)
        try:
            # A damaged length must not make the reader ask for more memory than the file could fill.
            yield from StreamReader(stream, validate_crcs=True, record_size_limit=path.stat().st_size).records
        except _CUT_OFF:
            return


def _other_messages(path: Path, stored: StoredFile) -> Iterator[tuple[str, str, int, bytes]]:
    with AnyReader([path], default_typestore=TYPESTORE) as reader:
        stored.topics = {c.topic: c.msgtype for c in reader.connections}
        for connection, stamp_ns, data in reader.messages():
            yield connection.topic, connection.msgtype, stamp_ns, data


def _episode_order(path: Path) -> tuple[int, str]:
    """Order `<bag>_10.mcap` after `<bag>_9.mcap`."""
    number = path.stem.rpartition("_")[2]
    return (int(number) if number.isdigit() else -1, path.name)
