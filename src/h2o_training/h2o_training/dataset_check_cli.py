# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot dataset check`: look at data before anybody trains on them, and say what to drive next."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from h2o_control.contract import TASKS, get_task
from h2o_control.errors import DataError
from h2o_control.provenance import now_utc, software
from h2o_training.dataset_check import Checked, LogFormat, check
from h2o_training.dataset_check_page import WISHES, amount_table, check_table, content, page, verdict_text
from h2o_training.dataset_check_rules import LEVEL_NAMES, Level
from h2o_training.dataset_log import parse_columns
from h2o_training.dataset_output import page_beside, require_page
from wheel_leg_driver.robot import load_robot


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of `check`."""
    parser = actions.add_parser(
        "check",
        description="Check bags, datasets and text logs of one robot for gaps, drops, stuck sensors, clocks that slip, "
        "lag, signs, consistency and coverage; end with a verdict, its reasons, and what to drive next. Writes a page "
        "with pictures. Exit status: 0 good or usable with care, 1 do not train on this, 2 wrong input.",
        epilog="example: h2o-robot dataset check bags/walk",
        help="what is wrong with data, and what to drive next",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="BAG|DATASET.h5|LOG", help="bag, dataset or text log; several are one"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.html", help="page to write; default: INPUT-check.html beside the input"
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON instead of tables")
    parser.add_argument("--task", default="stand", choices=sorted(TASKS), help="says what a fall is; default: stand")
    parser.add_argument("--columns", help="of text logs, as for import-log")
    parser.add_argument("--rate-hz", type=float, help="of text logs, as for import-log")
    parser.add_argument("--robot", default="ideal", help="of text logs: torque limit and rate; default: ideal")


def run(args: argparse.Namespace) -> int:
    """Check, write the page, print what was found; 1 where the data must not be trained on."""
    console, first = Console(), Path(args.inputs[0]).resolve()
    target = Path(args.output) if args.output else page_beside(first)
    require_page(target, [*args.inputs, args.robot])
    if args.output is None and first.exists() and not os.access(target.parent, os.W_OK):
        raise DataError(f"cannot write {target.name} beside the input: {target.parent} is read-only; give -o FILE.html")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        job = progress.add_task("reading", total=None)
        checked = check(
            args.inputs,
            get_task(args.task),
            _log_format(args),
            lambda path: progress.update(job, description=f"reading {escape(path.name)}"),
        )
        progress.update(job, description="drawing")
        more = f" and {len(args.inputs) - 1} more" if len(args.inputs) > 1 else ""
        written = page(checked, f"Check of {first.name}{more}", _origin(checked)).write(target)
    if args.json:
        print(json.dumps(content(checked), indent=2, allow_nan=False))
    else:
        _print(checked, written, console)
    return 1 if checked.level == Level.REFUSE else 0


def _log_format(args: argparse.Namespace) -> LogFormat | None:
    if args.rate_hz is None:
        if args.columns:
            raise DataError("--columns goes with --rate-hz: how many rows a second does the log have?")
        return None
    interface = load_robot(args.robot).interface
    if args.rate_hz != interface.rate_hz:
        raise DataError(
            f"--rate-hz {args.rate_hz:g}: robot {args.robot!r} is controlled at {interface.rate_hz:g} Hz; "
            "give a robot with that rate"
        )
    return LogFormat(parse_columns(args.columns) if args.columns else None, interface)


def _origin(checked: Checked) -> Mapping[str, Any]:
    return {
        **{part.name: part.kind for part in checked.parts},
        "interface": checked.dataset.interface.to_json(),
        "task": checked.dataset.task.name,
        "created": now_utc(),
        "software": software(),
    }


def _print(checked: Checked, written: Path, console: Console) -> None:
    for table in (amount_table(checked), check_table(checked)):
        console.print(table.rich())

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    line(verdict_text(checked))
    for f in (*checked.problems, *(f for f in checked.findings if f.level == Level.NOTE)):
        line(f"  {LEVEL_NAMES[f.level]}  {f.reason}")
    if checked.wishes:
        line("Drive next:")
    for wish in checked.wishes[:WISHES]:
        line(f"  {wish}")
    line(f"report: {written}")
