# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot replay`: what policies would have done at every state of a bag, beside what was done."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from h2o_control import topics
from h2o_control.atomic_file import write_atomically
from h2o_control.bag_reader import Bag, damage_note, read_bag
from h2o_control.errors import DataError
from h2o_control.policy import Policy
from h2o_control.provenance import files_sha256
from h2o_training import replay_result
from h2o_training.judging import origin, write_json
from h2o_training.replay_agreement import agreement, has_answers
from h2o_training.replay_answers import Answers, Recorded, answers_file, ask, load_policies
from h2o_training.replay_folder import JSON_FILE, PAGE_FILE, TORQUES_FILE, choose_folder, inputs
from h2o_training.replay_result import examine, find_setting
from wheel_leg_driver.robot import load_robot


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot replay`."""
    args = _parser().parse_args(argv)
    policies = load_policies(args.policy)
    twin = load_robot(args.twin) if args.twin else None
    # More threads would sum in another order, and gain nothing on so small models.
    torch.set_num_threads(1)
    console = Console()
    with console.status(f"reading {escape(args.bag)}"):
        bag = read_bag(args.bag)
        played = read_bag(args.against, require=(topics.WHEEL_TORQUE,)) if args.against else None
    interface = bag.require_interface()
    for policy in policies.values():
        policy.contract.require_interface(interface, f"bag {bag.path.name}")
    recorded = Recorded.of(bag)
    if not ((recorded.modes == topics.TORQUE) | (recorded.modes == topics.BALANCE)).any():
        raise DataError(f"bag {bag.path}: nobody balanced the robot in it, so there is nothing to compare with")
    computed_from = inputs(bag, policies, played, twin)
    folder = choose_folder(args.output, _default_folder(policies, bag), computed_from)
    damaged = damage_note(_damaged(bag, played))
    if damaged:
        console.print(damaged, soft_wrap=True, highlight=False, markup=False)
    setting = find_setting(recorded, twin)
    answers = _ask_all(policies, recorded, console)
    source = played or bag
    heard = has_answers(source.episodes)
    with console.status("comparing"):
        agreements = [agreement(recorded, answer, source.episodes) for answer in answers] if heard else []
        if not played:
            # What another policy answered on the robot is no news.
            agreements = [a for a in agreements if a.same_policy]
        result = examine(recorded, answers, setting, interface, agreements, source.path.name, damaged)

    torques = answers_file(recorded, answers)
    provenance = {
        "bag": _source(bag),
        "interface": interface.to_json(),
        **({"answers": _source(played)} if played else {}),
        **{name: origin(policy) for name, policy in policies.items()},
    }
    content = {
        **replay_result.to_json(result),
        "inputs": computed_from,
        "torques": {"file": TORQUES_FILE, "sha256": hashlib.sha256(torques).hexdigest()},
        "provenance": provenance,
    }
    _write(folder / TORQUES_FILE, torques)
    write_json(folder / JSON_FILE, content)
    heading = f"{', '.join(policies)} replayed on {bag.path.name}"
    page = replay_result.page(result, heading, interface, provenance).write(folder / PAGE_FILE)
    for table in replay_result.tables(result, heading, interface):
        console.print(table.rich())
    for line in (result.no_twin, f"report: {page}"):
        if line:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 1 if played and not all(a.agreed for a in agreements) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="h2o-robot replay",
        description="Ask policies at every state of a recorded bag what they would have done: beside the torque that "
        "was executed and beside each other, what the driver's limits would have cut, and whether the twin is "
        f"consistent with the bag. Nothing moves. Writes {PAGE_FILE}, {JSON_FILE} and {TORQUES_FILE} (all torques, by "
        "stamp); the same bag and policies give the same torques, bit for bit.",
        epilog="example: h2o-robot replay bags/walk --policy policy.onnx",
    )
    parser.add_argument("bag", metavar="BAG", help="rosbag2 directory")
    parser.add_argument(
        "--policy",
        required=True,
        action="append",
        metavar="POLICY.onnx",
        help="written by h2o-robot export; several may be given, of any tasks, each after a --policy of its own",
    )
    parser.add_argument("--twin", metavar="ROBOT", help="whose twin to compare; default: the robot that the bag names")
    parser.add_argument(
        "--against",
        metavar="ANSWERS",
        help="bag of answers that launch/replay.launch.yaml recorded (record:=…); status 1 where one differs",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="default: POLICY-replay-BAG (of several: policies-…) beside the policy, numbered where that holds a "
        "replay of other files",
    )
    return parser


def _ask_all(policies: Mapping[str, Policy], recorded: Recorded, console: Console) -> list[Answers]:
    answers = []
    with Progress(console=console, transient=True) as progress:
        for name, policy in policies.items():
            label = f"asking {escape(name)}"
            answers.append(ask(name, policy, recorded, partial(progress.track, description=label)))
    return answers


def _damaged(bag: Bag, played: Bag | None) -> list[str]:
    return [*bag.damaged, *((f"{name} of the answers" for name in played.damaged) if played else ())]


def _default_folder(policies: Mapping[str, Policy], bag: Bag) -> Path:
    first = next(iter(policies.values())).path
    return first.with_name(f"{first.stem if len(policies) == 1 else 'policies'}-replay-{bag.path.stem}")


def _source(bag: Bag) -> dict[str, Any]:
    return {"name": bag.path.name, "sha256": files_sha256(bag.files)}


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
