# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot compare`: training runs side by side, seeds of one configuration taken together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from h2o_training.compare import find_runs, groups, read_run
from h2o_training.compare_page import content, default_folder, page, tables
from h2o_training.judging import write_json


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot compare`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot compare",
        description="Compare training runs of one task on one robot: table, learning curves with means and 95 % "
        "intervals over seeds, JSON. Runs that differ by their seed only are taken together, unfinished ones marked.",
        epilog="example: h2o-robot compare runs/h2o_plus runs/sac -o compared",
    )
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder of a run, of its seeds, or of many runs")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="default: compare, in the one folder of runs or beside the first run"
    )
    args = parser.parse_args(argv)
    console = Console()
    with console.status("reading runs"):
        these = groups([read_run(path) for path in find_runs(args.run)])
    folder = Path(args.output) if args.output else default_folder(args.run)
    write_json(folder / "compare.json", content(these))
    whole = page(these)
    target = whole.write(folder / "report.html")
    for table in tables(these):
        console.print(table.rich())
    console.print(f"report: {target}", soft_wrap=True, highlight=False, markup=False)
    return 0
