# SPDX-License-Identifier: Apache-2.0
"""The harness's own node: hears what the graph says, with the time it came, and asks for what an operator would."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.contract import Interface
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, steady_timer

#: A driver that is starting on a busy machine takes seconds.
PATIENCE_S = 20.0
#: The diagnostic status whose message carries its node's clock as it is; the driver's own stamps go on evenly.
CLOCKED = "policy"
#: An answer that has not come within this time will not come, s.
ANSWER_S = 3.0
SPEED_PERIOD_S = 0.04
#: A harness that is late for half a second must not lose what the driver said meanwhile.
DEEP_QOS = QoSProfile(depth=1000)


class Sent(NamedTuple):
    """A command that the driver says it has sent: its mode and the torque of both wheels, Nm."""

    host_s: float
    stamp_ns: int
    mode: str
    left_nm: float
    right_nm: float


class Said(NamedTuple):
    """A message on /mode."""

    host_s: float
    mode: str
    reason: str


class RefusalError(Exception):
    """A request that was not granted, or that nobody answered."""


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class Witness:
    """Spins in a thread of its own, so that nothing is missed while the harness works."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("witness")
        self.modes: deque[Said] = deque(maxlen=1000)
        self.sent: deque[Sent] = deque(maxlen=10_000)
        self.odom: deque[tuple[float, int]] = deque(maxlen=10_000)
        self.answers: deque[float] = deque(maxlen=10_000)
        self.speeds: deque[float] = deque(maxlen=1000)
        #: Values of each diagnostic status by its name, and when it came.
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.diagnosed_s: dict[str, float] = {}
        #: When a message of CLOCKED came, its stamp, and the middleware's stamp, ns.
        self.clocked: deque[tuple[float, int, int]] = deque(maxlen=1000)
        self.interface_hash = ""
        #: Published on /cmd_vel while it is not None: m/s and rad/s.
        self.speed: tuple[float, float] | None = (0.0, 0.0)
        self._speeds = self.node.create_publisher(TwistStamped, topics.CMD_VEL, STREAM_QOS)
        self._estop = self.node.create_publisher(Bool, topics.ESTOP_TOPIC, STREAM_QOS)
        self.joy = self.node.create_publisher(Joy, topics.JOY, STREAM_QOS)
        self._clients: dict[str, Any] = {}
        subscribe = self.node.create_subscription
        subscribe(String, topics.MODE, self._on_mode, LATCHED_QOS)
        subscribe(String, topics.INTERFACE, self._on_interface, LATCHED_QOS)
        subscribe(JointState, topics.WHEEL_COMMAND, self._on_command, DEEP_QOS)
        subscribe(JointState, topics.WHEEL_TORQUE, lambda m: self.answers.append(time.monotonic()), DEEP_QOS)
        subscribe(TwistStamped, topics.CMD_VEL, lambda m: self.speeds.append(time.monotonic()), DEEP_QOS)
        subscribe(Odometry, topics.ODOM, self._on_odom, DEEP_QOS)
        subscribe(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, DEEP_QOS)
        steady_timer(self.node, SPEED_PERIOD_S, self._publish_speed)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._going = True
        self._thread = threading.Thread(target=self._spin, name="witness")
        self._thread.start()

    def _spin(self) -> None:
        while self._going:
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """Stop listening."""
        self._going = False
        self._thread.join()
        self.node.destroy_node()

    def _on_mode(self, message: String) -> None:
        mode, _, reason = message.data.partition(": ")
        self.modes.append(Said(time.monotonic(), mode, reason))

    def _on_interface(self, message: String) -> None:
        self.interface_hash = Interface.from_json(message.data, "/interface").hash

    def _on_command(self, m: JointState) -> None:
        self.sent.append(Sent(time.monotonic(), _ns(m.header.stamp), m.header.frame_id, *m.effort))

    def _on_odom(self, message: Odometry) -> None:
        self.odom.append((time.monotonic(), _ns(message.header.stamp)))

    def _on_diagnostics(self, message: DiagnosticArray, info: dict[str, Any]) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {pair.key: pair.value for pair in status.values}
            self.diagnosed_s[status.name] = time.monotonic()
            if status.name == CLOCKED:
                self.clocked.append((time.monotonic(), _ns(message.header.stamp), int(info["source_timestamp"])))

    def _publish_speed(self) -> None:
        if self.speed is None:
            return
        message = TwistStamped()
        message.twist.linear.x, message.twist.angular.z = self.speed
        self._speeds.publish(message)

    @property
    def mode(self) -> str:
        """The mode in command, as last said."""
        return self.modes[-1].mode if self.modes else ""

    @property
    def reason(self) -> str:
        """Why."""
        return self.modes[-1].reason if self.modes else ""

    def wait(self, condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
        """Wait until a condition holds; raises RefusalError with what was awaited."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RefusalError(f"no {what} within {seconds:g} s; mode {self.mode} ({self.reason})")
            time.sleep(0.005)

    def client(self, service: str, kind: Any = Trigger) -> Any:
        """Return a client that is connected; it is kept."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        self.wait(self._clients[service].service_is_ready, f"service {service}")
        return self._clients[service]

    def call(self, service: str, on: bool | None = None) -> str:
        """Ask for something; returns the answer's message, raises RefusalError where it is not granted."""
        kind, request = (Trigger, Trigger.Request()) if on is None else (SetBool, SetBool.Request(data=on))
        answer = self._ask(service, kind, request)
        if not answer.success:
            raise RefusalError(f"{service}: {answer.message}")
        return str(answer.message)

    def _ask(self, service: str, kind: Any, request: Any) -> Any:
        """Ask again where no answer comes: one is lost where the two ends do not know each other in full yet."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            future = self.client(service, kind).call_async(request)
            try:
                self.wait(future.done, f"answer from {service}", ANSWER_S)
                return future.result()
            except RefusalError:
                if time.monotonic() > deadline:
                    raise

    def transition(self, number: int) -> None:
        """Take the driver through a transition of its lifecycle."""
        request = ChangeState.Request(transition=Transition(id=number))
        if not self._ask("driver/change_state", ChangeState, request).success:
            raise RefusalError(f"the driver refused transition {number}")

    def press_estop(self) -> None:
        """Publish on /estop."""
        self._estop.publish(Bool(data=True))
