# SPDX-License-Identifier: Apache-2.0
"""Columns out of serialized messages (CDR) that all have the layout of one sample, without a loop over them.

Where a field lies in a serialized message depends on the lengths of the strings and sequences before it. Messages of
a robot repeat those lengths, so one message, walked by rosbags' definition of its type, tells where each field lies in
all others whose encapsulation header and length words are the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype

from h2o_control.bag_metadata import TYPESTORE
from h2o_control.mcap_batches import Batch, IntArray

#: Encapsulation: byte order and options. Offsets that alignment goes by are counted behind it.
_HEADER_BYTES = 4
#: numpy's format of rosbags' number types; a bool is read as the byte it is.
_FORMATS = {
    **{"bool": "u1", "byte": "i1", "char": "u1", "float32": "f4", "float64": "f8"},
    **{f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)},
}
_TEXT = "string"


@dataclass(frozen=True)
class Wanted:
    """What to read of messages of one type; fields by their dotted path, e.g. "header.stamp.sec".

    Attributes:
        kind: message type.
        columns: numbers, sequences of numbers, and strings that change from message to message.
        constants: strings and sequences of strings of which there are few, e.g. frame_id: messages are told apart by
            them, each once.

    Raises:
        LookupError: the type has no such field, or not one of these.
    """

    kind: str
    columns: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.columns:
            if _field(self.kind, path)[0] == _TEXT and _field(self.kind, path)[1] is not None:
                raise LookupError(f"{path} of {self.kind} is a sequence of texts: they can be constants only")
        for path in self.constants:
            if _field(self.kind, path)[0] != _TEXT:
                raise LookupError(f"{path} of {self.kind} is no text")


class Columns(NamedTuple):
    """Messages with the same layout and constants.

    Attributes:
        columns: by path, array [n] or [n, length of the sequence], in the machine's byte order; text as numpy keeps it.
        constants: by path, str or list of str.
    """

    columns: Mapping[str, NDArray[Any]]
    constants: Mapping[str, Any]


class Layout:
    """Where the fields lie in messages like this sample, which rosbags must be able to read."""

    def __init__(self, wanted: Wanted, sample: bytes) -> None:
        walk = _Walk(sample)
        walk.message(wanted.kind, "")
        constant = [leaf for leaf in walk.leaves if leaf.kind == _TEXT and leaf.path in wanted.constants]
        self.constants: dict[str, Any] = {}
        for path in wanted.constants:
            texts = [leaf.text(sample) for leaf in constant if leaf.path == path]
            self.constants[path] = texts[0] if _field(wanted.kind, path)[1] is None else texts
        runs = _runs([(0, _HEADER_BYTES), *walk.lengths, *((leaf.offset, leaf.end) for leaf in constant)])
        self._fixed = {f"={first}": np.array(sample[first:last], f"S{last - first}") for first, last in runs}
        formats = {name: (value.dtype, int(name[1:])) for name, value in self._fixed.items()}
        # Text that is not asked for is looked at too: rosbags would refuse it where it is none.
        self._texts: dict[str, Any] = {}
        for leaf in walk.leaves:
            if leaf.kind == _TEXT and leaf.count and leaf not in constant:
                name = f"~{leaf.offset}"
                formats[name] = (np.dtype(f"S{leaf.count}"), leaf.offset)
                expected = np.array(sample[leaf.offset : leaf.end], f"S{leaf.count}")
                self._texts[name] = None if leaf.path in wanted.columns else expected
        self._empty: dict[str, NDArray[Any]] = {}
        self._bools = set()
        for leaf in walk.leaves:
            if leaf.path not in wanted.columns:
                continue
            if leaf.count == 0:
                self._empty[leaf.path] = leaf.none()
            else:
                formats[leaf.path] = (leaf.format(), leaf.offset)
            if leaf.kind == "bool":
                self._bools.add(leaf.path)
        self._paths = wanted.columns
        self._record = np.dtype(
            {
                "names": list(formats),
                "formats": [kind for kind, _ in formats.values()],
                "offsets": [offset for _, offset in formats.values()],
                "itemsize": len(sample),
            }
        )

    def matches(self, batch: Batch, rows: IntArray) -> NDArray[np.bool_]:
        """Tell which of these messages [n] have this layout: every byte that says where something lies is the same.

        Other text must be plain ASCII, or the sample's where it is not read: whether longer characters are whole is for
        rosbags to judge.
        """
        found: NDArray[np.bool_] = batch.length[rows] == self._record.itemsize
        start = batch.start[rows[found]]
        if len(start) == 0:
            return found
        message = self._view(batch)
        same = np.ones(len(start), dtype=np.bool_)
        for name, expected in self._fixed.items():
            # Between strings of one width, numpy's comparison is that of their bytes.
            same &= message[name][start] == expected
        for name, expected in self._texts.items():
            text = message[name][start]
            other = np.arange(len(text)) if expected is None else np.flatnonzero(text != expected)
            if len(other):
                letters = text[other].view(np.uint8).reshape(len(other), -1)
                same[other] &= (letters < 0x80).all(axis=1)
        found[found] = same
        return found

    def read(self, batch: Batch, rows: IntArray) -> Columns:
        """Read messages that `matches`."""
        start = batch.start[rows]
        message = self._view(batch)
        columns: dict[str, NDArray[Any]] = {}
        for path in self._paths:
            if path in self._empty:
                columns[path] = np.repeat(self._empty[path], len(start), axis=0)
                continue
            column = message[path][start]
            if path in self._bools:
                column = column != 0
            elif column.dtype.kind == "S":
                column = column.astype(np.str_)
            columns[path] = column.astype(column.dtype.newbyteorder("="), copy=False)
        return Columns(columns, self.constants)

    def _view(self, batch: Batch) -> NDArray[Any]:
        """A message at each byte of the data; only those that begin there are ever looked at."""
        count = len(batch.data) - self._record.itemsize + 1
        return np.ndarray((count,), dtype=self._record, buffer=batch.data, strides=(1,))


def read_one_by_one(wanted: Wanted, messages: Sequence[bytes]) -> Iterator[tuple[list[int], Columns]]:
    """Read messages of any layout by rosbags; yields those with the same constants and lengths together.

    Raises:
        SerdeError: a message is not of its type.
    """
    columns = {path: (attrgetter(path), _field(wanted.kind, path)[0]) for path in wanted.columns}
    constants = {path: attrgetter(path) for path in wanted.constants}
    groups: dict[tuple[Any, ...], tuple[list[int], list[list[Any]]]] = {}
    for number, data in enumerate(messages):
        message = TYPESTORE.deserialize_cdr(data, wanted.kind)
        values = [get(message) for get, _ in columns.values()]
        lengths = [0 if np.isscalar(value) and not isinstance(value, str) else len(value) for value in values]
        texts = [get(message) for get in constants.values()]
        key = (*lengths, *(text if isinstance(text, str) else tuple(text) for text in texts))
        numbers, rows = groups.setdefault(key, ([], []))
        numbers.append(number)
        rows.append([*values, *texts])
    for numbers, rows in groups.values():
        by_path = dict(zip([*columns, *constants], zip(*rows, strict=True), strict=True))
        arrays = {path: _array(by_path[path], kind) for path, (_, kind) in columns.items()}
        yield numbers, Columns(arrays, {path: by_path[path][0] for path in constants})


def _array(values: Sequence[Any], kind: str) -> NDArray[Any]:
    if kind == _TEXT:
        return np.array(values, dtype=np.str_)
    if kind == "bool":  # of which a damaged message may hold other bytes than 0 and 1
        bools: NDArray[np.bool_] = np.array(values, dtype=np.bool_).view(np.uint8) != 0
        return bools
    return np.array(values, dtype=_FORMATS[kind])


def _field(kind: str, path: str) -> tuple[str, int | None]:
    """Base type of a field, and None for a single one, 0 for a sequence, or the length of an array.

    Raises:
        LookupError: no such field; a message, or a sequence of messages.
    """
    name, _, rest = path.partition(".")
    fields: dict[str, Any] = dict(TYPESTORE.get_msgdef(kind).fields)
    if name not in fields:
        raise LookupError(f"{kind} has no field {name!r}; it has {', '.join(fields)}")
    node, description = fields[name]
    if node == Nodetype.NAME and rest:
        return _field(description, rest)
    if node == Nodetype.BASE and not rest:
        return str(description[0]), None
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) and not rest and description[0][0] == Nodetype.BASE:
        return str(description[0][1][0]), int(description[1])
    raise LookupError(f"{path!r} of {kind} is neither numbers nor text")


@dataclass(frozen=True)
class _Leaf:
    """Numbers or a text in a message; `count` is None for a single number, else of numbers, or of bytes of text."""

    path: str
    kind: str
    offset: int
    count: int | None
    order: str

    @property
    def end(self) -> int:
        """Where a text ends, without its terminator."""
        return self.offset + (self.count or 0)

    def text(self, sample: bytes) -> str:
        return sample[self.offset : self.end].decode()

    def format(self) -> Any:
        if self.kind == _TEXT:
            return np.dtype(f"S{self.count}")
        number = np.dtype(self.order + _FORMATS[self.kind])
        return number if self.count is None else (number, (self.count,))

    def none(self) -> NDArray[Any]:
        """One row of a sequence, or text, that is empty."""
        if self.kind == _TEXT:
            return np.zeros(1, dtype=np.str_)
        return np.zeros((1, 0), dtype=np.bool_ if self.kind == "bool" else _FORMATS[self.kind])


class _Walk:
    """Walks one serialized message.

    Attributes:
        leaves: all numbers and texts, in order; elements of a sequence of texts share its path.
        lengths: from where to where bytes say how long something is, or must be zero at the end of a text.
    """

    def __init__(self, sample: bytes) -> None:
        self.leaves: list[_Leaf] = []
        self.lengths: list[tuple[int, int]] = []
        self._sample = sample
        self._order = "<" if sample[1] else ">"
        self._at = _HEADER_BYTES

    def message(self, kind: str, path: str) -> None:
        for name, description in TYPESTORE.get_msgdef(kind).fields:
            here = f"{path}{name}"
            if description[0] == Nodetype.NAME:
                self.message(description[1], f"{here}.")
            elif description[0] == Nodetype.BASE:
                self._base(description[1][0], here, None)
            elif description[0] == Nodetype.ARRAY:
                self._elements(description[1][0], here, description[1][1])
            elif description[0] == Nodetype.SEQUENCE:
                self._elements(description[1][0], here, self._length())

    def _elements(self, element: Any, path: str, count: int) -> None:
        if element[0] == Nodetype.BASE and element[1][0] != _TEXT:
            self._base(element[1][0], path, count)
            return
        for number in range(count):
            if element[0] == Nodetype.BASE:
                self._base(_TEXT, path, None)
            else:
                self.message(element[1], f"{path}.{number}.")

    def _base(self, kind: str, path: str, count: int | None) -> None:
        if kind == _TEXT:
            length = self._length()
            self.leaves.append(_Leaf(path, kind, self._at, length - 1, self._order))
            self._at += length
            self.lengths.append((self._at - 1, self._at))
            return
        size = np.dtype(_FORMATS[kind]).itemsize
        if count != 0:
            self._align(size)
        self.leaves.append(_Leaf(path, kind, self._at, count, self._order))
        self._at += size * (1 if count is None else count)

    def _length(self) -> int:
        self._align(4)
        begin, self._at = self._at, self._at + 4
        self.lengths.append((begin, self._at))
        return int.from_bytes(self._sample[begin : self._at], "little" if self._order == "<" else "big")

    def _align(self, size: int) -> None:
        self._at += -(self._at - _HEADER_BYTES) % size


def _runs(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        elif last > first:
            joined.append((first, last))
    return joined
