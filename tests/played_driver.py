# SPDX-License-Identifier: Apache-2.0
"""Plays the driver's side of the graph for operators: notes what it is asked, says which mode it is in."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool, Trigger

from graph import Probe
from h2o_control import topics
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS


class PlayedDriver:
    """Grants everything; arming leads to balance, disarming to disarmed, and so on.

    Attributes:
        asked: requests in the order of their arrival.
        x_m: displacement that it observes.
        obeys_not: name of a node whose torque it refuses.
        refusal: what it answers to a wish to give command to a policy; empty grants it.
        arm_refusal: what it answers to a wish to arm it; empty grants it.
        speeds: speed and yaw rate of each /cmd_vel.
    """

    def __init__(self, probe: Probe, lowest_m: float = 0.17, highest_m: float = 0.27) -> None:
        self.asked: list[str] = []
        self.speeds: list[tuple[float, float]] = []
        self.height_m = highest_m
        self.x_m = 0.0
        self.refusal = ""
        self.arm_refusal = ""
        self.obeys_not = ""
        self._range_m = (lowest_m, highest_m)
        node = probe.node
        self._mode = node.create_publisher(String, topics.MODE, LATCHED_QOS)
        self._diagnostics = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        self._odom = node.create_publisher(Odometry, topics.ODOM, STREAM_QOS)
        node.create_subscription(TwistStamped, topics.CMD_VEL, self._on_speed, STREAM_QOS)
        node.create_subscription(Float64, topics.CMD_HEIGHT, self._on_height, STREAM_QOS)
        node.create_subscription(Bool, topics.ESTOP_TOPIC, self._on_estop, STREAM_QOS)
        node.create_timer(0.1, self._report)
        for name, mode in {
            topics.ARM: "balance: armed",
            topics.DISARM: "disarmed: by request",
            topics.ESTOP: "fault: emergency stop",
            topics.STAND_UP: "",
            topics.SIT_DOWN: "",
        }.items():
            node.create_service(Trigger, name, lambda _, answer, name=name, mode=mode: self._grant(name, mode, answer))
        node.create_service(SetBool, topics.TORQUE_MODE, self._on_torque_mode)

    def say(self, mode: str) -> None:
        """Publish a mode and its reason."""
        self._mode.publish(String(data=mode))

    def _grant(self, what: str, mode: str, answer: Trigger.Response) -> Trigger.Response:
        self.asked.append(what)
        if what == topics.ARM and self.arm_refusal:
            answer.success, answer.message = False, self.arm_refusal
            return answer
        if mode:
            self.say(mode)
        answer.success, answer.message = True, f"{what} granted"
        return answer

    def _on_torque_mode(self, ask: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        if ask.data and self.refusal:
            answer.success, answer.message = False, self.refusal
            return answer
        mode = topics.TORQUE if ask.data else topics.BALANCE
        return self._grant(f"{topics.TORQUE_MODE} {ask.data}", f"{mode}: by request", answer)

    def _on_estop(self, message: Bool) -> None:
        self.asked.append(f"estop topic {message.data}")

    def _on_speed(self, message: TwistStamped) -> None:
        self.speeds.append((message.twist.linear.x, message.twist.angular.z))

    def _on_height(self, message: Float64) -> None:
        self.asked.append(f"height {message.data:.3f}")
        if self._range_m[0] <= message.data <= self._range_m[1]:
            self.height_m = message.data

    def _report(self) -> None:
        values = {
            "height of hips (m)": f"{self.height_m:.3f}",
            "torques refused from others": f"/other 3, {self.obeys_not} 7" if self.obeys_not else "none",
        }
        pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
        status = DiagnosticStatus(level=DiagnosticStatus.OK, name="driver", message="balance: armed", values=pairs)
        self._diagnostics.publish(DiagnosticArray(status=[status]))
        odom = Odometry()
        odom.pose.pose.position.x = self.x_m
        odom.pose.pose.orientation.w = 1.0
        self._odom.publish(odom)
