# SPDX-License-Identifier: Apache-2.0
"""A robot that is not there: firmware and plant behind one end of a pseudo-terminal."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from h2o_control.errors import UserError
from h2o_control.realtime import prioritise
from wheel_leg_driver.control_server import ControlServer, check_lockstep, control_socket
from wheel_leg_driver.emulated_robot import EmulatedRobot
from wheel_leg_driver.fault_kinds import describe_kinds
from wheel_leg_driver.faults import parse
from wheel_leg_driver.firmware import SUBSTEP_US
from wheel_leg_driver.pseudo_terminal import PseudoTerminal, pseudo_terminal
from wheel_leg_driver.robot import load_robot

DEFAULT_LINK = "/tmp/h2o_robot"
#: Further behind than this, device time slips against the wall clock instead of racing to catch up: the host was busy.
PATIENCE_S = 0.003
#: A request on the control socket is answered where this much of a round is left, or once in so many rounds.
SPARE_S = 0.0005
ROUNDS_TO_ANSWER = 20
#: A robot outlives the signal that ends its driver by this much.
LINGER_S = 0.7


def links() -> tuple[str, str]:
    """Where emulators appear unless told otherwise: that of the launch files in this ROS domain, and DEFAULT_LINK."""
    folder, domain = os.environ.get("XDG_RUNTIME_DIR", "/tmp"), os.environ.get("ROS_DOMAIN_ID", "0")
    return f"{folder}/h2o_robot_{domain}.tty", DEFAULT_LINK


class Ending:
    """A handler of signals: the first one ends the emulator, after a while in which its driver may disarm it."""

    def __init__(self) -> None:
        self._at_s = math.inf

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a signal, as `signal.signal` wants it."""
        self._at_s = min(self._at_s, time.monotonic() + LINGER_S)

    @property
    def over(self) -> bool:
        """Whether it is time to stop."""
        return time.monotonic() >= self._at_s


class Emulator:
    """Serves one robot on a pseudo-terminal, in real time or in lock-step with its client."""

    def __init__(self, robot: EmulatedRobot, terminal: PseudoTerminal, control: ControlServer, ending: Ending) -> None:
        self._robot, self._terminal, self._control, self._ending = robot, terminal, control, ending
        self.slipped_s = 0.0

    def _read(self, timeout_s: float) -> bytes:
        fd = self._terminal.fd
        # Unlike poll, it waits for fractions of a millisecond.
        if select.select([] if fd is None else [fd], [], [], max(0.0, timeout_s))[0]:
            return self._terminal.read()
        return b""

    def real_time(self) -> None:
        """Run until stopped: one motor-loop step a millisecond of host time, commands taken as they come."""
        period_s = SUBSTEP_US * 1e-6
        deadline = time.monotonic()
        waited = 0
        while not self._ending.over:
            deadline += period_s
            now = time.monotonic()
            if now - deadline > PATIENCE_S:
                self.slipped_s += now - deadline
                deadline = now
            while True:
                data = self._read(deadline - time.monotonic())
                if data:
                    self._robot.receive(data)
                if time.monotonic() >= deadline:
                    break
            frame = self._robot.substep()
            if frame:
                self._terminal.write(frame)
            self._follow_cable()
            waited += 1
            if deadline + period_s - time.monotonic() > SPARE_S or waited >= ROUNDS_TO_ANSWER:
                waited = 0
                self._control.serve()

    def _follow_cable(self) -> None:
        if self._robot.unplugged == (self._terminal.fd is None):
            return
        if self._robot.unplugged:
            self._terminal.unplug()
        else:
            self._terminal.plug_in()

    def lock_step(self) -> None:
        """Run until stopped: each command frame advances device time by one control step, and only that does."""
        while not self._ending.over:
            data = self._read(0.01)
            for _ in range(self._robot.receive(data) if data else 0):
                # One that is reset within a control step ends that step later.
                while not (frame := self._robot.step()):
                    pass
                self._terminal.write(frame)
            self._control.serve()


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot emulate`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot emulate",
        description="Emulate a robot: firmware and physics behind a pseudo-terminal; the driver cannot tell.",
        epilog="example: h2o-robot emulate --robot worn --link /tmp/h2o_robot --inject 'unplug at=5 for=0.5'",
    )
    parser.add_argument("--robot", default="worn", help="name in config/robots or path of a robot file (%(default)s)")
    parser.add_argument("--link", default=DEFAULT_LINK, help="where the serial port appears (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sensor noise and of faults (%(default)s)")
    parser.add_argument("--lockstep", action="store_true", help="device time advances only with the client's frames")
    parser.add_argument("--priority", type=int, default=0, help="real-time priority, 0 for none (%(default)s)")
    parser.add_argument(
        "--inject", default="", metavar="TEXT", help="faults and hands, e.g. 'stuck_imu at=12 for=1; reset at=20'"
    )
    parser.add_argument("--list-faults", action="store_true", help="print what --inject knows, and stop")
    args = parser.parse_args(argv)
    if args.list_faults:
        print(describe_kinds())
        return 0
    if args.seed < 0 or not 0 <= args.priority <= 99:
        raise UserError("--seed must not be negative and --priority lies between 0 and 99")
    injections = parse(args.inject)
    if args.lockstep:
        check_lockstep(injections)
    description = load_robot(args.robot)
    robot = EmulatedRobot(description, args.seed, injections)
    ending = Ending()
    # Before there is a link: whatever ends the emulator, it takes its link along.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ending)
    # Of a closed terminal; nohup ignores it on purpose.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, ending)
    with pseudo_terminal(args.link) as terminal, control_socket(args.link, robot, args.lockstep) as control:
        emulator = Emulator(robot, terminal, control, ending)
        refused = prioritise(args.priority)
        if refused:
            print(f"emulator: {refused}", file=sys.stderr)
        print(f"emulator: robot {description.name!r} ({description.description}) at {args.link}", flush=True)
        if args.lockstep:
            emulator.lock_step()
        else:
            emulator.real_time()
    slipped = f", device time slipped {emulator.slipped_s:.2f} s behind the clock" if emulator.slipped_s > 0 else ""
    # Where the terminal is gone, so is whoever would read this.
    with contextlib.suppress(OSError):
        print(f"emulator: stopped after {robot.elapsed_us * 1e-6:.1f} s of device time{slipped}", flush=True)
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
