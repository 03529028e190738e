# SPDX-License-Identifier: Apache-2.0
"""metadata.yaml of a rosbag2 directory, version 9: what every rosbag2 reader looks at first."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rosbags.typesys import Stores, get_typestore

from h2o_control import topics
from h2o_control.atomic_file import write_atomically
from h2o_control.contract import Interface

LABEL_SUCCESS, LABEL_FALL = "success", "fall"
#: The standard messages are the same in all supported distributions.
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


@dataclass
class EpisodeInfo:
    """One file of the bag; times are receive stamps in ns, all zero while no message has come.

    Attributes:
        index: its number in the bag; the number of a discarded episode is not given again.
        label: LABEL_SUCCESS, LABEL_FALL, or what another program calls it; empty where nobody said.
        note: free text.
        end_reason: empty while it runs.
        counts: messages in the file, by topic.
        lost: messages that were sent and did not arrive, by topic; topics whose messages carry no numbers are left out.
        frames_missing: frames that the robot sent and the driver did not get, by the device's own numbers.
    """

    index: int
    file: str
    label: str
    recorded_at: str
    start_ns: int = 0
    end_ns: int = 0
    end_reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    readable: bool = False
    note: str = ""
    lost: dict[str, int] = field(default_factory=dict)
    frames_missing: int = 0

    @property
    def message_count(self) -> int:
        """Messages of all topics."""
        return sum(self.counts.values())

    def snapshot(self) -> EpisodeInfo:
        """Return a copy that later messages do not change."""
        return dataclasses.replace(self, counts=dict(self.counts), lost=dict(self.lost))

    def row(self) -> dict[str, Any]:
        """What custom data says of it; what was received and lost once it has ended."""
        row: dict[str, Any] = {
            "file": self.file,
            "label": self.label,
            "note": self.note,
            "recorded_at": self.recorded_at,
            "end_reason": self.end_reason,
        }
        if self.end_reason:
            row["received"] = {topic: count for topic, count in self.counts.items() if count}
            row["lost"] = dict(self.lost)
            row["frames_missing"] = self.frames_missing
        return row


def qos_profile(topic: str) -> dict[str, Any]:
    """QoS offered on a recorded topic, in the words of rosbag2 version 9; latched topics are transient local."""
    latched = topic.rpartition("/")[2] in topics.LATCHED
    forever = {"sec": 9223372036, "nsec": 854775807}
    return {
        "history": "keep_last",
        "depth": 1 if latched else 10,
        "reliability": "reliable",
        "durability": "transient_local" if latched else "volatile",
        "deadline": dict(forever),
        "lifespan": dict(forever),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(forever),
        "avoid_ros_namespace_conventions": False,
    }


def custom_data(
    labels: Mapping[str, str], software: Mapping[str, str], interface: Interface | None, episodes: Sequence[EpisodeInfo]
) -> dict[str, str]:
    """Key-value pairs for metadata.yaml and the MCAP metadata record `h2o`; values are text, structures are JSON."""
    rows = [episode.row() for episode in episodes]
    data = {**labels, "h2o.software": json.dumps(dict(software)), "h2o.episodes": json.dumps(rows)}
    if interface is not None:
        data.update({"h2o.interface": interface.to_json(), "h2o.interface_hash": interface.hash})
    return data


def bag_information(
    topic_types: Mapping[str, str], episodes: Sequence[EpisodeInfo], custom: Mapping[str, str]
) -> dict[str, Any]:
    """Content of metadata.yaml for these finished episodes."""
    filled = [e for e in episodes if e.message_count]
    start = min((e.start_ns for e in filled), default=0)
    end = max((e.end_ns for e in filled), default=0)
    return {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(e.message_count for e in episodes),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [qos_profile(topic)],
                    "type_description_hash": TYPESTORE.hash_rihs01(kind),
                },
                "message_count": sum(e.counts.get(topic, 0) for e in episodes),
            }
            for topic, kind in topic_types.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [e.file for e in episodes],
        "files": [
            {
                "path": e.file,
                "starting_time": {"nanoseconds_since_epoch": e.start_ns},
                "duration": {"nanoseconds": e.end_ns - e.start_ns},
                "message_count": e.message_count,
            }
            for e in episodes
        ],
        "custom_data": dict(custom),
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }


def write_metadata(folder: Path, information: Mapping[str, Any]) -> None:
    """Replace metadata.yaml in one step, so that a reader finds the old one or the new one; raises OSError."""
    text = yaml.safe_dump({"rosbag2_bagfile_information": dict(information)}, sort_keys=False, width=1000)
    write_atomically(folder / "metadata.yaml", text.encode(), sync=True)
