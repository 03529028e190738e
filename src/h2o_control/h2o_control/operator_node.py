# SPDX-License-Identifier: Apache-2.0
"""What every operator does: watch the mode, command speed, call the driver's services one at a time."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.neighbours import publisher_names
from h2o_control.node_tools import LATCHED_QOS, STEADY_CLOCK, STREAM_QOS

#: Speed commands are repeated this often; the driver forgets one after 0.2 s.
TICK_S = 0.05
#: What was refused is not asked for again before this; what is asked for otherwise goes through.
RETRY_S = 0.5
#: A request that is not answered after this long does not keep others back any more: who had it may be gone.
ANSWER_S = 3.0
#: Key of the driver's diagnostics.
HEIGHT = "height of hips (m)"


class OperatorNode(Node):
    """Knows the driver's mode and the robot's state, commands speed, calls services.

    Attributes:
        mode, reason: in command, and the reason of the last change.
        falls, holds: how often a fault stopped the robot, and how often a limit made the driver hold it.
        odom_at_s: when the robot's state was last heard, monotonic; minus infinity before.
        height_m: of the hips above the axle; NaN before the driver has said it.
        said: the last answer to a request, until the mode changes; `refusal` is the same where it was not granted,
            else "".
    """

    def __init__(self, name: str, watch_state: bool = True) -> None:
        """Join the graph; without `watch_state`, `odom` stays empty and its 200 messages a second cost nothing."""
        super().__init__(name)
        self.mode = ""
        self.reason = ""
        self.mode_since_s = time.monotonic()
        self.falls = 0
        self.holds = 0
        self.odom = Odometry()
        self.odom_at_s = -math.inf
        self.height_m = math.nan
        self.said = ""
        self.refusal = ""
        self._pending: Future[Any] | None = None
        self._asked_at_s = 0.0
        #: By request: until when it is not made again, and why it was refused.
        self._held_back: dict[tuple[str, bool | None], tuple[float, str]] = {}
        self._created_s = time.monotonic()
        self._speed = self.create_publisher(TwistStamped, topics.CMD_VEL, STREAM_QOS)
        self._height = self.create_publisher(Float64, topics.CMD_HEIGHT, STREAM_QOS)
        self._stop = self.create_publisher(Bool, topics.ESTOP_TOPIC, STREAM_QOS)
        self.arm = self.create_client(Trigger, topics.ARM)
        self.disarm = self.create_client(Trigger, topics.DISARM)
        self.estop = self.create_client(Trigger, topics.ESTOP)
        self.torque_mode = self.create_client(SetBool, topics.TORQUE_MODE)
        self.stand_up = self.create_client(Trigger, topics.STAND_UP)
        self.sit_down = self.create_client(Trigger, topics.SIT_DOWN)
        self.create_subscription(String, topics.MODE, self._on_mode, LATCHED_QOS)
        if watch_state:
            self.create_subscription(Odometry, topics.ODOM, self._on_odom, STREAM_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, STREAM_QOS)

    @property
    def in_mode_s(self) -> float:
        """How long the present mode has lasted."""
        return time.monotonic() - self.mode_since_s

    def _on_mode(self, message: String) -> None:
        mode, _, self.reason = message.data.partition(": ")
        if mode != self.mode:
            self.mode_since_s = time.monotonic()
            self.said = self.refusal = ""
            self.falls += mode == topics.FAULT
            self.holds += mode == topics.HOLD
        self.mode = mode

    def _on_odom(self, message: Odometry) -> None:
        self.odom, self.odom_at_s = message, time.monotonic()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for pair in status.values:
                if status.name == "driver" and pair.key == HEIGHT:
                    self.height_m = float(pair.value)

    def drive(self, v_mps: float, yaw_radps: float) -> None:
        """Command a speed and a yaw rate now."""
        message = TwistStamped()
        message.header.stamp = self.get_clock().now().to_msg()
        message.twist.linear.x = v_mps
        message.twist.angular.z = yaw_radps
        self._speed.publish(message)

    def take_height(self, height_m: float) -> None:
        """Ask for a height of the hips above the axle; the driver's log says where it refuses."""
        self._height.publish(Float64(data=height_m))

    def stop_now(self) -> None:
        """Stop the robot, whatever else is going on: by the topic and, where it answers, by the service."""
        self.stop_by_topic()
        self.call(self.estop, urgent=True)

    def stop_by_topic(self) -> None:
        """Stop the robot by the topic alone."""
        self._stop.publish(Bool(data=True))

    def release(self) -> None:
        """Let go for good: speed zero, and a policy in command loses it; does not wait for an answer."""
        self.drive(0.0, 0.0)
        if self.mode == topics.TORQUE and self.torque_mode.service_is_ready():
            self.torque_mode.call_async(SetBool.Request(data=False))
            # A node that is destroyed at once takes what it has just sent with it.
            time.sleep(0.1)

    def call(self, client: Client[Any, Any, Any], on: bool | None = None, urgent: bool = False) -> None:
        """Call a service; the answer is kept in `said`, refusals are logged and kept in `refusal`.

        Args:
            client: of a Trigger service, or of a SetBool service where `on` is given.
            on: the value of a SetBool request.
            urgent: do not wait for an earlier call to be answered.
        """
        now_s = time.monotonic()
        busy = self._pending is not None and not self._pending.done() and now_s - self._asked_at_s < ANSWER_S
        if not urgent and busy:
            self.refusal = "an earlier request is not answered yet"
        until_s, why = self._held_back.get((client.srv_name, on), (-math.inf, ""))
        if not urgent and not busy and now_s < until_s:
            self.refusal = f"refused a moment ago: {why}"
        if not urgent and (busy or now_s < until_s):
            return
        if not client.service_is_ready():
            self.refusal = f"nobody offers {client.srv_name}"
            if now_s - self._created_s > 10.0:
                self.report(self.refusal)
            return
        request = Trigger.Request() if on is None else SetBool.Request(data=on)
        self._asked_at_s = now_s
        self._pending = client.call_async(request)
        self._pending.add_done_callback(partial(self._answered, client.srv_name, on))

    def _answered(self, service: str, on: bool | None, future: Future[Any]) -> None:
        answer = future.result()
        self.refusal = self.said = ""
        if answer is None:
            return
        # What was granted before the mode changed, the mode now says better.
        if answer.success and self._asked_at_s > self.mode_since_s:
            self.said = answer.message
        if not answer.success:
            self.said = self.refusal = answer.message + (self.shadow_hint() if on else "")
            self._held_back[service, on] = time.monotonic() + RETRY_S, self.refusal
            self.report(f"refused: {self.refusal}")

    def report(self, text: str) -> None:
        """Say why a request came to nothing: in the log, unless there is a screen that says it."""
        self.get_logger().warning(text, throttle_duration_sec=2.0, throttle_time_source_type=STEADY_CLOCK)

    def shadow_hint(self) -> str:
        """Return what to add where no policy could be given command and all there are watch only; "" where not so."""
        shadows = publisher_names(self, topics.SHADOW_TORQUE)
        if not shadows or self.count_publishers(topics.WHEEL_TORQUE):
            return ""
        return f" {', '.join(shadows)} only watches, as a shadow: start a policy node without shadow:=true"
