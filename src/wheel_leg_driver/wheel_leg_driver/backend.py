# SPDX-License-Identifier: Apache-2.0
"""What the driver needs of the hardware: telemetry in, commands out. Write a class like this for motors of your own.

The driver builds it as `Class(port: str, robot: Robot)` from its parameter `backend` ("module:Class" or
"file.py:Class"), in its control thread, whenever it (re)connects; examples/my_motors.py is one in full. It relies on:

- Telemetry is in the robot's convention (docs/protocol.md): units, signs, device time in µs that never wraps (see
  `Unwrapper` in h2o_control/clock.py for counters that do), all sensors of one instant, the executed torque.
- The firmware is disarmed at start, applies torque only while armed, and stops by itself 30 ms after the last command.
  A backend cannot replace that watchdog: it dies with the driver.
- Only the control thread calls `receive`; `send` may come from another thread, but never two at once.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from h2o_control.errors import ConfigError, UserError
from wheel_leg_driver.plant import load_named
from wheel_leg_driver.protocol import Command, Telemetry
from wheel_leg_driver.robot import Robot

SERIAL = "wheel_leg_driver.link:SerialLink"


class PortError(UserError):
    """The port is missing, busy or gone; the driver tries again until it is back."""


@runtime_checkable
class Backend(Protocol):
    """A connection to the robot, open from its construction until `close`.

    Construction raises PortError where there is nothing to connect to yet, and must not wait for it.

    Attributes:
        frame_errors: frames dropped so far, damaged or not understood.
        last_error: why the last one was; empty before the first.
        dropped_commands: commands that the port did not take.
    """

    frame_errors: int
    last_error: str
    dropped_commands: int

    def receive(self, until_s: float) -> list[Telemetry]:
        """Return what has come, oldest first, as soon as there is any; nothing once time.monotonic() is `until_s`.

        Raises:
            PortError: the connection is lost.
        """

    def send(self, command: Command) -> None:
        """Send a command without waiting; where the port takes none, drop and count it.

        Raises:
            PortError: the connection is lost.
        """

    def close(self) -> None:
        """Let go of the port; never raises."""


def connect(backend: str, port: str, robot: Robot) -> Backend:
    """Open the connection that `backend` names.

    Raises:
        PortError: there is nothing to connect to (yet).
        ConfigError: `backend` leads nowhere, or to something that is none.
    """
    factory = load_named(backend, "backend")
    try:
        made = factory(port, robot)
    except TypeError as error:
        raise ConfigError(f"backend {backend!r} cannot be built as Class(port, robot): {error}") from error
    if not isinstance(made, Backend):
        raise ConfigError(f"backend {backend!r} lacks methods of the interface in wheel_leg_driver/backend.py")
    return made
