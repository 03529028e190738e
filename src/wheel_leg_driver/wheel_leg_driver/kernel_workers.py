# SPDX-License-Identifier: Apache-2.0
"""The kernel's workers that hand the bytes of a serial port over: as urgent as the loop that waits for them.

Whatever a tty receives, USB or emulated, passes through a worker of the kernel's unbound queue, at ordinary priority.
On a computer whose processors are busy it comes up to some hundred milliseconds late to a driver that is awake in time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

WORKER = "kworker/u"
_PROC = Path("/proc")


class KernelWorkers:
    """Keeps these workers at a SCHED_FIFO priority; the kernel makes new ones as it likes, so `keep` is called again.

    They do other things too, such as writing files to the disk: on a computer with one processor they could keep the
    loop waiting.
    """

    def __init__(self, priority: int) -> None:
        self._priority = priority
        self._others: set[int] = set()
        self._raised: set[int] = set()

    def keep(self) -> str | None:
        """Raise those that are not raised yet; returns a sentence where that cannot be, with how to allow it."""
        here = {int(name) for name in os.listdir(_PROC) if name.isdecimal()}
        self._others &= here
        self._raised &= here
        workers = [pid for pid in here - self._others if self._is_worker(pid)]
        if not workers:
            return self._refusal("none is to be seen here, as in a container")
        try:
            for pid in workers:
                self._raise(pid)
        except PermissionError as error:
            return self._refusal(str(error.strerror))
        return None

    def restore(self) -> None:
        """Give those that were raised ordinary priority again."""
        for pid in self._raised:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        self._raised.clear()

    def _is_worker(self, pid: int) -> bool:
        if pid in self._raised:
            return True
        try:
            name = (_PROC / str(pid) / "comm").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        if name.startswith(WORKER):
            return True
        self._others.add(pid)
        return False

    def _raise(self, pid: int) -> None:
        # It may have ended meanwhile. Another driver may have raised it, or lowered it again as it left.
        with contextlib.suppress(ProcessLookupError):
            if os.sched_getscheduler(pid) != os.SCHED_FIFO:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(self._priority))
                self._raised.add(pid)

    @staticmethod
    def _refusal(reason: str) -> str:
        return (
            f"the kernel's workers that hand the port's bytes over stay at ordinary priority ({reason}): on a busy "
            "computer frames come too late and the firmware's watchdog ends the drive. Allow it with CAP_SYS_NICE (as "
            "root), or keep a processor free for the robot; docs/driver.md, Time, says more"
        )
