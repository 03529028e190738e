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
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock

from h2o_control import topics
from h2o_control.bag_messages import bag_files
from h2o_control.errors import DataError, UserError
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, steady_timer, value
from h2o_control.recorder_node import message_class

#: What the robot and its operator said.
PLAYED = (topics.ODOM, topics.IMU, topics.JOINT_STATES, topics.MODE, topics.INTERFACE, topics.BATTERY, topics.CMD_VEL)

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
        self._reader = open_bag(Path(value(self, "bag")))
        wanted = [c for c in self._reader.connections if topic_name(c) in PLAYED]
        self._messages: Iterator[tuple[Any, int, Any]] = iter(self._reader.messages(wanted))
        self._clock = self.create_publisher(Clock, "/clock", STREAM_QOS)
        self._outputs = {
            name: self.create_publisher(
                message_class(topics.TYPES[name]), name, LATCHED_QOS if name in topics.LATCHED else STREAM_QOS
            )
            for name in {topic_name(c) for c in wanted}
        }
        self._next = next(self._messages)
        self._bag_start_ns = self._next[1]
        self._length_s = (self._reader.end_time - self._bag_start_ns) * 1e-9
        self._created_s = time.monotonic()
        self._start_s: float | None = None
        self._reported_s = 0.0
        self._count = 0
        steady_timer(self, TICK_S, self._tick)

    def make_safe(self) -> None:
        """Close the bag."""
        self._reader.close()

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
        while (self._next[1] - self._bag_start_ns) * 1e-9 <= played_s:
            self._publish(*self._next)
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

    def _publish(self, connection: Any, _time_ns: int, data: Any) -> None:
        name = topic_name(connection)
        if name == topics.ODOM:
            self._clock.publish(Clock(clock=deserialize_message(bytes(data), Odometry).header.stamp))
        self._outputs[name].publish(bytes(data))
        self._count += 1

    def _finish(self) -> None:
        for name, publisher in self._outputs.items():
            if not publisher.wait_for_all_acked(Duration(seconds=5)):
                self.get_logger().warning(f"not every message on {name} arrived")
        self.get_logger().info(f"played {self._count} messages")
        self.finished = True


def topic_name(connection: Any) -> str:
    """Return a stored topic's name without the namespace of the robot that it was recorded from."""
    return str(connection.topic.rpartition("/")[2])


def open_bag(path: Path) -> AnyReader:
    """Open a bag of this project's topics for raw reading.

    Raises:
        DataError: no bag given, not a bag, nothing on /odom, or a topic with a type of its own.
    """
    if path == Path():
        raise DataError("no bag given: set the parameter bag to the folder of a bag")
    files, metadata = bag_files(path)
    if metadata.get("storage_identifier", "mcap") != "mcap":
        files = [path]
    try:
        reader = AnyReader(files, default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except AnyReaderError as error:
        raise DataError(f"cannot read {path}: {error}. Was its recorder killed? Then record again") from error
    counts = dict.fromkeys(topics.TYPES, 0)
    for connection in reader.connections:
        name = topic_name(connection)
        if name not in topics.TYPES:
            continue
        counts[name] += connection.msgcount
        if connection.msgtype != topics.TYPES[name]:
            reader.close()
            raise DataError(f"bag {path}: {connection.topic} is {connection.msgtype}, expected {topics.TYPES[name]}")
    if counts[topics.ODOM] == 0:
        there = ", ".join(sorted({c.topic for c in reader.connections}))
        reader.close()
        raise DataError(f"bag {path} has no messages on /{topics.ODOM}; topics in it: {there or 'none'}")
    return reader


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return run(BagPlayerNode, list(args) if args is not None else None)


if __name__ == "__main__":
    sys.exit(main())
