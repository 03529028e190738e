# SPDX-License-Identifier: Apache-2.0
"""A training run's folder: what it is (run.json), where it stands (progress.json), how to go on (checkpoint.pt)."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from h2o_control.atomic_file import write_atomically
from h2o_control.config import from_mapping, to_mapping
from h2o_control.contract import Interface, PolicyContract, Task
from h2o_control.errors import ConfigError, DataError
from h2o_training.train_config import TrainConfig

RUN, PROGRESS, CHECKPOINT = "run.json", "progress.json", "checkpoint.pt"
#: Version of the folder's layout; 2: configurations of a family of algorithms.
FORMAT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands, as written to progress.json about once a second.

    Attributes:
        update, updates: done and wanted.
        episode_return: mean task return of the latest finished episodes in the twin (None: none yet).
        evaluation: latest evaluation of the deterministic policy on the twin; see collector.evaluate_on_twin.
        judged: latest judging on an emulated robot (log.judge): to be seen, and used for nothing.
        metrics: losses, values, mean ratio weight and the rest of the latest log line.
        updates_per_s, remaining_s: speed of late and time left at it.
        trained_s: time that it took to come so far, evaluations and all sessions of a resumed run included.
        state: "running", "finished", "interrupted" (there is a checkpoint of this update) or "failed".
    """

    update: int
    updates: int
    episode_return: float | None = None
    evaluation: dict[str, float] | None = None
    judged: dict[str, float] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    updates_per_s: float = 0.0
    remaining_s: float = 0.0
    trained_s: float = 0.0
    state: str = "running"

    def line(self) -> str:
        """Say in a few words how a run is doing: updates/s, return, losses of Q and V, mean ratio."""
        parts = [f"{self.updates_per_s:.0f}/s"]
        if self.episode_return is not None:
            parts.append(f"return {self.episode_return:.0f}")
        for label, name in (("Q", "loss/critic"), ("V", "loss/value"), ("ratio", "ratio/weight")):
            if name in self.metrics:
                parts.append(f"{label} {self.metrics[name]:.2g}")
        return " ".join(parts)


@dataclass(frozen=True)
class RunInfo:
    """Content of run.json: everything the numbers of a run follow from."""

    config: TrainConfig
    contract: PolicyContract
    provenance: dict[str, Any]


class RunDirectory:
    """Reads and writes one run's folder; every file is there whole or not at all, DataError where it cannot be."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def has_checkpoint(self) -> bool:
        """Tell whether there is something to resume or export."""
        return (self.path / CHECKPOINT).is_file()

    def create(self, info: RunInfo) -> None:
        """Make the folder and write run.json.

        Raises:
            ConfigError: the folder holds a run already.
            DataError: it cannot be made or written to.
        """
        if self.has_checkpoint():
            raise ConfigError(
                f"{self.path} holds a run already; go on with it by --resume {self.path}, or give another run=FOLDER"
            )
        self.write_info(info)

    def write_info(self, info: RunInfo) -> None:
        """Write run.json."""
        content = {
            "format": FORMAT,
            "config": to_mapping(info.config),
            "interface": to_mapping(info.contract.interface),
            "task": to_mapping(info.contract.task),
            "provenance": info.provenance,
        }
        self._write(RUN, json.dumps(content, indent=2).encode())

    def read_info(self) -> RunInfo:
        """Read run.json.

        Raises:
            DataError: the folder is no run, one of another version, or run.json is damaged.
            ConfigError: a value in it cannot be.
        """
        path = self.path / RUN
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{self.path} is not a training run: no {RUN} in it") from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is not a run that this version reads (format {FORMAT})")
        missing = [key for key in ("config", "interface", "task", "provenance") if key not in content]
        if missing or not isinstance(content["provenance"], dict):
            what = f"no {', '.join(missing)} in it" if missing else "its provenance is no mapping"
            raise DataError(f"{path} is damaged: {what}; start the run anew in another folder")
        contract = PolicyContract(
            from_mapping(Interface, content["interface"], f"{path}: interface"),
            from_mapping(Task, content["task"], f"{path}: task"),
        )
        return RunInfo(from_mapping(TrainConfig, content["config"], str(path)), contract, content["provenance"])

    def write_progress(self, progress: Progress) -> None:
        """Write progress.json; numbers that are not finite (|x| where no robot stands) are left out."""
        content = dataclasses.asdict(progress)
        for name in ("evaluation", "judged", "metrics"):
            if content[name] is not None:
                content[name] = {key: value for key, value in content[name].items() if math.isfinite(value)}
        self._write(PROGRESS, json.dumps(content, allow_nan=False).encode())

    def read_progress(self) -> Progress | None:
        """Read progress.json; None before the first."""
        try:
            return from_mapping(Progress, json.loads((self.path / PROGRESS).read_text(encoding="utf-8")), PROGRESS)
        except FileNotFoundError:
            return None

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt: tensors, numbers, strings, lists and dicts only, so that it loads with weights_only."""
        content = io.BytesIO()
        torch.save({"format": FORMAT, **state}, content)
        self._write(CHECKPOINT, content.getbuffer())

    def load_checkpoint(self, device: str = "cpu") -> dict[str, Any]:
        """Read checkpoint.pt; nothing in it is executed (weights_only).

        Raises:
            DataError: no checkpoint, not one, or of another version.
        """
        path = self.path / CHECKPOINT
        if not path.is_file():
            raise DataError(f"no checkpoint in {self.path}: is it the folder of a training run?")
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{path} is not a checkpoint: {error}") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise DataError(f"{path} is not a checkpoint that this version reads (format {FORMAT})")
        return state

    def _write(self, name: str, content: bytes | memoryview) -> None:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise DataError(f"cannot write {self.path / name}: {error.strerror}") from error
