# SPDX-License-Identifier: Apache-2.0
"""The emulator's end of its control socket (protocol: emulator_control.py). It never waits."""

from __future__ import annotations

import dataclasses
import json
import math
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h2o_control.errors import UserError
from wheel_leg_driver.emulated_robot import EmulatedRobot, Scheduled
from wheel_leg_driver.emulator_control import EmulatorError, EmulatorState, short_path
from wheel_leg_driver.faults import Injection, InjectionError, parse

#: Rows of one answer: some 0.2 ms of a loop that has 1 ms a round.
CHUNK_ROWS = 100
MOST_CLIENTS = 8
LONGEST_LINE = 65_536


class _Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request, self.answer = b"", b""


class ControlServer:
    """The emulator's end; `serve` does a bounded amount of work and never waits."""

    def __init__(self, listener: socket.socket, robot: EmulatedRobot, lockstep: bool = False) -> None:
        self._listener, self._robot, self._lockstep = listener, robot, lockstep
        self._clients: list[_Client] = []
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def serve(self) -> None:
        """Take what has come and answer at most one request."""
        for fd, _ in self._poll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            else:
                self._receive(next(c for c in self._clients if c.connection.fileno() == fd))
        for client in self._clients[:]:
            if client.answer:
                self._send(client)
        waiting = next((c for c in self._clients if b"\n" in c.request and not c.answer), None)
        if waiting is None:
            return
        line, _, waiting.request = waiting.request.partition(b"\n")
        waiting.answer = json.dumps(self._answer(line)).encode() + b"\n"
        self._send(waiting)
        # The others come first next time.
        if waiting in self._clients:
            self._clients.remove(waiting)
            self._clients.append(waiting)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        self._poll.register(connection, select.POLLIN)
        self._clients.append(_Client(connection))

    def _receive(self, client: _Client) -> None:
        if b"\n" in client.request:
            # What it has asked already comes first; the socket holds the rest back.
            return
        try:
            data = client.connection.recv(4096)
        except OSError:
            data = b""
        client.request += data
        if not data or len(client.request) > LONGEST_LINE:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        try:
            client.answer = client.answer[client.connection.send(client.answer) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._poll.unregister(client.connection)
        client.connection.close()
        self._clients.remove(client)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict) or len(request) != 1:
            return {"error": 'a request is a line of JSON such as {"inject": "unplug"}, {"state": true}'}
        ((what, value),) = request.items()
        try:
            return self._do(what, value)
        except UserError as error:
            return {"error": str(error)}

    def _do(self, what: str, value: Any) -> dict[str, Any]:
        robot = self._robot
        if what == "inject" and isinstance(value, str):
            injections = parse(value)
            if self._lockstep:
                check_lockstep(injections)
            planned = robot.inject(injections)
            offset_us = robot.device_time_us - robot.elapsed_us
            return {"injected": [{**_row(p), "device_time_us": p.begins_us + offset_us} for p in planned]}
        if what == "clear" and value is True:
            number = len(robot.scheduled)
            robot.clear()
            return {"cleared": number}
        if what == "state" and value is True:
            return dataclasses.asdict(self._state())
        if what == "trace" and isinstance(value, int | float) and math.isfinite(value):
            rows = robot.trace(value, CHUNK_ROWS)
            return {"rows": rows, "more": len(rows) == CHUNK_ROWS}
        raise EmulatorError(
            f"no request {what!r} with {value!r}; there are inject (a text), clear and state (true), trace (a time, µs)"
        )

    def _state(self) -> EmulatorState:
        robot = self._robot
        return EmulatorState(
            robot.elapsed_us,
            robot.device_time_us,
            time.monotonic(),
            robot.armed,
            int(robot.faults),
            robot.torque_nm,
            robot.truth(),
            robot.held,
            robot.unplugged,
            [_row(planned) for planned in robot.scheduled],
        )

    def close(self) -> None:
        """Let go of all clients."""
        for client in self._clients[:]:
            self._drop(client)


def _row(planned: Scheduled) -> dict[str, Any]:
    ends = None if math.isinf(planned.ends_us) else planned.ends_us
    return {"text": planned.injection.text, "begins_us": planned.begins_us, "ends_us": ends}


def check_lockstep(injections: Sequence[Injection]) -> None:
    """Raise InjectionError where one of these would let a client in lock-step wait for ever."""
    for injection in injections:
        if injection.stops_time:
            raise InjectionError(
                f"{injection.text!r}: in lock-step a client waits for every answer, and {injection.kind} may keep one "
                "away for ever; use it in real time"
            )


@contextmanager
def control_socket(link: str, robot: EmulatedRobot, lockstep: bool = False) -> Iterator[ControlServer]:
    """Listen at `<link>.control`; the caller holds the link, so what is there was left by a killed emulator."""
    path = Path(f"{link}.control")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with short_path(path) as short:
            listener.bind(short)
        listener.listen(MOST_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen at {path}: {error.strerror or error}; choose another --link") from error
    server = ControlServer(listener, robot, lockstep)
    try:
        yield server
    finally:
        server.close()
        listener.close()
        path.unlink(missing_ok=True)
