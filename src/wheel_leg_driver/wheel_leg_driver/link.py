# SPDX-License-Identifier: Apache-2.0
"""The serial port: opened, read and written here and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import serial

from h2o_control.errors import UserError
from wheel_leg_driver.protocol import Command, FrameReader, Telemetry, encode_command


class PortError(UserError):
    """The serial port is missing, busy or gone."""


class SerialLink:
    """Frames over a serial port; USB ports ignore the baud rate, UARTs need it."""

    BAUD = 2_000_000

    def __init__(self, port: str, wait_s: float = 0.0) -> None:
        """Open the port exclusively.

        Args:
            port: device path.
            wait_s: how long the path may take to appear.

        Raises:
            PortError: it does not appear, or cannot be opened.
        """
        deadline = time.monotonic() + wait_s
        while not Path(port).exists():
            if time.monotonic() >= deadline:
                raise PortError(f"no serial port {port!r}: plug the robot in and switch it on, or name another port")
            time.sleep(0.02)
        try:
            self._serial = serial.Serial(port, self.BAUD, timeout=0.05, write_timeout=0.02, exclusive=True)
        except (serial.SerialException, OSError) as error:
            raise PortError(f"cannot open {port!r}: {error}. Is another program using it?") from error
        self._reader = FrameReader()
        self.late_writes = 0

    @property
    def frame_errors(self) -> int:
        """Frames dropped so far: damaged, or of another protocol version."""
        return self._reader.errors

    @property
    def last_error(self) -> str:
        """Why the last frame was dropped."""
        return self._reader.last_error

    def receive(self) -> list[Telemetry]:
        """Wait up to 50 ms for bytes and return the telemetry they complete, oldest first.

        Raises:
            PortError: the port is gone.
        """
        try:
            data = self._serial.read(self._serial.in_waiting or 1)
        except (serial.SerialException, OSError, TypeError) as error:
            raise PortError(f"lost the serial port: {error}") from error
        return [m for m in self._reader.feed(data) if isinstance(m, Telemetry)]

    def send(self, command: Command) -> None:
        """Write one command frame, or drop it where the port takes nothing for 20 ms; the firmware has a watchdog.

        Raises:
            PortError: the port is gone.
        """
        try:
            self._serial.write(encode_command(command))
        except serial.SerialTimeoutException:
            # Also raised where the frame went out but this process was not scheduled meanwhile.
            self.late_writes += 1
        except (serial.SerialException, OSError) as error:
            raise PortError(f"lost the serial port: {error}") from error

    def close(self) -> None:
        """Close the port."""
        self._serial.close()
