# SPDX-License-Identifier: Apache-2.0
"""Minari datasets (Farama), written and read by the package `minari` itself: episodes, spaces, contracts as metadata.

A Minari dataset is a folder below a root (MINARI_DATASETS_PATH, else ~/.minari/datasets), and its id is the path from
there. So the folder's name must be one: `walk-v0`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from h2o_control.errors import DataError
from h2o_training.dataset_generic import Array, GenericDataset, breaks
from h2o_training.optional import require

#: Key of the dataset's metadata: attributes of ours.
KEY = "h2o"
NAME = re.compile(r"[-\w]+-v\d+")


def minari_id(folder: Path) -> str:
    """Id under which `minari.load_dataset` finds this folder: from its root where it lies below that, else its name.

    Raises:
        DataError: the folder's name is no name of a Minari dataset.
    """
    if not NAME.fullmatch(folder.name):
        raise DataError(f"{folder.name!r} is no name of a Minari dataset: call the folder NAME-vN, e.g. walk-v0")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").resolve()
    folder = folder.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.name


def save_minari(data: GenericDataset, path: str | Path) -> list[str]:
    """Write a Minari dataset (HDF5) in one step; returns the keys left out: extras, which are no rows.

    Each unbroken run is an episode, its end a termination (terminals) or a truncation (time-outs, and the last row).

    Raises:
        DataError: minari is not installed, the folder exists or has no name of a dataset, the disk is too full, numbers
            that are not floats, or a run in which the next observation is not the following row's.
    """
    minari, storages = require("minari"), require("minari.dataset.minari_storage")
    box = require("gymnasium").spaces.Box
    # Absolute: minari joins names of files, which begin with its folder, to its folder.
    folder = Path(path).absolute()
    name = minari_id(folder)
    if folder.exists():
        raise DataError(f"{path} exists already: a Minari dataset is never overwritten, give the next version")
    for key in ("observations", "actions"):
        if getattr(data, key).dtype.kind != "f":
            raise DataError(
                f"{key} are {getattr(data, key).dtype}, not floats: their space cannot be told from the data"
            )
    episodes = _episodes(data, require("minari.data_collector.episode_buffer").EpisodeBuffer)
    bound = 1.0 if data.of_robot else np.inf
    spaces = {
        "observation_space": box(-np.inf, np.inf, data.observations.shape[1:], data.observations.dtype),
        "action_space": box(-bound, bound, data.actions.shape[1:], data.actions.dtype),
    }
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        # HDF5 crashes the process where the disk fills up.
        need, free = 2 * sum(a.nbytes for a in data.rows().values()) + 2**20, shutil.disk_usage(temporary).free
        if free < need:
            raise DataError(f"cannot write {path}: {free / 1e6:.0f} MB free, up to {need / 1e6:.0f} MB needed")
        storage = storages.MinariStorage.new(temporary / "data", **spaces, data_format="hdf5")
        about = {"dataset_id": name, "minari_version": minari.__version__, KEY: dict(data.attributes)}
        storage.update_metadata({**about, "description": "written by h2o-robot dataset convert"})
        storage.update_episodes(episodes)
        temporary.replace(folder)
    except OSError as error:
        raise DataError(f"cannot write dataset {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(data.extras)


def load_minari(path: str | Path) -> GenericDataset:
    """Read a Minari dataset by its folder: ours, or any whose observations and actions are arrays.

    Infos that are not numbers, or not in every episode, are left out. Infos with one entry more than steps (as Minari's
    own collector writes them, the first at the reset) lose the first.

    Raises:
        DataError: minari is not installed, no such dataset, one of a version it does not read, or no arrays.
    """
    minari = require("minari")
    folder = Path(path)
    data_path = folder / "data" if (folder / "data").is_dir() else folder
    try:
        dataset = minari.MinariDataset(str(data_path))
        episodes = list(dataset.iterate_episodes())
        metadata = dataset.storage.metadata
    except (ValueError, OSError, KeyError, AssertionError) as error:
        raise DataError(f"{folder} is not a Minari dataset that can be read: {error}") from error
    if not episodes:
        raise DataError(f"{folder}: there is not one transition in it")
    for episode in episodes:
        for key in ("observations", "actions"):
            if not isinstance(getattr(episode, key), np.ndarray):
                raise DataError(f"{folder}: {key} are {type(getattr(episode, key)).__name__}, only arrays are read")
    timeouts = [np.asarray(e.truncations, dtype=np.bool_) for e in episodes]
    for flags, episode in zip(timeouts, episodes, strict=True):
        flags[-1] |= not episode.terminations[-1]
    return GenericDataset(
        observations=np.concatenate([e.observations[:-1] for e in episodes]),
        actions=np.concatenate([e.actions for e in episodes]),
        rewards=np.concatenate([e.rewards for e in episodes]),
        next_observations=np.concatenate([e.observations[1:] for e in episodes]),
        terminals=np.concatenate([np.asarray(e.terminations, dtype=np.bool_) for e in episodes]),
        timeouts=np.concatenate(timeouts),
        infos=_infos([(len(e), _flat(e.infos or {})) for e in episodes]),
        attributes=metadata[KEY] if KEY in metadata else _about(metadata),
    )


def _episodes(data: GenericDataset, buffer: Any) -> list[Any]:
    ends = data.episode_ends
    broken = breaks(data.observations, data.next_observations)
    broken[ends[:-1]] = False
    if broken.any():
        raise DataError(
            f"row {int(np.argmax(broken))}: the next observation is not that of the following row, though no episode "
            f"ends there (so in {int(broken.sum())} rows); Minari holds whole episodes only"
        )
    seed = json.loads(str(data.attributes.get("provenance", "{}"))).get("seed") if data.of_robot else None
    episodes = []
    for start, end in zip(np.append(0, ends[:-1] + 1), ends, strict=True):
        part = slice(start, end + 1)
        truncations = data.timeouts[part].copy()
        truncations[-1] |= not data.terminals[end]
        episodes.append(
            buffer(
                seed=seed if start == 0 else None,
                observations=np.append(data.observations[part], data.next_observations[end : end + 1], axis=0),
                actions=data.actions[part],
                rewards=data.rewards[part],
                terminations=data.terminals[part],
                truncations=truncations,
                infos=_nested({key: array[part] for key, array in data.infos.items()}),
            )
        )
    return episodes


def _nested(infos: Mapping[str, Array]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, array in infos.items():
        *groups, leaf = key.split("/")
        node = result
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = array
    return result


def _flat(infos: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in infos.items():
        result.update(_flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value})
    return result


def _infos(episodes: list[tuple[int, dict[str, Any]]]) -> dict[str, Array]:
    result = {}
    for key in episodes[0][1]:
        parts = [np.asarray(infos[key]) if key in infos else np.empty(0) for _, infos in episodes]
        if all(
            p.ndim > 0 and n <= len(p) <= n + 1 and p.dtype.kind in "fiub"
            for p, (n, _) in zip(parts, episodes, strict=True)
        ):
            rows = [p[len(p) - n :] for p, (n, _) in zip(parts, episodes, strict=True)]
            if len({r.shape[1:] for r in rows}) == 1:
                result[key] = np.concatenate(rows)
    return result


def _about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if isinstance(value, str | int | float)}
