# SPDX-License-Identifier: Apache-2.0
"""One stored file of a bag as columns: what is read of each topic, and how its fields become state and torque."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control import topics
from h2o_control.bag_columns import Group, Table, read_groups
from h2o_control.cdr_columns import Wanted
from h2o_control.contract import FloatArray
from h2o_control.errors import DataError
from h2o_control.mcap_batches import IntArray, StoredFile

_STAMP = ("header.stamp.sec", "header.stamp.nanosec")
_ATTITUDE = tuple(f"pose.pose.orientation.{axis}" for axis in "wxyz")
_ODOM = (*_STAMP, "pose.pose.position.x", "twist.twist.linear.x", "twist.twist.angular.y", *_ATTITUDE)
_TIME = (*_STAMP, "time_ref.sec", "time_ref.nanosec", "source")

#: Topics whose messages are torques of the wheels.
TORQUES = (topics.JOINT_STATES, topics.WHEEL_TORQUE, topics.WHEEL_COMMAND, topics.SHADOW_TORQUE)
#: Topics that are kept as text.
TEXTS = (topics.MODE, topics.INTERFACE, topics.CONFIGURATION)
#: What is read; the other topics stay in the bag for people and tools to look at.
WANTED = {
    topics.ODOM: Wanted(topics.TYPES[topics.ODOM], _ODOM),
    topics.DEVICE_TIME: Wanted(topics.TYPES[topics.DEVICE_TIME], _TIME),
    **{name: Wanted(topics.TYPES[name], (*_STAMP, "effort"), ("header.frame_id", "name")) for name in TORQUES},
    **{name: Wanted(topics.TYPES[name], constants=("data",)) for name in TEXTS},
}
_INT: tuple[Any, tuple[int, ...]] = (np.int64, ())
_FORMATS: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
    topics.ODOM: {"stamp_ns": _INT, "received_ns": _INT, "states": (np.float64, (4,))},
    topics.DEVICE_TIME: {"stamp_ns": _INT, "device_us": _INT, "sequence": _INT},
    **{name: {"stamp_ns": _INT, "torque_nm": (np.float64, (2,)), "frame": (np.int32, ())} for name in TORQUES},
}


class FileColumns:
    """What a file holds of the wanted topics, read completely.

    Attributes:
        stored: what the file declares.
        filled: names of the topics that hold messages.

    Raises:
        DataError: not a file that mcap or rosbags can read, a message that is not of its type, or foreign joint names.
    """

    def __init__(self, path: Path) -> None:
        self.stored = StoredFile(path.name)
        self._frames: dict[str, dict[str, int]] = {}
        self._texts: dict[str, list[tuple[int, int, str]]] = {name: [] for name in TEXTS}
        tables: dict[str, Table] = {}
        for group in read_groups(path, WANTED, self.stored):
            name = group.topic.rpartition("/")[2]
            if name in TEXTS:
                places = zip(group.rows.tolist(), group.log_ns.tolist(), strict=True)
                self._texts[name] += [(row, log_ns, group.constants["data"]) for row, log_ns in places]
                continue
            # Two topics of one name are refused later, when both are known.
            if group.topic not in tables:
                tables[group.topic] = Table(_FORMATS[name])
            tables[group.topic].put(group.rows, self._values(name, group))
        self.filled = {topic.rpartition("/")[2] for topic in tables} | {name for name in TEXTS if self._texts[name]}
        self._columns = {topic.rpartition("/")[2]: _increasing(table.finished()) for topic, table in tables.items()}
        # Topics of one frame have the same stamps: they are kept once.
        stamps = self.column(topics.ODOM, "stamp_ns")
        for columns in self._columns.values():
            if np.array_equal(columns["stamp_ns"], stamps):
                columns["stamp_ns"] = stamps

    def texts(self, name: str) -> list[tuple[int, str]]:
        """Messages of a topic of TEXTS in file order: when each was recorded, in ns, and what it says."""
        return [(log_ns, text) for _, log_ns, text in sorted(self._texts[name])]

    def column(self, name: str, column: str) -> NDArray[Any]:
        """Return a column of a topic, in order of its stamps; empty where there are no messages."""
        if name not in self._columns:
            dtype, shape = _FORMATS[name][column]
            return np.empty((0, *shape), dtype)
        return self._columns[name][column]

    def frame_id(self, name: str) -> NDArray[np.str_]:
        """frame_id [n] of a topic of TORQUES."""
        texts = np.array(list(self._frames.get(name, ())) or [""], dtype=np.str_)
        frame = self.column(name, "frame")
        # One for all takes no memory.
        return np.broadcast_to(texts[0], frame.shape) if len(texts) == 1 else texts[frame]

    def frames(self) -> tuple[IntArray, IntArray]:
        """Device time in us and sequence number [n] of the frame behind each state, -1 where no stamp is the same."""
        stamps, known = self.column(topics.ODOM, "stamp_ns"), self.column(topics.DEVICE_TIME, "stamp_ns")
        found = [self.column(topics.DEVICE_TIME, column) for column in ("device_us", "sequence")]
        if np.array_equal(stamps, known):
            return found[0], found[1]
        place = np.searchsorted(known, stamps)
        same = np.append(known, -1)[place] == stamps
        device_us, sequence = (np.where(same, np.append(values, -1)[place], -1) for values in found)
        return device_us, sequence

    def _values(self, name: str, group: Group) -> dict[str, Any]:
        if name == topics.ODOM:
            return _odom(group)
        if name == topics.DEVICE_TIME:
            return _device_time(group)
        frames = self._frames.setdefault(name, {})
        frame = frames.setdefault(group.constants["header.frame_id"], len(frames))
        return {"stamp_ns": _stamp_ns(group), "torque_nm": _torque_nm(group), "frame": frame}


def _increasing(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Put rows in the order of their stamps, the first of those with the same one."""
    stamps = columns["stamp_ns"]
    if (stamps[1:] > stamps[:-1]).all():
        return columns
    _, order = np.unique(stamps, return_index=True)
    return {name: column[order] for name, column in columns.items()}


