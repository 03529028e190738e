# SPDX-License-Identifier: Apache-2.0
"""Node that records the graph's topics as a rosbag2 directory: raw subscriptions straight into MCAP."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from h2o_control import topics
from h2o_control.clock import WallStamp
from h2o_control.errors import ConfigError, UserError, nearest
from h2o_control.node_tools import LATCHED_QOS, Parameter, declare, run, steady_timer, value
from h2o_control.recorder import Recorder

PARAMETERS = (
    Parameter("bag", "", "bag directory to create; an existing one is never overwritten"),
    Parameter("topics", list(topics.TYPES), "topics to record, names as in h2o_control.topics"),
    Parameter("auto_start", False, "record an episode whenever the robot is armed, end it when it is disarmed"),
    Parameter("label", "", "text stored with the episodes that start from now on", read_only=False),
)
#: Chunks reach the file at least this often; a tick also starts and stops episodes.
TICK_S = 0.1
#: Discovery sometimes takes 3 s; after this long without publishers the operator hears what is missing.
PATIENCE_S = 5.0
#: Half a second of a 200 Hz topic may wait while the disk is busy; reliable, so that nothing is dropped under way.
STREAM_QOS = QoSProfile(depth=100)


def message_class(kind: str) -> Any:
    """Import the class of a message type such as nav_msgs/msg/Odometry."""
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


class RecorderNode(Node):
    """Services recorder/start_episode and recorder/stop_episode around `Recorder`."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.exit_code = 0
        # A wall clock that is set during an episode must not reorder the bag.
        self._wall = WallStamp()
        declare(self, PARAMETERS)
        if not value(self, "bag"):
            raise ConfigError("parameter 'bag' is not set: give the bag directory to create, e.g. -p bag:=bags/walk")
        for name in value(self, "topics"):
            if name not in topics.TYPES:
                raise ConfigError(f"parameter 'topics': no topic {name!r}.{nearest(name, topics.TYPES)}")
        names = {name: self.resolve_topic_name(name) for name in value(self, "topics")}
        log = self.get_logger().info
        self.recorder = Recorder(value(self, "bag"), names, value(self, "auto_start"), value(self, "label"), log)
        for name in names:
            self._subscribe(name)
        self.create_service(Trigger, topics.START_EPISODE, self._start)
        self.create_service(Trigger, topics.STOP_EPISODE, self._stop)
        self._warned_s = time.monotonic()
        self._announced = False
        steady_timer(self, TICK_S, self._tick)

    def make_safe(self) -> None:
        """End a running episode, so that the bag is complete."""
        self._guard(self.recorder.close)

    def _subscribe(self, name: str) -> None:
        qos = LATCHED_QOS if name in topics.LATCHED else STREAM_QOS

        def receive(data: bytes) -> None:
            self._guard(lambda: self.recorder.take(name, data, self._wall.now_ns()))
            if name == topics.MODE:
                self._tick()  # armed: the first steps count

        self.create_subscription(message_class(topics.TYPES[name]), name, receive, qos, raw=True)

    def _guard(self, action: Callable[[], object]) -> str:
        """Run an action; what stops the recording is logged and returned, the node goes on."""
        try:
            action()
        except UserError as error:
            self.get_logger().error(str(error))
            # Control goes on, but whoever started this recording must learn that it is not whole.
            self.exit_code = 1
            return str(error)
        return ""

    def _published(self, full_name: str) -> bool:
        return bool(self.count_publishers(full_name) > 0)

    def _tick(self) -> None:
        self.recorder.label = value(self, "label")
        self._guard(lambda: self.recorder.tick(self._wall.now_ns(), self._published))
        if self._announced:
            return
        lacking = self.recorder.lacking(self._published)
        if not lacking:
            self.get_logger().info("ready: all topics of the driver are there")
            self._announced = True
        elif time.monotonic() - self._warned_s > PATIENCE_S:
            self.get_logger().warning(f"waiting for {', '.join(lacking)}: is the driver running?")
            self._warned_s = time.monotonic()

    def _start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        lacking = self.recorder.lacking(self._published)
        if lacking:
            response.success, response.message = False, f"nothing on {', '.join(lacking)} yet: is the driver running?"
            return response
        self.recorder.label = value(self, "label")
        response.message = self._guard(lambda: self.recorder.start(self._wall.now_ns()))
        response.success = self.recorder.recording
        if response.success:
            response.message = f"recording episode {len(self.recorder.episodes)}"
        return response

    def _stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        running = self.recorder.recording
        problem = self._guard(self.recorder.stop)
        response.success = running and not problem
        response.message = problem or ("stopped" if running else "no episode was being recorded")
        return response


def main() -> None:
    """Console script `recorder_node`."""
    sys.exit(run(RecorderNode))
