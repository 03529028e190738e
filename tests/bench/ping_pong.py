# SPDX-License-Identifier: Apache-2.0
"""The floor of the control loop: two bare rclpy processes that send the loop's messages to and fro, nothing else.

`ping` publishes an Odometry at absolute deadlines, from a thread as the driver does; `pong` answers each with a
JointState of the same stamp; ping's executor takes it. The time from before publishing to the callback is counted.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import JointState

from h2o_control import topics
from h2o_control.histogram import Histogram
from h2o_control.node_tools import STREAM_QOS, run
from h2o_control.realtime import RealTime, apply

#: Discovery must be over before the first message counts.
PATIENCE_S = 20.0


class Pong(Node):
    """Answers."""

    def __init__(self, priority: int) -> None:
        super().__init__("pong")
        self._answer = JointState(name=list(topics.WHEELS), effort=[0.1, 0.1])
        self._publisher = self.create_publisher(JointState, topics.WHEEL_TORQUE, STREAM_QOS)
        self.create_subscription(Odometry, topics.ODOM, self._on_odom, STREAM_QOS)
        apply(RealTime(priority=priority))

    def _on_odom(self, message: Odometry) -> None:
        self._answer.header.stamp = message.header.stamp
        self._publisher.publish(self._answer)


class Ping(Node):
    """Asks at a rate for a time, then is finished; `histogram` holds the round trips, s."""

    def __init__(self, rate_hz: float, seconds: float, priority: int) -> None:
        super().__init__("ping")
        self.finished = False
        self.histogram = Histogram()
        self.sent = 0
        self._rate_hz, self._seconds = rate_hz, seconds
        self._asked: deque[tuple[int, float]] = deque(maxlen=256)
        self._message = Odometry()
        self._message.header.frame_id, self._message.child_frame_id = "odom", "base_link"
        self._publisher = self.create_publisher(Odometry, topics.ODOM, STREAM_QOS)
        self.create_subscription(JointState, topics.WHEEL_TORQUE, self._on_answer, STREAM_QOS)
        apply(RealTime(priority=priority))
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def make_safe(self) -> None:
        """Wait for the thread that asks."""
        self.finished = True
        self._thread.join()

    def _ask(self) -> None:
        begun = time.monotonic()
        while self._publisher.get_subscription_count() == 0 and not self.finished:
            if time.monotonic() - begun > PATIENCE_S:
                self.finished = True
            time.sleep(0.05)
        start = time.monotonic() + 0.5
        while not self.finished and self.sent < self._rate_hz * self._seconds:
            time.sleep(max(0.0, start + self.sent / self._rate_hz - time.monotonic()))
            asked = time.monotonic()
            stamp_ns = int(asked * 1e9)
            self._message.header.stamp.sec, self._message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
            self._asked.append((stamp_ns, asked))
            self._publisher.publish(self._message)
            self.sent += 1
        time.sleep(0.2)
        self.finished = True

    def _on_answer(self, message: JointState) -> None:
        now = time.monotonic()
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        asked = next((at for stamp, at in reversed(self._asked) if stamp == stamp_ns), None)
        if asked is not None:
            self.histogram.add(now - asked)


def main() -> int:
    """Run one end; ping prints its histogram at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("ping", "pong"))
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--priority", type=int, default=0)
    args = parser.parse_args()
    if args.role == "pong":
        return run(lambda: Pong(args.priority), [])
    made: list[Ping] = []

    def make() -> Node:
        made.append(Ping(args.rate, args.seconds, args.priority))
        return made[0]

    code = run(make, [])
    print(made[0].histogram.to_text(), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
