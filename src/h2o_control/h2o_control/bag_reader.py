# SPDX-License-Identifier: Apache-2.0
"""Read a bag into numpy columns: state, executed, requested and sent torques, and the mode in command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h2o_control import topics
from h2o_control.bag_messages import bag_files
from h2o_control.contract import FloatArray, Interface
from h2o_control.episode_columns import WANTED, FileColumns
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

    @classmethod
    def none(cls) -> Torques:
        """Return those of a topic without messages."""
        return cls(np.empty(0, dtype=np.int64), np.empty((0, 2)), np.empty(0, dtype="<U16"))

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
        shadow: from /shadow_torque, what a candidate that watched would have asked for.
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
    shadow: Torques = field(default_factory=Torques.none)

    def modes(self, max_age_ns: int = 50_000_000) -> NDArray[np.str_]:
        """Mode in command [n] at each state: of the newest command that answers it or an earlier one, "" where none.

        A commander that misses an observation leaves the mode as it is; the driver takes the robot back within 30 ms.
        """
        stamps, frames = self.command.stamp_ns, self.command.frame_id
        modes = np.zeros(len(self.stamp_ns), dtype=frames.dtype)
        index = np.searchsorted(stamps, self.stamp_ns, side="right") - 1
        answered = np.flatnonzero(index >= 0)
        answered = answered[self.stamp_ns[answered] - stamps[index[answered]] <= max_age_ns]
        modes[answered] = frames[index[answered]]
        return modes


@dataclass(frozen=True)
class Bag:
    """All episodes of a bag; `interface` is None where nothing in it says what robot it was."""

    path: Path
    episodes: tuple[Episode, ...]
    interface: Interface | None
    custom_data: dict[str, str]
    files: tuple[Path, ...]

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the files of which only a part could be read."""
        return tuple(e.name for e in self.episodes if e.recovered)

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
    read = [FileColumns(file) for file in files]
    _check_topics(path, read, require)
    custom = {str(k): str(v) for k, v in (metadata.get("custom_data") or {}).items()}
    labels = {row["file"]: row["label"] for row in json.loads(custom.get("h2o.episodes", "[]"))}
    interface = _interface(path, read)
    if interface is None and "h2o.interface" in custom:
        interface = Interface.from_json(custom["h2o.interface"], str(path))
    episodes = tuple(_episode(file, labels.get(file.stored.name, "")) for file in read)
    return Bag(path, episodes, interface, custom, tuple(files))


def damage_note(names: Sequence[str]) -> str:
    """Say of which files only a part was used, in a sentence; "" where there are none.

    Whoever shows results that come from a bag shows this beside them: names are those of `Bag.damaged`.
    """
    if not names:
        return ""
    is_, its = ("is", "its") if len(names) == 1 else ("are", "their")
    return (
        f"{', '.join(names)} {is_} cut off (was {its} recorder killed?) or damaged: used up to the last whole chunk "
        "before that; h2o-robot bag info --check says what is lost."
    )


def nearest_index(stamps: NDArray[np.int64], wanted: NDArray[np.int64], tolerance_ns: int) -> NDArray[np.int64]:
    """Index [n] into increasing `stamps` nearest to each wanted stamp, -1 where none lies within the tolerance."""
    if len(stamps) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    right = np.clip(np.searchsorted(stamps, wanted), 0, len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    index = np.where(np.abs(stamps[left] - wanted) < np.abs(stamps[right] - wanted), left, right)
    return np.where(np.abs(stamps[index] - wanted) <= tolerance_ns, index, -1).astype(np.int64)


def _check_topics(path: Path, read: Iterable[FileColumns], require: Sequence[str]) -> None:
    there: dict[str, str] = {}
    filled: set[str] = set()
    for file in read:
        there.update(file.stored.topics)
        filled |= file.filled
    for name in WANTED:
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


def _interface(path: Path, read: Iterable[FileColumns]) -> Interface | None:
    texts = {text for file in read for _, text in file.texts(topics.INTERFACE)}
    if len(texts) > 1:
        raise DataError(f"bag {path} was recorded with {len(texts)} different interfaces; split it by robot")
    return Interface.from_json(texts.pop(), f"{path}: /{topics.INTERFACE}") if texts else None


def _episode(file: FileColumns, label: str) -> Episode:
    changes = []
    for received_ns, text in file.texts(topics.MODE):
        mode, _, reason = text.partition(":")
        changes.append(ModeChange(received_ns, mode.strip(), reason.strip()))
    device_us, sequence = file.frames()
    return Episode(
        name=file.stored.name,
        label=label,
        stamp_ns=file.column(topics.ODOM, "stamp_ns"),
        states=file.column(topics.ODOM, "states"),
        executed=_torques(file, topics.JOINT_STATES),
        requested=_torques(file, topics.WHEEL_TORQUE),
        command=_torques(file, topics.WHEEL_COMMAND),
        mode_changes=tuple(changes),
        recovered=file.stored.recovered,
        received_ns=file.column(topics.ODOM, "received_ns"),
        configuration=next((text for _, text in file.texts(topics.CONFIGURATION)), ""),
        device_us=device_us,
        sequence=sequence,
        shadow=_torques(file, topics.SHADOW_TORQUE),
    )


def _torques(file: FileColumns, name: str) -> Torques:
    return Torques(file.column(name, "stamp_ns"), file.column(name, "torque_nm"), file.frame_id(name))
