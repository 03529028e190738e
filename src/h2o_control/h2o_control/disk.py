# SPDX-License-Identifier: Apache-2.0
"""Disk operations in order, at once or in a thread, so that who receives messages never waits for a disk."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

Job = Callable[[], None]


class Disk:
    """Does one job after the other; an error that a job does not keep to itself is raised by the next `do` or `wait`.

    Args:
        background: do them in a thread; otherwise `do` returns when the job is done.

    Attributes:
        waiting_bytes: sum of the sizes of what has been handed over and is not done yet.
    """

    def __init__(self, background: bool) -> None:
        self.waiting_bytes = 0
        self._error: BaseException | None = None
        self._jobs: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if background:
            # A daemon: a program that fails before it closes its bag must end all the same.
            self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
            self._thread.start()

    def do(self, job: Job, size: int = 0) -> None:
        """Hand a job over that writes `size` bytes."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            job()
            return
        with self._lock:
            self.waiting_bytes += size
        self._jobs.put((job, size))

    def wait(self) -> None:
        """Return when everything that was handed over is done."""
        if self._thread is not None:
            done = threading.Event()
            self._jobs.put((done.set, 0))
            done.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Do what is left and end the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, size = entry
            try:
                job()
            except BaseException as error:  # noqa: BLE001 - the owner's thread raises it
                self._error = error
            with self._lock:
                self.waiting_bytes -= size


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows which files are in a folder: the name of a new file outlives a power cut only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
