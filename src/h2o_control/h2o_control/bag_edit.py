# SPDX-License-Identifier: Apache-2.0
"""Make bags out of bags: several into one, one into several, a stretch of one. Payload and stamps stay as they are.

What comes out is a finished MCAP bag, whatever the storage of what went in; it is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2o_control.bag_copies import Copies
from h2o_control.bag_copy import CopiedFile, bag_information, whole_folder
from h2o_control.bag_edit_checks import all_files, refuse_damage, require_one_robot, require_outside
from h2o_control.bag_loss import Loss, both, earlier_loss, loss
from h2o_control.bag_metadata import write_metadata
from h2o_control.bag_source import Progress, RawMessage, StoredBag, StoredEpisode, Topic, open_bag, silent
from h2o_control.errors import DataError
from h2o_control.provenance import files_sha256, now_utc, software


@dataclass(frozen=True)
class Made:
    """A bag that was made: where, from how many episodes, how many messages; `repeated` of them are latched ones.

    `missing` says what damaged sources lack, by file.
    """

    path: Path
    episodes: int
    messages: int
    duration_s: float
    repeated: int = 0
    missing: tuple[str, ...] = ()


def merge(
    paths: Sequence[str | Path],
    output: str | Path,
    progress: Progress = silent,
    damaged: bool = False,
    several_robots: bool = False,
) -> Made:
    """Put the episodes of several bags into one, in the order given.

    Args:
        paths: of the bags.
        output: bag to make.
        progress: called with the name of each file before it is read.
        damaged: take what is whole of damaged files, and note in the new bag what is missing.
        several_robots: take bags of robots with different names.

    Raises:
        DataError: not a bag, the same or a copy twice, one that is damaged, `output` exists or lies in a bag, topics
            of different types, or of two robots.
        ContractError: bags of different interfaces; says what differs.
    """
    bags = [open_bag(path) for path in paths]
    require_outside(bags, Path(output))
    resolved = [bag.path.resolve() for bag in bags]
    for bag, place in zip(bags, resolved, strict=True):
        if resolved.count(place) > 1:
            raise DataError(f"bag {bag.path} is given twice; each bag counts once")
        for episode in bag.episodes:
            progress(episode.name)
            episode.summarise()
    require_one_robot(bags, several_robots)
    sources = [(bag, episode) for bag in bags for episode in bag.episodes]
    with whole_folder(Path(output)) as folder:
        making = _Making(folder, Path(output).name, bags, "merge", damaged)
        copies = Copies()
        for bag, episode in sources:
            progress(episode.name)
            making.begin(episode.topics)
            copies.begin(bag.path, episode.name)
            for message in episode.messages():
                making.write(message)
                copies.take(message)
            copies.end()
            making.end(bag, episode, {})
        return making.finish(Path(output))


def split(
    path: str | Path,
    output: str | Path,
    every_s: float | None = None,
    progress: Progress = silent,
    damaged: bool = False,
) -> list[Made]:
    """Make a bag of each episode, or of each `every_s` seconds of each episode, in the folder `output`.

    Pieces begin with the latched messages as they were at that time. A piece ends with the first message that is late
    enough for the next one; a straggler behind it stays with the next.

    Raises:
        DataError: not a bag, nothing in it, damaged (unless `damaged` says to take what is whole), `output` exists or
            lies in the bag, or `every_s` is no positive number.
    """
    if every_s is not None and not 0.001 <= every_s < 1e9:
        raise DataError(f"pieces of {every_s:g} s cannot be made: give at least 0.001 s")
    bag, output = open_bag(path), Path(output)
    require_outside([bag], output)
    made = []
    with whole_folder(output) as folder:
        latched = _Latched()
        for k, episode in enumerate(bag.episodes):
            progress(episode.name)
            episode.summarise()
            if _ours(bag):
                latched.forget()
            source = StoredEpisode(episode.path)
            for n, (begin_s, messages) in enumerate(_pieces(source, episode.start_ns, every_s, latched)):
                name = f"{bag.path.stem}_{k}" + ("" if every_s is None else f"_{n}")
                place = folder / name
                place.mkdir()
                making = _Making(place, name, [bag], "split", damaged)
                making.begin(episode.topics)
                for message, repeated in messages:
                    making.write(message, repeated)
                making.end(bag, source, {} if every_s is None else {"from_s": begin_s, "to_s": begin_s + every_s})
                made.append(making.finish(output / name))
            if not damaged:
                refuse_damage(bag, source)
        if not made:
            raise DataError(f"bag {path} holds no message: there is nothing to split")
    return made


def cut(
    path: str | Path,
    output: str | Path,
    from_s: float,
    to_s: float,
    episode: int | None = None,
    progress: Progress = silent,
    damaged: bool = False,
) -> Made:
    """Make a bag of the messages received from `from_s` until before `to_s`, s since the first one of the episode.

    It begins with the latched messages as they were at that time, so that it stands alone.

    Args:
        path: of the bag.
        output: bag to make.
        from_s: seconds.
        to_s: seconds.
        episode: which one, from 0; needed where the bag has several.
        progress: called with the name of each file before it is read.
        damaged: take what is whole of a damaged file, and note in the new bag what is missing.

    Raises:
        DataError: not a bag, no such episode, nothing between the two times, it is damaged, or `output` exists or lies
            in the bag.
    """
    if not 0.0 <= from_s < to_s:
        raise DataError(
            f"from {from_s:g} s to {to_s:g} s is no stretch of time: --from must lie before --to, and not below 0"
        )
    bag = open_bag(path)
    require_outside([bag], Path(output))
    source = pick(bag, episode)
    progress(source.name)
    source.summarise()
    if source.start_ns is None:
        raise DataError(f"{source.name} of bag {path} holds no message")
    begin = source.start_ns + round(from_s * 1e9)
    end = source.start_ns + round(min(to_s, 1e9) * 1e9)
    with whole_folder(Path(output)) as folder:
        making = _Making(folder, Path(output).name, [bag], "cut", damaged)
        making.begin(source.topics)
        latched, within = _Latched(), 0
        for message in source.messages():
            if message.log_ns < begin:
                latched.take(message)
            elif message.log_ns < end:
                if not within:
                    making.repeat(latched, begin)
                within += 1
                making.write(message)
        if not within:
            raise DataError(
                f"{source.name} has no message from {from_s:g} s to {to_s:g} s: it lasts {source.duration_s:.1f} s"
            )
        if not damaged:
            refuse_damage(bag, source)
        making.end(bag, source, {"from_s": from_s, "to_s": min(to_s, source.duration_s)})
        return making.finish(Path(output))


def pick(bag: StoredBag, episode: int | None) -> StoredEpisode:
    """Return the episode with this number, or the only one; raises DataError naming what there is."""
    count = len(bag.episodes)
    if episode is None and count == 1:
        return bag.episodes[0]
    if episode is None:
        raise DataError(f"bag {bag.path} has {count} episodes: say which by --episode 0 to {count - 1}")
    if not 0 <= episode < count:
        raise DataError(f"bag {bag.path} has no episode {episode}: there are 0 to {count - 1}")
    return bag.episodes[episode]


class _Latched:
    """The last message of each latched topic, in the order in which they came."""

    def __init__(self) -> None:
        self._last: dict[Topic, RawMessage] = {}
        self._is_latched: dict[Topic, bool] = {}

    def take(self, message: RawMessage) -> None:
        topic = message.topic
        if topic not in self._is_latched:
            self._is_latched[topic] = topic.latched
        if self._is_latched[topic]:
            self._last.pop(topic, None)
            self._last[topic] = message

    def at(self, stamp_ns: int) -> Iterator[RawMessage]:
        """Yield them as if received at this time."""
        for message in self._last.values():
            yield message._replace(log_ns=stamp_ns, publish_ns=stamp_ns)

    def forget(self) -> None:
        self._last.clear()


def _pieces(
    source: StoredEpisode, start_ns: int | None, every_s: float | None, latched: _Latched
) -> Iterator[tuple[float, Iterator[tuple[RawMessage, bool]]]]:
    """Yield (begin in s, messages and whether repeated) for each piece; each must be used up before the next."""
    stream = source.messages()
    waiting = next(stream, None)
    if start_ns is None:
        return
    start, step = start_ns, None if every_s is None else round(every_s * 1e9)

    def piece(number: int) -> Iterator[tuple[RawMessage, bool]]:
        nonlocal waiting
        assert waiting is not None
        begin = start + number * (step or 0)
        yield from ((m, True) for m in latched.at(begin))
        while waiting is not None and (step is None or waiting.log_ns < begin + step):
            latched.take(waiting)
            yield waiting, False
            waiting = next(stream, None)

    while waiting is not None:
        number = 0 if step is None else max(0, (waiting.log_ns - start) // step)
        yield number * (every_s or 0.0), piece(number)


class _Making:
    """A bag in the making: one copied file after the other, then metadata.yaml."""

    def __init__(self, folder: Path, name: str, bags: Sequence[StoredBag], what: str, damaged: bool) -> None:
        self._folder, self._name, self._damaged = folder, name, damaged
        self._missing: list[str] = []
        self._episodes: list[StoredEpisode] = []
        self._rows: list[dict[str, Any]] = []
        self._repeated = self._repeated_here = 0
        self._custom = _common_custom(bags)
        self._distro = next((str(b.information["ros_distro"]) for b in bags if b.information.get("ros_distro")), "")
        sources = [
            {"name": b.path.name, "sha256": files_sha256(all_files(b)), "custom": _without_episodes(b)} for b in bags
        ]
        origin = {"made_by": what, "made_at": now_utc(), "software": software(), "bags": sources}
        self._custom["h2o.provenance"] = json.dumps(origin)

    def begin(self, declared: Iterable[Topic]) -> None:
        self._repeated_here = 0
        self._file = CopiedFile(self._folder / f"{self._name}_{len(self._episodes)}.mcap")
        self._file.declare(declared)

    def write(self, message: RawMessage, repeated: bool = False) -> None:
        self._repeated_here += repeated
        self._file.write(message)

    def repeat(self, latched: _Latched, stamp_ns: int) -> None:
        for message in latched.at(stamp_ns):
            self.write(message, True)

    def end(self, bag: StoredBag, source: StoredEpisode, part: Mapping[str, float]) -> None:
        """Finish the file; `part` says which seconds of the source it is, empty for all of it."""
        if not self._damaged and not part:
            refuse_damage(bag, source)
        row, missing = dict(bag.row(source)), self._lack(bag, source, part)
        row.pop("repaired", None)
        row.pop("damage", None)
        if part:
            # Counted over the whole episode.
            for key in ("received", "lost", "frames_missing"):
                row.pop(key, None)
        if missing is not None:
            row["damage"] = missing.row()
            self._missing.append(f"{source.name} lacks {missing}; {missing.why}")
        origin = {"bag": bag.path.name, "file": source.name, **part}
        name = self._file.episode.name
        row = {"label": "", "recorded_at": "", "end_reason": "", **row, "file": name, "source": origin}
        if self._repeated_here:
            row["repeated_messages"] = self._repeated_here
        for record in source.metadata:
            if not record.name.startswith("h2o"):
                self._file.add_metadata(record.name, record.metadata)
        self._file.add_metadata("h2o", {**self._custom, "h2o.episodes": json.dumps([row])})
        self._rows.append(row)
        self._episodes.append(self._file.finish())
        self._repeated += self._repeated_here

    def _lack(self, bag: StoredBag, source: StoredEpisode, part: Mapping[str, float]) -> Loss | None:
        """What the new file lacks because its source is damaged, or was before its repair."""
        if not part:
            return both(earlier_loss(bag, source), loss(bag, source))
        start = source.start_ns or 0
        return loss(bag, source, start + part["from_s"] * 1e9, start + part["to_s"] * 1e9)

    def finish(self, place: Path) -> Made:
        custom = {**self._custom, "h2o.episodes": json.dumps(self._rows)}
        write_metadata(self._folder, bag_information(self._episodes, custom, self._distro))
        return Made(
            place,
            len(self._episodes),
            sum(e.counts.total() for e in self._episodes),
            sum(e.duration_s for e in self._episodes),
            self._repeated,
            tuple(self._missing),
        )


def _ours(bag: StoredBag) -> bool:
    """Whether each file begins with the latched messages, as our recorder writes them."""
    return "h2o.episodes" in bag.custom


def _without_episodes(bag: StoredBag) -> dict[str, str]:
    own = (dict(m.metadata) for e in bag.episodes for m in e.metadata if m.name == "h2o")
    return {key: text for key, text in (bag.custom or next(own, {})).items() if key != "h2o.episodes"}


def _common_custom(bags: Sequence[StoredBag]) -> dict[str, str]:
    """Custom data in which all bags agree; the rest of it goes into the provenance."""
    first, *others = (_without_episodes(bag) for bag in bags)
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
