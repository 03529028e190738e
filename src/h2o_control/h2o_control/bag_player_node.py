# SPDX-License-Identifier: Apache-2.0
"""Plays what the robot said in a bag into the graph, so that the policy node answers it as it would a robot.

What a policy or the driver answered when the bag was recorded is never played: those topics are for the answers now.
`/clock` follows the stamps of /odom; the nodes that listen run with `use_sim_time`, so that the age of an observation
is what it was for the robot's own nodes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from h2o_control import topics
from h2o_control.bag_source import RawMessage, StoredBag, open_bag
from h2o_control.errors import DataError, UserError
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, steady_timer, value
from h2o_control.recorder_node import message_class

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

PARAMETERS = (
    Parameter("bag", "", "bag to play"),
    Parameter("rate", 1.0, "speed of the playback, 1.0 as recorded", low=0.05, high=20.0),
    Parameter("listeners", 1, "how many must listen on /odom before it starts", low=1, high=100),
    Parameter("wait_s", 5.0, "how long to wait for them", low=0.1, high=120.0),
)
TICK_S = 0.001
REPORT_S = 5.0


class BagPlayerNode(Node):
    """Publishes the messages of a bag at their recorded times, once somebody listens, and then finishes."""

    def __init__(self) -> None:
        super().__init__("bag_player")
        self.finished = False
        declare(self, PARAMETERS)
        self._rate: float = value(self, "rate")
        self._wait_s: float = value(self, "wait_s")
        self._wanted: int = value(self, "listeners")
        bag = to_play(Path(value(self, "bag")))
        self._messages = played(bag)
        self._clock = self.create_publisher(Clock, "/clock", STREAM_QOS)
        self._outputs = {
            name: self.create_publisher(
                message_class(topics.TYPES[name]), name, LATCHED_QOS if name in topics.LATCHED else STREAM_QOS
            )
            for name in {name_of(t.name) for e in bag.episodes for t in e.topics} & set(PLAYED)
        }
        self._next = next(self._messages)
        self._bag_start_ns = self._next.log_ns
        self._length_s = (max(e.end_ns or 0 for e in bag.episodes) - self._bag_start_ns) * 1e-9
        self._created_s = time.monotonic()
        self._start_s: float | None = None
        self._reported_s = 0.0
        self._count = 0
        steady_timer(self, TICK_S, self._tick)

    def _tick(self) -> None:
        if self.finished:
            return
        now_s = time.monotonic()
        if self._start_s is None:
            if not self._listeners(now_s):
                return
            self._start_s = now_s
            self.get_logger().info(f"playing {self._length_s:.1f} s at rate {self._rate:g}")
        played_s = (now_s - self._start_s) * self._rate
        while (self._next.log_ns - self._bag_start_ns) * 1e-9 <= played_s:
            self._publish(self._next)
            following = next(self._messages, None)
            if following is None:
                self._finish()
                return
            self._next = following
        if now_s - self._start_s - self._reported_s >= REPORT_S:
            self._reported_s += REPORT_S
            self.get_logger().info(f"{played_s:.0f} of {self._length_s:.0f} s played")

    def _listeners(self, now_s: float) -> bool:
        """Tell whether /odom and /clock are listened to by as many as are wanted; raise when that takes too long."""
        odom = self._outputs[topics.ODOM].get_subscription_count()
        clock = self._clock.get_subscription_count()
        if odom >= self._wanted and clock >= 1:
            return True
        if now_s - self._created_s > self._wait_s:
            raise UserError(
                f"after {self._wait_s:g} s {odom} of {self._wanted} listen on /odom and {clock} on /clock: "
                "start the policy node with the parameter use_sim_time set to true"
            )
        return False

    def _publish(self, message: RawMessage) -> None:
        name = name_of(message.topic.name)
        if name == topics.ODOM:
            self._clock.publish(Clock(clock=deserialize_message(message.data, Odometry).header.stamp))
        self._outputs[name].publish(message.data)
        self._count += 1

    def _finish(self) -> None:
        for name, publisher in self._outputs.items():
            if not publisher.wait_for_all_acked(Duration(seconds=5)):
                self.get_logger().warning(f"not every message on {name} arrived")
        self.get_logger().info(f"played {self._count} messages")
        self.finished = True


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


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return run(BagPlayerNode, list(args) if args is not None else None)


if __name__ == "__main__":
    sys.exit(main())
