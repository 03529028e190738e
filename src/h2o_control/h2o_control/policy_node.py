# SPDX-License-Identifier: Apache-2.0
"""The policy node: answers each observation with a torque, and gives the robot back when in doubt."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from h2o_control import topics
from h2o_control.answering import Answering, ObservationAge
from h2o_control.contract import FloatArray, Interface, pitch_rad, state_array
from h2o_control.errors import UserError
from h2o_control.histogram import Histogram
from h2o_control.hot_lane import HotLane
from h2o_control.node_tools import (
    LATCHED_QOS,
    STEADY_CLOCK,
    STREAM_QOS,
    Parameter,
    declare,
    publisher,
    run,
    steady_timer,
    subscription,
    value,
)
from h2o_control.policy import Policy
from h2o_control.policy_check import load
from h2o_control.policy_swap import PolicyLoader
from h2o_control.realtime import REALTIME_PARAMETERS, make_real_time
from h2o_control.shadow import Comparison

PARAMETERS = (
    Parameter("policy", "", "ONNX file written by h2o-robot export"),
    Parameter("shadow", False, "watch only: answer on /shadow_torque and never on /wheel_torque"),
    Parameter("candidate", "", "ONNX file that policy/swap puts in the policy's place", read_only=False),
    # The driver is stricter, in device time; this is for a policy that runs where the driver's clock does not reach.
    Parameter("max_age_s", 0.05, "age of an observation at which an answer is not sent any more, s", 0.001, 1.0),
    *REALTIME_PARAMETERS,
)
DIAGNOSTICS_S = 0.5


class PolicyNode(Node):
    """Torque on /wheel_torque for every /odom; whether the driver obeys it is the driver's business.

    A give-back is a torque message without effort: the driver then balances by itself at once. As a shadow, the node
    does the same on /shadow_torque, which nobody obeys.
    """

    def __init__(self) -> None:
        super().__init__("policy")
        self.finished = False
        self.exit_code = 0
        # Observations are answered in a thread of their own; this guards what the other callbacks share with it.
        self._lock = threading.Lock()
        self._lane: HotLane | None = None
        declare(self, PARAMETERS)
        self._shadow: bool = value(self, "shadow")
        self._answering = Answering(load(value(self, "policy")), value(self, "max_age_s"))
        self._age = ObservationAge()
        self._played: bool = value(self, "use_sim_time")
        self._interface_hash = ""
        self._stamp_ns: int | None = None
        self._answers = 0
        self._gave_back = 0
        self._last_reason = ""
        self._ages_s: deque[float] = deque(maxlen=1000)
        self._answer_times_s: deque[float] = deque(maxlen=1000)
        self._histograms = {"observation age": Histogram(), "answer time": Histogram()}
        self._message = JointState(name=list(topics.WHEELS))
        self._torque = publisher(
            self, JointState, topics.SHADOW_TORQUE if self._shadow else topics.WHEEL_TORQUE, STREAM_QOS
        )
        self._diagnostics = publisher(self, DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        if self._shadow:
            self._comparison = Comparison()
            subscription(self, JointState, topics.WHEEL_COMMAND, self._on_command, STREAM_QOS)
        else:
            self._loader = PolicyLoader()
            self._said = publisher(self, String, topics.POLICY, LATCHED_QOS)
            # A group of its own: observations are not to wait until a swap is answered, nor a second request.
            group = ReentrantCallbackGroup()
            self.create_service(Trigger, topics.SWAP_POLICY, self._on_swap, callback_group=group)
            self._say_policy()
        subscription(self, String, topics.INTERFACE, self._on_interface, LATCHED_QOS)
        subscription(self, String, topics.MODE, self._on_mode, LATCHED_QOS)
        steady_timer(self, DIAGNOSTICS_S, self._publish_diagnostics)
        for refused in make_real_time(self):
            self.get_logger().warning(refused)
        # Last: it answers from now on, with what the lines above set up.
        self._lane = HotLane(self, Odometry, topics.ODOM, self._on_odom, STREAM_QOS)
        policy = self._answering.policy
        watching = "as a shadow, " if self._shadow else ""
        self.get_logger().info(f"{policy.path}: task {policy.contract.task.name!r}, {watching}waiting for the robot")

    def destroy_node(self) -> None:
        """Leave the graph; rclpy calls this for a node that was never finished, too."""
        if self._lane is not None:
            self._lane.stop()
            self._lane = None
        super().destroy_node()

    def make_safe(self) -> None:
        """End a swap that is under way; that nobody answers any more is the driver's to notice."""
        if not self._shadow:
            self._loader.stop()

    def _on_interface(self, message: String) -> None:
        interface = Interface.from_json(message.data, "/interface")
        self._answering.policy.contract.require_interface(interface, "the robot")
        self._interface_hash = interface.hash
        self.get_logger().info(f"interface {interface.hash} is the policy's: answering")

    def _on_mode(self, message: String) -> None:
        self._answering.engaged = message.data.partition(":")[0] == topics.TORQUE

    def _on_odom(self, message: Odometry, _info: dict[str, Any]) -> None:
        if not self._interface_hash:
            return
        arrived_s = time.monotonic()
        pose, twist = message.pose.pose, message.twist.twist
        q = pose.orientation
        pitch = pitch_rad(q.w, q.x, q.y, q.z)
        state = state_array(pose.position.x, twist.linear.x, pitch, twist.angular.y)
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        if self._played:
            age_s = (self.get_clock().now().nanoseconds - stamp_ns) * 1e-9
        else:
            age_s = self._age.update(stamp_ns, arrived_s)
        with self._lock:
            self._answer(message, state, age_s, arrived_s, stamp_ns)

    def _answer(self, message: Odometry, state: FloatArray, age_s: float, arrived_s: float, stamp_ns: int) -> None:
        torque, reason = self._answering.answer(state, age_s)
        self._message.header.stamp = message.header.stamp
        self._message.header.frame_id = self._interface_hash
        self._message.effort = [] if torque is None else [torque, torque]
        self._torque.publish(self._message)
        self._count(stamp_ns, torque, reason)
        answer_time_s = time.monotonic() - arrived_s
        self._answer_times_s.append(answer_time_s)
        self._histograms["answer time"].add(answer_time_s)
        if age_s == age_s:
            self._ages_s.append(age_s)
            self._histograms["observation age"].add(age_s)

    def _count(self, stamp_ns: int, torque: float | None, reason: str) -> None:
        self._stamp_ns = stamp_ns
        if torque is not None:
            self._answers += 1
            if self._shadow:
                self._comparison.answered(stamp_ns, torque)
            return
        self._last_reason = reason
        if self._answering.engaged:
            self._gave_back += 1
            what = "would give the robot back" if self._shadow else "giving the robot back"
            self.get_logger().warning(
                f"{what}: {reason}", throttle_duration_sec=1.0, throttle_time_source_type=STEADY_CLOCK
            )

    def _on_command(self, message: JointState) -> None:
        if message.header.frame_id == topics.TORQUE and len(message.effort) == 2:
            stamp = message.header.stamp
            with self._lock:
                self._comparison.sent(stamp.sec * 1_000_000_000 + stamp.nanosec, sum(message.effort) / 2)

    async def _on_swap(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        """Put the candidate in the policy's place between two observations; answers when that is done or refused."""
        loaded: Future[Policy | UserError] = Future(executor=self.executor)
        try:
            interface = self._answering.policy.contract.interface
            self._loader.load(value(self, "candidate"), interface, loaded.set_result)
            policy = await loaded
            if not isinstance(policy, Policy):
                raise policy or UserError("the load was interrupted")
        except UserError as error:
            answer.success, answer.message = False, f"{error}. The policy stays as it was"
            self.get_logger().warning(f"no swap: {answer.message}")
            return answer
        with self._lock:
            before, self._answering.policy = self._answering.policy, policy
            self._say_policy()
        answer.success = True
        tasks = (before.contract.task, policy.contract.task)
        other = "" if tasks[0] == tasks[1] else f", before: task {tasks[0].name!r} ({tasks[0].hash})"
        answer.message = (
            f"{policy.path} answers (sha256 {policy.sha256[:12]}, task {tasks[1].name!r} ({tasks[1].hash}){other}); "
            "displacement is counted as before"
        )
        self.get_logger().info(f"swapped: {answer.message}")
        return answer

    def _describe(self) -> dict[str, object]:
        """What is said on /policy; `after_stamp_ns`: the last observation that was answered by none or another."""
        policy = self._answering.policy
        return {
            "file": str(policy.path),
            "sha256": policy.sha256,
            "task": policy.contract.task.name,
            "task_hash": policy.contract.task.hash,
            "interface_hash": policy.contract.interface.hash,
            "provenance": {k: v for k, v in policy.provenance.items() if isinstance(v, str | int | float)},
            "shadow": self._shadow,
            "after_stamp_ns": self._stamp_ns,
        }

    def _say_policy(self) -> None:
        self._said.publish(String(data=json.dumps(self._describe())))

    def _publish_diagnostics(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, 0
            ages, times = sorted(self._ages_s), sorted(self._answer_times_s)
            self._ages_s.clear()
            self._answer_times_s.clear()
            compared = self._comparison.summary() if self._shadow else (0, 0.0, 0.0)
        policy = self._answering.policy
        values = {
            "policy": str(policy.path),
            "sha256": policy.sha256,
            "task": policy.contract.task.name,
            "rate (Hz)": f"{answers / DIAGNOSTICS_S:.0f}",
            "observation age, median (ms)": f"{ages[len(ages) // 2] * 1e3:.2f}" if ages else "nan",
            "observation age, max (ms)": f"{ages[-1] * 1e3:.2f}" if ages else "nan",
            "answer time, median (ms)": f"{times[len(times) // 2] * 1e3:.2f}" if times else "nan",
            "answer time, max (ms)": f"{times[-1] * 1e3:.2f}" if times else "nan",
            "in command": str(self._answering.engaged and not self._shadow),
            "given back": str(self._gave_back),
            "last reason": self._last_reason,
        }
        if self._shadow:
            pairs, rms, largest = compared
            values["answers compared with what was sent"] = str(pairs)
            values["difference from what was sent, rms (Nm)"] = f"{rms:.4f}"
            values["difference from what was sent, largest (Nm)"] = f"{largest:.4f}"
        timing = {f"{name} histogram (ms)": h.to_text() for name, h in self._histograms.items()}
        name = "policy, shadow" if self._shadow else "policy"
        level = DiagnosticStatus.OK if answers or not self._interface_hash else DiagnosticStatus.WARN
        message = DiagnosticArray(
            status=[
                self._status(name, level, self._last_reason or "answering", values),
                self._status(f"{name}: timing", DiagnosticStatus.OK, "since start", timing),
            ]
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _status(self, name: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            hardware_id=str(self._answering.policy.path),
            values=[KeyValue(key=key, value=text) for key, text in values.items()],
        )


def main() -> None:
    """Console script `policy_node`."""
    sys.exit(run(PolicyNode))
