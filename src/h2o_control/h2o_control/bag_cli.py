# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot bag`: look at bags, repair, merge, split and cut them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from h2o_control.bag_edit import Made, cut, merge, split
from h2o_control.bag_info import CUT_OFF, DAMAGED, bag_info, tables, to_json
from h2o_control.bag_repair import repair
from h2o_control.errors import DataError


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot bag`."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Console], int] = args.run
    return run(args, Console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="h2o-robot bag",
        description="Look at rosbag2 bags, ours or anybody's, and repair, merge, split or cut them.",
        epilog="example: h2o-robot bag info bags/walk",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="info|repair|merge|split|cut")
    info = actions.add_parser(
        "info",
        description="Say what is in bags: episodes, topics, rates, losses, labels, robot, software.",
        epilog="example: h2o-robot bag info bags/walk --check",
        help="what is in them",
    )
    info.add_argument("bags", nargs="+", metavar="BAG", help="rosbag2 folder (MCAP or SQLite), or one .mcap file")
    info.add_argument(
        "--check",
        action="store_true",
        help="read every chunk, compare it with its checksum; exit 1 where one is damaged",
    )
    info.add_argument("--episode", type=int, metavar="K", help="topics of episode K only, from 0")
    info.add_argument("--json", action="store_true", help="print JSON, with the topics of each episode")
    info.set_defaults(run=_info)
    fix = actions.add_parser(
        "repair",
        description="After a kill, a power cut or a full disk: keep every whole chunk, write index and metadata.yaml "
        "anew. Files that are whole are not touched.",
        epilog="example: h2o-robot bag repair bags/walk",
        help="make them whole again",
    )
    fix.add_argument("bags", nargs="+", metavar="BAG", help="rosbag2 folder in MCAP, or one .mcap file")
    fix.add_argument("--delete-damaged", action="store_true", help="do not keep FILE.damaged, the originals")
    fix.set_defaults(run=_repair)
    join = actions.add_parser(
        "merge",
        description="Put the episodes of several bags of one robot into one bag.",
        epilog="example: h2o-robot bag merge monday tuesday -o week",
        help="several into one",
    )
    join.add_argument("bags", nargs="+", metavar="BAG", help="rosbag2 folder, or one .mcap file")
    join.add_argument("--different-robots", action="store_true", help="bags of robots of different names, too")
    join.set_defaults(run=_merge)
    apart = actions.add_parser(
        "split",
        description="Make a bag of each episode, or of each stretch of S seconds.",
        epilog="example: h2o-robot bag split bags/walk -o bags/walks",
        help="one into several",
    )
    apart.add_argument("bag", metavar="BAG", help="rosbag2 folder, or one .mcap file")
    apart.add_argument("--every", type=float, metavar="S", help="seconds a piece")
    apart.set_defaults(run=_split)
    part = actions.add_parser(
        "cut",
        description="Make a bag of a stretch of an episode; it begins with the latched messages of that time.",
        epilog="example: h2o-robot bag cut bags/walk --from 10 --to 25 -o bags/turn",
        help="a stretch of one",
    )
    part.add_argument("bag", metavar="BAG", help="rosbag2 folder, or one .mcap file")
    part.add_argument("--from", dest="from_s", type=float, default=0.0, metavar="S", help="default: the beginning")
    part.add_argument("--to", dest="to_s", type=float, default=float("inf"), metavar="S", help="default: the end")
    part.add_argument("--episode", type=int, metavar="K", help="which one, from 0; needed where there are several")
    part.set_defaults(run=_cut)
    for sub, what in ((join, "bag to make"), (apart, "folder to make, for the bags"), (part, "bag to make")):
        sub.add_argument("-o", "--output", required=True, metavar="DIR", help=f"{what}; must not exist")
        sub.add_argument("--damaged", action="store_true", help="take what is whole of damaged files, note what is not")
    return parser


@contextmanager
def _status(console: Console) -> Iterator[Callable[[str], None]]:
    with console.status("reading") as status:
        yield lambda name: status.update(f"reading {escape(name)}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _info(args: argparse.Namespace, console: Console) -> int:
    # The status line goes to the other stream: JSON is for programs.
    with _status(Console(stderr=True)) as progress:
        infos = [bag_info(path, args.check, progress) for path in args.bags]
    for info in infos:
        if args.episode is not None and not 0 <= args.episode < len(info.episodes):
            raise DataError(f"{info.path} has no episode {args.episode}: there are 0 to {len(info.episodes) - 1}")
    if args.json:
        print(to_json(infos))
    else:
        for info in infos:
            console.print(tables(info, args.episode), highlight=False)
    damaged = any(e.state in (CUT_OFF, DAMAGED) for info in infos for e in info.episodes)
    return 1 if args.check and damaged else 0


def _repair(args: argparse.Namespace, console: Console) -> int:
    for path in args.bags:
        with _status(console) as progress:
            report = repair(path, args.delete_damaged, progress)
        if not report.files and not report.metadata:
            _say(console, f"{path}: nothing to do, {len(report.healthy)} files are whole")
        for done in report.files:
            _say(console, f"{path}: {done}")
        if report.metadata:
            _say(console, f"{path}: metadata.yaml written anew, since {report.metadata}")
        if report.kept:
            _say(console, f"{path}: kept {', '.join(report.kept)}; --delete-damaged removes them")
        if report.deleted:
            _say(console, f"{path}: deleted {', '.join(report.deleted)}")
    return 0


def _merge(args: argparse.Namespace, console: Console) -> int:
    with _status(console) as progress:
        made = merge(args.bags, args.output, progress, args.damaged, args.different_robots)
    _say(console, _line(made))
    return 0


def _split(args: argparse.Namespace, console: Console) -> int:
    with _status(console) as progress:
        made = split(args.bag, args.output, args.every, progress, args.damaged)
    for one in made:
        _say(console, _line(one))
    return 0


def _cut(args: argparse.Namespace, console: Console) -> int:
    with _status(console) as progress:
        made = cut(args.bag, args.output, args.from_s, args.to_s, args.episode, progress, args.damaged)
    _say(console, _line(made))
    return 0


def _line(made: Made) -> str:
    episodes = f"{made.episodes} episode{'' if made.episodes == 1 else 's'}"
    repeated = f", {made.repeated} of them latched ones repeated" if made.repeated else ""
    text = f"{made.path}: {episodes}, {made.duration_s:.1f} s, {made.messages} messages{repeated}"
    return "\n".join([text, *(f"{made.path}: warning: {missing}" for missing in made.missing)])
