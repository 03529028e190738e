# SPDX-License-Identifier: Apache-2.0
"""The policy node: answers each observation with a torque, and gives the robot back when in doubt."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
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
from h2o_control.clock import stamp_ns
from h2o_control.contract import FloatArray, Interface, pitch_rad, state_array
from h2o_control.errors import ConfigError, UserError
from h2o_control.histogram import Histogram
from h2o_control.hot_lane import HotLane
from h2o_control.neighbours import publisher_names
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
from h2o_control.played_time import END_WITH_CLOCK, PLAYED_QOS, end_with_clock
from h2o_control.policy import Policy
from h2o_control.policy_check import load
from h2o_control.policy_swap import PolicyLoader
from h2o_control.realtime import REALTIME_PARAMETERS, make_real_time
from h2o_control.shadow import Comparison

PARAMETERS = (
    Parameter("policy", "", "ONNX file written by h2o-robot export"),
    Parameter("shadow", False, "watch only: answer on /shadow_torque and never on /wheel_torque"),
    Parameter("candidate", "", "ONNX file that the service NODE/swap puts in the policy's place", read_only=False),
    # The driver is stricter, in device time; this is for a policy that runs where the driver's clock does not reach.
    Parameter("max_age_s", 0.05, "age of an observation at which an answer is not sent any more, s", 0.001, 1.0),
    Parameter("listeners", 0, "how many must listen to its answers before it listens to /odom", 0, 100),
    END_WITH_CLOCK,
    *REALTIME_PARAMETERS,
)
DIAGNOSTICS_S = 0.5
#: How often it looks whether its answers are listened to, where that is waited for.
BEGIN_S = 0.1


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
        file: str = value(self, "policy")
        if not file:
            raise ConfigError("which policy? Give an ONNX file, -p policy:=policy.onnx")
        self._answering = Answering(load(Path(file)), value(self, "max_age_s"))
        self._age = ObservationAge()
        self._played: bool = value(self, "use_sim_time")
        self._interface_hash = ""
        self._stamp_ns: int | None = None
        self._answers = 0
        self._gave_back = 0
        self._last_reason = ""
        # Since start, and since the last report.
        self._timing, self._new_timing = _timing(), _timing()
        self._message = JointState(name=list(topics.WHEELS))
        self._qos = PLAYED_QOS if self._played else STREAM_QOS
        answers = topics.SHADOW_TORQUE if self._shadow else topics.WHEEL_TORQUE
        self._torque = publisher(self, JointState, answers, self._qos)
        self._diagnostics = publisher(self, DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        if self._shadow:
            self._comparison = Comparison()
            subscription(self, JointState, topics.WHEEL_COMMAND, self._on_command, STREAM_QOS)
        else:
            self._loader = PolicyLoader()
            self._said = publisher(self, String, topics.POLICY, LATCHED_QOS)
            # A group of its own: observations are not to wait until a swap is answered, nor a second request.
            group = ReentrantCallbackGroup()
            self.create_service(Trigger, f"~/{topics.SWAP}", self._on_swap, callback_group=group)
            self._say_policy()
        subscription(self, String, topics.INTERFACE, self._on_interface, LATCHED_QOS)
        subscription(self, String, topics.MODE, self._on_mode, LATCHED_QOS)
        steady_timer(self, DIAGNOSTICS_S, self._publish_diagnostics)
        end_with_clock(self)
        for refused in make_real_time(self):
            self.get_logger().warning(refused)
        policy = self._answering.policy
        watching = "as a shadow, " if self._shadow else ""
        self.get_logger().info(f"{policy.path}: task {policy.contract.task.name!r}, {watching}waiting for the robot")
        self._begin_timer = steady_timer(self, BEGIN_S, self._begin)
        # Last: it answers from now on, with what the lines above set up.
        self._begin()

    def _begin(self) -> None:
        """Listen to observations once its answers are listened to."""
        if self._torque.get_subscription_count() >= value(self, "listeners"):
            self._begin_timer.cancel()
            self._lane = HotLane(self, Odometry, topics.ODOM, self._on_odom, self._qos)

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
        observed_ns = stamp_ns(message.header.stamp)
        if self._played:
            age_s = (self.get_clock().now().nanoseconds - observed_ns) * 1e-9
        else:
            age_s = self._age.update(observed_ns, arrived_s)
        with self._lock:
            self._answer(message, state, age_s, arrived_s, observed_ns)

    def _answer(self, message: Odometry, state: FloatArray, age_s: float, arrived_s: float, observed_ns: int) -> None:
        torque, reason = self._answering.answer(state, age_s)
        self._message.header.stamp = message.header.stamp
        self._message.header.frame_id = self._interface_hash
        self._message.effort = [] if torque is None else [torque, torque]
        self._torque.publish(self._message)
        self._count(observed_ns, torque, reason)
        self._new_timing["answer time"].add(time.monotonic() - arrived_s)
        if age_s == age_s:
            self._new_timing["observation age"].add(age_s)

    def _count(self, observed_ns: int, torque: float | None, reason: str) -> None:
        self._stamp_ns = observed_ns
        if torque is not None:
            self._answers += 1
            if self._shadow:
                self._comparison.answered(observed_ns, torque)
            return
        self._last_reason = reason
        if self._answering.engaged:
            self._gave_back += 1
            what = "would give the robot back" if self._shadow else "giving the robot back"
            self.get_logger().warning(
                f"{what}: {reason}", throttle_duration_sec=1.0, throttle_time_source_type=STEADY_CLOCK
            )

    def _on_command(self, message: JointState) -> None:
        # Whoever commands: beside the driver's balance, too, a shadow shows whether it would push the right way.
        if message.header.frame_id in topics.ARMED and len(message.effort) == 2:
            with self._lock:
                self._comparison.sent(stamp_ns(message.header.stamp), sum(message.effort) / 2)

    async def _on_swap(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        """Put the candidate in the policy's place between two observations; answers when that is done or refused."""
        loaded: Future[Policy | UserError] = Future(executor=self.executor)
        try:
            self._require_own_name()
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

    def _require_own_name(self) -> None:
        """Refuse where another policy node has this name: it hears the same request, and one answer is all they get."""
        name = self.get_fully_qualified_name()
        alike = publisher_names(self, topics.POLICY).count(name)
        if alike > 1:
            raise UserError(
                f"{alike} policy nodes are named {name}, and this request is for all of them: stop all but one (one "
                "that was killed counts for 20 s), or start each under a name of its own with -r __node:=NAME and ask "
                "it by h2o-robot operate swap FILE --node NAME"
            )

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
            timing, self._new_timing = self._new_timing, _timing()
            compared = self._comparison.summary() if self._shadow else None
        policy = self._answering.policy
        values = {
            "policy": str(policy.path),
            "sha256": policy.sha256,
            "task": policy.contract.task.name,
            "rate (Hz)": f"{answers / DIAGNOSTICS_S:.0f}",
            "in command": self._in_command(),
            "given back": str(self._gave_back),
            "last reason": self._last_reason,
        }
        for name, new in timing.items():
            self._timing[name].merge(new)
            values[f"{name}, median (ms)"] = f"{new.percentile(50) * 1e3:.2f}"
            values[f"{name}, max (ms)"] = f"{new.percentile(100) * 1e3:.2f}"
        if compared is not None:
            values["answers compared with what was sent"] = str(compared.pairs)
            values["same sign as what was sent (% of that torque)"] = f"{compared.same_sign * 100:.0f}"
            values["difference from what was sent, rms (Nm)"] = f"{compared.rms_nm:.4f}"
            values["difference from what was sent, largest (Nm)"] = f"{compared.largest_nm:.4f}"
        histograms = {f"{name} histogram (ms)": h.to_text() for name, h in self._timing.items()}
        name = "policy, shadow" if self._shadow else "policy"
        level = DiagnosticStatus.OK if answers or not self._interface_hash else DiagnosticStatus.WARN
        message = DiagnosticArray(
            status=[
                self._status(name, level, self._last_reason or "answering", values),
                self._status(f"{name}: timing", DiagnosticStatus.OK, "since start", histograms),
            ]
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _in_command(self) -> str:
        if self._shadow or not self._answering.engaged:
            return "False"
        offering = self.count_publishers(topics.WHEEL_TORQUE)
        return "True" if offering == 1 else f"perhaps: one of {offering} that offer torque is"

    def _status(self, name: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            hardware_id=str(self._answering.policy.path),
            values=[KeyValue(key=key, value=text) for key, text in values.items()],
        )


def _timing() -> dict[str, Histogram]:
    return {"observation age": Histogram(), "answer time": Histogram()}


def main() -> None:
    """Console script `policy_node`."""
    sys.exit(run(PolicyNode))
