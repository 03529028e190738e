# SPDX-License-Identifier: Apache-2.0
"""Training runs side by side: those that differ by their seed only are one group, with means and intervals.

An interval is the 95 % percentile bootstrap of the mean over seeds (scipy.stats.bootstrap), from three seeds on. With a
handful of seeds it is too narrow rather than too wide.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from h2o_control.config import to_mapping
from h2o_control.contract import FloatArray, canonical_json
from h2o_control.errors import ContractError, DataError
from h2o_training.catalogue import CATALOGUE
from h2o_training.metrics_log import Curve, read_curves
from h2o_training.run_dir import RUN, Progress, RunDirectory, RunInfo

#: Fewer seeds have no interval: their values are told one by one.
LEAST_SEEDS = 3
RESAMPLES = 5000
INTERVAL = f"95 % percentile bootstrap of the mean over seeds, {RESAMPLES} resamples, from {LEAST_SEEDS} seeds on"
#: More keys than this in which configurations differ name no group any more.
MOST_KEYS = 3
#: What two runs of one group may differ in; the dataset's content counts, not its name.
OF_A_RUN = ("seed", "run", "dataset")


@dataclass(frozen=True)
class RunRecord:
    """One run as it lies in its folder.

    Attributes:
        path: of the folder.
        info: run.json.
        progress: latest progress.json.
        curves: logged scalars by tag.
    """

    path: Path
    info: RunInfo
    progress: Progress
    curves: Mapping[str, Curve]

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.info.config.seed

    @property
    def finished(self) -> bool:
        """Whether it came to its end, by updates or by time."""
        return self.progress.state == "finished"

    @property
    def updates_per_s(self) -> float:
        """Over the whole run, evaluations included; NaN where it is not known."""
        seconds = self.progress.trained_s
        return self.progress.update / seconds if seconds > 0 else math.nan

    def last(self, tag: str) -> float:
        """Latest value of a tag; NaN where there is none."""
        curve = self.curves.get(tag)
        return float(curve.values[-1]) if curve is not None and len(curve.values) else math.nan


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed only, sorted by it."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def tags(self) -> set[str]:
        """Tags that every run has logged."""
        return set.intersection(*(set(run.curves) for run in self.runs))

    def last(self, tag: str) -> FloatArray:
        """Latest value of each run [n]."""
        return np.array([run.last(tag) for run in self.runs])


@dataclass(frozen=True)
class Band:
    """Mean over seeds with its interval: float64 [k] each; low and high are NaN where there are too few seeds."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class GroupCurve:
    """A logged quantity of a group, as far as all of its runs have come.

    Attributes:
        updates: float64 [k].
        values: float64 [n, k], a row a run.
        band: over the runs.
    """

    updates: FloatArray
    values: FloatArray
    band: Band


