# SPDX-License-Identifier: Apache-2.0
"""The serial port: opened, read and written here and nowhere else."""

from __future__ import annotations

import os
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
            self._serial = serial.Serial(port, self.BAUD, timeout=0.05, exclusive=True)
        except (serial.SerialException, OSError) as error:
            raise PortError(f"cannot open {port!r}: {error}. Is another program using it?") from error
        self._reader = FrameReader()
        self.dropped_commands = 0

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
        """Write one command frame without waiting; where the port takes none, it is dropped and counted.

        Raises:
            PortError: the port is gone.
        """
        frame = encode_command(command)
        try:
            # pyserial's own write waits until the port could take more, for milliseconds at times.
            written = os.write(self._serial.fileno(), frame)
        except BlockingIOError:
            written = 0
        except (serial.SerialException, OSError) as error:
            raise PortError(f"lost the serial port: {error}") from error
        self.dropped_commands += written < len(frame)

    def close(self) -> None:
        """Close the port."""
        self._serial.close()
