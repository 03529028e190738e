# SPDX-License-Identifier: Apache-2.0
"""From bags to transitions: pairs of states one control step apart, with the torque executed in between."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control.bag_messages import bag_files
from h2o_control.bag_reader import Bag, Episode, nearest_index, read_bag
from h2o_control.contract import FloatArray, Interface, Task
from h2o_control.errors import ContractError, DataError
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_control.topics import ARMED
from h2o_training.dataset import BoolArray, Dataset

#: Stamps of neighbours may differ from the control step by this share of it, where stamps are all there is.
STEP_TOLERANCE = 0.2
#: Device times of neighbours may, where they were recorded: the microcontroller's own clock does not jitter.
DEVICE_TOLERANCE = 0.01
#: Frames are counted in 32 bits.
SEQUENCES = 2**32
#: Between commands further apart than this, the mode in command is not known.
COMMAND_GAP_NS = 50_000_000
#: A mode that lasted less than this may have come and gone between two commands.
SHORT_MODE_NS = 100_000_000
#: How long a message may be under way to the recorder.
DELIVERY_NS = 20_000_000


@dataclass(frozen=True)
class Transitions:
    """Transitions of one episode.

    Attributes:
        rows: int [n], index k of the state that each begins at (it ends at k + 1).
        torque_nm: float64 [n, 2], executed from k to k + 1, left and right wheel.
        terminals, timeouts: bool [n], see Dataset.
    """

    rows: Any
    torque_nm: FloatArray
    terminals: BoolArray
    timeouts: BoolArray


def has_device_time(episode: Episode) -> bool:
    """Whether the bag holds /device_time: then frames are told by number, and topics join on equal stamps."""
    return bool((episode.sequence >= 0).any())


def one_step(episode: Episode, dt_s: float) -> BoolArray:
    """Tell for each pair of neighbouring states [n - 1] whether they are one control step apart.

    With device time: consecutive frames, and a device step within 1 % of the control step; a state whose device time
    was lost has no neighbour. Without it (bags of others): stamps one control step apart, within a fifth of it.
    """
    if not has_device_time(episode):
        near: BoolArray = np.abs(np.diff(episode.stamp_ns) - 1e9 * dt_s) <= STEP_TOLERANCE * 1e9 * dt_s
        return near
    known = episode.sequence >= 0
    consecutive = np.diff(episode.sequence) % SEQUENCES == 1
    true_step = np.abs(np.diff(episode.device_us) - 1e6 * dt_s) <= DEVICE_TOLERANCE * 1e6 * dt_s
    result: BoolArray = known[:-1] & known[1:] & consecutive & true_step
    return result


def known_modes(episode: Episode) -> NDArray[np.str_]:
    """Mode in command [n] at each state: of the command that answers it, or of those before and after where they agree.

    A commander that misses an observation leaves the mode as it is. But where commands of unlike modes, or more than
    50 ms apart, are the nearest that there are, nobody can tell: "".
    """
    stamps, frames = episode.command.stamp_ns, episode.command.frame_id
    padded = np.append(stamps, np.iinfo(np.int64).max)
    before = np.searchsorted(stamps, episode.stamp_ns, side="right") - 1
    after = np.searchsorted(stamps, episode.stamp_ns, side="left")
    known = (before >= 0) & (padded[after] - padded[before] <= COMMAND_GAP_NS)
    # Text takes much memory: it is compared only where no command answers the state, and then both sides are there.
    between = np.flatnonzero(known & (before != after))
    known[between] = frames[before[between]] == frames[after[between]]
    modes = np.zeros(len(known), dtype=frames.dtype)
    modes[known] = frames[before[known]]
    return modes


def _mode_held(episode: Episode) -> BoolArray:
    """Tell of each pair of neighbouring states [n - 1] whether it lies clear of a mode that came and went at once.

    Such a mode may show in no command; and where the robot was disarmed and armed again, x began anew.
    """
    # Changes of mode carry no stamp but the time at which they were recorded.
    recorded = episode.received_ns if len(episode.received_ns) else episode.stamp_ns
    held = np.ones(max(0, len(recorded) - 1), dtype=np.bool_)
    for begin, end in itertools.pairwise(episode.mode_changes):
        if end.mode in ARMED and end.stamp_ns - begin.stamp_ns < SHORT_MODE_NS:
            held &= (recorded[1:] < begin.stamp_ns - DELIVERY_NS) | (recorded[:-1] > end.stamp_ns + DELIVERY_NS)
    return held


def episode_transitions(episode: Episode, interface: Interface, task: Task) -> Transitions:
    """Find the transitions of one episode.

    A pair of neighbouring states counts where they are one control step apart (`one_step`), the executed torque of that
    step was reported, and one mode was in command all along; a fall may change the mode, since it disarms the robot.
    States after the fall begin no transition.
    """
    stamps, states = episode.stamp_ns, episode.states
    none = np.zeros(0, dtype=np.bool_)
    if len(stamps) < 2:
        return Transitions(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), none, none)
    # Topics of one frame carry one stamp; those of other recorders are near each other.
    join_ns = 0 if has_device_time(episode) else int(STEP_TOLERANCE * 1e9 * interface.dt_s)
    modes = known_modes(episode)
    fallen: BoolArray = np.asarray(task.fallen(states))
    executed = nearest_index(episode.executed.stamp_ns, stamps[1:], join_ns)
    torque = np.append(episode.executed.torque_nm, [[np.nan] * 2], axis=0)[executed]
    commanded = np.isin(modes[:-1], ARMED) & ((modes[:-1] == modes[1:]) | fallen[1:])
    # One value that is not finite makes the sum of the pair and its torque so.
    finite = np.isfinite(states[:-1].sum(axis=1) + states[1:].sum(axis=1) + torque.sum(axis=1))
    follows = one_step(episode, interface.dt_s) & _mode_held(episode)
    rows = np.flatnonzero(follows & commanded & finite & ~fallen[:-1])
    terminals = fallen[1:][rows]
    run_ends = np.append((np.diff(rows) != 1) | (modes[rows[1:]] != modes[rows[:-1]]), True)[: len(rows)]
    return Transitions(rows, torque[rows], terminals, run_ends & ~terminals)


def build_dataset(paths: Sequence[str | Path], task: Task, on_bag: Callable[[Path], object] | None = None) -> Dataset:
    """Build one dataset from bags of one robot interface, in the order given.

    Args:
        paths: rosbag2 directories.
        task: what the policy will observe and be rewarded for.
        on_bag: called with each bag before it is read.

    Raises:
        DataError: a path is no bag, holds what another one holds, lacks topics, or there is not one transition in all.
        ContractError: bags of different interfaces.
    """
    require_distinct(list(map(Path, paths)))
    parts: list[Dataset] = []
    seen: list[tuple[str, Episode]] = []
    for path in map(Path, paths):
        if on_bag:
            on_bag(path)
        bag = read_bag(path)
        part = bag_dataset(bag, bag.require_interface(), task)
        if parts and part.interface.hash != parts[0].interface.hash:
            differences = parts[0].interface.differences(part.interface, str(paths[0]), str(path))
            raise ContractError(
                f"bag {path} is from a robot with another interface than {paths[0]}: {differences}; "
                "build one dataset for each"
            )
        for episode in bag.episodes:
            _require_new(f"{path}: {episode.name}", episode, seen)
        parts.append(part)
    if not sum(map(len, parts)):
        raise DataError(
            f"no transitions in {', '.join(map(str, paths))}: nowhere were two states one control step apart while "
            f"the robot was in {' or '.join(ARMED)} mode; arm the robot while recording"
        )
    sources = [part.provenance for part in parts]
    robots = sorted({name for source in sources for name in source["robots"]})
    provenance = {"kind": "bags", "bags": sources, "robots": robots, "created": now_utc(), "software": software()}
    return joined(parts, provenance)


def bag_dataset(bag: Bag, interface: Interface, task: Task) -> Dataset:
    """Return the transitions of one bag, none where the robot was never armed; its provenance is the bag's alone."""
    found = [(episode, episode_transitions(episode, interface, task)) for episode in bag.episodes]
    counts = {mode: sum(int((e.modes()[t.rows] == mode).sum()) for e, t in found) for mode in ARMED}
    return Dataset.from_states(
        np.concatenate([e.states[t.rows] for e, t in found]),
        np.concatenate([e.states[t.rows + 1] for e, t in found]),
        np.concatenate([t.torque_nm for _, t in found]),
        np.concatenate([t.terminals for _, t in found]),
        np.concatenate([t.timeouts for _, t in found]),
        interface,
        task,
        _source(bag, counts),
    )


