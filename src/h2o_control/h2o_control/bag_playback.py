# SPDX-License-Identifier: Apache-2.0
"""What of a bag is played into the graph again. No ROS here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from h2o_control import topics
from h2o_control.bag_source import RawMessage, StoredBag, open_bag
from h2o_control.errors import DataError

#: What the robot and its operator said.
PLAYED = (
    topics.ODOM,
    topics.IMU,
    topics.JOINT_STATES,
    topics.DEVICE_TIME,
    topics.MODE,
    topics.INTERFACE,
    topics.CONFIGURATION,
    topics.BATTERY,
    topics.CMD_VEL,
)


def name_of(topic: str) -> str:
    """Return a stored topic's name without the namespace of the robot that it was recorded from."""
    return topic.rpartition("/")[2]


def to_play(path: Path) -> StoredBag:
    """Open a bag of this project's topics; one whose recorder was killed is played as far as it is whole.

    Raises:
        DataError: no bag given, not a bag, nothing on /odom, or a topic with a type of its own.
    """
    if path == Path():
        raise DataError("no bag given: set the parameter bag to the folder of a bag")
    bag = open_bag(path)
    count = 0
    for episode in bag.episodes:
        episode.summarise()
        for topic in episode.topics:
            expected = topics.TYPES.get(name_of(topic.name), topic.type)
            if topic.type != expected:
                raise DataError(f"bag {path}: {topic.name} is {topic.type}, expected {expected}")
        count += sum(n for name, n in episode.counts.items() if name_of(name) == topics.ODOM)
    if count == 0:
        there = ", ".join(sorted({t.name for e in bag.episodes for t in e.topics}))
        raise DataError(f"bag {path} has no messages on /{topics.ODOM}; topics in it: {there or 'none'}")
    return bag


def played(bag: StoredBag) -> Iterator[RawMessage]:
    """Yield the messages to play, one file after the other."""
    for episode in bag.episodes:
        for message in episode.messages():
            if name_of(message.topic.name) in PLAYED:
                yield message
