# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whoever reads them meanwhile and whenever the disk fills up."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def write_atomically(path: str | Path, data: bytes | memoryview, sync: bool = False) -> None:
    """Write `data` beside `path` and put it in its place in one step; parent folders are made, nothing else is left.

    Args:
        path: file to make or replace.
        data: its whole content.
        sync: wait until the disk has it, so that it outlives a power cut too.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # "File exists" would be no answer to somebody who asked for a file in it.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from error
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        # Where writing failed, so may this: the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
