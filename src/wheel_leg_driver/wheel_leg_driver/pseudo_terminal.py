# SPDX-License-Identifier: Apache-2.0
"""A serial port that is not there: a pseudo-terminal whose client end appears at a path, and can be unplugged."""

from __future__ import annotations

import fcntl
import os
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from h2o_control.errors import UserError


class PseudoTerminal:
    """One end of a raw pseudo-terminal; the other appears at `link`. Nothing here ever waits."""

    def __init__(self, link: str) -> None:
        self._link = Path(link)
        self._ends: tuple[int, int] | None = None

    @property
    def fd(self) -> int | None:
        """This end, None while unplugged."""
        return self._ends[0] if self._ends else None

    def plug_in(self) -> None:
        """Open a new pseudo-terminal and let the link lead to it.

        Raises:
            UserError: the link cannot be made there.
        """
        master, slave = os.openpty()
        # This process keeps the client's end open too: without it, this end would report an error until one comes.
        self._ends = master, slave
        tty.setraw(slave)
        os.set_blocking(master, False)
        try:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(os.ttyname(slave))
        except OSError as error:
            self.unplug()
            raise UserError(f"cannot put a link at {self._link}: {error.strerror}; choose another --link") from error

    def unplug(self) -> None:
        """Hang up: the link disappears, and whoever has the other end open finds it dead."""
        if self._ends is None:
            return
        self._link.unlink(missing_ok=True)
        for end in self._ends:
            os.close(end)
        self._ends = None

    def read(self) -> bytes:
        """Return what the client has written; nothing where there is nothing."""
        if self._ends is None:
            return b""
        try:
            return os.read(self._ends[0], 4096)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Write what the client has room for; a UART would not wait either."""
        if self._ends is None:
            return
        try:
            os.write(self._ends[0], data)
        except OSError:
            pass


@contextmanager
def pseudo_terminal(link: str) -> Iterator[PseudoTerminal]:
    """Hold `link` against other emulators and plug a pseudo-terminal in there; what a killed one left is replaced.

    Raises:
        UserError: another emulator serves this link, or something that is no emulator's is in the way.
    """
    path = Path(link)
    foreign = not str(path.readlink()).startswith(("/dev/pts/", "/dev/ttys")) if path.is_symlink() else path.exists()
    if foreign:
        raise UserError(f"{link} exists and is no emulator's link: remove it, or choose another --link")
    lock = _lock(link)
    terminal = PseudoTerminal(link)
    try:
        terminal.plug_in()
        yield terminal
    finally:
        terminal.unplug()
        # Before the lock is given up, or it would be another emulator's file that goes.
        Path(f"{link}.lock").unlink(missing_ok=True)
        lock.close()


def _lock(link: str) -> TextIO:
    """Take the lock file; the system gives it up for a process that is killed."""
    while True:
        try:
            lock = open(f"{link}.lock", "w")  # noqa: SIM115 - held for as long as the emulator runs
        except OSError as error:
            raise UserError(f"cannot put a link at {link}: {error.strerror}; choose another --link") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(f"{link}.lock")):
                return lock
        except FileNotFoundError:
            pass
        except OSError as error:
            lock.close()
            raise UserError(f"another emulator serves {link}: stop it, or choose another --link") from error
        # Its last holder removed it between the two calls.
        lock.close()
