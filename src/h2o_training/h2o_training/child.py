# SPDX-License-Identifier: Apache-2.0
"""Subcommands of h2o-robot as child processes that never outlive their parent's interest in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from h2o_control.config import config_dir

#: How long a child that a Ctrl-C has reached too may take to end by itself, and how long after being asked to, s.
OWN_END_S, ASKED_END_S = 5.0, 15.0


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come; it takes the way of a Ctrl-C, on which everything is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def raise_when_terminated() -> Iterator[None]:
    """Raise TerminatedError in the block on SIGTERM and SIGHUP, which else end this process and leave its children."""
    # A signal that is ignored already stays so: under nohup a closed terminal shall not end anything.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    with _handled(numbers, _raise):
        yield


def start(words: Sequence[str], output: IO[str] | None = None, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a subcommand of h2o-robot with this Python; output goes to a file, or to the terminal."""
    program = [sys.executable, "-c", "import sys; from h2o_control.cli import main; sys.exit(main())", *words]
    environment = {**os.environ, "H2O_CONFIG_DIR": str(config_dir().resolve())}
    return subprocess.Popen(program, stdout=output, stderr=output, cwd=cwd, env=environment)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Make sure that a process has ended when the block is left, however it is left."""
    reached_too = False
    try:
        yield
    except KeyboardInterrupt as interrupt:
        reached_too = not isinstance(interrupt, TerminatedError)
        raise
    finally:
        # An impatient second Ctrl-C reaches the child too; here it would leave the child behind.
        with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
            _end(process, reached_too)


def _end(process: subprocess.Popen[bytes], reached_too: bool) -> None:
    if process.poll() is not None or (reached_too and _ends_within(process, OWN_END_S)):
        return
    process.terminate()
    if not _ends_within(process, ASKED_END_S):
        process.kill()
        process.wait()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _raise(number: int, _frame: FrameType | None) -> None:
    raise TerminatedError(number)


@contextmanager
def _handled(numbers: Sequence[int], handler: signal._HANDLER) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
