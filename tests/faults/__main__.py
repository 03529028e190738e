# SPDX-License-Identifier: Apache-2.0
"""`make faults`: run the fault matrix and write its page."""

from __future__ import annotations

import argparse
import fnmatch
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from faults.cells import CELLS, HUNDRED, Cell
from faults.heartbeat import Heartbeat
from faults.page import write_page
from faults.rig import ROBOT, Setup, rig
from faults.runner import Result, keep, kept, run_cell

REPETITIONS = 3
RESULTS = Path("runs/faults")


def main() -> int:
    """Run what is asked for; 0 where every cell is green."""
    parser = argparse.ArgumentParser(
        prog="make faults",
        description="Every fault in every state, on real nodes against the emulated robot, in real time.",
        epilog="example: make faults ARGS='--only \"unplug*\" --quick'",
    )
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="cells 'FAULT / STATE' that match, e.g. '*policy'"
    )
    parser.add_argument("--quick", action="store_true", help="each cell once, those of a hundred times three times")
    parser.add_argument(
        "--repetitions", type=int, default=REPETITIONS, metavar="N", help="of each cell, but for those of a hundred"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order, the phases and the emulator (%(default)s)")
    parser.add_argument("--robot", default=ROBOT, help="the emulated robot (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep results of an earlier run that are complete")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the matrix there, from all kept results")
    parser.add_argument("--list", action="store_true", help="print the cells and what must hold, and stop")
    args = parser.parse_args()
    # Whoever ends this leaves nothing running either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True)
    cells = [cell for cell in CELLS if fnmatch.fnmatch(cell.name, args.only)]
    if not cells:
        console.print(f"no cell matches {args.only!r}; --list names them")
        return 2
    if args.list:
        for cell in cells:
            console.print(f"[bold]{cell.name}[/]: {'; '.join(check.says for check in cell.checks)}")
        return 0
    if not args.resume and args.only == "*":
        shutil.rmtree(RESULTS, ignore_errors=True)
    try:
        results = run(cells, args.seed, args.robot, 0 if args.quick else max(1, args.repetitions), args.resume, console)
    except KeyboardInterrupt:
        console.print("stopped; go on with --resume")
        return 130
    if args.page:
        write_page(args.page, RESULTS)
    red = [result.name for result in results if not result.green]
    console.print(f"{len(results)} cells, {len(red)} red" + "".join(f"\n  [red]{name}[/]" for name in red))
    return 1 if red else 0


def count(cell: Cell, repetitions: int) -> int:
    """How often a cell is run; no repetitions are the quick version."""
    if not repetitions:
        return 3 if cell.hundred else 1
    return HUNDRED if cell.hundred else repetitions


def ordered(cells: list[Cell], seed: int) -> list[Cell]:
    """Cells in an order drawn by the seed, those together that need the same processes."""
    shuffled = random.Random(seed).sample(cells, len(cells))
    base = Setup()

    def group(cell: Cell) -> tuple[bool, bool, str, str]:
        setup = cell.fault.setup
        return setup.shifted, setup.joystick, setup.policy if setup.policy != base.policy else "", cell.state

    return sorted(shuffled, key=group)


def run(cells: list[Cell], seed: int, robot: str, repetitions: int, resume: bool, console: Console) -> list[Result]:
    """Run cells, keep and return their results."""
    began_s, results = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="faults_") as temporary:
        folder = Path(temporary)
        with Heartbeat(folder) as heartbeat, rig(folder, seed, robot) as made:
            for n, cell in enumerate(ordered(cells, seed), 1):
                times = count(cell, repetitions)
                result = kept(RESULTS, cell, times, robot, seed) if resume else None
                if result is None:

                    def say(problem: str, name: str = cell.name) -> None:
                        console.print(f"  [red]{name}: {escape(problem)}[/]")

                    try:
                        result = run_cell(made, heartbeat, cell, times, say)
                    except FileNotFoundError as error:
                        console.print(f"{n:3}/{len(cells)} {cell.name}: left out, {error}")
                        continue
                    keep(RESULTS, result)
                results.append(result)
                console.print(f"{n:3}/{len(cells)} {line(result)}  [dim]{(time.monotonic() - began_s) / 60:.1f} min[/]")
    console.print(f"total time {(time.monotonic() - began_s) / 60:.1f} min")
    return results


def line(result: Result) -> str:
    """One line about a cell."""
    times = sorted(r.safe_ms for r in result.repetitions if r.safe_ms is not None)
    safe = f"median {times[len(times) // 2]:.0f} ms, worst {times[-1]:.0f} ms" if times else "never safe"
    ends = ", ".join(dict.fromkeys(r.end for r in result.repetitions if r.end))
    still = f", {result.again} repeated: machine stood still" if result.again else ""
    colour = "green" if result.green else "red"
    return f"[{colour}]{result.name}[/]: {ends}, {safe} of {len(result.repetitions)}{still}"


if __name__ == "__main__":
    sys.exit(main())
