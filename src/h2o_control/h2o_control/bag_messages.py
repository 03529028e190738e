# SPDX-License-Identifier: Apache-2.0
"""The stored files of any rosbag2 directory, finished or cut off, and the messages in each.

MCAP files are streamed from their beginning: an index is not needed, so that a file whose recorder was killed is read
like any other, up to its last whole chunk. Other storages are read by rosbags.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError

from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.errors import DataError
from h2o_control.mcap_batches import BATCH_BYTES, Batch, StoredFile, mcap_batches

#: PyYAML's loader in Python takes longer over the metadata of a short bag than all the rest.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
            text = (path / "metadata.yaml").read_text("utf-8")
            metadata = yaml.load(text, Loader=_YAML)["rosbag2_bagfile_information"]
            listed = [path / Path(name).name for name in metadata["relative_file_paths"]]
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}/metadata.yaml is damaged or empty (no rosbag2 metadata); "
                f"h2o-robot bag repair {path} writes it anew"
            ) from error
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


def batches(path: Path, stored: StoredFile) -> Iterator[Batch]:
    """Yield all messages of an MCAP file, finished or cut off, or of the directory of a bag in another storage.

    Args:
        path: what to read.
        stored: takes what the file declares; complete at the end.

    Raises:
        DataError: not an MCAP file.
        AnyReaderError, ReaderError: rosbags cannot read the directory.
    """
    return mcap_batches(path, stored) if path.suffix == ".mcap" else _other_batches(path, stored)


def read_messages(path: Path, names: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield topic, receive stamp in ns and message of the topics whose last path component is given, in file order.

    For the few: each is read on its own by rosbags. A topic of another type than h2o_control.topics gives it is left
    out. For streams, see bag_columns.

    Raises:
        DataError: not a file that mcap or rosbags can read, or a message that is not of its type.
    """
    stored = StoredFile(path.name)
    try:
        for batch in batches(path, stored):
            for channel, log_ns, start, length in zip(*(column.tolist() for column in batch[1:]), strict=True):
                topic, kind = stored.channels[channel]
                name = topic.rpartition("/")[2]
                if name in names and kind == topics.TYPES.get(name):
                    data = batch.data[start : start + length].tobytes()
                    yield topic, log_ns, TYPESTORE.deserialize_cdr(data, kind)
    except (AnyReaderError, ReaderError, SerdeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _other_batches(path: Path, stored: StoredFile) -> Iterator[Batch]:
    with AnyReader([path], default_typestore=TYPESTORE) as reader:
        stored.channels = {c.id: (c.topic, c.msgtype) for c in reader.connections}
        messages: list[tuple[int, int, bytes]] = []
        size = 0
        for connection, stamp_ns, data in reader.messages():
            messages.append((connection.id, stamp_ns, data))
            size += len(data)
            if size >= BATCH_BYTES:
                yield _joined(messages)
                messages, size = [], 0
        if messages:
            yield _joined(messages)


def _joined(messages: Sequence[tuple[int, int, bytes]]) -> Batch:
    ids, stamps, data = zip(*messages, strict=True)
    length = np.array([len(d) for d in data], dtype=np.int64)
    start = np.cumsum(length) - length
    joined = np.frombuffer(b"".join(data), dtype=np.uint8)
    return Batch(joined, np.array(ids, dtype=np.int64), np.array(stamps, dtype=np.int64), start, length)


def _episode_order(path: Path) -> tuple[int, str]:
    """Order `<bag>_10.mcap` after `<bag>_9.mcap`."""
    number = path.stem.rpartition("_")[2]
    return (int(number) if number.isdigit() else -1, path.name)
