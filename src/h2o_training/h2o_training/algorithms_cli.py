# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot algorithms`: the methods there are, and one of them with every key of its configuration explained."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from h2o_control.config import config_dir, to_mapping
from h2o_training.catalogue import CATALOGUE, GROUPS, Entry
from h2o_training.train_config import TrainConfig, load_train_config


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot algorithms`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot algorithms",
        description="List the methods that `h2o-robot train` knows, or show one configuration with all its keys: "
        "what a run would have, and what it means.",
        epilog="example: h2o-robot algorithms paper/h2o",
    )
    parser.add_argument("config", nargs="?", help="name in config/training, or a YAML file; without one, list all")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    args = parser.parse_args(argv)
    console = Console()
    if args.config is None:
        console.print(_overview())
        console.print("\nh2o-robot algorithms PRESET shows all keys of one; docs/algorithms.md has the equations.")
    else:
        _show(load_train_config(args.config, args.overrides), console)
    return 0


def presets(name: str) -> list[str]:
    """Return the names of the configurations called after algorithm `name`, the shipped one first: h2o, paper/h2o."""
    folder = config_dir() / "training"
    found = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"{name}.yaml"))
    return sorted(found, key=lambda preset: (preset.count("/"), preset))


def meanings(cls: type) -> dict[str, str]:
    """Return what each field of a dataclass means, from the "Attributes:" of its docstring.

    There a line "a, b: text" begins the text of both, and lines that are indented further continue it.
    """
    _, _, section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    entries: list[tuple[list[str], list[str]]] = []
    for line in section.splitlines():
        head = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if line and not line.startswith(" "):
            break
        if head:
            entries.append((head[1].split(", "), [head[2]]))
        elif entries and line.strip():
            entries[-1][1].append(line.strip())
    return {name: " ".join(text) for names, text in entries for name in names}


def rows(config: TrainConfig) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and meaning of everything in a configuration; keys are as in `key=value`.

    Groups that belong to other algorithms are left out; the row of a group has no value.
    """
    entry = CATALOGUE[config.algorithm]
    foreign = {*GROUPS} - {*entry.groups, *entry.optional}
    for key, value, meaning in _rows(config, ""):
        if key not in foreign:
            yield key, value, meaning


def _rows(group: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    explained = meanings(type(group))
    for field in dataclasses.fields(group):
        key, value, meaning = prefix + field.name, getattr(group, field.name), explained.get(field.name, "")
        parts = value if isinstance(value, Mapping) else {}
        if dataclasses.is_dataclass(value) and meanings(type(value)):
            yield key, "", meaning
            yield from _rows(value, f"{key}.")
        elif any(dataclasses.is_dataclass(part) and meanings(type(part)) for part in parts.values()):
            yield key, "", meaning
            for name, part in parts.items():
                yield from _rows(part, f"{key}.{name}.")
        else:
            yield key, _one_line(value), meaning


def _one_line(value: Any) -> str:
    """Write a value as YAML on one line, as it could be given on the command line."""
    text = yaml.safe_dump(to_mapping(value), default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _own(entry: Entry) -> Text:
    parts = ", ".join([*entry.groups, *(f"{group} (may be null)" for group in entry.optional)])
    return Text.assemble(
        (entry.title, "bold"),
        f": {entry.summary}\nlearns from {entry.learns_from}; parts: {parts or 'those of all'}\n",
        f"presets: {', '.join(presets(entry.name))}\n",
        (entry.source, "dim"),
    )


def _overview() -> Table:
    table = Table.grid(padding=(0, 2))
    for entry in CATALOGUE.values():
        table.add_row(Text(entry.name, "bold"), _own(entry))
    return table


def _show(config: TrainConfig, console: Console) -> None:
    console.print(_own(CATALOGUE[config.algorithm]), "")
    table = Table(box=None, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("value")
    table.add_column("meaning")
    for key, value, meaning in rows(config):
        table.add_row(Text(key, "" if value else "bold"), Text(value), Text(meaning, "dim"))
    console.print(table)
