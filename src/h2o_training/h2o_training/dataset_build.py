# SPDX-License-Identifier: Apache-2.0
"""From bags to transitions: pairs of states one control step apart, with the torque executed in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from h2o_control.bag_reader import Bag, Episode, nearest_index, read_bag
from h2o_control.contract import FloatArray, Interface, Task
from h2o_control.errors import ContractError, DataError
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_control.topics import ARMED
from h2o_training.dataset import BoolArray, Dataset

#: Stamps of neighbours may differ from the control step by this share of it.
STEP_TOLERANCE = 0.2


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


def episode_transitions(episode: Episode, interface: Interface, task: Task) -> Transitions:
    """Find the transitions of one episode.

    A pair of neighbouring states counts where their stamps are one control step apart, the executed torque of that
    step was reported, and one mode was in command all along; a fall may change the mode, since it disarms the robot.
    States after the fall begin no transition.
    """
    stamps, states = episode.stamp_ns, episode.states
    none = np.zeros(0, dtype=np.bool_)
    if len(stamps) < 2:
        return Transitions(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), none, none)
    step_ns = 1e9 * interface.dt_s
    tolerance_ns = STEP_TOLERANCE * step_ns
    modes = episode.modes()
    fallen: BoolArray = np.asarray(task.fallen(states))
    executed = nearest_index(episode.executed.stamp_ns, stamps[1:], int(tolerance_ns))
    torque = np.append(episode.executed.torque_nm, [[np.nan] * 2], axis=0)[executed]
    one_step = np.abs(np.diff(stamps) - step_ns) <= tolerance_ns
    commanded = np.isin(modes[:-1], ARMED) & ((modes[:-1] == modes[1:]) | fallen[1:])
    # One value that is not finite makes the sum of the pair and its torque so.
    finite = np.isfinite(states[:-1].sum(axis=1) + states[1:].sum(axis=1) + torque.sum(axis=1))
    rows = np.flatnonzero(one_step & commanded & finite & ~fallen[:-1])
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
        DataError: a path is no bag, or given twice, lacks topics, or there is not one transition in all of them.
        ContractError: bags of different interfaces.
    """
    states, next_states, torques, terminals, timeouts, sources = [], [], [], [], [], []
    interface: Interface | None = None
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise DataError(f"bag {path} is given twice; each bag counts once")
        seen.add(path.resolve())
    for path in map(Path, paths):
        if on_bag:
            on_bag(path)
        bag = read_bag(path)
        found = bag.require_interface()
        if interface is not None and found.hash != interface.hash:
            raise ContractError(
                f"bag {path} is from a robot with interface {found.hash}, the bags before it from {interface.hash}; "
                "build one dataset for each"
            )
        interface = found
        counts = dict.fromkeys(ARMED, 0)
        for episode in bag.episodes:
            t = episode_transitions(episode, interface, task)
            states.append(episode.states[t.rows])
            next_states.append(episode.states[t.rows + 1])
            torques.append(t.torque_nm)
            terminals.append(t.terminals)
            timeouts.append(t.timeouts)
            for mode in ARMED:
                counts[mode] += int((episode.modes()[t.rows] == mode).sum())
        sources.append(_source(bag, counts))
    if interface is None or not sum(map(len, torques)):
        raise DataError(
            f"no transitions in {', '.join(map(str, paths))}: nowhere were two states one control step apart while "
            f"the robot was in {' or '.join(ARMED)} mode; arm the robot while recording"
        )
    provenance = {"kind": "bags", "bags": sources, "created": now_utc(), "software": software()}
    return Dataset.from_states(
        np.concatenate(states),
        np.concatenate(next_states),
        np.concatenate(torques),
        np.concatenate(terminals),
        np.concatenate(timeouts),
        interface,
        task,
        provenance,
    )


def _source(bag: Bag, transitions_by_mode: dict[str, int]) -> dict[str, Any]:
    return {
        "name": bag.path.name,
        "sha256": files_sha256(bag.files),
        "episodes": len(bag.episodes),
        "recovered": [e.name for e in bag.episodes if e.recovered],
        "transitions_by_mode": transitions_by_mode,
    }
