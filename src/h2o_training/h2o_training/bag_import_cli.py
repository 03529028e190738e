# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot dataset import-bag`: a dataset from somebody else's rosbag2 bag, through a mapping file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from h2o_control.config import find_config
from h2o_control.contract import TASKS, get_task
from h2o_control.errors import DataError
from h2o_training.bag_foreign import list_topics
from h2o_training.bag_import import BagImport, import_bag
from h2o_training.bag_mapping import BagMapping, definition_files, load_mapping
from h2o_training.dataset_output import require_output
from wheel_leg_driver.robot import load_robot

#: Mapping that --template prints.
TEMPLATE = "example"


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of `import-bag`."""
    parser = actions.add_parser(
        "import-bag",
        description="Import a rosbag2 bag (MCAP or SQLite) of any robot. A mapping file says which field of "
        "which topic is which of our quantities (docs/formats.md); --list shows what is in the bag, --template prints "
        "a mapping to begin with.",
        epilog="example: h2o-robot dataset import-bag bags/theirs --mapping theirs.yaml --robot mine.yaml -o theirs.h5",
        help="from other people's rosbag2 bags",
    )
    parser.add_argument("bag", nargs="?", metavar="BAG", help="folder with metadata.yaml, or one .mcap or .db3 file")
    parser.add_argument("--mapping", metavar="FILE", help="a name in config/mappings or a file")
    parser.add_argument("--robot", metavar="NAME", help="gives rate, torque limit and wheel radius; a name or a file")
    parser.add_argument("--task", default="stand", choices=sorted(TASKS), help="default: stand")
    parser.add_argument("-o", "--output", metavar="FILE.h5", help="dataset to write")
    parser.add_argument("--force", action="store_true", help="overwrite a dataset that exists; never an input")
    parser.add_argument("--list", action="store_true", help="only show topics, types and numeric fields of the bag")
    parser.add_argument("--template", action="store_true", help="only print a mapping with remarks")


def read(args: argparse.Namespace, console: Console) -> BagImport | None:
    """Do what the arguments ask; returns what was imported, None where that was not asked for.

    Raises:
        DataError: arguments missing; and as `import_bag`.
    """
    if args.template:
        print(find_config("mappings", TEMPLATE).read_text("utf-8"), end="")
        return None
    if args.bag is None:
        raise DataError("give a BAG (or --template)")
    path = Path(args.bag)
    if args.list:
        show_topics(path, load_mapping(args.mapping) if args.mapping else None)
        return None
    lacking = [f"--{name}" for name in ("mapping", "robot", "output") if getattr(args, name) is None]
    if lacking:
        raise DataError(f"{', '.join(lacking)} missing: needed to import a bag (--list shows what is in it)")
    mapping, mapping_path = load_mapping(args.mapping)
    definitions = definition_files(mapping, mapping_path).values()
    require_output(args.output, [path, mapping_path, args.robot, *definitions], args.force)
    interface = load_robot(args.robot).interface
    with console.status(f"reading {path.name}"):
        result = import_bag(path, mapping, mapping_path, interface, get_task(args.task))
    _report(result, mapping, interface.torque_limit_nm, console)
    return result


def show_topics(path: Path, mapping: tuple[BagMapping, Path] | None) -> None:
    """Print topics, types and numeric fields of a bag; as plain text, to be searched and copied from."""
    topics, recovered = list_topics(path, definition_files(*mapping) if mapping else {})
    if recovered:
        print(_damage(recovered))
    for topic in topics:
        print(f"{topic.name}  {topic.kind}  {topic.messages} messages, {topic.rate_hz:.1f} Hz")
        if topic.fields is None:
            print(f"    ({topic.problem})")
        for field, value in topic.fields or ():
            print(f"    {field} = {value:.6g}")


def _damage(names: Sequence[str]) -> str:
    """Say of which files only a part was read; unlike our own readers, an import goes on behind the damage."""
    return (
        f"cut off (was the recorder killed?) or damaged, read as far as whole: {', '.join(names)}; "
        "`h2o-robot bag info --check` says what is lost"
    )


def _report(result: BagImport, mapping: BagMapping, limit_nm: float, console: Console) -> None:
    table = Table()
    for name in ("signal", "topic", "messages", "Hz", "without it", "same stamp"):
        table.add_column(name, justify="left" if name in ("signal", "topic") else "right", overflow="fold")
    for name, s in result.samples.items():
        count = len(s.values) + s.skipped + s.merged
        numbers = (str(count), f"{s.rate_hz:.1f}", str(s.skipped), str(s.merged))
        table.add_row(name, Text(mapping.signals[name].topic), *numbers)
    console.print(table)
    if result.recovered:
        console.print(_damage(result.recovered), soft_wrap=True, highlight=False, markup=False)
    if result.sparse:
        console.print(
            f"less often than {mapping.rate_hz:g} times a second come {', '.join(result.sparse)}: rows between their "
            "messages are interpolated, and show less than the robot did",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"{result.runs} unbroken run{'' if result.runs == 1 else 's'}; {result.clipped} rows with |torque| > "
        f"{limit_nm:g} Nm clipped to the limit",
        soft_wrap=True,
        highlight=False,
    )
