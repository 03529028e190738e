# SPDX-License-Identifier: Apache-2.0
"""A backend of your own: the driver talks to this class instead of a serial port.

Here it is the emulated robot's firmware in the same process, so that the example runs anywhere; with motors of your
own, `receive` reads their bus and `send` writes it. Run it:

    driver_node --ros-args -p backend:=examples/my_motors.py:MyMotors -p robot:=worn -p auto_activate:=true

What every backend owes the driver is in wheel_leg_driver/backend.py. A watchdog belongs into the motors: this one,
like any in the driver's process, dies with it.
"""

from __future__ import annotations

import time

from wheel_leg_driver.firmware import SUBSTEP_US, Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import Command, FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Robot


class MyMotors:
    """Advances its robot by a millisecond for each that passes while the driver waits for telemetry."""

    def __init__(self, port: str, robot: Robot) -> None:
        """Open the connection: where there is nothing to connect to, raise PortError, and the driver tries again."""
        self._firmware = Firmware(robot, make_plant(robot, 0))
        self._commands: list[Command] = []
        self._next_s = time.monotonic()
        self._reader = FrameReader()
        self.frame_errors = self.dropped_commands = 0
        self.last_error = ""

    def receive(self, until_s: float) -> list[Telemetry]:
        """Return telemetry as soon as there is any, nothing once `until_s` has come."""
        while self._next_s < until_s:
            time.sleep(max(0.0, self._next_s - time.monotonic()))
            self._next_s += SUBSTEP_US * 1e-6
            while self._commands:
                self._firmware.receive(encode_command(self._commands.pop(0)))
            frame = self._firmware.substep()
            if frame is not None:
                return [m for m in self._reader.feed(frame) if isinstance(m, Telemetry)]
        return []

    def send(self, command: Command) -> None:
        """Take a command without waiting."""
        self._commands.append(command)

    def close(self) -> None:
        """Let go of the hardware."""
        self._commands.clear()
