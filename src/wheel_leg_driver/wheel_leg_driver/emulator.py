# SPDX-License-Identifier: Apache-2.0
"""A robot that is not there: firmware and plant behind one end of a pseudo-terminal."""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import select
import signal
import sys
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from h2o_control.errors import UserError
from h2o_control.realtime import prioritise
from wheel_leg_driver.firmware import SUBSTEP_US, Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.robot import load_robot

DEFAULT_LINK = "/tmp/h2o_robot"
#: Further behind than this, device time slips against the wall clock instead of racing to catch up: the host was busy.
PATIENCE_S = 0.003
#: A robot outlives the signal that ends its driver by this much.
LINGER_S = 0.7


class Emulator:
    """Serves one firmware on a pseudo-terminal, in real time or in lock-step with its client."""

    def __init__(self, firmware: Firmware, master: int) -> None:
        self._firmware = firmware
        self._master = master
        self._poll = select.poll()
        self._poll.register(master, select.POLLIN)
        self._stop_at_s = math.inf
        self.slipped_s = 0.0

    def stop(self) -> None:
        """Stop soon; a driver that got the same signal still finds a robot to disarm."""
        self._stop_at_s = min(self._stop_at_s, time.monotonic() + LINGER_S)

    @property
    def _stopped(self) -> bool:
        return time.monotonic() >= self._stop_at_s

    def _read(self, timeout_s: float) -> bytes:
        if not self._poll.poll(max(0.0, timeout_s * 1e3)):
            return b""
        try:
            return os.read(self._master, 4096)
        except OSError:
            # No client has the other end open.
            time.sleep(min(timeout_s, 0.001))
            return b""

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._master, frame)
        except BlockingIOError:
            # Nobody reads: a UART would not wait either.
            pass

    def real_time(self) -> None:
        """Run until stopped: one motor-loop step a millisecond of host time, commands taken as they come."""
        period_s = SUBSTEP_US * 1e-6
        deadline = time.monotonic()
        while not self._stopped:
            deadline += period_s
            now = time.monotonic()
            if now - deadline > PATIENCE_S:
                self.slipped_s += now - deadline
                deadline = now
            while True:
                data = self._read(deadline - time.monotonic())
                if data:
                    self._firmware.receive(data)
                if time.monotonic() >= deadline:
                    break
            frame = self._firmware.substep()
            if frame is not None:
                self._write(frame)

    def lock_step(self) -> None:
        """Run until stopped: each command frame advances device time by one control step, and only that does."""
        while not self._stopped:
            data = self._read(0.1)
            for _ in range(self._firmware.receive(data) if data else 0):
                self._write(self._firmware.step())


@contextmanager
def pseudo_terminal(link: str) -> Iterator[int]:
    """Open a raw pseudo-terminal whose client end appears at `link`; yields the master's file descriptor.

    Raises:
        UserError: another emulator serves this link, or something that is not a link is in the way.
    """
    path = Path(link)
    if path.exists() and not path.is_symlink():
        raise UserError(f"{link} exists and is no emulator's link: remove it, or choose another --link")
    try:
        lock = open(f"{link}.lock", "w")  # noqa: SIM115 - held for as long as the emulator runs
    except OSError as error:
        raise UserError(f"cannot put a link at {link}: {error.strerror}; choose another --link") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(f"another emulator serves {link}: stop it, or choose another --link") from error
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        os.set_blocking(master, False)
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(slave))
        yield master
    finally:
        path.unlink(missing_ok=True)
        os.close(slave)
        os.close(master)
        lock.close()
        Path(f"{link}.lock").unlink(missing_ok=True)


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot emulate`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot emulate",
        description="Emulate a robot: firmware and physics behind a pseudo-terminal; the driver cannot tell.",
        epilog="example: h2o-robot emulate --robot worn --link /tmp/h2o_robot",
    )
    parser.add_argument("--robot", default="worn", help="name in config/robots or path of a robot file (%(default)s)")
    parser.add_argument("--link", default=DEFAULT_LINK, help="where the serial port appears (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sensor noise (%(default)s)")
    parser.add_argument("--lockstep", action="store_true", help="device time advances only with the client's frames")
    parser.add_argument("--priority", type=int, default=0, help="real-time priority, 0 for none (%(default)s)")
    args = parser.parse_args(argv)
    if args.seed < 0 or not 0 <= args.priority <= 99:
        raise UserError("--seed must not be negative and --priority lies between 0 and 99")
    robot = load_robot(args.robot)
    firmware = Firmware(robot, make_plant(robot, args.seed))
    with pseudo_terminal(args.link) as master:
        emulator = Emulator(firmware, master)

        def stop(_signal: int, _frame: FrameType | None) -> None:
            emulator.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        refused = prioritise(args.priority)
        if refused:
            print(f"emulator: {refused}", file=sys.stderr)
        print(f"emulator: robot {robot.name!r} ({robot.description}) at {args.link}", flush=True)
        if args.lockstep:
            emulator.lock_step()
        else:
            emulator.real_time()
    slipped = f", device time slipped {emulator.slipped_s:.2f} s behind the clock" if emulator.slipped_s > 0 else ""
    print(f"emulator: stopped after {firmware.device_time_us * 1e-6:.1f} s of device time{slipped}")
    return 0


def main() -> None:
    """Console script `emulator`, also started as a node by launch files: what follows --ros-args is ROS's."""
    argv = sys.argv[1:]
    if "--ros-args" in argv:
        argv = argv[: argv.index("--ros-args")]
    try:
        sys.exit(command(argv))
    except UserError as error:
        print(f"emulator: {error}", file=sys.stderr)
        sys.exit(2)
