# SPDX-License-Identifier: Apache-2.0
"""Transitions of any robot or benchmark: what D4RL, Minari and Parquet files hold, with or without our contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control.config import from_mapping
from h2o_control.contract import Interface, Task, canonical_json
from h2o_control.errors import ConfigError, ContractError, DataError
from h2o_training.dataset import FORMAT, INFOS, BoolArray, Dataset

Array = NDArray[Any]

#: Attributes without which numbers are of no robot that we know.
CONTRACTS = ("interface", "task")


@dataclass(frozen=True)
class GenericDataset:
    """N transitions in the order of recording, of whatever produced them.

    Attributes:
        observations, next_observations: [N, ...], of the type that the file has.
        actions: [N, ...].
        rewards: float [N].
        terminals: bool [N], the next state ends the task; its value is not bootstrapped.
        timeouts: bool [N], the recording ends here or jumps for another reason; its value is bootstrapped.
        infos: arrays [N, ...] by name.
        attributes: JSON-ready, what the file says about itself; `interface` and `task` hold a robot's contracts.
        extras: arrays that are no rows (D4RL keeps the weights of the policy that drove).

    Raises:
        DataError: no row, rows of unequal number, or an observation, action or reward that is not finite.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminals: BoolArray
    timeouts: BoolArray
    infos: Mapping[str, Array] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.rewards)
        if n == 0:
            raise DataError("dataset: there is not one transition in it")
        for name, array in self.rows().items():
            if len(array) != n:
                raise DataError(f"dataset: {name} has {len(array)} rows, rewards has {n}")
        for name in ("observations", "actions", "rewards", "next_observations"):
            array = getattr(self, name)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row = int(np.argwhere(~np.isfinite(array))[0][0])
                raise DataError(f"dataset: {name} is not finite in row {row}")

    def __len__(self) -> int:
        return len(self.rewards)

    def rows(self) -> dict[str, Array]:
        """All arrays that have one entry a transition, by their key in an HDF5 file."""
        keys = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
        return {**{key: getattr(self, key) for key in keys}, **{f"infos/{k}": v for k, v in self.infos.items()}}

    @property
    def episode_ends(self) -> NDArray[np.intp]:
        """Last row of each unbroken run; the last row of all ends one whether flagged or not."""
        ends = self.terminals | self.timeouts
        ends[-1] = True
        return np.flatnonzero(ends)

    @property
    def of_robot(self) -> bool:
        """Both contracts are there."""
        return all(name in self.attributes for name in CONTRACTS)


def breaks(observations: Array, next_observations: Array) -> BoolArray:
    """Whether each row but the last [n - 1] leads elsewhere than where the following row begins."""
    differs = next_observations[:-1] != observations[1:]
    return np.asarray(differs.any(axis=tuple(range(1, differs.ndim))))


def to_generic(dataset: Dataset) -> GenericDataset:
    """Return the same numbers with the contracts as attributes; `to_robot` is the way back, without loss."""
    return GenericDataset(
        observations=dataset.observations,
        actions=dataset.actions,
        rewards=dataset.rewards,
        next_observations=dataset.next_observations,
        terminals=dataset.terminals,
        timeouts=dataset.timeouts,
        infos={key: getattr(dataset, name) for name, key in INFOS.items()},
        attributes={
            "format": FORMAT,
            "interface": dataset.interface.to_json(),
            "interface_hash": dataset.interface.hash,
            "task": canonical_json(dataset.task),
            "task_hash": dataset.task.hash,
            "provenance": json.dumps(dict(dataset.provenance), sort_keys=True),
        },
    )


def to_robot(data: GenericDataset, where: str) -> Dataset:
    """Return a dataset of a robot that the rest of h2o-robot works with.

    Args:
        data: what a file held.
        where: the file's name, for messages.

    Raises:
        ContractError: no contracts, or ones that this version does not know.
        DataError: contracts, but not the columns of such a dataset.
    """
    lacking = [name for name in CONTRACTS if name not in data.attributes]
    if lacking:
        raise ContractError(
            f"{where} says nothing about a robot (no {' and no '.join(lacking)} in it): its numbers have no units, so "
            "that nothing can be trained, identified or judged on a robot with them. It can be converted and read "
            "(h2o-robot dataset convert; h2o_training.dataset_files.read_dataset)"
        )
    missing = [key for key in INFOS.values() if key not in data.infos]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}, which a dataset of h2o-robot has")
    interface = Interface.from_json(str(data.attributes["interface"]), f"{where}: interface")
    try:
        task = from_mapping(Task, json.loads(str(data.attributes["task"])), f"{where}: task")
    except (ValueError, ConfigError) as error:
        raise ContractError(f"{where}: its task is not one this version knows: {error}") from error
    return Dataset(
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        next_observations=data.next_observations,
        terminals=data.terminals,
        timeouts=data.timeouts,
        **{name: data.infos[key] for name, key in INFOS.items()},
        interface=interface,
        task=task,
        provenance=json.loads(str(data.attributes.get("provenance", "{}"))),
    )
