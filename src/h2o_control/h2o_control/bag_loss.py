# SPDX-License-Identifier: Apache-2.0
"""What a damaged or cut-off file of a bag has lost, by all that still knows: its index, metadata.yaml, its chunks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2o_control.bag_scan import Damage, McapScan
from h2o_control.bag_source import StoredBag, StoredEpisode

#: Name of the metadata record in which a repaired file keeps its loss.
REPAIR_RECORD = "h2o.repair"
_NAMED = 3


@dataclass(frozen=True)
class Loss:
    """What is missing of a file.

    Attributes:
        bytes: that hold no whole record.
        messages: None where nothing says how many.
        seconds: time without messages because of it, s.
        unwritten_s: bound on what had not been written yet when the file was cut off, s; 0 where its end is known.
        topics: messages by topic, as far as something says.
        reasons: what is wrong, and where.
    """

    bytes: int
    messages: int | None
    seconds: float
    unwritten_s: float = 0.0
    topics: dict[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """How much, for the operator."""
        count = "" if self.messages is None else f" and {self.messages} messages"
        text = f"{self.bytes} bytes{count}, {self.seconds:.2f} s"
        if self.unwritten_s:
            text += f", and at most about {self.unwritten_s:.2f} s that had not been written (its longest chunk)"
        return text

    @property
    def why(self) -> str:
        """The first reasons, and how many more there are."""
        more = len(self.reasons) - _NAMED
        return "; ".join(self.reasons[:_NAMED]) + (f"; and {more} more" if more > 0 else "")

    def row(self) -> dict[str, Any]:
        """For custom data."""
        return {
            "lost_bytes": self.bytes,
            "lost_messages": self.messages,
            "lost_s": round(self.seconds, 6),
            "unwritten_s": round(self.unwritten_s, 6),
            "lost": dict(self.topics),
            "reasons": list(self.reasons),
        }


def of_row(row: Mapping[str, Any]) -> Loss:
    """Read what `Loss.row` wrote; what is missing or no number counts as nothing known."""
    topics, reasons, messages = row.get("lost"), row.get("reasons"), row.get("lost_messages")
    return Loss(
        int(_number(row.get("lost_bytes"))),
        messages if isinstance(messages, int) else None,
        _number(row.get("lost_s")),
        _number(row.get("unwritten_s")),
        {str(k): int(_number(v)) for k, v in topics.items()} if isinstance(topics, dict) else {},
        tuple(map(str, reasons)) if isinstance(reasons, list) else (),
    )


def both(a: Loss | None, b: Loss | None) -> Loss | None:
    """Return the sum of two losses of one file."""
    if a is None or b is None:
        return a or b
    return Loss(
        a.bytes + b.bytes,
        None if a.messages is None or b.messages is None else a.messages + b.messages,
        a.seconds + b.seconds,
        a.unwritten_s + b.unwritten_s,
        dict(Counter(a.topics) + Counter(b.topics)),
        (*a.reasons, *b.reasons),
    )


def earlier_loss(bag: StoredBag, episode: StoredEpisode) -> Loss | None:
    """What was lost before this file was made, by repair or of a damaged source; None where nothing says."""
    total: Loss | None = None
    for record in episode.metadata:
        if record.name == REPAIR_RECORD:
            total = both(total, of_row({key: _value(text) for key, text in record.metadata.items()}))
    row = bag.row(episode)
    if total is None and isinstance(row.get("repaired"), dict):
        total = of_row(row["repaired"])
    return both(total, of_row(row["damage"])) if isinstance(row.get("damage"), dict) else total


def loss(
    bag: StoredBag, episode: StoredEpisode, begin_ns: float = float("-inf"), end_ns: float = float("inf")
) -> Loss | None:
    """Say what is missing of a file that has been read; None where nothing is, or it was not read.

    Args:
        bag: that the file belongs to; its metadata.yaml may tell what the file cannot.
        episode: the file.
        begin_ns: of a stretch of it; messages are counted for whole files only.
        end_ns: of that stretch.
    """
    scan = episode.scan
    if scan is None or (scan.finished and not scan.damages):
        return None
    known = _known(bag, episode, scan)
    whole = begin_ns == float("-inf") and end_ns == float("inf")
    last_ns = known.start_ns if episode.end_ns is None else episode.end_ns
    damages = [d for d in scan.damages if whole or _overlaps(d, begin_ns, end_ns)]
    to_the_end = end_ns > (last_ns or 0) and (not scan.finished or any(_at_end(d, scan) for d in damages))
    if not damages and not to_the_end:
        return None
    seconds = tail = 0.0
    for damage in damages:
        after = known.start_ns if damage.after_ns is None else damage.after_ns
        if after is not None and damage.before_ns is not None:
            span = max(0.0, min(damage.before_ns, end_ns) - max(after, begin_ns)) * 1e-9
            seconds, tail = (seconds, max(tail, span)) if _at_end(damage, scan) else (seconds + span, tail)
    if to_the_end and last_ns is not None and known.end_ns is not None:
        tail = max(tail, (min(known.end_ns, end_ns) - max(last_ns, begin_ns)) * 1e-9)
    messages = known.messages if whole else None
    reasons = [f"at byte {d.offset}: {d.reason}" for d in damages] or ["it ends without an index"]
    return Loss(
        bytes=sum(d.size for d in damages),
        messages=None if messages is None else messages - episode.counts.total(),
        seconds=seconds + tail,
        unwritten_s=scan.longest_chunk_ns * 1e-9 if to_the_end and known.messages is None else 0.0,
        topics=dict(known.counts - episode.counts) if whole else {},
        reasons=tuple(reasons),
    )


@dataclass(frozen=True)
class _Known:
    """What a file held when it was whole: messages in all and by topic, first and last stamp; None: nothing says."""

    messages: int | None
    counts: Counter[str]
    start_ns: int | None
    end_ns: int | None


def _known(bag: StoredBag, episode: StoredEpisode, scan: McapScan) -> _Known:
    there = episode.counts.total()
    statistics = scan.index.statistics if scan.index else None
    if statistics is not None and statistics.message_count >= there:
        counts: Counter[str] = Counter()
        for channel, count in statistics.channel_message_counts.items():
            if channel in scan.channels:
                counts[scan.channels[channel].topic] += count
        return _Known(statistics.message_count, counts, statistics.message_start_time, statistics.message_end_time)
    if scan.ended and all(d.offset >= scan.data_end for d in scan.damages):
        return _Known(there, Counter(), episode.start_ns, episode.end_ns)
    try:
        known = _listed(bag, episode.name)
    except (KeyError, TypeError, ValueError, AttributeError):
        # Other people's metadata.yaml of some other version.
        known = None
    # Listed while it was still being written, or not at all.
    return known if known and (known.messages or 0) >= max(there, 1) else _Known(None, Counter(), None, None)


def _listed(bag: StoredBag, name: str) -> _Known | None:
    """What metadata.yaml says of a file."""
    information = bag.information
    alone = [Path(str(n)).name for n in information.get("relative_file_paths", [])] == [name]
    rows = [f for f in information.get("files") or [] if Path(str(f["path"])).name == name]
    if not rows and not alone:
        return None
    row = rows[0] if rows else information
    start = int(row["starting_time"]["nanoseconds_since_epoch"])
    counts: Counter[str] = Counter()
    if alone:
        for topic in information["topics_with_message_count"]:
            counts[str(topic["topic_metadata"]["name"])] += int(topic["message_count"])
    else:
        # Of what the recorder received, a repaired file holds less than this.
        stored = bag.row(StoredEpisode(bag.path / name))
        if "repaired" not in stored and "damage" not in stored:
            counts.update({str(k): int(v) for k, v in (stored.get("received") or {}).items()})
    count = int(row["message_count"])
    if counts.total() != count:
        counts.clear()
    return _Known(count, counts, start, start + int(row["duration"]["nanoseconds"]))


def _overlaps(damage: Damage, begin_ns: float, end_ns: float) -> bool:
    after = float("-inf") if damage.after_ns is None else damage.after_ns
    before = float("inf") if damage.before_ns is None else damage.before_ns
    return after < end_ns and before > begin_ns


def _at_end(damage: Damage, scan: McapScan) -> bool:
    return damage.offset + damage.size >= scan.data_end > damage.offset


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
