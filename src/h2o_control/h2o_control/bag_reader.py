# SPDX-License-Identifier: Apache-2.0
"""Read a bag into numpy columns: state, executed, requested and sent torques, and the mode in command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control import topics
from h2o_control.bag_messages import StoredFile, bag_files, read_file
from h2o_control.clock import stamp_ns
from h2o_control.contract import FloatArray, Interface, pitch_rad
from h2o_control.errors import DataError


@dataclass(frozen=True)
class Torques:
    """Torque of the left and right wheel over time.

    Attributes:
        stamp_ns: int64 [n], header stamps, increasing.
        torque_nm: float64 [n, 2]; NaN where a commander gave its command back.
        frame_id: str [n]; the mode in command for /wheel_command, the interface hash for /wheel_torque.
    """

    stamp_ns: NDArray[np.int64]
    torque_nm: FloatArray
    frame_id: NDArray[np.str_]

    @property
    def common_nm(self) -> FloatArray:
        """Mean of both wheels [n]: the policy's action."""
        mean: FloatArray = self.torque_nm.mean(axis=1)
        return mean


@dataclass(frozen=True)
class ModeChange:
    """A message on /mode, at the time it was received."""

    stamp_ns: int
    mode: str
    reason: str


@dataclass(frozen=True)
class Episode:
    """One stored file.

    Attributes:
        name: file name; label: what the recorder was told, empty for other recorders.
        stamp_ns: int64 [n], stamps of /odom, increasing.
        states: float64 [n, 4] in the order of contract.STATE; m, m/s, rad, rad/s.
        executed: from /joint_states, over the step that ends at the stamp.
        requested: from /wheel_torque. command: from /wheel_command; both answer the observation of the same stamp.
        mode_changes: from /mode.
        recovered: the file is cut off (its recorder was killed) or damaged; this is what came before.
        received_ns: int64 [n], when each state was recorded: what was known of a topic without stamps, such as /mode,
            by then came before it.
        configuration: JSON of /configuration, "" where there is none.
        device_us, sequence: int64 [n], device time and sequence number of the frame that each state comes from, by
            equal stamps in /device_time; -1 where it has none.
    """

    name: str
    label: str
    stamp_ns: NDArray[np.int64]
    states: FloatArray
    executed: Torques
    requested: Torques
    command: Torques
    mode_changes: tuple[ModeChange, ...]
    recovered: bool
    received_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    configuration: str = ""
    device_us: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sequence: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def modes(self, max_age_ns: int = 50_000_000) -> NDArray[np.str_]:
        """Mode in command [n] at each state: of the newest command that answers it or an earlier one, "" where none.

        A commander that misses an observation leaves the mode as it is; the driver takes the robot back within 30 ms.
        """
        index = np.searchsorted(self.command.stamp_ns, self.stamp_ns, side="right") - 1
        stamps = np.append(self.command.stamp_ns, np.int64(0))
        fresh = (index >= 0) & (self.stamp_ns - stamps[index] <= max_age_ns)
        return np.where(fresh, np.append(self.command.frame_id, "")[index], "")


@dataclass(frozen=True)
class Bag:
    """All episodes of a bag; `interface` is None where nothing in it says what robot it was."""

    path: Path
    episodes: tuple[Episode, ...]
    interface: Interface | None
    custom_data: dict[str, str]
    files: tuple[Path, ...]

    def require_interface(self) -> Interface:
        """Return the interface; raises DataError where the bag does not say."""
        if self.interface is None:
            raise DataError(
                f"bag {self.path} has no message on /{topics.INTERFACE}, so units and limits of its robot are unknown; "
                "record that topic too (the driver latches it)"
            )
        return self.interface


def read_bag(
    path: str | Path, require: Sequence[str] = (topics.ODOM, topics.JOINT_STATES, topics.WHEEL_COMMAND)
) -> Bag:
    """Read a rosbag2 directory (MCAP or SQLite), or one .mcap file; a namespace in front of topic names is ignored.

    Args:
        path: the bag.
        require: topics that must hold messages, names as in h2o_control.topics.

    Raises:
        DataError: not a bag, topics missing (says which are there), two robots in one bag, or foreign joint names.
    """
    path = Path(path)
    files, metadata = bag_files(path)
    if metadata.get("storage_identifier", "mcap") != "mcap":
        files = [path]  # rosbags reads other storages by directory
    stored = [read_file(file, _CONVERTERS) for file in files]
    _check_topics(path, stored, require)
    custom = {str(k): str(v) for k, v in (metadata.get("custom_data") or {}).items()}
    labels = {row["file"]: row["label"] for row in json.loads(custom.get("h2o.episodes", "[]"))}
    interface = _interface(path, stored)
    if interface is None and "h2o.interface" in custom:
        interface = Interface.from_json(custom["h2o.interface"], str(path))
    episodes = tuple(_episode(file, labels.get(file.name, "")) for file in stored)
    return Bag(path, episodes, interface, custom, tuple(files))


