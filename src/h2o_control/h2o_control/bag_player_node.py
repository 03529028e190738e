# SPDX-License-Identifier: Apache-2.0
"""Plays what the robot said in a bag into the graph, so that the policy node answers it as it would a robot.

What a policy or the driver answered when the bag was recorded is never played: those topics are for the answers now.
`/clock` follows the stamps of /odom; the nodes that listen run with `use_sim_time`, so that the age of an observation
is what it was for the robot's own nodes. Every observation is to be answered, and in the mode in which it was recorded,
however busy this machine is: that matters more than when.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from h2o_control import topics
from h2o_control.bag_playback import PLAYED, name_of, played, to_play
from h2o_control.bag_source import RawMessage
from h2o_control.errors import UserError
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, path, run, steady_timer, value
from h2o_control.played_time import PLAYED_QOS
from h2o_control.recorder_node import message_class

PARAMETERS = (
    Parameter("bag", "", "bag to play"),
    Parameter("rate", 1.0, "speed of the playback, 1.0 as recorded", low=0.05, high=20.0),
    Parameter("listeners", 1, "how many must listen on /odom before it starts", low=1, high=100),
    Parameter("wait_s", 5.0, "how long to wait for them", low=0.1, high=120.0),
)
TICK_S = 0.001
REPORT_S = 5.0
#: Real time during which nothing is played before and after messages on latched topics: listeners take topics in no
#: order, and a mode must not reach a policy before the observations that came before it, nor after those that did not.
SETTLE_S = 0.3
#: Further behind than this, s of the bag's time, it slips instead of racing to catch up.
PATIENCE_S = 0.02


class BagPlayerNode(Node):
    """Publishes the messages of a bag at their recorded times, once somebody listens, and then finishes."""

    def __init__(self) -> None:
        super().__init__("bag_player")
        self.finished = False
        declare(self, PARAMETERS)
        self._rate: float = value(self, "rate")
        self._wait_s: float = value(self, "wait_s")
        self._wanted: int = value(self, "listeners")
        bag = to_play(path(self, "bag"))
        self._episodes = bag.episodes
        self._messages = played(bag)
        self._clock = self.create_publisher(Clock, "/clock", STREAM_QOS)
        self._outputs = {
            name: self.create_publisher(
                message_class(topics.TYPES[name]), name, LATCHED_QOS if name in topics.LATCHED else PLAYED_QOS
            )
            for name in {name_of(t.name) for e in bag.episodes for t in e.topics} & set(PLAYED)
        }
        end_ns = max(e.end_ns or 0 for e in bag.episodes)
        self._next = next(self._messages)
        self._bag_start_ns = self._next.log_ns
        self._length_s = (end_ns - self._bag_start_ns) * 1e-9
        self._created_s = time.monotonic()
        self._start_s: float | None = None
        self._latched = True
        self._quiet_until_s = 0.0
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
        if now_s < self._quiet_until_s:
            return
        due_s = self._start_s + (self._next.log_ns - self._bag_start_ns) * 1e-9 / self._rate
        self._start_s += max(0.0, now_s - due_s - PATIENCE_S / self._rate)
        played_s = (now_s - self._start_s) * self._rate
        while (self._next.log_ns - self._bag_start_ns) * 1e-9 <= played_s:
            name = name_of(self._next.topic.name)
            latched = name in topics.LATCHED
            if latched != self._latched:
                self._latched, self._quiet_until_s = latched, now_s + SETTLE_S
                return
            self._publish(name, self._next)
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

    def _publish(self, name: str, message: RawMessage) -> None:
        if name == topics.ODOM:
            self._clock.publish(Clock(clock=deserialize_message(message.data, Odometry).header.stamp))
        self._outputs[name].publish(message.data)
        self._count += 1

    def _finish(self) -> None:
        for name, publisher in self._outputs.items():
            if not publisher.wait_for_all_acked(Duration(seconds=5)):
                self.get_logger().warning(f"not every message on {name} arrived")
        for episode in self._episodes:
            if episode.damages or not episode.finished:
                self.get_logger().warning(f"{episode.name} is cut off or damaged: what of it is whole was played")
        self.get_logger().info(f"played {self._count} messages")
        self.finished = True


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return run(BagPlayerNode, list(args) if args is not None else None)


if __name__ == "__main__":
    sys.exit(main())
