# SPDX-License-Identifier: Apache-2.0
"""A dataset of real transitions: numpy arrays in memory, D4RL's HDF5 keys on disk, both contracts attached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from h2o_control.atomic_file import write_atomically
from h2o_control.config import from_mapping
from h2o_control.contract import FloatArray, Interface, Task, canonical_json
from h2o_control.errors import ConfigError, ContractError, DataError

BoolArray = NDArray[np.bool_]

#: Version of the file's layout, raised when a reader of today could not read it.
FORMAT = 2
#: What a robot's dataset has beside D4RL's keys, by the name below infos/.
INFOS = {"states": "states", "next_states": "next_states", "wheel_torques": "wheel_torques_nm"}
_FLOATS = {
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "next_observations": "next_observations",
    **{name: f"infos/{key}" for name, key in INFOS.items()},
}
_BOOLS = {"terminals": "terminals", "timeouts": "timeouts"}


@dataclass(frozen=True)
class Dataset:
    """N transitions in the order of recording; every transition is one control step that really happened.

    Attributes:
        observations, next_observations: float32 [N, n_obs], `task.observe` of the states.
        actions: float32 [N, 1], executed common torque / torque limit, in [-1, 1].
        rewards: float32 [N].
        terminals: bool [N], the next state has fallen; its value is not bootstrapped.
        timeouts: bool [N], recording ends here or jumps for another reason; its value is bootstrapped.
        wheel_torques: float32 [N, 2], left and right, in Nm, as recorded; actions hold their mean within the limit.
        states, next_states: float32 [N, 4] in the order of contract.STATE; m, m/s, rad, rad/s.
        interface, task: what the numbers mean.
        provenance: where they come from, JSON-ready.

    Raises:
        DataError: arrays of unequal length, a wrong width, or a value that is not finite.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    next_observations: FloatArray
    terminals: BoolArray
    timeouts: BoolArray
    states: FloatArray
    next_states: FloatArray
    wheel_torques: FloatArray
    interface: Interface
    task: Task
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, width = len(self.rewards), len(self.task.observation)
        shapes = {
            "observations": (n, width),
            "next_observations": (n, width),
            "actions": (n, 1),
            "rewards": (n,),
            "terminals": (n,),
            "timeouts": (n,),
            "states": (n, 4),
            "next_states": (n, 4),
            "wheel_torques": (n, 2),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise DataError(f"dataset: {name} has shape {array.shape}, task {self.task.name!r} needs {shape}")
            if name in _FLOATS and not np.isfinite(array).all():
                row = int(np.argwhere(~np.isfinite(array))[0][0])
                raise DataError(f"dataset: {name} is not finite in row {row}")

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def from_states(
        cls,
        states: FloatArray,
        next_states: FloatArray,
        torque_nm: FloatArray,
        terminals: BoolArray,
        timeouts: BoolArray,
        interface: Interface,
        task: Task,
        provenance: Mapping[str, Any],
    ) -> Dataset:
        """Build from states [N, 4], next states [N, 4] and torque in Nm, [N] or [N, 2]; actions are clipped."""
        limit = interface.torque_limit_nm
        wheels = np.asarray(torque_nm)
        if wheels.ndim == 1:
            wheels = np.stack((wheels, wheels), axis=1)
        torque = np.clip(wheels, -limit, limit).mean(axis=1)
        return cls(
            observations=np.ascontiguousarray(task.observe(states), dtype=np.float32),
            actions=(torque / limit).astype(np.float32)[:, None],
            rewards=np.asarray(task.rewards(next_states, torque), dtype=np.float32),
            next_observations=np.ascontiguousarray(task.observe(next_states), dtype=np.float32),
            terminals=np.asarray(terminals, dtype=np.bool_),
            timeouts=np.asarray(timeouts, dtype=np.bool_),
            states=np.asarray(states, dtype=np.float32),
            next_states=np.asarray(next_states, dtype=np.float32),
            wheel_torques=wheels.astype(np.float32),
            interface=interface,
            task=task,
            provenance=dict(provenance),
        )

    @property
    def episode_count(self) -> int:
        """Unbroken runs of transitions; the last row ends one whether flagged or not."""
        ends = self.terminals | self.timeouts
        return int(ends.sum()) + int(len(self) > 0 and not ends[-1])

    @property
    def duration_s(self) -> float:
        """Time on the robot, seconds."""
        return len(self) * self.interface.dt_s

    def save(self, path: str | Path) -> None:
        """Write an HDF5 file in one step: it is there whole, or not at all. Missing folders are made.

        Raises:
            DataError: the file cannot be written.
        """
        # In memory first: on a full disk HDF5 itself crashes the process.
        with h5py.File("dataset", "w", driver="core", backing_store=False) as file:
            file.attrs["format"] = FORMAT
            file.attrs["interface"] = self.interface.to_json()
            file.attrs["interface_hash"] = self.interface.hash
            file.attrs["task"] = canonical_json(self.task)
            file.attrs["task_hash"] = self.task.hash
            file.attrs["provenance"] = json.dumps(dict(self.provenance), sort_keys=True)
            for name, key in {**_FLOATS, **_BOOLS}.items():
                file.create_dataset(key, data=getattr(self, name), compression="gzip", compression_opts=4)
            file.flush()
            content = file.id.get_file_image()
        try:
            write_atomically(path, content)
        except OSError as error:
            raise DataError(f"cannot write dataset {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, not HDF5, keys missing, or another format.
            ContractError: its contracts are not ones this version knows, or it has none (D4RL's own files).
        """
        if not Path(path).is_file():
            raise DataError(f"no such dataset: {path}")
        try:
            with h5py.File(path, "r") as file:
                found = file.attrs.get("format")
                if found is None and "observations" in file:
                    raise ContractError(
                        f"{path} is a dataset with D4RL's keys that says nothing about a robot: nothing can be "
                        "trained, identified or judged on a robot with it. h2o-robot dataset convert and "
                        "h2o_training.dataset_d4rl.load_d4rl read it"
                    )
                if found != FORMAT:
                    raise DataError(f"{path} has dataset format {found}, this version reads {FORMAT}; build it again")
                missing = sorted(key for key in {**_FLOATS, **_BOOLS}.values() if key not in file)
                if missing:
                    raise DataError(f"{path} is not a dataset of h2o-robot: it lacks {', '.join(missing)}")
                arrays = {name: np.asarray(file[key][()]) for name, key in {**_FLOATS, **_BOOLS}.items()}
                texts = {name: str(file.attrs[name]) for name in ("interface", "task", "provenance")}
        except (OSError, KeyError) as error:
            raise DataError(f"{path} is not a dataset of h2o-robot: {error}") from error
        try:
            task = from_mapping(Task, json.loads(texts["task"]), f"{path}: task")
        except (ValueError, ConfigError) as error:
            raise ContractError(f"{path}: its task is not one this version knows: {error}") from error
        return cls(
            **arrays,
            interface=Interface.from_json(texts["interface"], f"{path}: interface"),
            task=task,
            provenance=json.loads(texts["provenance"]),
        )
