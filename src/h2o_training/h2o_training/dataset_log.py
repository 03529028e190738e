# SPDX-License-Identifier: Apache-2.0
"""Plain-text logs, one row a control step, as other groups publish them: parsed strictly, turned into transitions."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2o_control.contract import STATE, FloatArray, Interface, Task
from h2o_control.errors import DataError, nearest
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_training.dataset import Dataset

TORQUE_COLUMN = "tau"
DONE_COLUMN = "done"
SKIPPED = "_"
NEEDED = (*STATE, TORQUE_COLUMN)
KNOWN = (*NEEDED, DONE_COLUMN)


@dataclass(frozen=True)
class LogImport:
    """A dataset from logs, and what had to be done to them.

    Attributes:
        rows: read. clipped: rows used whose |tau| is beyond the torque limit. dropped: rows after a first done row.
    """

    dataset: Dataset
    rows: int
    clipped: int
    dropped: int


def parse_columns(text: str) -> tuple[str, ...]:
    """Parse `x,v,theta,theta_dot,tau,done`; raises DataError for a name that is unknown, missing or given twice."""
    columns = tuple(name.strip() for name in text.split(","))
    for name in columns:
        if name != SKIPPED and name not in KNOWN:
            raise DataError(f"--columns: no column {name!r}.{nearest(name, (*KNOWN, SKIPPED))}")
        if name != SKIPPED and columns.count(name) > 1:
            raise DataError(f"--columns names {name!r} {columns.count(name)} times")
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise DataError(f"--columns lacks {', '.join(missing)} (skip columns of no use with {SKIPPED!r})")
    return columns


def header_columns(path: Path) -> tuple[str, ...]:
    """Columns by the names in a log's first line, which may be a comment; units in brackets are dropped.

    Columns of other names are skipped.

    Raises:
        DataError: no such file, or no line of names, or one that lacks what is needed.
    """
    first = next((line for line in _text(path).splitlines() if line.strip(" #\t")), "").strip().lstrip("#")
    found = [re.sub(r"\s*[\[(].*[\])]$", "", name.strip("\"' ")) for name in _split(first, _separator(first))]
    if not found or any(_is_number(name) for name in found):
        raise DataError(f"{path} does not begin with a line of names; say with --columns what its columns are")
    columns = tuple(name if name in KNOWN else SKIPPED for name in found)
    for name in KNOWN:
        if columns.count(name) > 1:
            raise DataError(f"{path} line 1 names {name!r} {columns.count(name)} times")
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise DataError(
            f"{path} line 1 names {', '.join(found)}, but not {', '.join(missing)}; rename them there, or say with "
            "--columns what the columns are"
        )
    return columns


def read_log(path: Path, columns: Sequence[str]) -> FloatArray:
    """Read rows [n, len(columns)]; empty lines, lines from # on and a first line of names are skipped.

    Semicolons, tabs, commas or else blanks separate, whichever of them the first line has. Between semicolons or tabs,
    a comma is a decimal point.

    Raises:
        DataError: with file and line, for a wrong number of columns, names that are not those of `columns`, text in a
            number, a value that is not finite, or a done that is neither 0 nor 1.
    """
    used = [i for i, name in enumerate(columns) if name != SKIPPED]
    done = columns.index(DONE_COLUMN) if DONE_COLUMN in columns else None
    rows: list[list[float]] = []
    separator: str | None = None
    first = True
    for number, line in enumerate(_text(path).splitlines(), start=1):
        content = line.partition("#")[0].strip(" \r")
        if not content.strip():
            continue
        if first:
            separator = _separator(content)
        fields = _split(content, separator)
        if first and not any(map(_is_number, fields)):
            _require_same_names(path, number, fields, columns)
            first = False
            continue
        first = False
        if len(fields) != len(columns):
            raise DataError(
                f"{path} line {number}: {len(fields)} columns, {len(columns)} are named ({','.join(columns)})"
            )
        row = [0.0] * len(columns)
        for i in used:
            text = fields[i] if separator in (None, ",") else fields[i].replace(",", ".")
            try:
                row[i] = float(text)
            except ValueError:
                raise DataError(f"{path} line {number}: {columns[i]} is {fields[i]!r}, not a number") from None
            if not math.isfinite(row[i]):
                raise DataError(f"{path} line {number}: {columns[i]} is {fields[i]}, not a finite number")
        if done is not None and row[done] not in (0.0, 1.0):
            raise DataError(f"{path} line {number}: done is {fields[done]}, expected 0 or 1")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, len(columns))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: byte {error.start} is not UTF-8") from error


def _separator(line: str) -> str | None:
    return next((mark for mark in (";", "\t", ",") if mark in line), None)


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    fields = [field.strip() for field in line.split(separator)]
    # Many loggers write a separator behind each value.
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _require_same_names(path: Path, number: int, fields: Sequence[str], columns: Sequence[str]) -> None:
    for i, (there, name) in enumerate(zip(fields, columns, strict=False), start=1):
        if there in KNOWN and name not in (there, SKIPPED):
            raise DataError(
                f"{path} line {number} calls column {i} {there!r}, --columns calls it {name!r}; leave --columns out to "
                "take the names of the file"
            )


def import_logs(
    paths: Sequence[str | Path],
    columns: Sequence[str] | None,
    interface: Interface,
    task: Task,
    on_file: Callable[[Path], object] | None = None,
) -> LogImport:
    """Build one dataset from logs; each file is one recording, and no transition joins two files.

    Row k's torque acts from row k to row k + 1. The first done row is a terminal next state and the last row used.
    Without a done column, a pitch beyond the task's limit is the fall. Without `columns`, each log begins with a line
    of names.

    Raises:
        DataError: as `read_log` and `header_columns`, or a log with the rows of another one, or not one transition.
    """
    parts, n_rows, clipped, dropped = [], 0, 0, 0
    seen: dict[bytes, Path] = {}
    for path in map(Path, paths):
        if on_file:
            on_file(path)
        named = columns or header_columns(path)
        table = read_log(path, named)
        by_name = {name: table[:, i] for i, name in enumerate(named)}
        states = np.stack([by_name[name] for name in STATE], axis=1)
        torque = by_name[TORQUE_COLUMN]
        # Of the numbers, not of the file: one of the two may be compressed, or have another head.
        digest = hashlib.sha256(np.column_stack((states, torque)).tobytes()).digest()
        if len(states) and digest in seen:
            raise DataError(
                f"{path} holds the same rows as {seen[digest]}: a recording counts once, leave one of them out"
            )
        seen[digest] = path
        done = by_name.get(DONE_COLUMN, task.fallen(states)) > 0.5
        last = int(np.argmax(done)) if done.any() else len(states) - 1
        n_rows += len(states)
        dropped += max(0, len(states) - 1 - last)
        if last < 1:
            continue
        terminals = done[1 : last + 1]
        timeouts = np.zeros(last, dtype=np.bool_)
        timeouts[-1] = not terminals[-1]
        clipped += int((np.abs(torque[:last]) > interface.torque_limit_nm).sum())
        parts.append((states[:last], states[1 : last + 1], torque[:last], terminals, timeouts))
    if not parts:
        raise DataError(f"no transitions in {', '.join(map(str, paths))}: two rows before a fall are needed")
    columns_of_parts = [np.concatenate(column) for column in zip(*parts, strict=True)]
    provenance = {
        "kind": "logs",
        "files": [{"name": Path(p).name, "sha256": files_sha256([Path(p)])} for p in paths],
        "columns": list(columns) if columns else "by the names in each file",
        "clipped": clipped,
        "created": now_utc(),
        "software": software(),
    }
    states, next_states, torque, terminals, timeouts = columns_of_parts
    dataset = Dataset.from_states(states, next_states, torque, terminals, timeouts, interface, task, provenance)
    return LogImport(dataset, n_rows, clipped, dropped)
