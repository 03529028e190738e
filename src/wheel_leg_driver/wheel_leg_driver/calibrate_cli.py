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
from wheel_leg_driver.calibrate_steps import NEEDS, STEPS, TORQUE_LIMIT_NM, Walk
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
            raise UserError("the terminal was closed")
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
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--steps", nargs="+", metavar="STEP", help="redo only these, keep the rest of the file")
    which.add_argument("--resume", action="store_true", help="go on after the last step an interrupted run finished")
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
    output = Path(args.output)
    partial = output.with_name(f"{output.name}.partial")
    start = _resume(partial, robot.name) if args.resume else _start(output, partial, robot.name, args.steps)
    steps = start.unfinished or [step for step in STEPS if step in (args.steps or STEPS)]
    if not sys.stdin.isatty():
        raise UserError("calibrate asks a person who holds the robot: run it in a terminal")
    link = connect(args.backend, args.port, robot)
    terminal = Terminal()
    found = None
    try:
        # A busy computer must not let the firmware's watchdog bite between two commands.
        if refused := prioritise(args.priority):
            terminal.say(f"{refused}; on a busy computer the torque step may need several tries")
        walk = Walk(link, terminal, robot, start, args.attitude, args.torque_nm)
        found = walk.run(steps, keep=lambda known: known.write(partial))
    finally:
        terminal.close()
        link.close()
        if found is None and partial.exists():
            terminal.say(f"\nFinished steps are kept in {partial}; the same command with --resume goes on after them")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    made = f"h2o-robot calibrate --attitude {args.attitude}, {now}"
    dataclasses.replace(found, made=made, unfinished=()).write(output)
    partial.unlink(missing_ok=True)
    terminal.say(f"\nWrote {output}; give it to the driver: calibration:={args.output}")
    if found.skipped:
        terminal.say(f"Not known yet, and left as if right: {', '.join(found.skipped)}. Later: --steps")
    return 0


def _resume(partial: Path, robot: str) -> Calibration:
    if not partial.exists():
        raise UserError(f"there is no {partial}, so no step of an interrupted calibration: leave --resume away")
    return load_calibration(partial, robot, interrupted=True)


def _start(output: Path, partial: Path, robot: str, steps: Sequence[str] | None) -> Calibration:
    if partial.exists():
        raise UserError(f"{partial} holds steps of a calibration that was interrupted: --resume, or remove it")
    if not output.exists():
        if steps:
            raise UserError(f"--steps redoes steps of a file, and there is no {output}: leave --steps away")
        if not output.absolute().parent.is_dir():
            raise UserError(f"there is no folder {output.absolute().parent} to write {output.name} to")
        return Calibration(robot, skipped=tuple(STEPS))
    there = load_calibration(output, robot)
    if not steps:
        raise UserError(f"{output} is there already: redo steps of it with --steps, or choose another -o")
    start = there if there.robot else Calibration(robot, skipped=tuple(STEPS))
    for step in steps:
        if (need := NEEDS.get(step)) in start.skipped and need not in steps:
            raise UserError(f"step {step} needs {need}, which {output} does not have: --steps {need} {step}")
    return start
