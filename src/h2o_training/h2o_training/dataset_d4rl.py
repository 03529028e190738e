# SPDX-License-Identifier: Apache-2.0
"""HDF5 with D4RL's keys, also as D4RL itself wrote them (arXiv:2004.07219): no contract, often no next observations.

Which keys there are differs by family. Gym-MuJoCo v2 has next_observations, timeouts, infos/{action_log_probs, qpos,
qvel} and metadata/{algorithm, iteration, policy/…}; AntMaze has timeouts and infos/{goal, qpos, qvel}; the oldest files
have neither timeouts nor next_observations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from h2o_control.atomic_file import write_atomically
from h2o_control.errors import DataError
from h2o_training.dataset import BoolArray
from h2o_training.dataset_generic import Array, GenericDataset, breaks

REQUIRED = ("observations", "actions", "rewards", "terminals")


def load_d4rl(path: str | Path, episode_steps: int | None = None) -> GenericDataset:
    """Read an HDF5 file with D4RL's keys.

    Where next_observations are absent, they are the observations of the following row, never across the end of an
    episode: a row whose next observation nobody recorded is left out, except a terminal one. Nothing is bootstrapped
    there, so it keeps its reward, repeats its observation and is false in infos/next_known.

    Args:
        path: the file.
        episode_steps: for files without timeouts and next_observations, after how many rows the recorder began anew;
            0 where only terminals end episodes. D4RL keeps this number in the environment (1000 in Gym-MuJoCo).

    Raises:
        DataError: no such file, not HDF5, keys missing, arrays of unequal length, flags that are not 0 or 1, or
            episodes whose ends cannot be known.
    """
    arrays, attributes = _read(Path(path))
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise DataError(f"{path} does not have D4RL's keys: it lacks {', '.join(missing)}")
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]
    n = len(arrays["rewards"])
    for key in (*REQUIRED, "next_observations", "timeouts"):
        if key in arrays and len(arrays[key]) != n:
            raise DataError(f"{path}: {key} has {len(arrays[key])} rows, rewards has {n}")
    if n == 0:
        raise DataError(f"{path}: there is not one transition in it")
    infos = {key[6:]: a for key, a in arrays.items() if key.startswith("infos/") and len(a) == n}
    rows = ("observations", "actions", "rewards", "next_observations")
    columns = {key: arrays[key] for key in rows if key in arrays}
    columns["terminals"] = terminals = _flags(path, "terminals", arrays["terminals"])
    used = {*columns, "timeouts", *(f"infos/{key}" for key in infos)}
    extras = {key: a for key, a in arrays.items() if key not in used}
    timeouts = _flags(path, "timeouts", arrays["timeouts"]) if "timeouts" in arrays else None
    if "next_observations" in columns:
        columns["timeouts"] = _closed(columns, terminals, timeouts)
    else:
        if timeouts is None:
            if episode_steps is None:
                raise DataError(
                    f"{path} has neither timeouts nor next_observations: it does not say where its recorder began "
                    "anew. Give --episode-steps, the rows of an episode (1000 in D4RL's Gym-MuJoCo), or 0 if only "
                    "terminals end one"
                )
            timeouts = _horizon(terminals, episode_steps)
        columns, infos = _shifted(columns, infos, timeouts)
    return GenericDataset(**columns, infos=infos, attributes=attributes, extras=extras)


def save_d4rl(data: GenericDataset, path: str | Path) -> None:
    """Write an HDF5 file in one step; attributes become those of the file.

    Raises:
        DataError: the file cannot be written.
    """
    # In memory first: on a full disk HDF5 itself crashes the process.
    with h5py.File("dataset", "w", driver="core", backing_store=False) as file:
        for key, value in data.attributes.items():
            file.attrs[key] = value
        for key, array in {**data.rows(), **data.extras}.items():
            file.create_dataset(key, data=array, compression="gzip", compression_opts=4)
        file.flush()
        content = file.id.get_file_image()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"cannot write dataset {path}: {error.strerror}") from error


def _read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Every array of the file by its key, and what is no array: attributes, and scalars such as metadata/algorithm."""
    if not path.is_file():
        raise DataError(f"no such dataset: {path}")
    arrays: dict[str, Array] = {}
    attributes: dict[str, Any] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.shape:
                arrays[key] = np.asarray(item[()])
            else:
                attributes[key] = _plain(item[()])

    try:
        with h5py.File(path, "r") as file:
            attributes.update({key: _plain(value) for key, value in file.attrs.items()})
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is not an HDF5 file that can be read: {error}") from error
    return arrays, attributes


def _plain(value: Any) -> Any:
    """JSON-ready: text where HDF5 has bytes, Python's numbers where it has numpy's."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _flags(path: str | Path, key: str, array: Array) -> BoolArray:
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise DataError(f"{path}: {key} is {array[wrong[0]]} in row {wrong[0]}, expected 0 or 1")
    return np.asarray(array, dtype=np.bool_)


def _closed(columns: dict[str, Array], terminals: BoolArray, timeouts: BoolArray | None) -> BoolArray:
    """Where a recording ends: as the file says, else where the next row does not begin where this one led to."""
    if timeouts is None:
        broken = breaks(columns["observations"], columns["next_observations"])
        timeouts = np.asarray(np.append(broken, True) & ~terminals)
    else:
        timeouts = timeouts.copy()
        timeouts[-1] |= not terminals[-1]
    return timeouts


def _horizon(terminals: BoolArray, steps: int) -> BoolArray:
    """Every so many rows after the beginning or a terminal a time-out; none where steps is 0."""
    rows = np.arange(len(terminals))
    if steps <= 0:
        return np.zeros(len(rows), dtype=np.bool_)
    starts = np.append(0, np.flatnonzero(terminals[:-1]) + 1)
    since = rows - starts[np.searchsorted(starts, rows, side="right") - 1]
    return np.asarray(((since + 1) % steps == 0) & ~terminals)


def _shifted(
    columns: dict[str, Array], infos: dict[str, Array], timeouts: BoolArray
) -> tuple[dict[str, Array], dict[str, Array]]:
    observations, terminals = columns["observations"], columns["terminals"]
    following = np.append(observations[1:], observations[-1:], axis=0)
    following[terminals] = observations[terminals]
    unknown = timeouts.copy()
    unknown[-1] = True
    keep = terminals | ~unknown
    # The last row of a run whose next observation is known ends it instead of the one left out.
    ends = timeouts & terminals
    ends[:-1] |= ~keep[1:] & ~terminals[:-1]
    whole = {**columns, "next_observations": following, "timeouts": ends}
    infos = {**infos, "next_known": ~terminals}
    return {key: a[keep] for key, a in whole.items()}, {key: a[keep] for key, a in infos.items()}
