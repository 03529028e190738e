# SPDX-License-Identifier: Apache-2.0
"""What is in a bag, ours or anybody's: episodes, topics, rates, losses, labels, robot, software."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from h2o_control import bag_lock
from h2o_control.bag_loss import REPAIR_RECORD, Loss, both, earlier_loss, loss
from h2o_control.bag_source import Progress, StoredBag, StoredEpisode, open_bag, robot_names, silent

FINISHED, CUT_OFF, DAMAGED, WRITING = "finished", "cut off", "damaged", "being written"


@dataclass(frozen=True)
class TopicInfo:
    """One topic: messages there, a second, and lost; None: not known.

    Lost are those that the recorder missed, as far as it could count, and those that were in a file before its damage.
    """

    type: str
    messages: int
    rate_hz: float | None
    lost: int | None


@dataclass(frozen=True)
class EpisodeInfo:
    """One file.

    Attributes:
        start: of the first message, ISO 8601 in UTC, "" where there is none.
        state: FINISHED, CUT_OFF, DAMAGED (only where the chunks were checked) or WRITING.
        frames_missing: frames that the robot sent and the driver did not get; None where nobody counted.
        repaired: `h2o-robot bag repair` wrote it anew.
        missing: of what had been recorded: by damage now, before a repair, or in the bag that this one was made of.
    """

    file: str
    start: str
    duration_s: float
    messages: int
    size_bytes: int
    state: str
    label: str
    note: str
    end_reason: str
    frames_missing: int | None
    repaired: bool
    missing: Loss | None
    topics: dict[str, TopicInfo]


@dataclass(frozen=True)
class BagInfo:
    """One bag; `robot`, `interface_hash` and `software` are "" or empty where nothing says.

    Attributes:
        robot: name, or names where episodes are of several.
        duration_s: of all episodes, without the time between them.
        checked: every chunk was read and compared with its checksum.
    """

    path: str
    storage: str
    robot: str
    interface_hash: str
    software: dict[str, str]
    size_bytes: int
    duration_s: float
    messages: int
    checked: bool
    topics: dict[str, TopicInfo]
    episodes: tuple[EpisodeInfo, ...]


def bag_info(path: str | Path, check: bool = False, progress: Progress = silent) -> BagInfo:
    """Look at a bag, or at one .mcap file.

    Args:
        path: rosbag2 folder of any storage that rosbags reads, or one MCAP file.
        check: read every chunk, so that damage is found too; otherwise the indexes are believed.
        progress: called with the name of each file before it is read.

    Raises:
        DataError: not a bag, or one that cannot be read.
        ContractError: its interface is none that this version knows.
    """
    bag = open_bag(path)
    for episode in bag.episodes:
        progress(episode.name)
        if check:
            for _ in episode.messages():
                pass
        else:
            episode.summarise()
    folder = bag.path if bag.path.is_dir() else bag.path.parent
    running = bag_lock.is_held(folder)
    episodes = tuple(_episode(bag, e, running) for e in bag.episodes)
    custom = _custom(bag)
    interface = bag.interface()
    return BagInfo(
        path=str(path),
        storage=str(bag.information.get("storage_identifier", "mcap")),
        robot=", ".join(robot_names(bag)) or custom.get("robot", ""),
        interface_hash=interface.hash if interface else "",
        software=_software(bag, custom),
        size_bytes=sum(e.size_bytes for e in episodes),
        duration_s=sum(e.duration_s for e in episodes),
        messages=sum(e.messages for e in episodes),
        checked=check,
        topics=_all_topics(episodes),
        episodes=episodes,
    )


def _episode(bag: StoredBag, episode: StoredEpisode, running: bool) -> EpisodeInfo:
    row = bag.row(episode)
    state = FINISHED
    ended = episode.finished or (episode.scan is not None and episode.scan.ended)
    if episode.damages and ended:
        state = DAMAGED
    elif not episode.finished:
        state = WRITING if running else CUT_OFF
    start = "" if episode.start_ns is None else _date(episode.start_ns)
    # Topics that are not named here could not be counted.
    lost: dict[str, Any] | None = row.get("lost")
    missing = both(earlier_loss(bag, episode), loss(bag, episode) if state in (CUT_OFF, DAMAGED) else None)
    return EpisodeInfo(
        file=episode.name,
        start=start,
        duration_s=episode.duration_s,
        messages=episode.counts.total(),
        size_bytes=_size(episode.path),
        state=state,
        label=str(row.get("label", "")),
        note=str(row.get("note", "")),
        end_reason=str(row.get("end_reason", "")),
        frames_missing=row.get("frames_missing"),
        repaired="repaired" in row or any(m.name == REPAIR_RECORD for m in episode.metadata),
        missing=missing,
        topics={
            t.name: TopicInfo(
                t.type,
                episode.counts[t.name],
                _rate(episode.counts[t.name], episode.duration_s),
                _lost(t.name, lost, missing),
            )
            for t in episode.topics
        },
    )


def _lost(topic: str, on_the_way: dict[str, Any] | None, missing: Loss | None) -> int | None:
    counted = (on_the_way or {}).get(topic)
    from_file = missing.topics.get(topic) if missing else None
    return None if counted is None and from_file is None else int(counted or 0) + int(from_file or 0)


def _all_topics(episodes: Iterable[EpisodeInfo]) -> dict[str, TopicInfo]:
    types: dict[str, str] = {}
    counts: Counter[str] = Counter()
    lost: dict[str, int] = {}
    duration_s = 0.0
    for episode in episodes:
        duration_s += episode.duration_s
        for name, topic in episode.topics.items():
            types.setdefault(name, topic.type)
            counts[name] += topic.messages
            if topic.lost is not None:
                lost[name] = lost.get(name, 0) + topic.lost
    return {n: TopicInfo(kind, counts[n], _rate(counts[n], duration_s), lost.get(n)) for n, kind in types.items()}


def _rate(messages: int, duration_s: float) -> float | None:
    return messages / duration_s if duration_s > 0 else None


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def _date(stamp_ns: int) -> str:
    """Wall time of a stamp; a stamp of no calendar (a device's own clock) as seconds."""
    try:
        return datetime.fromtimestamp(stamp_ns * 1e-9, timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{stamp_ns * 1e-9:.3f} s"


def _custom(bag: StoredBag) -> dict[str, str]:
    """Custom data of metadata.yaml, else of the files themselves: a single file travels without its metadata.yaml."""
    own = (dict(m.metadata) for e in bag.episodes for m in e.metadata if m.name == "h2o")
    return bag.custom or next(own, {})


def _software(bag: StoredBag, custom: dict[str, str]) -> dict[str, str]:
    try:
        versions = json.loads(custom.get("h2o.software", "{}"))
    except ValueError:
        versions = {}
    found = {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
    distro = bag.information.get("ros_distro")
    return {**found, **({"ros_distro": str(distro)} if distro else {})}


def to_json(infos: Iterable[BagInfo]) -> str:
    """All bags as a JSON list, keys as the attributes here."""
    return json.dumps([dataclasses.asdict(info) for info in infos], indent=2)


def tables(info: BagInfo, episode: int | None = None) -> RenderableType:
    """The bag for the terminal; with `episode`, topics of that one."""
    versions = info.software
    by = f"h2o_control {versions['h2o_control']}" if "h2o_control" in versions else ""
    if versions.get("ros_distro", "unknown") != "unknown":
        by = f"{by}, ROS {versions['ros_distro']}".lstrip(", ")
    count = len(info.episodes)
    facts = [
        f"{count} episode{'' if count == 1 else 's'}, {info.duration_s:.1f} s",
        f"{info.messages} messages",
        f"{info.size_bytes / 1e6:.2f} MB {info.storage}",
        f"robot {info.robot}" if info.robot else "",
        f"interface {info.interface_hash}" if info.interface_hash else "",
        f"recorded by {by}" if by else "",
    ]
    heading = Text(info.path, style="bold")
    for line in (facts[:3], facts[3:]):
        if any(line):
            heading.append("\n" + " · ".join(fact for fact in line if fact), style="not bold")
    shown = info.topics if episode is None else info.episodes[episode].topics
    title = "" if episode is None else f"topics of {info.episodes[episode].file}"
    return Group(heading, _episode_table(info), _topic_table(shown, title), Text(_remark(info)))


def _episode_table(info: BagInfo) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    labelled = any(e.label or e.note for e in info.episodes)
    for name in ("#", "file", "start (UTC)", "s", "messages", "lost", *(["label"] if labelled else []), "ended"):
        right = name in ("#", "s", "messages", "lost")
        # What is one word stays on one line; dates, losses and remarks break between words.
        whole = name in ("#", "file", "s", "messages")
        table.add_column(name, justify="right" if right else "left", no_wrap=whole, overflow="fold")
    for k, e in enumerate(info.episodes):
        lost = _lost_text(e)
        if e.frames_missing:
            lost += f" and {e.frames_missing} frames"
        remarks = [
            remark for remark in (e.state if e.state != FINISHED else "", "repaired" if e.repaired else "") if remark
        ]
        ended = e.end_reason or ("" if remarks else "–")
        cells = (
            str(k),
            e.file,
            e.start.removesuffix("+00:00").replace("T", " "),
            f"{e.duration_s:.1f}",
            str(e.messages),
            lost,
            *([f"{e.label}: {e.note}" if e.label and e.note else e.label or e.note] if labelled else []),
            f"{ended} ({', '.join(remarks)})".lstrip() if remarks else ended,
        )
        # Notes, names of files and reasons are whatever somebody wrote: what looks like markup in them is text.
        table.add_row(*map(Text, cells))
    return table


def _lost_text(episode: EpisodeInfo) -> str:
    known = [t.lost for t in episode.topics.values() if t.lost is not None]
    count, missing = sum(known), episode.missing
    if missing is None:
        return str(count) if known else "–"
    if missing.messages is None:
        # Nothing says how many; a bound on the time at least.
        time = f"{missing.seconds + missing.unwritten_s:.1f} s"
        return f"{count} and {time}" if count else time
    counted = sum(missing.topics.get(name, 0) for name in episode.topics)
    return str(count - counted + missing.messages)


def _topic_table(shown: dict[str, TopicInfo], title: str) -> Table:
    table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("topic", "type", "messages", "Hz", "lost"):
        # In a narrow terminal it is the type that is shortened.
        left, shortened = name in ("topic", "type"), name == "type"
        table.add_column(
            name,
            justify="left" if left else "right",
            no_wrap=not shortened,
            overflow="ellipsis" if shortened else "fold",
        )
    for name, topic in shown.items():
        rate = "–" if topic.rate_hz is None else f"{topic.rate_hz:.1f}"
        lost = "–" if topic.lost is None else str(topic.lost)
        table.add_row(*map(Text, (name, topic.type, str(topic.messages), rate, lost)))
    return table


def _remark(info: BagInfo) -> str:
    lines = []
    bad = [e.file for e in info.episodes if e.state in (CUT_OFF, DAMAGED)]
    for e in info.episodes:
        if e.missing is not None:
            what = f"is {e.state}" if e.file in bad else "is incomplete"
            lines.append(f"{e.file} {what}: lost {e.missing}; {e.missing.why}")
        elif e.file in bad:
            lines.append(f"{e.file} is {e.state}")
    if bad:
        lines.append(f"h2o-robot bag repair {info.path} keeps every whole chunk")
    elif info.checked:
        lines.append("every chunk fits its checksum")
    return "\n".join(lines)
