# SPDX-License-Identifier: Apache-2.0
"""The operator: a script that drives for data collection, one that runs a policy, or a person at the keyboard."""

from __future__ import annotations

import sys
import time
from typing import Any

from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.errors import ConfigError, nearest
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, value
from h2o_control.operator_script import ScriptedOperator

OPERATORS = ("script", "deploy", "keyboard")
PARAMETERS = (
    Parameter("operator", "script", "script drives for data, deploy runs a policy, keyboard is you"),
    Parameter("duration_s", 90.0, "how long to drive, or to leave the policy in command, s", 1.0, 36000.0),
    Parameter("seed", 0, "of the script"),
    Parameter(
        "settle_s", 2.0, "how long the driver balances before driving begins or a policy takes over, s", 0.2, 60.0
    ),
)
TICK_S = 0.05
#: How long the operator takes to pick up a fallen robot and hold it upright.
PICK_UP_S = 2.0
#: A robot that falls more often than this has something wrong with it.
MAX_FALLS = 20


class OperatorNode(Node):
    """Arms, drives or hands over to the policy for a time, picks the robot up when it falls, disarms at the end."""

    def __init__(self) -> None:
        super().__init__("teleop")
        declare(self, PARAMETERS)
        self.finished = False
        self.exit_code = 0
        self._kind = str(value(self, "operator"))
        if self._kind not in OPERATORS:
            raise ConfigError(f"operator is {self._kind!r}.{nearest(self._kind, OPERATORS)}")
        self._duration_s = float(value(self, "duration_s"))
        self._settle_s = float(value(self, "settle_s"))
        self._script = ScriptedOperator(int(value(self, "seed")))
        self._mode = ""
        self._reason = ""
        self._mode_since_s = time.monotonic()
        self._x_m = 0.0
        self._driven_s = 0.0
        self._falls = 0
        self._pending: Future[Any] | None = None
        self._handed_over = False
        self._speed = self.create_publisher(TwistStamped, topics.CMD_VEL, STREAM_QOS)
        self._arm = self.create_client(Trigger, topics.ARM)
        self._disarm = self.create_client(Trigger, topics.DISARM)
        self._torque_mode = self.create_client(SetBool, topics.TORQUE_MODE)
        self.create_subscription(String, topics.MODE, self._on_mode, LATCHED_QOS)
        self.create_subscription(Odometry, topics.ODOM, self._on_odom, STREAM_QOS)
        self._started_s = time.monotonic()
        self.create_timer(TICK_S, self._tick)

    def _on_mode(self, message: String) -> None:
        mode, _, reason = message.data.partition(": ")
        if mode != self._mode:
            self._mode_since_s = time.monotonic()
            if mode == topics.FAULT:
                self._falls += 1
        self._mode, self._reason = mode, reason

    def _on_odom(self, message: Odometry) -> None:
        self._x_m = message.pose.pose.position.x

    def _tick(self) -> None:
        in_mode_s = time.monotonic() - self._mode_since_s
        if self._kind == "deploy" and self._handed_over:
            # The time that the driver's own balance needs to help out counts too: a policy gets no second chance.
            self._driven_s += TICK_S
        if self._falls > MAX_FALLS:
            self.get_logger().error(f"{self._falls} falls in {self._driven_s:.0f} s of driving: giving up")
            self.exit_code = 1
        if self._driven_s >= self._duration_s or self.exit_code:
            self._finish()
            return
        if self._mode in ("", topics.DISARMED):
            # The recorder and a policy have to be there before the robot moves; a second is time enough to be seen.
            if self._mode and in_mode_s > (PICK_UP_S if self._falls else 1.0):
                self._call(self._arm, Trigger.Request())
        elif self._mode == topics.FAULT:
            if in_mode_s > 0.5:
                self._call(self._disarm, Trigger.Request())
        elif self._mode == topics.TORQUE:
            self._handed_over = True
        elif in_mode_s < self._settle_s:
            self._publish(0.0, 0.0)
        elif self._kind == "deploy":
            self._publish(0.0, 0.0)
            self._call(self._torque_mode, SetBool.Request(data=True))
        else:
            self._publish(*self._script.command(self._driven_s, self._x_m))
            self._driven_s += TICK_S

    def _finish(self) -> None:
        if self._mode == topics.TORQUE:
            self._call(self._torque_mode, SetBool.Request(data=False))
        elif self._mode == topics.BALANCE and time.monotonic() - self._mode_since_s < 1.0:
            self._publish(0.0, 0.0)
        elif self._mode != topics.DISARMED:
            self._call(self._disarm, Trigger.Request())
        else:
            self.get_logger().info(f"done: {self._driven_s:.0f} s, {self._falls} falls")
            self.finished = True

    def _publish(self, v_mps: float, yaw_radps: float) -> None:
        message = TwistStamped()
        message.header.stamp = self.get_clock().now().to_msg()
        message.twist.linear.x = v_mps
        message.twist.angular.z = yaw_radps
        self._speed.publish(message)

    def _call(self, client: Client[Any, Any, Any], request: Any) -> None:
        """Call a service of the driver, one call at a time; refusals are logged and tried again later."""
        if self._pending is not None and not self._pending.done():
            return
        if not client.service_is_ready():
            if time.monotonic() - self._started_s > 10.0:
                self.get_logger().warning("the driver is not there", throttle_duration_sec=5.0)
            return
        self._pending = client.call_async(request)
        self._pending.add_done_callback(self._answered)

    def _answered(self, future: Future[Any]) -> None:
        answer = future.result()
        if answer is not None and not answer.success:
            self.get_logger().warning(f"refused: {answer.message}", throttle_duration_sec=2.0)

    def make_safe(self) -> None:
        """Leave the robot standing still: an operator who walks away lets go of the stick."""
        if self._mode == topics.BALANCE:
            self._publish(0.0, 0.0)


def main() -> None:
    """Console script `teleop_node`."""
    sys.exit(run(OperatorNode))
