# SPDX-License-Identifier: Apache-2.0
"""Bags of arbitrary bytes, and what the mcap library itself finds in one: no reader of ours takes part in judging."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from hypothesis import strategies as st
from mcap.reader import make_reader

from bag_tools import START_NS
from h2o_control.bag_settings import BagSettings
from h2o_control.bag_writer import BagWriter

#: The first two are latched.
TYPES = {
    "/mode": "std_msgs/msg/String",
    "/policy": "std_msgs/msg/String",
    "/odom": "nav_msgs/msg/Odometry",
    "/imu": "sensor_msgs/msg/Imu",
}
LATCHED = ("/mode", "/policy")


class Raw(NamedTuple):
    topic: str
    stamp_ns: int
    sequence: int
    data: bytes


@st.composite
def episodes(draw: st.DrawFn, least: int = 1) -> list[list[Raw]]:
    """Up to three episodes of messages up to 0.1 s apart."""
    result, stamp = [], START_NS
    for _ in range(draw(st.integers(1, 3))):
        stamp += 10**9
        steps = draw(
            st.lists(
                st.tuples(st.sampled_from(list(TYPES)), st.integers(0, 10**8), st.binary(max_size=40)),
                min_size=least,
                max_size=25,
            )
        )
        messages = []
        for number, (topic, step_ns, data) in enumerate(steps):
            stamp += step_ns
            messages.append(Raw(topic, stamp, number, data))
        result.append(messages)
    return result


def write(path: Path, content: Sequence[Sequence[Raw]], types: dict[str, str] | None = None) -> Path:
    """A finished bag with these episodes; chunks of 0.2 s or 1 KiB, so that there are some."""
    writer = BagWriter(path, types or TYPES, settings=BagSettings(chunk_bytes=1024))
    for k, messages in enumerate(content):
        writer.start_episode(label=f"label {k}")
        for m in messages:
            writer.write(m.topic, m.data, m.stamp_ns, m.sequence)
        writer.end_episode()
    writer.close()
    return path


def read_file(file: Path) -> list[Raw]:
    with file.open("rb") as stream:
        rows = make_reader(stream, validate_crcs=True).iter_messages(log_time_order=False)
        result = []
        for _, channel, message in rows:
            assert message.publish_time == message.log_time
            result.append(Raw(channel.topic, message.log_time, message.sequence, message.data))
        return result


def information(path: Path) -> dict:  # type: ignore[type-arg]
    return yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


def rows(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return json.loads(information(path)["custom_data"]["h2o.episodes"])


def read(path: Path) -> list[list[Raw]]:
    """Messages of each episode, in the order of metadata.yaml, which must count them right."""
    info = information(path)
    content = [read_file(path / name) for name in info["relative_file_paths"]]
    assert info["message_count"] == sum(map(len, content))
    assert [f["message_count"] for f in info["files"]] == [len(c) for c in content]
    return content
