# SPDX-License-Identifier: Apache-2.0
"""Whether the machine itself stood still: a process on each processor, above everything else, that only wakes up."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.005
#: The firmware's watchdog: a machine that stands still for longer stops any robot.
STILL_S = 0.030
#: Shorter gaps are not written down.
NOTED_S = 0.010
PRIORITY = 90


class Heartbeat:
    """Processes that write down when they were woken late; use it in a `with` statement."""

    def __init__(self, folder: Path) -> None:
        self._files = [folder / f"heartbeat_{cpu}.txt" for cpu in sorted(os.sched_getaffinity(0))]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Heartbeat:
        for cpu, file in zip(sorted(os.sched_getaffinity(0)), self._files, strict=True):
            file.touch()
            self._processes.append(subprocess.Popen([sys.executable, "-S", __file__, str(cpu), str(file)]))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def longest_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest standstill (s) that ended within this span of `time.monotonic()`."""
        longest = 0.0
        for file in self._files:
            for line in file.read_text().splitlines():
                at_s, gap_s = map(float, line.split())
                if begin_s <= at_s <= end_s + gap_s:
                    longest = max(longest, gap_s)
        return longest


def beat(cpu: int, path: str) -> None:
    """Wake up for ever, and append the time and the gap (s) wherever that came late; ends with its parent."""
    os.sched_setaffinity(0, {cpu})
    # Where the system refuses, other programs make it late too, and more repetitions than need be are run again.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    parent = os.getppid()
    with Path(path).open("a", buffering=1) as file:
        last = time.monotonic()
        while os.getppid() == parent:
            time.sleep(PERIOD_S)
            now = time.monotonic()
            if now - last - PERIOD_S > NOTED_S:
                file.write(f"{now:.6f} {now - last - PERIOD_S:.6f}\n")
            last = now


if __name__ == "__main__":
    beat(int(sys.argv[1]), sys.argv[2])
