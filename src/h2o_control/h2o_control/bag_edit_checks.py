# SPDX-License-Identifier: Apache-2.0
"""What bags must be to be made into others: whole, of one robot, and not where the new one is to lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from h2o_control import topics
from h2o_control.bag_loss import loss
from h2o_control.bag_source import StoredBag, StoredEpisode, robot_names
from h2o_control.contract import Interface
from h2o_control.errors import ContractError, DataError


def all_files(bag: StoredBag) -> list[Path]:
    """Every file that a bag consists of, for its hash."""
    files = [e.path for e in bag.episodes]
    return [f for path in files for f in (sorted(path.glob("*")) if path.is_dir() else [path]) if f.is_file()]


def require_outside(bags: Sequence[StoredBag], output: Path) -> None:
    """Refuse to write into a bag: its readers would take what lies there for its own."""
    folders = [bag.path.resolve() for bag in bags if bag.path.is_dir()]
    for folder in output.resolve().parents:
        if folder in folders or (folder / "metadata.yaml").is_file():
            raise DataError(f"{output} would lie inside the bag {folder}; give a place outside of it")


def refuse_damage(bag: StoredBag, episode: StoredEpisode) -> None:
    """Refuse an episode of which something is missing, so that nobody loses data without having said so."""
    found = loss(bag, episode)
    if found is not None:
        raise DataError(
            f"{episode.path} is damaged or was not finished: {found} would be missing ({found.why}). "
            f"`h2o-robot bag repair {bag.path}` keeps what is whole and notes the rest; --damaged goes on without. "
            "Nothing was written"
        )


def require_one_robot(bags: Sequence[StoredBag], several: bool) -> None:
    """Refuse what would not be one bag: of several robots (unless `several`), interfaces or namespaces."""
    robots = {", ".join(found): bag.path for bag in bags if (found := robot_names(bag))}
    if len(robots) > 1 and not several:
        whose = ", ".join(f"{path} is of robot {name}" for name, path in robots.items())
        raise DataError(f"{whose} (/{topics.CONFIGURATION}): a bag is of one robot. --different-robots merges them")
    first: tuple[StoredBag, Interface | None] | None = None
    kinds: dict[str, tuple[str, Path]] = {}
    names: dict[str, tuple[str, Path]] = {}
    for bag in bags:
        interface = bag.interface()
        if first is None:
            first = bag, interface
        _same_interface(*first, bag, interface)
        for topic in (t for e in bag.episodes for t in e.topics):
            kind, where = kinds.setdefault(topic.name, (topic.type, bag.path))
            if kind != topic.type:
                raise DataError(
                    f"{topic.name} is {kind} in {where}, {topic.type} in {bag.path}: they do not fit into one bag"
                )
            base = topic.name.rpartition("/")[2]
            if topics.TYPES.get(base) == topic.type:
                other, where = names.setdefault(base, (topic.name, bag.path))
                if other != topic.name:
                    raise DataError(
                        f"{where} has {other}, {bag.path} has {topic.name}: a bag is of one robot, under one namespace"
                    )


def _same_interface(a: StoredBag, mine: Interface | None, b: StoredBag, other: Interface | None) -> None:
    if mine is None and other is None:
        return
    if mine is None or other is None:
        silent = a if mine is None else b
        raise ContractError(
            f"bag {silent.path} does not say of which robot it is (no /{topics.INTERFACE}), the others do: "
            "they are not merged"
        )
    if mine.hash != other.hash:
        raise ContractError(
            f"bag {a.path} is from a robot with interface {mine.hash}, bag {b.path} from {other.hash}: "
            f"{mine.differences(other, a.path.name, b.path.name)}. Make one bag for each robot"
        )
