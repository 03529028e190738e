# SPDX-License-Identifier: Apache-2.0
"""What a disk has after the power failed: what was synchronised, and nothing else. Real calls are made, and noted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


class UnluckyDisk:
    """Forgets at a power cut all that nobody waited for.

    Content counts from fsync or fdatasync of the file, its name from fsync of the folder; a name that is durable before
    its content leads to an empty file.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, dict[str, int]] = {}
        fsync, fdatasync = os.fsync, os.fdatasync

        def synchronise(descriptor: int) -> None:
            fsync(descriptor)
            self._keep(descriptor, "fsync")

        def synchronise_data(descriptor: int) -> None:
            fdatasync(descriptor)
            self._keep(descriptor, "fdatasync")

        monkeypatch.setattr(os, "fsync", synchronise)
        monkeypatch.setattr(os, "fdatasync", synchronise_data)

    def _keep(self, descriptor: int, call: str) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.calls.append(f"{call} {path.name}")
        info = os.fstat(descriptor)
        if stat.S_ISDIR(info.st_mode):
            self._names[str(path)] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self._contents[info.st_ino] = path.read_bytes()

    def after_power_cut(self, folder: Path, target: Path) -> Path:
        """Lay what is left of `folder` out in `target`."""
        target.mkdir()
        for name, inode in self._names.get(str(folder), {}).items():
            (target / name).write_bytes(self._contents.get(inode, b""))
        return target
