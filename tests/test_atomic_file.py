# SPDX-License-Identifier: Apache-2.0
"""A file that is written is there whole, or the old one is; what cannot be written is one error and no litter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from disk_tools import small_files
from h2o_control.atomic_file import write_atomically
from h2o_control.errors import DataError
from h2o_training.figures import Limits
from h2o_training.judging import write_json
from h2o_training.report import Report
from h2o_training.run_dir import Progress, RunDirectory

WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: write_json(path, {"a": 1}),
    "page": Report("t", "l", [], [], Limits(0.5, 3.0), {}).write,
    "checkpoint": lambda path: RunDirectory(path).save_checkpoint({"updates": 1}),
    "progress": lambda path: RunDirectory(path).write_progress(Progress(1, 2)),
}


def test_the_file_holds_the_data_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"first")
    write_atomically(path, memoryview(b"second"), sync=True)
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_where_the_disk_is_full_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with small_files(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(2000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_a_path_that_cannot_be_written_is_one_plain_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*Not a directory"):
        WRITERS[name](tmp_path / "file" if name in ("checkpoint", "progress") else tmp_path / "file" / "out")
    with pytest.raises(DataError, match=r"cannot write .*File name too long"):
        WRITERS[name](tmp_path / ("x" * 256))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
