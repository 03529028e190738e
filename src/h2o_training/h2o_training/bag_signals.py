# SPDX-License-Identifier: Apache-2.0
"""The signals of a mapping out of somebody else's bag: samples over time, checked before anything is made of them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control.clock import stamp_ns
from h2o_control.contract import FloatArray
from h2o_control.errors import DataError, nearest
from h2o_training.bag_fields import FieldError, numeric_fields
from h2o_training.bag_foreign import open_bag
from h2o_training.bag_mapping import BagMapping, Signal


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


def read_signals(
    path: Path, mapping: BagMapping, definitions: Mapping[str, Path]
) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Read every signal of a mapping in one pass; returns them, and names of files that are cut off or damaged.

    Raises:
        DataError: a topic or field that is not there (names the nearest), no definition of its type, messages without
            stamps, or stamps that go back by more than a gap.
    """
    readings = [_Reading(name, signal, mapping) for name, signal in mapping.signals.items()]
    wanted: dict[str, list[_Reading]] = {}
    for reading in readings:
        wanted.setdefault(reading.signal.topic, []).append(reading)
    with open_bag(path, definitions) as bag:
        for topic, those in wanted.items():
            if topic not in bag.topics:
                raise DataError(f"bag {path} has no topic {topic!r} for {those[0].name}.{nearest(topic, bag.topics)}")
        for topic, received_ns, message in bag.messages(wanted):
            for reading in wanted[topic]:
                reading.add(message, received_ns)
        recovered = bag.recovered
    return {reading.name: reading.samples(path) for reading in readings}, recovered


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
            fields = [field.removeprefix("-") for field in self.signal.fields]
            hints = "".join(nearest(f, valid) for f in fields if valid and f not in valid)
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
