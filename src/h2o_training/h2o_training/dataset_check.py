# SPDX-License-Identifier: Apache-2.0
"""Everything that is known against a bag, a dataset or a log before anybody trains on it, and what to drive next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from h2o_control.bag_messages import bag_files
from h2o_control.bag_reader import Episode, read_bag
from h2o_control.contract import FloatArray, Interface, Task
from h2o_control.errors import ContractError, DataError
from h2o_control.provenance import files_sha256
from h2o_control.topics import ARMED
from h2o_training.action_lag import EXPECTED_SIGN, Lag, action_lag
from h2o_training.coverage import Plane, Wish, coverage, planes, wishes
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import bag_dataset, joined, shared_states
from h2o_training.dataset_check_bag import check_episode
from h2o_training.dataset_check_raw import check_raw, read_raw
from h2o_training.dataset_check_rows import Consistency, check_rows, consistency, consistency_finding, shared_rows
from h2o_training.dataset_check_rules import RULE, RULES, Finding, Level, Tally, verdict
from h2o_training.dataset_log import import_logs

#: Fewer equal transitions than this may be chance, where sensors are coarse and the robot is at rest.
LEAST_SHARED = 20


@dataclass(frozen=True)
class LogFormat:
    """How to read text logs: see dataset_log."""

    columns: tuple[str, ...] | None
    interface: Interface


@dataclass(frozen=True)
class Part:
    """One input.

    Attributes:
        name: of the file or bag. kind: "bag", "dataset" or "log".
        dataset: its transitions, perhaps none.
        mode_s: seconds in each mode that was ever in command, armed or not; empty where that is not known.
        step_s: [m] between neighbouring stamps of each episode of a bag, and time_s [m] when; empty otherwise.
        hashes: of its files, and of what it was built from.
        episodes: of a bag.
    """

    name: str
    kind: str
    dataset: Dataset
    mode_s: dict[str, float]
    step_s: FloatArray
    time_s: FloatArray
    hashes: frozenset[str]
    episodes: tuple[Episode, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What came out.

    Attributes:
        findings: one for each rule, in the order of RULES, good ones too.
        parts: the inputs.
        dataset: all transitions together.
        planes, wishes, lags, consistencies: see there.
    """

    findings: tuple[Finding, ...]
    parts: tuple[Part, ...]
    dataset: Dataset
    planes: tuple[Plane, ...]
    wishes: tuple[Wish, ...]
    lags: tuple[Lag, ...]
    consistencies: tuple[Consistency, ...]

    @property
    def level(self) -> Level:
        """The verdict."""
        return verdict(self.findings)

    @property
    def problems(self) -> list[Finding]:
        """Findings that lower the verdict, worst first."""
        return sorted((f for f in self.findings if f.level >= Level.CARE), key=lambda f: -f.level)


def check(
    paths: Sequence[str | Path],
    task: Task,
    log: LogFormat | None = None,
    on_file: Callable[[Path], object] | None = None,
) -> Checked:
    """Check bags, datasets and text logs of one robot, together.

    Args:
        paths: what to check.
        task: says what a fall is.
        log: format of text logs.
        on_file: called with each input before it is read.

    Raises:
        DataError: an input cannot be read, or is a text log and its format was not given.
        ContractError: inputs of different interfaces.
    """
    tally, parts = Tally(), []
    for path in map(Path, paths):
        if on_file:
            on_file(path)
        parts.append(_read(path, task, log, tally))
        ours, theirs = parts[0].dataset.interface, parts[-1].dataset.interface
        if ours.hash != theirs.hash:
            differences = ours.differences(theirs, parts[0].name, parts[-1].name)
            raise ContractError(
                f"{path} is from a robot with another interface: {differences}; check one robot at a time"
            )
    _check_copies(parts, tally)
    for part in parts:
        check_rows(part.dataset, part.name, tally)
        if part.kind != "bag":
            # Neither can hold what is not a finite number: reading it would have failed.
            tally.add("not a number", 0, len(part.dataset))
    data = joined([part.dataset for part in parts], {})
    tally.add("amount", data.duration_s)
    consistencies = tuple(consistency(data, name) for name in ("x", "theta"))
    lags = tuple(action_lag(data, response) for response in EXPECTED_SIGN)
    found = {f.rule.name: f for f in (*map(consistency_finding, consistencies), *_lag_findings(lags))}
    cells = tuple(planes(data))
    share = coverage(cells)
    each = ", ".join(f"{' and '.join(plane.names)} {100 * plane.share:.0f} %" for plane in cells)
    found["coverage"] = Finding(RULE["coverage"], share, f"{100 * share:.0f} % of the reference region ({each})")
    findings = tuple(found.get(rule.name) or tally.finding(rule.name) for rule in RULES)
    return Checked(findings, tuple(parts), data, cells, tuple(wishes(data)), lags, consistencies)


