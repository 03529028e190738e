# SPDX-License-Identifier: Apache-2.0
"""Talking to a running emulator, beside the wire: a Unix socket at `<link>.control`, JSON lines both ways.

{"inject": TEXT}     {"injected": [{"text", "begins_us", "ends_us", "device_time_us"}, …]}
{"clear": true}      {"cleared": number}
{"state": true}      fields of EmulatorState
{"trace": SINCE_US}  {"rows": [[fields of TraceRow], …], "more": bool}
anything else        {"error": sentence}
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from h2o_control.errors import UserError
from wheel_leg_driver.black_box import TraceRow


class EmulatorError(UserError):
    """No emulator serves the link, or it refused the request."""


@dataclasses.dataclass(frozen=True)
class EmulatorState:
    """How the emulated robot is.

    Attributes:
        elapsed_us: device time that a reset of the microcontroller does not set back.
        device_time_us: the microcontroller's clock.
        host_monotonic_s: the emulator's `time.monotonic()` at that instant.
        armed: whether torque reaches the motors.
        faults: bits that the firmware has latched.
        torque_nm: setpoints at the left and right motor.
        truth: x (m), v (m/s), theta (rad), theta_dot (rad/s) of the body as it is.
        held: a person or a stand holds it.
        unplugged: there is no port at present.
        injections: those that act or will: text, begins_us, ends_us (of elapsed time, None: until cleared).
    """

    elapsed_us: int
    device_time_us: int
    host_monotonic_s: float
    armed: bool
    faults: int
    torque_nm: tuple[float, float]
    truth: tuple[float, float, float, float]
    held: bool
    unplugged: bool
    injections: list[dict[str, Any]]


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """The path by way of its open folder: a socket's may not be longer than some 100 characters."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class EmulatorControl:
    """A connection to the emulator that serves a link; use it in a `with` statement.

    Raises:
        EmulatorError: from every method: no emulator there, gone meanwhile, or it refused (the message says why).
    """

    def __init__(self, link: str, timeout_s: float = 5.0) -> None:
        self._link = link
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            with short_path(Path(f"{link}.control")) as short:
                self._socket.connect(short)
        except OSError as error:
            self._socket.close()
            raise EmulatorError(
                f"no emulator serves {link}: start one (h2o-robot emulate --link {link}), or name its --link"
            ) from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> EmulatorControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def _ask(self, what: str, value: object) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps({what: value}).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise EmulatorError(f"the emulator at {self._link} does not answer: {error}") from error
        if not line:
            raise EmulatorError(f"the emulator at {self._link} has gone, or has too many others to talk to")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EmulatorError(answer["error"])
        return answer

    def inject(self, text: str) -> list[dict[str, Any]]:
        """Do this to the robot; return, for each injection, its text and when it begins.

        `begins_us` and `ends_us` are of elapsed time, as in the trace, `device_time_us` is the begin by the
        microcontroller's clock.
        """
        injected: list[dict[str, Any]] = self._ask("inject", text)["injected"]
        return injected

    def clear(self) -> int:
        """End every injection; return how many there were."""
        return int(self._ask("clear", True)["cleared"])

    def state(self) -> EmulatorState:
        """Return how the robot is."""
        answer = self._ask("state", True)
        return EmulatorState(**{**answer, "torque_nm": tuple(answer["torque_nm"]), "truth": tuple(answer["truth"])})

    def trace(self, since_us: float = 0.0) -> list[TraceRow]:
        """Return the black box since an elapsed time, at most the last 30 s, a row each millisecond."""
        rows: list[TraceRow] = []
        more = True
        while more:
            answer = self._ask("trace", rows[-1].elapsed_us if rows else since_us)
            rows += [TraceRow(*row) for row in answer["rows"]]
            more = answer["more"]
        return rows


def served(links: Sequence[str]) -> str:
    """Return the first of these links that an emulator serves.

    Raises:
        EmulatorError: none of them.
    """
    for link in links:
        try:
            EmulatorControl(link).close()
        except EmulatorError:
            continue
        return link
    raise EmulatorError(f"no emulator runs at {' or '.join(links)}: start one, or name its --link")
