# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot operate`: one request to the running robot, its answer, and an exit status that scripts can use."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from rich.text import Text

from h2o_control import middleware, topics
from h2o_control.errors import UserError
from h2o_control.operate_node import Operator

GRANTED, REFUSED = 0, 1
#: Services of the recorder by what is asked of it; `NOTE` is a parameter.
RECORDER = {
    "start": topics.START_EPISODE,
    "stop": topics.STOP_EPISODE,
    "discard": topics.DISCARD_EPISODE,
    "success": topics.LABEL_SUCCESS,
    "fall": topics.LABEL_FALL,
}
NOTE = "note"


class Action(NamedTuple):
    """What is said about one request in the help."""

    summary: str
    description: str
    example: str


ACTIONS = {
    "arm": Action(
        "hold the robot upright; balances once armed",
        "Arm the robot, which somebody holds upright and still; granted once the driver balances it. Refused after a "
        "fault or a limit until `disarm`.",
        "h2o-robot operate arm && h2o-robot operate policy on",
    ),
    "disarm": Action(
        "zero torque, and clear what is latched",
        "Take the torque away and clear the latched fault, limit or e-stop: a robot that stands falls over, hold it.",
        "h2o-robot operate disarm",
    ),
    "estop": Action(
        "zero torque at once, until disarmed",
        "Stop the robot in whatever state it is, by topic and service; only `disarm` ends it. Keep the space bar of "
        "h2o-robot teleop at hand as well: it needs no start of a program.",
        "h2o-robot operate estop",
    ),
    "stand": Action(
        "legs to the standing posture",
        "Move the legs to the standing posture while the driver balances; policies are made for it.",
        "h2o-robot operate stand",
    ),
    "sit": Action(
        "legs to the lowest posture",
        "Move the legs to their lowest posture while the driver balances.",
        "h2o-robot operate sit",
    ),
    "status": Action(
        "mode, reason and diagnostics of all nodes",
        "Print the mode, its reason and what every node says of itself; takes about two seconds to find them all.",
        "h2o-robot operate status",
    ),
    "mode": Action(
        "mode and reason on one line",
        "Print the mode (disarmed, balance, torque, hold or fault) and the reason of its last change.",
        "h2o-robot operate mode",
    ),
    "policy": Action(
        "give command to the policy, or take it back",
        "Give command to the one node that answers on /wheel_torque, or take it back to the driver's balance.",
        "h2o-robot operate policy on",
    ),
    "height": Action(
        "take up a height of the hips above the axle",
        "Move the hips to a height above the axle while the driver balances; granted once they are there.",
        "h2o-robot operate height 0.25",
    ),
    "record": Action(
        "start, stop, discard, label or note an episode",
        "Have the recorder start or stop an episode. discard deletes the running one, or else the one before; success "
        "and fall label it, and note adds a text to it, without touching the file.",
        "h2o-robot operate record stop && h2o-robot operate record note carpet",
    ),
    "swap": Action(
        "put another ONNX file in a running policy's place",
        "Have a policy node load and check another ONNX file and switch to it between two observations, in command or "
        "not; the answer says which. A file that is not fit changes nothing. Refused where two policy nodes have one "
        "name.",
        "h2o-robot operate swap tuesday.onnx --node policy",
    ),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot operate",
        description="Ask one thing of the running robot. Exit status: 0 granted, 1 refused, 2 wrong input or nobody "
        "answers.",
        epilog="example: h2o-robot operate arm && h2o-robot operate policy on",
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="how long to wait for the driver, s")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    parsers = {
        name: actions.add_parser(
            name, help=action.summary, description=action.description, epilog=f"example: {action.example}"
        )
        for name, action in ACTIONS.items()
    }
    parsers["policy"].add_argument("switch", choices=("on", "off"), help="on: the policy commands; off: the driver")
    parsers["record"].add_argument("what", choices=(*RECORDER, NOTE), help="what to do with the episode")
    parsers["record"].add_argument("text", nargs="?", help="what to note")
    parsers["height"].add_argument("metres", type=float, help="height of the hips above the axle, m")
    parsers["swap"].add_argument("file", type=Path, help="ONNX file that h2o-robot export wrote")
    parsers["swap"].add_argument("--node", default="policy", metavar="NAME", help="policy node, default policy")
    args = parser.parse_args(argv)
    if not 0 < args.timeout < math.inf:
        raise UserError(f"--timeout is {args.timeout:g} s: give a positive number")
    if args.action == "height" and not 0 < args.metres < math.inf:
        raise UserError(f"height {args.metres:g} m: give a positive number")
    if args.action == "record" and (args.what == NOTE) != (args.text is not None):
        raise UserError("a text belongs to note, and note needs one: h2o-robot operate record note 'carpet'")
    if args.action == "swap":
        if args.file.is_dir():
            raise UserError(f"{args.file} is a folder: give the ONNX file itself")
        if not args.file.is_file():
            raise UserError(f"no such file: {args.file}")
        if not args.node.strip("/"):
            raise UserError("--node is empty: give the name of a policy node")
    return args


def perform(node: Operator, args: argparse.Namespace) -> tuple[bool, str | Table]:
    """Make the request; returns whether it was granted, and what to print."""
    acts: dict[str, Callable[[], tuple[bool, str | Table]]] = {
        "arm": node.arm_and_wait,
        "disarm": lambda: node.trigger(node.disarm),
        "estop": node.stop,
        "stand": lambda: node.trigger(node.stand_up),
        "sit": lambda: node.trigger(node.sit_down),
        "policy": lambda: node.policy(args.switch == "on"),
        "height": lambda: node.height(args.metres),
        "swap": lambda: node.swap(args.file, args.node),
        "record": lambda: node.note(args.text) if args.what == NOTE else node.record(RECORDER[args.what]),
        "status": lambda: (True, node.status()),
        "mode": lambda: (True, node.state()),
    }
    return acts[args.action]()


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot operate`; returns 0 where the request was granted, 1 where it was refused."""
    args = parse(argv)
    middleware.apply_defaults()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Operator(args.timeout)
        granted, said = perform(node, args)
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    Console(soft_wrap=True).print(said if isinstance(said, Table) else Text(said if granted else f"refused: {said}"))
    return GRANTED if granted else REFUSED
