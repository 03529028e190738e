# SPDX-License-Identifier: Apache-2.0
"""Runs a group of processes, relays their output line by line, and leaves none behind.

The processes and the printing are honcho's. Its Manager is not used, for three reasons that matter on a robot: it
ends the group when any process ends, where a recorder that crashes must not take the driver, and so the balance of
12 kg, with it; it asks with SIGTERM, where ROS nodes close their bags on SIGINT; and a lone process that ignores
SIGTERM keeps it waiting for ever.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from honcho.colour import get_colours
from honcho.printer import Message, Printer
from honcho.process import Process

#: How a process is asked to stop, and how long it is given each time; the times of ROS's own launch.
STAGES = ((signal.SIGINT, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))

#: Signals to the supervisor that stop the group. A closed terminal (SIGHUP) must not leave a robot driving.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Exit status of a process that refuses what it was given.
REFUSED = 2
#: Only a process that refuses this soon after it was started, s, ends the others: later a robot may be armed.
START_UP_S = 10.0

#: Exit statuses of a process that was asked to stop and did.
_OBEYED = {0, -signal.SIGINT, 128 + signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM}


class Supervisor:
    """Starts processes together and stops them together.

    The group ends when every process has ended, when the one named `until` ends, when one refuses its input (status
    REFUSED within START_UP_S), or on one of STOP_SIGNALS; a second signal goes to the next of STAGES at once. Of a
    process that fails in any other way it is said, and the others go on.
    """

    def __init__(self, until: str | None = None) -> None:
        self._until = until
        self._commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {}
        self._events: queue.Queue[Message] = queue.Queue()
        self._printer = Printer(sys.stdout)
        self._pids: dict[str, int] = {}
        self._started_s: dict[str, float] = {}
        self._statuses: dict[str, int] = {}
        self._received: list[int] = []
        self._stage = -1
        self._deadline_s = 0.0
        self._asked: set[tuple[str, int]] = set()
        self._last_line: dict[str, str] = {}
        self._failed: str | None = None
        self._failed_unasked = False
        self._refused = False

    def add(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Add a process to start; names label the output and must differ."""
        if name in self._commands:
            raise ValueError(f"two processes named {name!r}")
        self._commands[name] = (command, environment)

    def run(self) -> int:
        """Start all, return when none is left.

        Returns:
            0 where all ended well; the status of the first process that failed (128 + number where a signal ended
            it); 128 + number where a signal to this process ended the group.
        """
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            self._start()
            while len(self._statuses) < len(self._commands):
                self._handle_event()
                self._ask_to_stop()
        finally:
            self._leave_none_behind()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._received:
            return 128 + self._received[0]
        status = self._statuses[self._failed] if self._failed else 0
        return status if status >= 0 else 128 - status

    @property
    def failure(self) -> str | None:
        """What failed first and its last line, in one; None where nothing did before a signal ended the group."""
        if self._failed is None or (self._received and not self._failed_unasked):
            return None
        said = self._last_line.get(self._failed, "nothing")
        return f"{self._failed} {_how(self._statuses[self._failed])}, and said last: {said}"

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)

    def _start(self) -> None:
        colours = get_colours()
        self._printer.width = max(map(len, self._commands), default=0)
        for name, (command, environment) in self._commands.items():
            # honcho runs a shell; exec puts the node in the shell's place, so that signals reach it.
            process = Process(f"exec {shlex.join(command)}", name=name, colour=next(colours), env=dict(environment))
            threading.Thread(target=process.run, args=(self._events,), name=name, daemon=True).start()

    def _handle_event(self) -> None:
        try:
            event = self._events.get(timeout=0.1)
        except queue.Empty:
            return
        if event.type == "line":
            self._last_line[event.name] = event.data.decode(errors="replace").strip() or self._last_line.get(
                event.name, ""
            )
            self._printer.write(event)
        elif event.type == "start":
            self._pids[event.name] = event.data["pid"]
            self._started_s[event.name] = time.monotonic()
            self._say(event.name, f"started (process {event.data['pid']})")
        elif event.type == "stop":
            self._statuses[event.name] = event.data["returncode"]
            self._judge(event.name)

    def _judge(self, name: str) -> None:
        """Say how a process ended, and remember the first that failed."""
        status, asked = self._statuses[name], self._stage >= 0
        failed = status not in (_OBEYED if asked else {0})
        if failed and self._failed is None:
            self._failed, self._failed_unasked = name, not asked
        # One that could not even be started has no time.
        soon = time.monotonic() - self._started_s.get(name, time.monotonic()) < START_UP_S
        self._refused = self._refused or (failed and not asked and status == REFUSED and soon)
        alone = failed and not asked and not self._refused and name != self._until
        others = [other for other in self._commands if other not in self._statuses]
        go_on = f" UNASKED; {', '.join(others)} go{'es' if len(others) == 1 else ''} on, Ctrl-C ends all"
        self._say(name, _how(status) + (go_on if alone and others else ""))

    def _ask_to_stop(self) -> None:
        """Go to the next stage where it is time, and ask those that have not been asked in this stage."""
        wanted = self._stage
        if self._stage < 0:
            if self._received or self._refused or self._until in self._statuses:
                wanted = 0
        elif time.monotonic() > self._deadline_s:
            wanted = self._stage + 1
        wanted = min(max(wanted, len(self._received) - 1), len(STAGES) - 1)
        if wanted < 0:
            return
        number, limit_s = STAGES[wanted]
        if wanted != self._stage:
            self._stage = wanted
            self._deadline_s = time.monotonic() + limit_s
        for name, pid in self._pids.items():
            if name not in self._statuses and (name, number) not in self._asked:
                self._asked.add((name, number))
                self._say(name, f"{signal.Signals(number).name} sent")
                _signal_group(pid, number)

    def _leave_none_behind(self) -> None:
        """Stop what still runs where `run` was left early, e.g. because nobody reads our output any more."""
        for number, limit_s in STAGES:
            deadline_s = time.monotonic() + limit_s
            while len(self._statuses) < len(self._commands) and time.monotonic() < deadline_s:
                for name, pid in self._pids.items():
                    if name not in self._statuses and (name, number) not in self._asked:
                        self._asked.add((name, number))
                        _signal_group(pid, number)
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=0.1)
                    if event.type == "start":
                        self._pids[event.name] = event.data["pid"]
                    elif event.type == "stop":
                        self._statuses[event.name] = event.data["returncode"]

    def _say(self, name: str, what: str) -> None:
        self._printer.write(Message("line", f"[up] {what}\n", datetime.datetime.now(), name, None))


def _how(status: int) -> str:
    if status < 0:
        number = -status
        return f"was ended by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
    return f"ended with status {status}"


def _signal_group(pid: int, number: int) -> None:
    """Signal a process and its children; honcho makes each process the leader of its own group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
