# SPDX-License-Identifier: Apache-2.0
"""Messages out of any rosbag2 directory, finished or cut off, one stored file after the other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

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
        recovered: the file had no index (the recorder was killed); what is here was read chunk by chunk.
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

    A file without index is streamed. Messages are converted one by one, since an hour of them would fill the memory.

    Raises:
        DataError: not a file that rosbags or mcap can read.
    """
    stored = StoredFile(path.name)
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            stored.topics = {c.topic: c.msgtype for c in reader.connections}
            wanted = [c for c in reader.connections if c.topic.rpartition("/")[2] in converters]
            for connection, stamp_ns, data in reader.messages(wanted) if wanted else ():
                convert = converters[connection.topic.rpartition("/")[2]]
                message = reader.deserialize(data, connection.msgtype)
                stored.messages.append((connection.topic, stamp_ns, convert(message)))
    except AnyReaderError as error:
        if path.suffix != ".mcap":
            raise DataError(f"cannot read {path}: {error}") from error
        return _stream_file(path, converters)
    return stored


def _stream_file(path: Path, converters: Converters) -> StoredFile:
    """Read an MCAP file without index: every chunk that is complete, in order, until the file ends."""
    stored = StoredFile(path.name, recovered=True)
    typestore = get_typestore(Stores.EMPTY)
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    with path.open("rb") as stream:
        for record in _records(stream, path):
            if isinstance(record, Schema):
                schemas[record.id] = record
                types = get_types_from_msg(record.data.decode(), record.name)
                typestore.register({k: v for k, v in types.items() if k not in typestore.fielddefs})
            elif isinstance(record, Channel):
                channels[record.id] = record
                stored.topics[record.topic] = schemas[record.schema_id].name
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                convert = converters.get(channel.topic.rpartition("/")[2])
                if convert is not None:
                    message = typestore.deserialize_cdr(record.data, schemas[channel.schema_id].name)
                    stored.messages.append((channel.topic, record.log_time, convert(message)))
    return stored


def _records(stream: Any, path: Path) -> Iterator[object]:
    if stream.read(8) != b"\x89MCAP0\r\n":
        raise DataError(f"{path} is not an MCAP file")
    stream.seek(0)
    try:
        yield from StreamReader(stream, validate_crcs=True).records
    except _CUT_OFF:
        return


def _episode_order(path: Path) -> tuple[int, str]:
    """Order `<bag>_10.mcap` after `<bag>_9.mcap`."""
    number = path.stem.rpartition("_")[2]
    return (int(number) if number.isdigit() else -1, path.name)
