# SPDX-License-Identifier: Apache-2.0
"""Columns of the topics asked for out of one file of a bag, streamed: memory grows with what was asked for only."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from rosbags.highlevel import AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError

from h2o_control.bag_messages import batches
from h2o_control.cdr_columns import Columns, Layout, Wanted, read_one_by_one
from h2o_control.errors import DataError
from h2o_control.mcap_batches import Batch, IntArray, StoredFile

#: Messages of a topic in more layouts than this are as good as all different: the rest is read one by one.
MAX_LAYOUTS = 16
#: Messages are read one by one in lots of this many, since an object of each takes kilobytes.
_LOT = 1000


class Group(NamedTuple):
    """Messages of one topic with the same layout.

    Attributes:
        topic: full name.
        rows: int64 [n], their numbers among the topic's messages in the file, increasing.
        log_ns: int64 [n], when they were recorded.
        columns: by path, array [n] or [n, length of the sequence].
        constants: by path, str or list of str.
    """

    topic: str
    rows: IntArray
    log_ns: IntArray
    columns: Mapping[str, NDArray[Any]]
    constants: Mapping[str, Any]


def read_groups(path: Path, wanted: Mapping[str, Wanted], stored: StoredFile) -> Iterator[Group]:
    """Read the topics whose last path component is a key of `wanted`, and whose type is the one given there.

    Messages of the same layout are read together by numpy, others one by one by rosbags; the columns are the same.

    Args:
        path: MCAP file, finished or cut off, or the directory of a bag in another storage.
        wanted: fields to read.
        stored: takes what the file declares.

    Raises:
        DataError: not a file that mcap or rosbags can read, or a message that is not of its type.
    """
    topics: dict[str, _Topic] = {}
    try:
        for batch in batches(path, stored):
            channels_of: dict[str, list[int]] = {}
            counts = np.bincount(batch.channel)
            for channel in np.flatnonzero(counts).tolist():
                if channel not in stored.channels:
                    raise DataError(f"cannot read {path}: a message of channel {channel}, which it does not declare")
                topic, kind = stored.channels[channel]
                found = wanted.get(topic.rpartition("/")[2])
                if found is not None and found.kind == kind:
                    if topic not in topics:
                        topics[topic] = _Topic(topic, found)
                    channels_of.setdefault(topic, []).append(channel)
            for topic, channels in channels_of.items():
                mine = np.zeros(len(counts), dtype=np.bool_)
                mine[channels] = True
                yield from topics[topic].groups(batch, np.flatnonzero(mine[batch.channel]))
    except (AnyReaderError, ReaderError, SerdeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


class _Topic:
    """Reads the messages of one topic, and remembers which layouts they have."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        self._name = name
        self._wanted = wanted
        self._layouts: list[Layout] = []
        self._regular = True
        self._count = 0

    def groups(self, batch: Batch, index: IntArray) -> Iterator[Group]:
        """Read these messages of a batch."""
        left = np.arange(len(index))
        for layout in self._layouts:
            left = yield from self._group(layout, batch, index, left)
        while len(left) and self._regular and len(self._layouts) < MAX_LAYOUTS:
            first = index[left[:1]]
            # rosbags first: it refuses what is damaged.
            ((_, expected),) = read_one_by_one(self._wanted, _messages(batch, first))
            layout = Layout(self._wanted, _messages(batch, first)[0])
            self._regular = bool(layout.matches(batch, first)[0]) and _same(layout.read(batch, first), expected)
            if self._regular:
                self._layouts.append(layout)
                left = yield from self._group(layout, batch, index, left)
        for lot in (left[begin : begin + _LOT] for begin in range(0, len(left), _LOT)):
            for numbers, read in read_one_by_one(self._wanted, _messages(batch, index[lot])):
                yield self._made(batch, index, lot[numbers], read)
        self._count += len(index)

    def _group(self, layout: Layout, batch: Batch, index: IntArray, left: IntArray) -> Generator[Group, None, IntArray]:
        """Read those of these messages that have this layout; returns the others."""
        matches = layout.matches(batch, index[left])
        if matches.any():
            rows = left[matches]
            yield self._made(batch, index, rows, layout.read(batch, index[rows]))
        return left[~matches]

    def _made(self, batch: Batch, index: IntArray, rows: IntArray, read: Columns) -> Group:
        return Group(self._name, self._count + rows, batch.log_ns[index[rows]], read.columns, read.constants)


def _messages(batch: Batch, rows: IntArray) -> list[bytes]:
    places = zip(batch.start[rows].tolist(), batch.length[rows].tolist(), strict=True)
    return [batch.data[start : start + length].tobytes() for start, length in places]


def _same(one: Columns, other: Columns) -> bool:
    """Tell whether two readings of the same messages are, bit for bit."""
    return dict(one.constants) == dict(other.constants) and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in ((one.columns[path], other.columns[path]) for path in other.columns)
    )


class Table:
    """Columns that grow while a file is read, a bit at a time: what is kept twice is never much.

    Args:
        formats: dtype and shape of a row, by column.
    """

    def __init__(self, formats: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
        self._columns = {name: np.empty((0, *shape), dtype) for name, (dtype, shape) in formats.items()}
        self._room = 0
        self.count = 0

    def put(self, rows: IntArray, values: Mapping[str, Any]) -> None:
        """Set these rows; all rows up to the last must have been set in the end."""
        self.count = max(self.count, int(rows[-1]) + 1)
        if self.count > self._room:
            self._resize(self.count + max(self.count // 8, 4096))
        # A slice is quicker than a list of neighbours.
        whole = rows[-1] - rows[0] + 1 == len(rows)
        place: Any = slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows
        for name, value in values.items():
            self._columns[name][place] = value

    def finished(self) -> dict[str, NDArray[Any]]:
        """Return the columns; the table must not be used any more."""
        self._resize(self.count)
        return self._columns

    def _resize(self, room: int) -> None:
        for column in self._columns.values():
            # In place: the system moves the pages of a large array, nothing is copied. Nobody has seen them yet.
            column.resize((room, *column.shape[1:]), refcheck=False)
        self._room = room
