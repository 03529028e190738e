# SPDX-License-Identifier: Apache-2.0
"""docs/loading.md, from what the benchmark measured and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from made_up_bag import STREAMS

from h2o_control import topics

#: The goals: times rosbags' speed, and memory for an hour at 1 kHz ("a few hundred MB").
RATIO = 10.0
HOUR_MIB = 600.0
#: What becomes transitions. The bag holds /imu too, which neither decodes.
READ = (topics.ODOM, topics.JOINT_STATES, topics.WHEEL_COMMAND, topics.DEVICE_TIME)
OWN, OTHER = "h2o", "rosbags"
_NAMES = {OWN: "`read_bag` and `episode_transitions`", OTHER: "`rosbags`, typed decode, nothing kept"}


def _median(part: Mapping[str, Any], reader: str, field: str) -> float:
    return statistics.median(reading[field] for reading in part["readings"][reader])


def _speed(part: Mapping[str, Any], reader: str) -> float:
    """Transitions a second of processor time; rosbags is granted those that its messages would make."""
    return float(part["readings"][OWN][0]["count"] / _median(part, reader, "cpu_s"))


def _verdict(met: bool) -> str:
    return "**met**" if met else "**not met**"


def page(parts: Mapping[str, Any]) -> str:
    """Return the page; parts that were not measured are said to be missing."""
    lines = ["# How fast a bag becomes transitions, and what recording costs", "", "Written by `make bench-data`.", ""]
    for name, text in (("loading", _loading), ("hour", _hour), ("recorder", _recorder)):
        if name not in parts:
            lines += [f"The part `{name}` was not measured.", ""]
            continue
        conditions = ", ".join(f"{key} {value}" for key, value in parts[name]["conditions"].items())
        lines += [*text(parts[name]), "", f"Measured on: {conditions}.", ""]
    return "\n".join(lines)


def _loading(part: Mapping[str, Any]) -> list[str]:
    ratio = _speed(part, OWN) / _speed(part, OTHER)
    rows = [["what", "transitions/s", "CPU (s)", "wall (s, from–to)", "peak memory (MiB)", "before reading"]]
    rows.append(["---"] * len(rows[0]))
    for reader, readings in part["readings"].items():
        seconds = [reading["seconds"] for reading in readings]
        rows.append(
            [
                _NAMES[reader],
                f"{_speed(part, reader):,.0f}",
                f"{_median(part, reader, 'cpu_s'):.2f}",
                f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
                f"{_median(part, reader, 'peak_mib'):.0f}",
                f"{_median(part, reader, 'base_mib'):.0f}",
            ]
        )
    own = part["readings"][OWN]
    return [
        "## Loading",
        "",
        f"- {_verdict(ratio >= RATIO)} — {RATIO:g} times as many transitions/s as rosbags decodes: "
        f"{_speed(part, OWN):,.0f} / {_speed(part, OTHER):,.0f} = {ratio:.1f}",
        "",
        f"A made-up bag of {part['samples']:,} samples at 1 kHz ({part['bag_mib']:.0f} MiB, zstd; "
        f"{', '.join(f'/{name}' for name in STREAMS)} as the driver publishes them), read in turn by processes of "
        f"their own, {len(own)} times each, from the page cache. Both decode "
        f"{', '.join(f'/{name}' for name in READ)}. Ours returns {own[0]['count']:,} transitions; rosbags throws each "
        "message away and is granted as many. Seconds are those of the processor, medians; each uses one core. Chunks "
        "are checked against their checksums. Messages that are laid out like no others are read one by one by rosbags "
        "(`h2o_control/bag_columns.py`).",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _hour(part: Mapping[str, Any]) -> list[str]:
    reading = part["reading"]
    return [
        "## Memory for an hour at 1 kHz",
        "",
        f"- {_verdict(reading['loaded_mib'] <= HOUR_MIB)} — {part['samples'] / 1e6:g} million samples read in "
        f"{HOUR_MIB:g} MiB at most: {reading['loaded_mib']:.0f} MiB at the peak of `read_bag`, "
        f"{reading['base_mib']:.0f} of it before anything is read",
        "",
        f"The bag takes {part['bag_mib'] / 1024:.1f} GiB and {reading['loaded_cpu_s']:.1f} s of the processor. The "
        "file is streamed, and what is not asked for is not kept. Finding the "
        f"{reading['count']:,} transitions in it took another {reading['cpu_s'] - reading['loaded_cpu_s']:.1f} s and "
        f"brought the peak to {reading['peak_mib']:.0f} MiB.",
    ]


def _recorder(part: Mapping[str, Any]) -> list[str]:
    return [
        "## Recording",
        "",
        f"The recorder took {part['cpu_percent']:.1f} % of a core at {part['messages_per_s']:.0f} messages/s from a "
        f"process of its own, over {part['seconds']:.0f} s; it wrote {part['kib_per_s']:.0f} KiB/s and lost "
        f"{part['lost']} messages.",
    ]
