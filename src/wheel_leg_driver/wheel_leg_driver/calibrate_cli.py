# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot calibrate`: from a robot just wired to a file that the driver reads."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from h2o_control.errors import UserError, nearest
from h2o_control.realtime import prioritise
from wheel_leg_driver.backend import SERIAL, connect
from wheel_leg_driver.calibrate_steps import STEPS, TORQUE_LIMIT_NM, Walk
from wheel_leg_driver.calibration import Calibration, load_calibration
from wheel_leg_driver.robot import load_robot


class Terminal:
    """A person at a terminal (see calibrate_steps.Operator); lines are typed as in a shell."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=8)
        self._file = sys.stdin.fileno()

    def say(self, text: str) -> None:
        """Show a text that stays."""
        self._console.print(text, markup=False)

    def ask(self, question: str) -> None:
        """Show a question."""
        self._console.print(f"> {question}", markup=False, style="bold")

    def answer(self) -> str | None:
        """Return the line that was typed, or None."""
        if not select.select([self._file], [], [], 0.0)[0]:
            return None
        self.close()
        line = os.read(self._file, 1024)
        if not line:
            raise UserError("the terminal was closed; no file was written")
        return line.decode(errors="replace").strip()

    def live(self, text: str) -> None:
        """Show a line that the next one replaces."""
        self._live.start()
        self._live.update(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot calibrate`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot calibrate",
        description="Find gyro bias, IMU mounting, pitch zero, wheel and torque signs with a person's help; never "
        "balances. The driver must not run meanwhile. Steps: "
        + "; ".join(f"{name} ({what})" for name, what in STEPS.items()),
        epilog="example: h2o-robot calibrate --port /dev/ttyACM0 --robot my_robot.yaml -o calibration.yaml",
    )
    parser.add_argument("--port", required=True, help="serial port, or usb:SERIAL_NUMBER")
    parser.add_argument("--robot", required=True, help="name in config/robots or path of a robot file")
    parser.add_argument("-o", "--output", required=True, help="file to write; with --steps, the file to begin from too")
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="redo only these, keep the rest of the file")
    parser.add_argument(
        "--attitude",
        choices=("imu", "complementary"),
        default="imu",
        help="what the driver will take pitch from; complementary for an IMU that reports no attitude (%(default)s)",
    )
    parser.add_argument("--torque-nm", type=float, default=0.3, help="first try of the torque step (%(default)s)")
    parser.add_argument("--backend", default=SERIAL, help="class that speaks to the robot (%(default)s)")
    parser.add_argument(
        "--priority",
        type=int,
        default=20,
        help="real-time priority, 0 for none; the torque step needs it (%(default)s)",
    )
    args = parser.parse_args(argv)
    for step in args.steps or ():
        if step not in STEPS:
            raise UserError(f"there is no step {step!r}.{nearest(step, STEPS)}")
    if not 0.0 < args.torque_nm <= TORQUE_LIMIT_NM:
        raise UserError(f"--torque-nm must be above 0 and at most {TORQUE_LIMIT_NM}, got {args.torque_nm}")
    if not 0 <= args.priority <= 99:
        raise UserError(f"--priority lies between 0 and 99, got {args.priority}")
    robot = load_robot(args.robot)
    start = _start(Path(args.output), robot.name, bool(args.steps))
    if not sys.stdin.isatty():
        raise UserError("calibrate asks a person who holds the robot: run it in a terminal")
    link = connect(args.backend, args.port, robot)
    terminal = Terminal()
    try:
        # A busy computer must not let the firmware's watchdog bite between two commands.
        if refused := prioritise(args.priority):
            terminal.say(f"{refused}; on a busy computer the torque step may need several tries")
        walk = Walk(link, terminal, robot, start, args.attitude, args.torque_nm)
        found = walk.run([s for s in STEPS if s in (args.steps or STEPS)])
    finally:
        terminal.close()
        link.close()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    made = f"h2o-robot calibrate --attitude {args.attitude}, {now}"
    dataclasses.replace(found, made=made).write(args.output)
    terminal.say(f"\nWrote {args.output}; give it to the driver: calibration:={args.output}")
    if found.skipped:
        terminal.say(f"Not known yet, and left as if right: {', '.join(found.skipped)}. Later: --steps")
    return 0


def _start(output: Path, robot: str, again: bool) -> Calibration:
    if not output.exists():
        if again:
            raise UserError(f"--steps redoes steps of a file, and there is no {output}: leave --steps away")
        if not output.absolute().parent.is_dir():
            raise UserError(f"there is no folder {output.absolute().parent} to write {output.name} to")
        return Calibration(robot, skipped=tuple(STEPS))
    there = load_calibration(output, robot)
    if not again:
        raise UserError(f"{output} is there already: redo steps of it with --steps, or choose another -o")
    return there if there.robot else Calibration(robot, skipped=tuple(STEPS))
