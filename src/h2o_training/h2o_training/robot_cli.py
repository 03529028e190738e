# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot robot`: list, show, blend and draw descriptions of robots, and write them as URDF or MJCF."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from h2o_control.atomic_file import write_atomically
from h2o_control.config import config_dir
from h2o_control.errors import ConfigError, UserError
from h2o_training.robots import draw_robot, load_spread, shipped, to_yaml
from wheel_leg_driver.blend import blend_robots
from wheel_leg_driver.robot import load_robot

ROBOT = "name in config/robots, a file, or a blend FROM:TO:GAP"


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot robot`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot robot",
        description="Descriptions of robots: list and show them, make new ones between two or around one, and write "
        "them for other programs. Wherever a robot is asked for, ideal:worn:0.25 is a quarter of the way from ideal "
        "to worn.",
        epilog="example: h2o-robot robot draw worn --population 20 --seed 1 -o population",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_list, _add_show, _add_blend, _add_draw, _add_urdf, _add_mjcf):
        add(commands)
    args = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], None] = args.run
    run(args)
    return 0


def _parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    does: str,
    example: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=does, description=f"{does[0].upper()}{does[1:]}.", epilog=f"example: h2o-robot robot {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _parser(commands, "list", "list the shipped robots", "list", _list)


def _list(_args: argparse.Namespace) -> None:
    table = Table("robot", "rate (Hz)", "mass (kg)", "description", box=None, header_style="bold")
    for name in shipped(config_dir() / "robots"):
        robot = load_robot(name)
        mass = robot.body.body_mass_kg + robot.body.wheels_mass_kg
        table.add_row(Text(name), f"{robot.interface.rate_hz:g}", f"{mass:.1f}", Text(robot.description))
    Console().print(table)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    does = "print a robot's description as its file would read, everything resolved, its effects in words above"
    _parser(commands, "show", does, "show ideal:worn:0.5", _show).add_argument("robot", metavar="NAME", help=ROBOT)


def _show(args: argparse.Namespace) -> None:
    print(to_yaml(load_robot(args.robot)), end="")


def _add_blend(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    does = "write the robot that lies between two others of the same interface"
    parser = _parser(commands, "blend", does, "blend ideal worn --gap 0.5 -o halfway.yaml", _blend)
    parser.add_argument("first", metavar="A", help=f"the robot at gap 0: {ROBOT}")
    parser.add_argument("second", metavar="B", help="the robot at gap 1")
    parser.add_argument("--gap", type=float, required=True, help="0 to 1")
    parser.add_argument("-o", "--output", metavar="FILE.yaml", type=Path, required=True, help="must not exist yet")


def _blend(args: argparse.Namespace) -> None:
    if args.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"-o {args.output}: a robot's file must end in .yaml")
    if args.output.exists():
        raise UserError(f"{args.output} exists; remove it or give another name")
    robot = blend_robots(load_robot(args.first), load_robot(args.second), args.gap)
    _write(args.output, to_yaml(robot, robot.description))
    print(f"robot {robot.name}: {args.output}")


def _add_draw(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    does = "draw robots at random around a description, one file each"
    parser = _parser(commands, "draw", does, "draw worn --population 20 --seed 1 -o population", _draw)
    parser.add_argument("robot", metavar="NAME", help=ROBOT)
    parser.add_argument("--population", metavar="N", type=int, required=True, help="how many")
    parser.add_argument("--seed", metavar="S", type=int, required=True, help="robot k depends on it and on k alone")
    parser.add_argument(
        "--spread", metavar="FILE", default="default", help="name in config/populations or a file (%(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="new or empty")


def _draw(args: argparse.Namespace) -> None:
    if args.population < 1:
        raise UserError(f"--population must be at least 1, got {args.population}")
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    folder: Path = args.output
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files already; give a new folder or empty it")
    robot, spread = load_robot(args.robot), load_spread(args.spread)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        indices = progress.track(range(args.population), description=f"drawing around {escape(repr(robot.name))}")
        robots = [draw_robot(robot, spread, args.seed, index, args.spread) for index in indices]
    for drawn in robots:
        _write(folder / f"{drawn.name}.yaml", to_yaml(drawn, drawn.description))
    print(f"{len(robots)} robots: {folder}")


def _add_urdf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    does = "write a robot's body as URDF (ROS, Isaac Gym); joint angles are the robot's own"
    _add_model(_parser(commands, "urdf", does, "urdf ideal -o ideal.urdf", _urdf))


def _urdf(args: argparse.Namespace) -> None:
    from h2o_training.urdf import to_urdf

    _write(args.output, to_urdf(load_robot(args.robot)))
    print(f"URDF: {args.output}")


def _add_mjcf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    does = "write a robot's body as MJCF (MuJoCo), with motors and servos; leg angles count from the standing posture"
    _add_model(_parser(commands, "mjcf", does, "mjcf ideal -o ideal.xml", _mjcf))


def _mjcf(args: argparse.Namespace) -> None:
    from h2o_training.mjcf import to_mjcf

    _write(args.output, to_mjcf(load_robot(args.robot)))
    print(f"MJCF: {args.output}")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("robot", metavar="NAME", help=f"{ROBOT}; what its plant adds is left out")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="replaced where it exists")


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