def _stamp_ns(group: Group) -> IntArray:
    seconds, nanoseconds = (group.columns[path] for path in _STAMP)
    stamp_ns: IntArray = seconds.astype(np.int64) * 1_000_000_000 + nanoseconds
    return stamp_ns


def _odom(group: Group) -> dict[str, Any]:
    c = group.columns
    w, x, y, z = (c[path] for path in _ATTITUDE)
    # Pitch as contract.pitch_rad has it, heading taken out.
    pitch = np.arctan2(2 * (w * y - x * z), 1 - 2 * (x * x + y * y))
    states = np.stack((c["pose.pose.position.x"], c["twist.twist.linear.x"], pitch, c["twist.twist.angular.y"]), axis=1)
    return {"stamp_ns": _stamp_ns(group), "received_ns": group.log_ns, "states": states}


def _torque_nm(group: Group) -> FloatArray:
    """Left and right torque [n, 2]; NaN where a commander gave its command back: then there is no effort."""
    effort, names = group.columns["effort"], group.constants["name"]
    if effort.shape[1] == 0:
        return np.full((len(effort), 2), np.nan)
    wheels = [names.index(wheel) for wheel in topics.WHEELS if wheel in names]
    if len(wheels) < len(topics.WHEELS) or max(wheels) >= effort.shape[1]:
        raise DataError(
            f"joints {', '.join(names)} with {effort.shape[1]} efforts; expected {' and '.join(topics.WHEELS)}"
        )
    torque: FloatArray = effort[:, wheels]
    return torque


def _device_time(group: Group) -> dict[str, Any]:
    """Device time, and sequence number; -1 where another recorder put something else in its place."""
    c = group.columns
    device_us = c["time_ref.sec"].astype(np.int64) * 1_000_000 + c["time_ref.nanosec"] // 1000
    letters = c["source"].view(np.uint32).reshape(len(device_us), -1)
    digits = letters - np.uint32(ord("0"))
    powers = 10 ** np.arange(letters.shape[1], dtype=np.int64)[::-1]
    sequence: Any = -1
    if letters.shape[1] <= 18:
        sequence = np.where((digits <= 9).all(axis=1), digits @ powers, -1)
    return {"stamp_ns": _stamp_ns(group), "device_us": device_us, "sequence": sequence}