def _read(path: Path, task: Task, log: LogFormat | None, tally: Tally) -> Part:
    if path.is_dir() or path.suffix == ".mcap":
        return _read_bag(path, task, tally)
    if not path.is_file():
        raise DataError(f"no such bag, dataset or log: {path}")
    nothing, own = np.zeros(0), files_sha256([path])
    if h5py.is_hdf5(path):
        data = Dataset.load(path)
        sources = [*data.provenance.get("bags", []), *data.provenance.get("files", [])]
        hashes = frozenset([own, *(str(source["sha256"]) for source in sources)])
        modes: dict[str, float] = {}
        for source in data.provenance.get("bags", []):
            for mode, count in source["transitions_by_mode"].items():
                modes[mode] = modes.get(mode, 0.0) + count * data.interface.dt_s
        return Part(path.name, "dataset", _for_task(data, task), modes, nothing, nothing, hashes)
    if log is None:
        raise DataError(
            f"{path} is neither a bag (a directory, or *.mcap) nor HDF5; if it is a text log, say what is in it: "
            "--columns x,v,theta,theta_dot,tau,done --rate-hz 200"
        )
    data = import_logs([path], log.columns, log.interface, task).dataset
    return Part(path.name, "log", data, {}, nothing, nothing, frozenset([own]))


def _for_task(data: Dataset, task: Task) -> Dataset:
    """The same transitions, observed as the task does: what two datasets share are the states."""
    return Dataset.from_states(
        data.states, data.next_states, data.wheel_torques, data.terminals, data.timeouts, data.interface, task, {}
    )


def _read_bag(path: Path, task: Task, tally: Tally) -> Part:
    bag = read_bag(path)
    interface = bag.require_interface()
    modes: dict[str, float] = {}
    step_s: list[FloatArray] = [np.zeros(0)]
    time_s: list[FloatArray] = [np.zeros(0)]
    start_ns = min((int(e.stamp_ns[0]) for e in bag.episodes if len(e.stamp_ns)), default=0)
    for episode in bag.episodes:
        check_episode(episode, interface, episode.name, tally)
        for mode, count in zip(*np.unique(episode.modes(), return_counts=True), strict=True):
            modes[str(mode)] = modes.get(str(mode), 0.0) + int(count) * interface.dt_s
        step_s.append(np.diff(episode.stamp_ns) * 1e-9)
        time_s.append((episode.stamp_ns[1:] - start_ns) * 1e-9)
    for file in bag.files:
        check_raw(read_raw(file), interface, file.name, tally)
    files = bag_files(path)[0]
    hashes = frozenset([files_sha256(files), *(files_sha256([file]) for file in files)])
    data = bag_dataset(bag, interface, task)
    return Part(
        path.name,
        "bag",
        data,
        {mode: modes[mode] for mode in sorted(modes, key=lambda m: (m not in ARMED, m))},
        np.concatenate(step_s),
        np.concatenate(time_s),
        hashes,
        bag.episodes,
    )


def _check_copies(parts: Sequence[Part], tally: Tally) -> None:
    """Count inputs that hold what another one holds: the same file, one built from the other, or shared rows."""
    tally.add("copies", 0)
    for number, part in enumerate(parts):
        for other in parts[:number]:
            if part.hashes & other.hashes:
                tally.add("copies", 1, 0, f"{part.name} holds what {other.name} holds")
                continue
            if not (part.episodes and other.episodes) and (
                (count := shared_rows(part.dataset, other.dataset)) >= LEAST_SHARED
            ):
                tally.add("copies", 1, 0, f"{part.name} shares {count} transitions with {other.name}")
                continue
            for mine in part.episodes:
                for theirs in other.episodes:
                    if count := shared_states(mine, theirs):
                        tally.add("copies", 1, 0, f"{mine.name} shares {count} states with {theirs.name}")


def _lag_findings(lags: Sequence[Lag]) -> list[Finding]:
    told = [lag for lag in lags if lag.told]
    untold = [f"{lag.response}: {lag.reason}" for lag in lags if not lag.told]
    words = [f"{lag.response} {1e3 * lag.lag_s:.1f} ± {1e3 * lag.spread_s:.1f} ms" for lag in told]
    if not told:
        cannot = f"cannot tell, the torque is not excited enough beyond its feedback: {'; '.join(untold)}"
        return [
            Finding(RULE["excitation"], 1.0, cannot),
            Finding(RULE["lag"], math.nan, cannot),
            Finding(RULE["sign"], math.nan, cannot),
        ]
    wrong = [lag.response for lag in told if lag.sign != EXPECTED_SIGN[lag.response]]
    right = f"{' and '.join(lag.response for lag in told)} answer as they should"
    return [
        Finding(RULE["excitation"], 0.0, "; ".join(untold) or "the torque's own effect shows"),
        Finding(RULE["lag"], 1e3 * max(lag.lag_s for lag in told), ", ".join(words)),
        Finding(RULE["sign"], len(wrong), f"{' and '.join(wrong)} the wrong way" if wrong else right),
    ]
