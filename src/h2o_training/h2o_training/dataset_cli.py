# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot dataset`: build a dataset from bags, import those of other people's robots, convert formats."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from h2o_control.bag_reader import damage_note
from h2o_control.contract import STATE, TASKS, get_task
from h2o_control.errors import DataError
from h2o_training import bag_import_cli, dataset_check_cli, dataset_files
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset, damaged_files
from h2o_training.dataset_log import import_logs, parse_columns
from h2o_training.dataset_output import require_output
from h2o_training.driving import drive
from wheel_leg_driver.robot import load_robot


def dataset_line(dataset: Dataset) -> str:
    """Size of a dataset on one line."""
    falls, episodes = int(dataset.terminals.sum()), dataset.episode_count
    robots = dataset.provenance.get("robots", [])
    whose = f"robot {' and '.join(map(repr, robots))}: " if robots else ""
    return (
        f"{whose}{len(dataset)} transitions, {dataset.duration_s:.1f} s, "
        f"{episodes} episode{'' if episodes == 1 else 's'}, {falls} fall{'' if falls == 1 else 's'}"
    )


def dataset_table(dataset: Dataset) -> Table:
    """Spread of the states and torques of a dataset."""
    table = Table()
    for name in ("", "std", "min", "max", "unit"):
        table.add_column(name, justify="left" if name in ("", "unit") else "right")
    torque = dataset.actions[:, 0] * dataset.interface.torque_limit_nm
    columns = [*zip(STATE, dataset.states.T, dataset.interface.units, strict=True), ("torque", torque, "Nm")]
    for name, values, unit in columns:
        v = np.asarray(values, dtype=np.float64)
        table.add_row(name, f"{v.std():.4f}", f"{v.min():.4f}", f"{v.max():.4f}", unit)
    return table


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot dataset`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot dataset",
        description="Make a dataset of real transitions (HDF5, D4RL's keys) out of bags or logs, check or convert one.",
        epilog="example: h2o-robot dataset build bags/walk --task stand -o walk.h5",
    )
    names = "build|check|import-log|import-bag|convert|drive"
    actions = parser.add_subparsers(dest="action", required=True, metavar=names)
    build = actions.add_parser(
        "build",
        description="Build a dataset from rosbag2 bags: states from /odom, actions from the torque that was executed.",
        epilog="example: h2o-robot dataset build bags/walk bags/stand --task stand -o real.h5",
        help="from bags",
    )
    build.add_argument("bags", nargs="+", metavar="BAG", help="rosbag2 directory")
    build.add_argument("--task", required=True, choices=sorted(TASKS), help="what the policy shall learn")
    log = actions.add_parser(
        "import-log",
        description="Import plain-text logs (gzip too), one row a control step, each file one recording.",
        epilog="example: h2o-robot dataset import-log log.txt.gz --columns x,v,theta,theta_dot,tau,done --rate-hz 200 "
        "-o real.h5",
        help="from text logs",
    )
    log.add_argument("files", nargs="+", metavar="FILE", help="text or gzip")
    log.add_argument(
        "--columns",
        help="names in order, out of x (m), v (m/s), theta (rad), theta_dot (rad/s), tau (Nm a wheel), done (0/1); "
        "_ skips a column. Default: the names in the first line of each file",
    )
    log.add_argument("--rate-hz", required=True, type=float, help="rows a second; must be the robot's control rate")
    log.add_argument("--task", default="stand", choices=sorted(TASKS), help="default: stand")
    log.add_argument("--robot", default="ideal", help="gives wheel radius and torque limit; default: ideal")
    driven = actions.add_parser(
        "drive",
        description="Let the scripted operator drive an emulated robot in lock-step: what launch/collect.launch.yaml "
        "and build would give, without ROS and faster than real time.",
        epilog="example: h2o-robot dataset drive --robot carpet --seconds 90 -o driven.h5",
        help="from an emulated robot, at once",
    )
    driven.add_argument("--robot", required=True, help="a name in config/robots or a file")
    driven.add_argument("--seconds", type=float, default=90.0, help="of balancing, default: 90")
    driven.add_argument("--seed", type=int, default=0, help="of robot, operator and exploration, default: 0")
    driven.add_argument("--task", default="stand", choices=sorted(TASKS), help="default: stand")
    dataset_check_cli.add_parser(actions)
    bag_import_cli.add_parser(actions)
    dataset_files.add_parser(actions)
    for sub in (build, log, driven):
        sub.add_argument("-o", "--output", required=True, metavar="FILE.h5", help="dataset to write")
        sub.add_argument("--force", action="store_true", help="overwrite a dataset that exists; never an input")
    args = parser.parse_args(argv)
    run = {
        "build": _build,
        "check": dataset_check_cli.run,
        "import-log": _import_log,
        "import-bag": _import_bag,
        "convert": dataset_files.run,
        "drive": _drive,
    }
    return run[args.action](args)


def _build(args: argparse.Namespace) -> int:
    require_output(args.output, args.bags, args.force)
    console, read = Console(), itertools.count()
    with Progress(console=console, transient=True) as progress:
        job = progress.add_task("reading bags", total=len(args.bags))

        def on_bag(path: Path) -> None:
            progress.update(job, description=f"reading {escape(path.name)}", completed=next(read))

        dataset = build_dataset(args.bags, get_task(args.task), on_bag)
    if damaged := damage_note(damaged_files(dataset)):
        console.print(damaged, soft_wrap=True, highlight=False, markup=False)
    _save(dataset, args.output, console)
    return 0


def _import_log(args: argparse.Namespace) -> int:
    require_output(args.output, [*args.files, args.robot], args.force)
    console = Console()
    columns = parse_columns(args.columns) if args.columns else None
    interface = load_robot(args.robot).interface
    if args.rate_hz != interface.rate_hz:
        raise DataError(
            f"the log has {args.rate_hz:g} rows a second, robot {args.robot!r} is controlled at "
            f"{interface.rate_hz:g} Hz; give a robot with that rate (config/robots) or resample the log"
        )
    with Progress(console=console, transient=True) as progress:
        job = progress.add_task("reading logs", total=len(args.files))

        def on_file(path: Path) -> None:
            progress.update(job, description=f"reading {escape(path.name)}", advance=1)

        result = import_logs(args.files, columns, interface, get_task(args.task), on_file)
    limit = interface.torque_limit_nm
    console.print(
        f"{result.rows} rows read; {result.clipped} with |tau| > {limit:g} Nm clipped to the limit; "
        f"{result.dropped} after a fall dropped",
        soft_wrap=True,
        highlight=False,
    )
    _save(result.dataset, args.output, console)
    return 0


def _import_bag(args: argparse.Namespace) -> int:
    console = Console()
    result = bag_import_cli.read(args, console)
    if result is not None:
        _save(result.dataset, args.output, console)
    return 0


def _drive(args: argparse.Namespace) -> int:
    if not 0.0 < args.seconds < math.inf or args.seed < 0:
        raise DataError("--seconds must be positive and finite, --seed must not be negative")
    require_output(args.output, [args.robot], args.force)
    console, robot = Console(), load_robot(args.robot)
    with Progress(console=console, transient=True) as progress:
        job = progress.add_task(f"driving {escape(repr(robot.name))}", total=args.seconds)
        dataset = drive(
            robot, get_task(args.task), args.seconds, args.seed, lambda done_s: progress.update(job, completed=done_s)
        )
    _save(dataset, args.output, console)
    return 0


def _save(dataset: Dataset, output: str, console: Console) -> None:
    dataset.save(output)
    console.print(f"{output}: {dataset_line(dataset)}", soft_wrap=True, highlight=False, markup=False)
    console.print(dataset_table(dataset))