def nearest_index(stamps: NDArray[np.int64], wanted: NDArray[np.int64], tolerance_ns: int) -> NDArray[np.int64]:
    """Index [n] into increasing `stamps` nearest to each wanted stamp, -1 where none lies within the tolerance."""
    if len(stamps) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    right = np.clip(np.searchsorted(stamps, wanted), 0, len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    index = np.where(np.abs(stamps[left] - wanted) < np.abs(stamps[right] - wanted), left, right)
    return np.where(np.abs(stamps[index] - wanted) <= tolerance_ns, index, -1).astype(np.int64)


def _check_topics(path: Path, stored: Iterable[StoredFile], require: Sequence[str]) -> None:
    there: dict[str, str] = {}
    filled: set[str] = set()
    for file in stored:
        there.update(file.topics)
        filled |= {topic.rpartition("/")[2] for topic, _, _ in file.messages}
    for name in _CONVERTERS:
        full = sorted(t for t in there if t.rpartition("/")[2] == name)
        if len(full) > 1:
            raise DataError(f"bag {path} has {' and '.join(full)}: record one robot in a bag")
        if full and there[full[0]] != topics.TYPES[name]:
            raise DataError(f"bag {path}: {full[0]} is {there[full[0]]}, expected {topics.TYPES[name]}")
    missing = [f"/{name}" for name in require if name not in filled]
    if missing:
        raise DataError(
            f"bag {path} has no messages on {', '.join(missing)}; topics in it: {', '.join(sorted(there)) or 'none'}"
        )


def _interface(path: Path, stored: Iterable[StoredFile]) -> Interface | None:
    texts = {m for file in stored for topic, _, m in file.messages if topic.rpartition("/")[2] == topics.INTERFACE}
    if len(texts) > 1:
        raise DataError(f"bag {path} was recorded with {len(texts)} different interfaces; split it by robot")
    return Interface.from_json(texts.pop(), f"{path}: /{topics.INTERFACE}") if texts else None


def _episode(file: StoredFile, label: str) -> Episode:
    by_name: dict[str, list[tuple[int, Any]]] = {name: [] for name in _CONVERTERS}
    for topic, received_ns, row in file.messages:
        by_name[topic.rpartition("/")[2]].append((received_ns, row))
    odom = [row for _, row in by_name[topics.ODOM]]
    stamps, order = np.unique(np.array([row[0] for row in odom], dtype=np.int64), return_index=True)
    device_us, sequence = _frames(stamps, [row for _, row in by_name[topics.DEVICE_TIME]])
    changes = []
    for received_ns, text in by_name[topics.MODE]:
        mode, _, reason = text.partition(":")
        changes.append(ModeChange(received_ns, mode.strip(), reason.strip()))
    return Episode(
        name=file.name,
        label=label,
        stamp_ns=stamps,
        states=np.array([row[1:] for row in odom], dtype=np.float64).reshape(-1, 4)[order],
        executed=_torques(by_name[topics.JOINT_STATES]),
        requested=_torques(by_name[topics.WHEEL_TORQUE]),
        command=_torques(by_name[topics.WHEEL_COMMAND]),
        mode_changes=tuple(changes),
        recovered=file.recovered,
        received_ns=np.array([received_ns for received_ns, _ in by_name[topics.ODOM]], dtype=np.int64)[order],
        configuration=next((text for _, text in by_name[topics.CONFIGURATION]), ""),
        device_us=device_us,
        sequence=sequence,
    )


def _frames(stamps: NDArray[np.int64], rows: Sequence[tuple[int, int, int]]) -> tuple[NDArray[np.int64], ...]:
    """Device time and sequence number [n] of the frames with these stamps, -1 where they are not known."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    known, order = np.unique(table[:, 0], return_index=True)
    found = np.append(table[order], [[-1, -1, -1]], axis=0)[nearest_index(known, stamps, 0)]
    return found[:, 1], found[:, 2]


def _torques(rows: Sequence[tuple[int, Any]]) -> Torques:
    stamps, order = np.unique(np.array([row[0] for _, row in rows], dtype=np.int64), return_index=True)
    torque = np.array([row[1:3] for _, row in rows], dtype=np.float64).reshape(-1, 2)[order]
    frames = np.array([row[3] for _, row in rows], dtype=np.str_) if rows else np.empty(0, dtype="<U16")
    return Torques(stamps, torque, frames[order])


def _odom_row(m: Any) -> tuple[int, float, float, float, float]:
    """Pitch from the attitude as the driver's estimator defines it, heading taken out."""
    q = m.pose.pose.orientation
    pitch = pitch_rad(q.w, q.x, q.y, q.z)
    return stamp_ns(m.header.stamp), m.pose.pose.position.x, m.twist.twist.linear.x, pitch, m.twist.twist.angular.y


def _torque_row(m: Any) -> tuple[int, float, float, str]:
    frame = m.header.frame_id
    if len(m.effort) == 0:
        return stamp_ns(m.header.stamp), math.nan, math.nan, frame
    try:
        left, right = (float(m.effort[m.name.index(wheel)]) for wheel in topics.WHEELS)
    except (ValueError, IndexError):
        joints = ", ".join(m.name)
        raise DataError(
            f"joints {joints} with {len(m.effort)} efforts; expected {' and '.join(topics.WHEELS)}"
        ) from None
    return stamp_ns(m.header.stamp), left, right, frame


def _time_row(m: Any) -> tuple[int, int, int]:
    """Stamp in ns, device time in us and sequence number, -1 where another recorder put something else there."""
    device_us = m.time_ref.sec * 1_000_000 + m.time_ref.nanosec // 1000
    return stamp_ns(m.header.stamp), device_us, int(m.source) if m.source.isdecimal() else -1


#: Topics that become columns; the others stay in the bag for people and tools to look at.
_CONVERTERS = {
    topics.ODOM: _odom_row,
    topics.JOINT_STATES: _torque_row,
    topics.WHEEL_TORQUE: _torque_row,
    topics.WHEEL_COMMAND: _torque_row,
    topics.DEVICE_TIME: _time_row,
    topics.MODE: lambda m: str(m.data),
    topics.INTERFACE: lambda m: str(m.data),
    topics.CONFIGURATION: lambda m: str(m.data),
}
