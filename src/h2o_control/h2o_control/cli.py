# SPDX-License-Identifier: Apache-2.0
"""The command `h2o-robot`: finds its subcommands among the installed packages and loads only the one that is called.

A package adds a subcommand by an entry point in the group `h2o_robot.commands` that names a function
`command(argv) -> int`. It raises UserError where the input is wrong, which becomes one line and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from h2o_control import __version__
from h2o_control.errors import UserError, nearest

GROUP = "h2o_robot.commands"

#: Name: (package that brings it, what it does). Written here so that the list is printed without importing torch.
SUMMARIES = {
    "demo": ("h2o_training", "the whole loop on an emulated robot: drive, record, train, deploy, judge"),
    "up": ("h2o_control", "start a launch file where ROS's own launch is absent"),
    "emulate": ("wheel_leg_driver", "run an emulated robot behind a pseudo-terminal"),
    "inject": ("wheel_leg_driver", "do something to a running emulated robot: a fault, a hand that tilts it"),
    "calibrate": ("wheel_leg_driver", "find pitch zero, IMU mounting, wheel and torque signs, step by step"),
    "teleop": ("h2o_control", "drive the robot by keyboard"),
    "operate": ("h2o_control", "one request to the running robot: arm, e-stop, policy on, sit, swap, status, …"),
    "robot": ("h2o_training", "list, show, blend and draw descriptions of robots; write them as URDF or MJCF"),
    "bag": ("h2o_control", "look at bags; repair, merge, split and cut them"),
    "dataset": ("h2o_training", "build a dataset from bags or logs, ours or other people's; check it, convert it"),
    "algorithms": ("h2o_training", "list the methods there are, or explain every key of one's configuration"),
    "train": ("h2o_training", "train a policy from a configuration file"),
    "export": ("h2o_training", "turn a training run into an ONNX policy"),
    "evaluate": ("h2o_training", "judge a policy on a robot, in lock-step and faster than real time"),
    "compare": ("h2o_training", "compare training runs: table, learning curves, intervals over seeds"),
    "sysid": ("h2o_training", "identify a robot from recorded driving, and say how well it is known"),
    "feasible": ("h2o_training", "find out whether anything simple could do a task on an emulated robot"),
    "replay": ("h2o_training", "compare what a policy would have done with what a bag holds"),
}

#: What to do about a package that is not there; every other one is named as it is.
REMEDIES = {
    "rclpy": "source your ROS 2 setup.bash, or pip install 'ros-rclpy[fastrtps]'",
    "torch": "training and judging run off-board, not on the robot; install h2o_training's requirements there",
}


def commands() -> dict[str, metadata.EntryPoint]:
    """Return the installed subcommands by name, those of SUMMARIES first and in its order."""
    found = {point.name: point for point in metadata.entry_points(group=GROUP)}
    order = {name: i for i, name in enumerate(SUMMARIES)}
    return {name: found[name] for name in sorted(found, key=lambda name: (order.get(name, len(order)), name))}


def build_parser(found: dict[str, metadata.EntryPoint]) -> argparse.ArgumentParser:
    """Build the top-level parser; its help lists the installed subcommands."""
    width = max(map(len, found), default=0)
    rows = [f"  {name:{width}}  {SUMMARIES.get(name, ('', point.value))[1]}" for name, point in found.items()]
    parser = argparse.ArgumentParser(
        prog="h2o-robot",
        description="Drive, record, train and deploy on a wheel-legged balancing robot.",
        epilog="commands:\n" + "\n".join(rows) + "\n\nh2o-robot COMMAND --help says more, with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="h2o-robot [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"h2o-robot {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    return parser


def run(name: str, point: metadata.EntryPoint, argv: Sequence[str]) -> int:
    """Load and call one subcommand; turn wrong input, a missing package and Ctrl-C into a line and an exit status."""
    try:
        status = point.load()(argv)
        return int(status or 0)
    except UserError as error:
        print(f"h2o-robot {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        remedy = REMEDIES.get(missing, f"pip install what {point.value.partition('.')[0]} requires")
        print(f"h2o-robot {name}: needs {error.name or error}, which is not installed here: {remedy}", file=sys.stderr)
        return 2
    except (BrokenPipeError, SystemExit) as error:
        # rich makes a SystemExit of a broken pipe.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader of our output has gone (| head). Python would complain once more at exit, into the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"h2o-robot {name}: stopped, since nobody reads its output", file=sys.stderr)
        return 141
    except KeyboardInterrupt:
        print(f"h2o-robot {name}: interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    found = commands()
    parser = build_parser(found)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    name = parser.parse_args(arguments[:1]).command
    if name in found:
        return run(name, found[name], arguments[1:])
    if name in SUMMARIES:
        print(f"h2o-robot: {name} belongs to {SUMMARIES[name][0]}, which is not installed here", file=sys.stderr)
    else:
        print(f"h2o-robot: there is no command {name!r}.{nearest(name, found)}", file=sys.stderr)
    return 2
