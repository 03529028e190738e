# SPDX-License-Identifier: Apache-2.0
"""Sets the wall clock for a group of processes while they run, and for nothing else (see wall_clock.c).

libfaketime was looked at: it is another dependency, under the GPL, and a wait that has begun when its file changes
ends by the old clock. Those waits are the ones that sleep for an hour on a machine whose clock is set back.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """The clock of all processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Build the library.

        Raises:
            FileNotFoundError: no C compiler is installed.
        """
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("no C compiler (cc): the wall clock cannot be set for single processes")
        library, offset = folder / "wall_clock.so", folder / "wall_clock_offset"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl", "-pthread"], check=True)
        offset.write_bytes(bytes(8))
        with offset.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(offset)}

    @property
    def offset_s(self) -> int:
        """By how much the clock is ahead, s."""
        return int(struct.unpack("q", self._page[:])[0]) // 1_000_000_000

    def turn(self, seconds: int) -> None:
        """Set the clock forward, or back."""
        self._page[:] = struct.pack("q", (self.offset_s + seconds) * 1_000_000_000)