def joined(parts: Sequence[Dataset], provenance: Mapping[str, Any]) -> Dataset:
    """Return the rows of several datasets of one robot and task, one after the other.

    Raises:
        ContractError: the parts differ in interface or task.
    """
    first = parts[0]
    if any((part.interface, part.task) != (first.interface, first.task) for part in parts):
        raise ContractError("datasets of different interfaces or tasks cannot be joined")
    names = [f.name for f in dataclasses.fields(Dataset) if f.name not in ("interface", "task", "provenance")]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Dataset(**arrays, interface=first.interface, task=first.task, provenance=dict(provenance))


def require_distinct(paths: Sequence[Path]) -> None:
    """Raise DataError where a file of one bag holds the same bytes as one of another, whatever they are called."""
    seen: dict[str, Path] = {}
    for path in paths:
        for file in bag_files(path)[0]:
            digest = files_sha256([file])
            if digest in seen:
                raise DataError(
                    f"bag {path} is given twice: {file} holds the same bytes as {seen[digest]} "
                    f"(sha256 {digest[:12]}…); each recording counts once, leave one of them out"
                )
            seen[digest] = file


def shared_states(one: Episode, other: Episode) -> int:
    """Count states that two episodes share, stamp and values: one was cut, merged or repaired out of the other."""
    if not len(one.stamp_ns) or not len(other.stamp_ns):
        return 0
    if one.stamp_ns[-1] < other.stamp_ns[0] or other.stamp_ns[-1] < one.stamp_ns[0]:
        return 0
    _, i, j = np.intersect1d(one.stamp_ns, other.stamp_ns, assume_unique=True, return_indices=True)
    return int((one.states[i] == other.states[j]).all(axis=1).sum())


def _require_new(name: str, episode: Episode, seen: list[tuple[str, Episode]]) -> None:
    for other_name, other in seen:
        if count := shared_states(episode, other):
            raise DataError(
                f"{name} holds {count} of the states of {other_name}: it was cut, merged or repaired out of the same "
                "recording, which counts once; leave one of them out"
            )
    seen.append((name, episode))


def robot_names(bag: Bag) -> list[str]:
    """Names of the robots that /configuration tells of, sorted; none in a bag of another recorder."""
    names = set()
    for episode in bag.episodes:
        try:
            names.add(str(json.loads(episode.configuration)["robot"]["name"]))
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(names)


def damaged_files(dataset: Dataset) -> list[str]:
    """Names of the files that a dataset holds a part of: what they were cut off or damaged behind is not in it."""
    return [name for bag in dataset.provenance.get("bags", []) for name in bag.get("recovered", [])]


def _source(bag: Bag, transitions_by_mode: dict[str, int]) -> dict[str, Any]:
    return {
        "name": bag.path.name,
        "sha256": files_sha256(bag_files(bag.path)[0]),
        "robots": robot_names(bag),
        "episodes": len(bag.episodes),
        "recovered": list(bag.damaged),
        "transitions_by_mode": transitions_by_mode,
    }
