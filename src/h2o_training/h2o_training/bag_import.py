# SPDX-License-Identifier: Apache-2.0
"""Transitions out of somebody else's bag: its signals at our control steps, never across a gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h2o_control.config import to_mapping
from h2o_control.contract import STATE, FloatArray, Interface, Task
from h2o_control.errors import ContractError, DataError
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_training.bag_foreign import storage_files
from h2o_training.bag_mapping import BagMapping, Interpolation, definition_files
from h2o_training.bag_signals import Samples, read_signals
from h2o_training.dataset import BoolArray, Dataset

#: A bag is resampled upwards where its messages come less often than this share of the control rate.
SPARSE = 0.75


@dataclass(frozen=True)
class BagImport:
    """A dataset from a bag, and what had to be done to it.

    Attributes:
        dataset: the transitions.
        samples: what was read of each signal.
        clipped: transitions whose torque is beyond the limit of one wheel.
        runs: unbroken stretches of transitions.
        sparse: signals that come less often than control steps, so that rows between were interpolated.
        recovered: files of the bag that are cut off or damaged; what is whole of them was read.
    """

    dataset: Dataset
    samples: Mapping[str, Samples]
    clipped: int
    runs: int
    sparse: tuple[str, ...]
    recovered: tuple[str, ...]


def resample(
    samples: Samples, at_ns: NDArray[np.int64], interpolation: Interpolation, max_gap_ns: int
) -> tuple[FloatArray, BoolArray]:
    """Value [n] at each time, and where it is known [n].

    It is not known before the first sample, after the last, and between two that lie further apart than `max_gap_ns`.
    At a sample's own stamp, `linear` and `previous` give that sample, `next` the one after it.
    """
    stamps, values = samples.stamp_ns, samples.values
    right = np.searchsorted(stamps, at_ns, side="right" if interpolation == "next" else "left")
    there = right < len(stamps)
    right = np.minimum(right, len(stamps) - 1)
    exact = there & (stamps[right] == at_ns)
    left = np.where(exact, right, right - 1)
    known = there & (left >= 0)
    left = np.maximum(left, 0)
    width = stamps[right] - stamps[left]
    known &= width <= max_gap_ns
    if interpolation == "linear":
        share = (at_ns - stamps[left]) / np.maximum(width, 1)
        return values[left] + share * (values[right] - values[left]), known
    return values[left if interpolation == "previous" else right], known


def control_steps(samples: Samples, rate_hz: float, max_gap_ns: int) -> list[NDArray[np.int64]]:
    """Times (ns) of the control steps of each stretch without a gap, beginning at its first sample."""
    stamps = samples.stamp_ns
    cuts = np.flatnonzero(np.diff(stamps) > max_gap_ns) + 1
    result = []
    for part in np.split(stamps, cuts):
        count = int((part[-1] - part[0]) * 1e-9 * rate_hz) + 1
        result.append(part[0] + np.round(np.arange(count) * (1e9 / rate_hz)).astype(np.int64))
    return result


def import_bag(path: Path, mapping: BagMapping, mapping_path: Path, interface: Interface, task: Task) -> BagImport:
    """Build a dataset from one bag of somebody else's robot.

    Each row is a control step, at which every signal is known; a transition is two neighbouring rows and the torque at
    the first. A pitch beyond the task's limit is the fall: it ends a run, and rows after it begin none.

    Args:
        path: a rosbag2 folder, or one .mcap or .db3 file.
        mapping: what is where in it.
        mapping_path: the mapping's file, which definitions are relative to.
        interface: of the robot that was recorded.
        task: what is learned.

    Raises:
        DataError: see `read_signals`; or signals that do not overlap in time, or not one transition.
        ContractError: the mapping's rate is not the robot's.
    """
    if mapping.rate_hz != interface.rate_hz:
        raise ContractError(
            f"{mapping_path} resamples to {mapping.rate_hz:g} Hz, the robot is controlled at {interface.rate_hz:g} Hz; "
            "give --robot a robot with that rate (a file as in config/robots), or change rate_hz"
        )
    samples, recovered = read_signals(path, mapping, definition_files(mapping, mapping_path))
    _require_overlap(samples, mapping)
    gaps_ns = {name: round(1e9 * mapping.gap_s(signal)) for name, signal in mapping.signals.items()}
    torques = ("torque", "torque") if mapping.torque else ("torque_left", "torque_right")
    parts = []
    for steps in control_steps(samples["theta"], mapping.rate_hz, gaps_ns["theta"]):
        columns, known = {}, np.ones(len(steps), dtype=np.bool_)
        for name, signal in mapping.signals.items():
            kind = signal.interpolation or ("linear" if name in STATE else "previous")
            columns[name], there = resample(samples[name], steps, kind, gaps_ns[name])
            known &= there
        states = np.stack([columns[name] for name in STATE], axis=1)
        fallen = np.asarray(task.fallen(states))
        rows = np.flatnonzero(known[:-1] & known[1:] & ~fallen[:-1])
        terminals = fallen[rows + 1]
        ends = np.append(np.diff(rows) != 1, True)[: len(rows)]
        torque = np.stack([columns[name][rows] for name in torques], axis=1)
        parts.append((states[rows], states[rows + 1], torque, terminals, ends & ~terminals))
    states, after, torque, terminals, timeouts = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(states):
        raise DataError(
            f"no transitions in {path}: nowhere are all signals known at two control steps in a row while the robot is "
            f"up. {_rates(samples)}; max_gap_s is {mapping.max_gap_s:g} s; theta, whose median is "
            f"{np.median(samples['theta'].values):.3g} rad, means a fall beyond {task.fall_pitch_rad:g} rad"
        )
    clipped = int((np.abs(torque) > interface.torque_limit_nm).any(axis=1).sum())
    files = [f for p in storage_files(path) for f in (sorted(p.iterdir()) if p.is_dir() else [p]) if f.is_file()]
    provenance = {
        "kind": "foreign bag",
        "bag": {"name": path.name, "sha256": files_sha256(files)},
        "mapping": to_mapping(mapping),
        "messages": {name: len(s.values) for name, s in samples.items()},
        "clipped": clipped,
        "recovered": list(recovered),
        "created": now_utc(),
        "software": software(),
    }
    dataset = Dataset.from_states(states, after, torque, terminals, timeouts, interface, task, provenance)
    sparse = tuple(name for name, s in samples.items() if s.rate_hz < SPARSE * mapping.rate_hz)
    return BagImport(dataset, samples, clipped, int((terminals | timeouts).sum()), sparse, recovered)


def _require_overlap(samples: Mapping[str, Samples], mapping: BagMapping) -> None:
    begins = {name: int(s.stamp_ns[0]) for name, s in samples.items()}
    ends = {name: int(s.stamp_ns[-1]) for name, s in samples.items()}
    late, early = max(begins, key=lambda n: begins[n]), min(ends, key=lambda n: ends[n])
    if begins[late] >= ends[early]:
        raise DataError(
            f"{late} (on {mapping.signals[late].topic}) begins at {begins[late] * 1e-9:.3f} s, when {early} (on "
            f"{mapping.signals[early].topic}) has ended at {ends[early] * 1e-9:.3f} s: are their clocks the same? "
            "Simulated and wall time do not mix; `stamp: received` uses the recorder's clock for all"
        )


def _rates(samples: Mapping[str, Samples]) -> str:
    return ", ".join(f"{name} {s.rate_hz:.3g} Hz" for name, s in samples.items())