def find_runs(paths: Sequence[str | Path]) -> list[Path]:
    """Return the folders of runs that these are, or that lie in them, each once.

    Raises:
        DataError: one of them neither is nor holds a run.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        inside = [path] if (path / RUN).is_file() else sorted(file.parent for file in path.rglob(RUN))
        if not inside:
            raise DataError(f"no training runs in {path}: give folders that h2o-robot train has written")
        found |= {folder.resolve(): folder for folder in inside}
    return list(found.values())


def read_run(path: Path) -> RunRecord:
    """Read one run; raises DataError or ConfigError where its files are none."""
    directory = RunDirectory(path)
    info = directory.read_info()
    progress = directory.read_progress() or Progress(0, info.config.updates)
    return RunRecord(path, info, progress, read_curves(path))


def require_comparable(runs: Sequence[RunRecord]) -> None:
    """Raise ContractError, with the reason, where two runs are of different tasks or robots."""
    first = runs[0]
    for run in runs[1:]:
        who = f"{first.path} and {run.path}"
        ours, theirs = first.info.contract, run.info.contract
        if ours.task.name != theirs.task.name:
            raise ContractError(
                f"{who} are of different tasks, {ours.task.name!r} and {theirs.task.name!r}: compare them apart"
            )
        if ours.task.hash != theirs.task.hash:
            raise ContractError(
                f"{who} are of different versions of task {ours.task.name!r} ({ours.task.hash} and "
                f"{theirs.task.hash}): train one of them again"
            )
        names = [Path(r.info.config.robot).stem for r in (first, run)]
        if names[0] != names[1]:
            raise ContractError(f"{who} are of different robots, {names[0]!r} and {names[1]!r}: compare them apart")
        if ours.interface.hash != theirs.interface.hash:
            differences = ours.interface.differences(theirs.interface, str(first.path), str(run.path))
            raise ContractError(f"{who} are of robots with different interfaces: {differences}")
        if first.info.provenance["twin"]["body"] != run.info.provenance["twin"]["body"]:
            raise ContractError(
                f"{who} are of robots named {names[0]!r} with different bodies: was its file changed between them?"
            )


def groups(runs: Sequence[RunRecord]) -> list[Group]:
    """Put runs that differ by their seed only together, in the order in which they were given.

    Raises:
        ContractError: runs of different tasks or robots.
        DataError: two runs of one group and the same seed.
    """
    require_comparable(runs)
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        members.setdefault(_key(run), []).append(run)
    for group in members.values():
        group.sort(key=lambda run: run.seed)
        for one, other in itertools.pairwise(group):
            if one.seed == other.seed:
                raise DataError(
                    f"{one.path} and {other.path} are the same run, seed {one.seed}: leave one out, counted twice it "
                    "would make the others look more alike than they are"
                )
    labels = _labels(list(members.values()))
    return [Group(label, tuple(group)) for label, group in zip(labels, members.values(), strict=True)]


def mean_band(values: FloatArray) -> Band:
    """Mean over the first axis of values [n, k], with its interval from LEAST_SEEDS on."""
    mean, unknown = values.mean(axis=0), np.full(values.shape[1], math.nan)
    if len(values) < LEAST_SEEDS or not np.isfinite(values).all():
        return Band(mean, unknown, unknown)
    found = stats.bootstrap(
        (values,), np.mean, axis=0, n_resamples=RESAMPLES, batch=500, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Band(mean, np.asarray(found.low), np.asarray(found.high))


def group_curve(group: Group, tag: str) -> GroupCurve | None:
    """Bring a tag's curves of all runs together; None where one has none, or they have no updates in common.

    Runs log at the same updates; where one missed some (no episode had ended), its curve is interpolated. It ends where
    the run that came least far ends: a mean over those that are left would jump where one drops out.
    """
    curves = [run.curves.get(tag) for run in group.runs]
    known = [curve for curve in curves if curve is not None and len(curve.updates)]
    if len(known) < len(curves):
        return None
    first, last = max(c.updates[0] for c in known), min(c.updates[-1] for c in known)
    grid = np.unique(np.concatenate([c.updates for c in known])).astype(np.float64)
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, c.updates, c.values) for c in known])
    return GroupCurve(grid, values, mean_band(values))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return result


def differences(these: Sequence[Group]) -> dict[str, list[str]]:
    """Values by configuration key, one a group, of all keys in which the groups differ, as in YAML.

    A part that only some of them have is told as a whole: "null" or "given".
    """
    configs = [flat(to_mapping(group.runs[0].info.config)) for group in these]
    missing = tuple(f"{key}." for key in {k for config in configs for k, v in config.items() if v is None})
    keys = dict.fromkeys(k for config in configs for k in config if k not in OF_A_RUN and not k.startswith(missing))
    rows = {key: [_yaml(config[key]) if key in config else "given" for config in configs] for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')


def _key(run: RunRecord) -> str:
    config = {k: v for k, v in to_mapping(run.info.config).items() if k not in OF_A_RUN}
    dataset = run.info.provenance["dataset"]
    return canonical_json({"config": config, "dataset": dataset and dataset["sha256"]})


def _labels(members: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Name groups by their algorithm and, where several have it, by what else they differ in."""
    titles = [CATALOGUE[runs[0].info.config.algorithm].title for runs in members]
    labels = []
    for title, runs in zip(titles, members, strict=True):
        alike = [Group("", tuple(other)) for name, other in zip(titles, members, strict=True) if name == title]
        if len(alike) == 1:
            labels.append(title)
            continue
        here = next(index for index, group in enumerate(alike) if group.runs[0] is runs[0])
        differing = differences(alike)
        if 0 < len(differing) <= MOST_KEYS:
            labels.append(f"{title}, " + ", ".join(f"{key} {row[here]}" for key, row in differing.items()))
        else:
            labels.append(f"{title}, {_folder(runs)}")
    return labels


def _folder(runs: Sequence[RunRecord]) -> str:
    """Name runs by their folder; seeds of one folder by that."""
    folders = {run.path.resolve().parent for run in runs}
    return str(runs[0].path) if len(runs) == 1 else ", ".join(sorted(folder.name for folder in folders))
