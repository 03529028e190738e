# SPDX-License-Identifier: Apache-2.0
"""Parquet: one flat column a component, units in the field's metadata, contracts in the schema's; needs pyarrow.

Columns are named KEY.COMPONENT (`observations.theta`, `infos/states.x`) or KEY where there is one value a row
(`rewards`), so that pandas, polars, DuckDB and spreadsheets show what a number is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h2o_control.atomic_file import write_atomically
from h2o_control.contract import STATE
from h2o_control.errors import DataError
from h2o_training.dataset_generic import Array, GenericDataset, to_robot
from h2o_training.optional import require

#: Key of the schema's metadata: attributes as JSON.
KEY = b"h2o"


def save_parquet(data: GenericDataset, path: str | Path) -> list[str]:
    """Write one Parquet file (zstd) in one step; returns the keys left out: extras, which are no rows.

    Raises:
        DataError: pyarrow is not installed, a column holds arrays (images), or the file cannot be written.
    """
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    described = _described(data)
    fields, arrays = [], []
    for key, array in data.rows().items():
        if array.ndim > 2:
            raise DataError(f"{key} holds arrays of shape {array.shape[1:]} in each row; Parquet takes numbers only")
        flat = array[:, None] if array.ndim == 1 else array
        for i, (name, unit) in enumerate(described.get(key) or [(str(i), "") for i in range(flat.shape[1])]):
            metadata = {
                "key": key,
                **({"component": str(i)} if array.ndim == 2 else {}),
                **({"unit": unit} if unit else {}),
            }
            column = pa.array(np.ascontiguousarray(flat[:, i]))
            fields.append(pa.field(f"{key}.{name}" if array.ndim == 2 else key, column.type, False, metadata))
            arrays.append(column)
    schema = pa.schema(fields, metadata={KEY: json.dumps(dict(data.attributes), sort_keys=True)})
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
    try:
        write_atomically(path, memoryview(buffer.getvalue()))
    except OSError as error:
        raise DataError(f"cannot write dataset {path}: {error.strerror}") from error
    return sorted(data.extras)


def load_parquet(path: str | Path) -> GenericDataset:
    """Read what `save_parquet` wrote.

    Raises:
        DataError: pyarrow is not installed, no such file, not Parquet, or not one of ours.
    """
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    if not Path(path).is_file():
        raise DataError(f"no such dataset: {path}")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error
    attributes = (table.schema.metadata or {}).get(KEY)
    if attributes is None:
        raise DataError(
            f"{path} was not written by h2o-robot: columns {', '.join(table.column_names[:8])}, no metadata"
        )
    columns: dict[str, list[Array]] = {}
    flat: set[str] = set()
    for field, column in zip(table.schema, table.columns, strict=True):
        key = field.metadata[b"key"].decode()
        columns.setdefault(key, []).append(column.to_numpy())
        if b"component" not in field.metadata:
            flat.add(key)
    arrays = {key: parts[0] if key in flat else np.stack(parts, axis=1) for key, parts in columns.items()}
    infos = {key[6:]: arrays.pop(key) for key in list(arrays) if key.startswith("infos/")}
    try:
        return GenericDataset(**arrays, infos=infos, attributes=json.loads(attributes), extras={})
    except TypeError as error:
        raise DataError(f"{path} is not a dataset of h2o-robot: {error}") from error


def _described(data: GenericDataset) -> dict[str, Sequence[tuple[str, str]]]:
    """Name and unit of the components of each key, where contracts say what they are."""
    if not data.of_robot:
        return {}
    robot = to_robot(data, "dataset")
    units = dict(zip(STATE, robot.interface.units, strict=True))
    observed = [(name, units[name]) for name in robot.task.observation]
    states: Any = list(units.items())
    return {
        "observations": observed,
        "next_observations": observed,
        "actions": [("common_torque", "share of the torque limit")],
        "infos/states": states,
        "infos/next_states": states,
        "infos/wheel_torques_nm": [("left", "Nm"), ("right", "Nm")],
    }
