# SPDX-License-Identifier: Apache-2.0
"""The backend for robots that speak docs/protocol.md: the serial port is opened, read and written here only."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import serial
from serial.tools import list_ports

from wheel_leg_driver.backend import PortError
from wheel_leg_driver.protocol import Command, FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Robot

#: How a port is named by the serial number of its USB device instead of its path, which changes with the socket.
USB = "usb:"
#: Bytes that the kernel keeps for us at most (4096 for a tty); all of it is read at once, so that no backlog stays.
READ_SIZE = 65_536


def device_path(port: str) -> str:
    """Return the path of a port given by path or as usb:SERIAL_NUMBER.

    Raises:
        PortError: no such device is plugged in; names those that are.
    """
    if not port.startswith(USB):
        if not Path(port).exists():
            raise PortError(f"no serial port {port!r}: plug the robot in and switch it on, or name another port")
        return port
    wanted = port.removeprefix(USB)
    found = {p.serial_number: p.device for p in list_ports.comports() if p.serial_number}
    if wanted not in found:
        others = ", ".join(f"{number} ({path})" for number, path in sorted(found.items())) or "none"
        raise PortError(f"no USB serial device with the number {wanted!r}; plugged in are: {others}")
    return str(found[wanted])


class SerialLink:
    """Frames over a serial port (see Backend); USB ports ignore the baud rate, UARTs need it."""

    BAUD = 2_000_000

    def __init__(self, port: str, robot: Robot | None = None) -> None:
        """Open the port exclusively; nothing about the robot is needed.

        Raises:
            PortError: no such port, or it cannot be opened.
        """
        path = device_path(port)
        try:
            self._serial = serial.Serial(path, self.BAUD, timeout=0, exclusive=True)
            self._file = self._serial.fileno()
        except (serial.SerialException, OSError) as error:
            # pyserial says the reason twice, with the number of the error in front of each.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PortError(
                f"cannot open {port!r}: {reason}. It has to be a serial port, open to you (group dialout), that no "
                "other program uses"
            ) from error
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

    def receive(self, until_s: float) -> list[Telemetry]:
        """Wait for bytes, at the latest until time.monotonic() is `until_s`; return the telemetry they complete.

        Raises:
            PortError: the port is gone.
        """
        try:
            while select.select([self._file], [], [], max(0.0, until_s - time.monotonic()))[0]:
                data = os.read(self._file, READ_SIZE)
                if not data:
                    raise PortError("lost the serial port: it was unplugged")
                messages = [m for m in self._reader.feed(data) if isinstance(m, Telemetry)]
                if messages:
                    return messages
        except BlockingIOError:
            return []
        except (OSError, ValueError) as error:
            raise PortError(f"lost the serial port: {error}") from error
        return []

    def send(self, command: Command) -> None:
        """Write one command frame without waiting; where the port takes none, it is dropped and counted.

        Raises:
            PortError: the port is gone.
        """
        frame = encode_command(command)
        try:
            # pyserial's own write waits until the port could take more, for milliseconds at times.
            written = os.write(self._file, frame)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise PortError(f"lost the serial port: {error}") from error
        self.dropped_commands += written < len(frame)

    def close(self) -> None:
        """Close the port."""
        try:
            self._serial.close()
        except OSError:
            # A port that is gone need not be closed.
            pass
