# SPDX-License-Identifier: Apache-2.0
"""Samples out of somebody else's rosbag2 bag (MCAP or SQLite), whatever its messages, read by rosbags."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from h2o_control.clock import stamp_ns
from h2o_control.contract import FloatArray
from h2o_control.errors import ConfigError, DataError, nearest
from h2o_training.bag_fields import FieldError, numeric_fields
from h2o_training.bag_mapping import BagMapping, Signal

STORAGES = (".mcap", ".db3")


@dataclass(frozen=True)
class Samples:
    """One signal over time.

    Attributes:
        stamp_ns: int64 [n], increasing.
        values: float64 [n], in our unit, finite.
        skipped: messages of the topic that do not have it, or where it is not finite.
        merged: messages left out because an earlier one has the same stamp.
    """

    stamp_ns: NDArray[np.int64]
    values: FloatArray
    skipped: int
    merged: int

    @property
    def rate_hz(self) -> float:
        """Messages a second, by the median of their distance; 0 for less than two."""
        return 1e9 / float(np.median(np.diff(self.stamp_ns))) if len(self.stamp_ns) > 1 else 0.0


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


def storage_files(path: Path) -> list[Path]:
    """What of a bag is read: a folder with metadata.yaml as one, else its storage files in order.

    Raises:
        DataError: no such bag.
    """
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(p for p in path.iterdir() if p.suffix in STORAGES)
        if not files:
            raise DataError(f"{path} is not a bag: no metadata.yaml and no {' or '.join(STORAGES)} in it")
        return files
    if not path.exists():
        raise DataError(
            f"no such bag: {path} (a bag is a folder with metadata.yaml, or one {' or '.join(STORAGES)} file)"
        )
    return [path]


@contextmanager
def open_bag(path: Path, definitions: Mapping[str, Path]) -> Iterator[AnyReader]:
    """Open a bag; types come from the bag, else from `definitions` and the standard messages of ROS.

    Raises:
        DataError: not a bag that rosbags can read.
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
        with AnyReader(storage_files(path), default_typestore=known) as reader:
            # A bag may bring the definitions of some of its types only.
            there = reader.typestore.fielddefs
            if any(c.msgtype not in there for c in reader.connections):
                reader.typestore.register({kind: f for kind, f in known.fielddefs.items() if kind not in there})
            yield reader
    except (AnyReaderError, ReaderError, TypesysError, SerdeError, OSError, apsw.Error) as error:
        remedy = "" if path.suffix == ".db3" else ". h2o-robot bag repair makes an MCAP file readable that is cut off"
        raise DataError(f"cannot read bag {path}: {str(error).rstrip('.')}{remedy}") from error


def list_topics(path: Path, definitions: Mapping[str, Path]) -> list[Topic]:
    """Topics, types and numeric fields of a bag, by name.

    Raises:
        DataError: not a bag.
    """
    with open_bag(path, definitions) as reader:
        first: dict[str, bytes] = {}
        times: dict[str, list[int]] = {}
        for connection, received_ns, data in reader.messages():
            span = times.setdefault(connection.topic, [received_ns, received_ns])
            span[1] = received_ns
            first.setdefault(connection.topic, data)
        result = []
        for name, info in sorted(reader.topics.items()):
            kind = info.msgtype or "several types"
            span = times.get(name, [0, 0])
            rate_hz = (info.msgcount - 1) * 1e9 / (span[1] - span[0]) if span[1] > span[0] else 0.0
            fields, problem = None, "no message"
            if name in first:
                try:
                    fields, problem = list(numeric_fields(reader.deserialize(first[name], kind))), ""
                except (AnyReaderError, KeyError, TypesysError):
                    problem = f"the bag does not define {kind}: name its .msg files under `definitions` in the mapping"
            result.append(Topic(name, kind, info.msgcount, rate_hz, fields, problem))
    return result


def read_signals(path: Path, mapping: BagMapping, definitions: Mapping[str, Path]) -> dict[str, Samples]:
    """Read every signal of a mapping in one pass.

    Raises:
        DataError: a topic or field that is not there (names the nearest), no definition of its type, messages without
            stamps, or stamps that go back by more than a gap.
    """
    readers = [_Reading(name, signal, mapping) for name, signal in mapping.signals.items()]
    wanted = {reading.signal.topic for reading in readers}
    with open_bag(path, definitions) as bag:
        there = {connection.topic for connection in bag.connections}
        for reading in readers:
            if reading.signal.topic not in there:
                topic = reading.signal.topic
                raise DataError(f"bag {path} has no topic {topic!r} for {reading.name}.{nearest(topic, there)}")
        connections = [c for c in bag.connections if c.topic in wanted]
        for connection in connections:
            if connection.msgtype not in bag.typestore.fielddefs:
                raise DataError(
                    f"bag {path} does not define {connection.msgtype} of {connection.topic}: name its .msg files under "
                    "`definitions` in the mapping"
                )
        for connection, received_ns, data in bag.messages(connections):
            message = bag.deserialize(data, connection.msgtype)
            for reading in readers:
                if reading.signal.topic == connection.topic:
                    reading.add(message, received_ns)
    return {reading.name: reading.samples(path) for reading in readers}


class _Reading:
    """Collects one signal; arrays of plain numbers, since an hour of objects would fill the memory."""

    def __init__(self, name: str, signal: Signal, mapping: BagMapping) -> None:
        self.name = name
        self.signal = signal
        self._header = (signal.stamp or mapping.stamp) == "header"
        self._gap_ns = round(1e9 * mapping.gap_s(signal))
        self._stamps, self._values = array("q"), array("d")
        self._skipped = 0
        self._problem: tuple[str, Any] | None = None

    def add(self, message: Any, received_ns: int) -> None:
        try:
            value = self.signal.read(message)
        except FieldError as error:
            # On /joint_states, several publishers may share the topic, each with joints of its own.
            self._skipped += 1
            self._problem = self._problem or (str(error), message)
            return
        if not np.isfinite(value):
            self._skipped += 1
            self._problem = self._problem or (f"{value} is no finite number", None)
            return
        if self._header:
            header = getattr(message, "header", None)
            if header is None:
                raise DataError(
                    f"messages of {self.signal.topic} have no header: set `stamp: received` for {self.name} in the "
                    "mapping"
                )
            received_ns = stamp_ns(header.stamp)
        self._stamps.append(received_ns)
        self._values.append(value)

    def samples(self, path: Path) -> Samples:
        topic = self.signal.topic
        if not len(self._values):
            if self._problem is None:
                raise DataError(f"bag {path} has no message on {topic} for {self.name}")
            text, message = self._problem
            valid = [field for field, _ in numeric_fields(message)] if message is not None else []
            hints = "".join(nearest(field, valid) for field in self.signal.fields if valid and field not in valid)
            raise DataError(f"{self.name} is in none of the {self._skipped} messages of {topic}: {text}.{hints}")
        stamps, values = np.array(self._stamps, dtype=np.int64), np.array(self._values)
        back = np.diff(stamps)
        if len(back) and back.min() < -self._gap_ns:
            raise DataError(
                f"stamps of {topic} go back by {-1e-9 * back.min():g} s at message {int(back.argmin()) + 1} of "
                f"{len(stamps)}: its clock was set, or two recordings are in one bag; cut the bag there, or use "
                "`stamp: received`"
            )
        if self._header and len(stamps) > 1 and stamps[0] == stamps[-1]:
            raise DataError(f"all {len(stamps)} messages of {topic} have the same stamp: use `stamp: received`")
        unique, first = np.unique(stamps, return_index=True)
        return Samples(unique, values[first], self._skipped, len(stamps) - len(unique))
