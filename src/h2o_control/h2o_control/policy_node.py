# SPDX-License-Identifier: Apache-2.0
"""The policy node: answers each observation with a torque, and gives the robot back when in doubt."""

from __future__ import annotations

import math
import sys
import time
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from h2o_control import topics
from h2o_control.contract import FloatArray, Interface, pitch_rad, state_array
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, value
from h2o_control.origin import DisplacementOrigin
from h2o_control.policy import Policy
from h2o_control.realtime import prioritise

PARAMETERS = (
    Parameter("policy", "", "ONNX file written by h2o-robot export"),
    # The driver is stricter, in device time; this is for a policy that runs where the driver's clock does not reach.
    Parameter("max_age_s", 0.05, "age at which an observation is not answered any more, s", 0.001, 1.0),
    Parameter("priority", 0, "SCHED_FIFO priority, 0 for none", 0, 99),
)


class PolicyNode(Node):
    """Torque on /wheel_torque for every /odom; whether the driver obeys it is the driver's business.

    A give-back is a torque message without effort: the driver then balances by itself at once.
    """

    def __init__(self) -> None:
        super().__init__("policy")
        declare(self, PARAMETERS)
        self._policy = Policy(value(self, "policy"))
        self._limit_nm = self._policy.contract.interface.torque_limit_nm
        self._max_age_ns = int(value(self, "max_age_s") * 1e9)
        self._interface_hash = ""
        self._engaged = False
        self._origin = DisplacementOrigin()
        self._answers = 0
        self._gave_back = 0
        self._last_reason = ""
        self._ages_ms: deque[float] = deque(maxlen=1000)
        self._inference_ms: deque[float] = deque(maxlen=1000)
        self._torque = self.create_publisher(JointState, topics.WHEEL_TORQUE, STREAM_QOS)
        self._message = JointState(name=list(topics.WHEELS))
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        self.create_subscription(String, topics.INTERFACE, self._on_interface, LATCHED_QOS)
        self.create_subscription(String, topics.MODE, self._on_mode, LATCHED_QOS)
        self.create_subscription(Odometry, topics.ODOM, self._on_odom, STREAM_QOS)
        self.create_timer(0.5, self._publish_diagnostics)
        refused = prioritise(value(self, "priority"))
        if refused:
            self.get_logger().warning(refused)
        self.get_logger().info(f"{self._policy.path}: task {self._policy.contract.task.name!r}, waiting for the robot")

    def _on_interface(self, message: String) -> None:
        interface = Interface.from_json(message.data, "/interface")
        self._policy.contract.require_interface(interface, "the robot")
        self._interface_hash = interface.hash
        self.get_logger().info(f"interface {interface.hash} is the policy's: answering")

    def _on_mode(self, message: String) -> None:
        self._engaged = message.data.partition(":")[0] == topics.TORQUE

    def _on_odom(self, message: Odometry) -> None:
        if not self._interface_hash:
            return
        started = time.perf_counter()
        pose, twist = message.pose.pose, message.twist.twist
        x = self._origin.update(pose.position.x, self._engaged)
        q = pose.orientation
        pitch = pitch_rad(q.w, q.x, q.y, q.z)
        state = state_array(x, twist.linear.x, pitch, twist.angular.y)
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        age_ns = self.get_clock().now().nanoseconds - stamp_ns
        torque = self._answer(state, age_ns)
        self._message.header.stamp = message.header.stamp
        self._message.header.frame_id = self._interface_hash
        self._message.effort = [] if torque is None else [torque, torque]
        self._torque.publish(self._message)
        self._ages_ms.append(age_ns * 1e-6)
        self._inference_ms.append((time.perf_counter() - started) * 1e3)

    def _answer(self, state: FloatArray, age_ns: int) -> float | None:
        """Return the torque of one wheel in Nm, or None to give the robot back."""
        torque = math.nan
        if age_ns > self._max_age_ns:
            reason = f"observation is {age_ns * 1e-6:.0f} ms old"
        elif not np.isfinite(state).all():
            reason = f"observation is not finite: {state}"
        elif not math.isfinite(torque := self._policy.torque_nm(state)):
            reason = f"the policy answers {state} with {torque}"
        elif abs(torque) > self._limit_nm * 1.001:
            reason = f"the policy asks for {torque:.2f} Nm, the limit is {self._limit_nm} Nm"
        else:
            self._answers += 1
            return torque
        self._last_reason = reason
        if self._engaged:
            self._gave_back += 1
            self.get_logger().warning(f"giving the robot back: {reason}", throttle_duration_sec=1.0)
        return None

    def _publish_diagnostics(self) -> None:
        answers, self._answers = self._answers, 0
        ages, inference = sorted(self._ages_ms), sorted(self._inference_ms)
        self._ages_ms.clear()
        self._inference_ms.clear()
        values = {
            "rate (Hz)": f"{answers / 0.5:.0f}",
            "observation age, median (ms)": f"{ages[len(ages) // 2]:.2f}" if ages else "nan",
            "observation age, max (ms)": f"{ages[-1]:.2f}" if ages else "nan",
            "answer time, max (ms)": f"{inference[-1]:.2f}" if inference else "nan",
            "in command": str(self._engaged),
            "given back": str(self._gave_back),
            "last reason": self._last_reason,
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if answers or not self._interface_hash else DiagnosticStatus.WARN,
            name="policy",
            message=self._last_reason or "answering",
            hardware_id=str(self._policy.path),
            values=[KeyValue(key=key, value=text) for key, text in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> None:
    """Console script `policy_node`."""
    sys.exit(run(PolicyNode))
