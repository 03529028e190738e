# SPDX-License-Identifier: Apache-2.0
"""The driver node: owns the serial port, publishes what the robot reports, keeps it up and obeys within limits."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import BatteryState, Imu, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.clock import ClockMap
from h2o_control.errors import UserError
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, value
from h2o_control.realtime import prioritise
from wheel_leg_driver.core import DriverCore, Exploration, Limits, RefusedError, describe
from wheel_leg_driver.link import PortError, SerialLink
from wheel_leg_driver.messages import Messages
from wheel_leg_driver.protocol import Telemetry
from wheel_leg_driver.robot import Robot, load_robot

_LIMITS = Limits()
PARAMETERS = (
    Parameter("robot", "ideal", "robot description: a name in config/robots or the path of a file"),
    Parameter("port", "/dev/ttyACM0", "serial port of the robot"),
    Parameter("port_wait_s", 0.0, "how long the port may take to appear, s", 0.0, 60.0),
    Parameter("auto_activate", False, "configure and activate at start; it still never arms by itself"),
    Parameter("priority", 0, "SCHED_FIFO priority, 0 for none", 0, 99),
    Parameter("fall_rad", _LIMITS.fall_rad, "pitch that counts as fallen: zero torque, latched, rad", 0.1, 1.5),
    Parameter("tilt_rad", _LIMITS.tilt_rad, "pitch at which a commander loses command to balance, rad", 0.05, 1.5),
    Parameter("speed_mps", _LIMITS.speed_mps, "speed at which a commander loses command, m/s", 0.1, 5.0),
    Parameter("distance_m", _LIMITS.distance_m, "distance at which a commander loses command, m", 0.1, 1000.0),
    Parameter("staleness_s", _LIMITS.staleness_s, "age of torque at which a commander loses command, s", 0.005, 0.029),
    Parameter(
        "torque_nm", _LIMITS.torque_nm, "largest torque of one wheel, within the robot's own limit, Nm", 0.0, 1000.0
    ),
    Parameter("command_timeout_s", _LIMITS.command_timeout_s, "age at which /cmd_vel counts as zero, s", 0.05, 5.0),
    Parameter("arm_rad", _LIMITS.arm_rad, "largest pitch at which arming is granted, rad", 0.01, 0.5),
    Parameter("speed_command_mps", _LIMITS.speed_command_mps, "largest speed taken from /cmd_vel, m/s", 0.0, 5.0),
    Parameter(
        "yaw_rate_command_radps", _LIMITS.yaw_rate_command_radps, "largest yaw rate from /cmd_vel, rad/s", 0.0, 10.0
    ),
    Parameter("exploration", 0.0, "random torque added to balance, as a share of what the robot's file says", 0.0, 2.0),
    Parameter("seed", 0, "seed of that torque"),
)
#: Without telemetry for this long the link counts as lost, in host time.
SILENCE_S = 0.25


class DriverNode(LifecycleNode):
    """Lifecycle node around DriverCore: configure loads the robot, activate opens the port, neither arms."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.finished = False
        self.exit_code = 0
        self._error: UserError | None = None
        self._lock = threading.Lock()
        self._core: DriverCore | None = None
        self._link: SerialLink | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self._clock_map = ClockMap()
        self._messages = Messages()
        # The executor's thread has messages of its own: the control thread refills the others meanwhile.
        self._answers = Messages()
        self._recent: deque[tuple[int, int]] = deque(maxlen=64)
        self._published_mode = ""
        self._telemetry: Telemetry | None = None
        self._frames = 0
        self._skipped = 0
        self._loop_ms: deque[float] = deque(maxlen=1000)
        declare(self, PARAMETERS)
        # The control thread inherits this.
        refused = prioritise(value(self, "priority"))
        if refused:
            self.get_logger().warning(refused)
        self._join_graph()
        if value(self, "auto_activate"):
            for transition in (self.trigger_configure, self.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    raise self._error or UserError("the driver could not be activated")

    def _join_graph(self) -> None:
        """Create what stays for the node's life: configured twice, it must not answer twice."""
        self._odom = self.create_publisher(Odometry, topics.ODOM, STREAM_QOS)
        self._imu = self.create_publisher(Imu, topics.IMU, STREAM_QOS)
        self._joints = self.create_publisher(JointState, topics.JOINT_STATES, STREAM_QOS)
        self._command = self.create_publisher(JointState, topics.WHEEL_COMMAND, STREAM_QOS)
        self._battery = self.create_publisher(BatteryState, topics.BATTERY, STREAM_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        self._mode = self.create_publisher(String, topics.MODE, LATCHED_QOS)
        self._interface = self.create_publisher(String, topics.INTERFACE, LATCHED_QOS)
        self.create_subscription(TwistStamped, topics.CMD_VEL, self._on_speed, STREAM_QOS)
        self.create_subscription(JointState, topics.WHEEL_TORQUE, self._on_torque, STREAM_QOS)
        self.create_service(Trigger, topics.ARM, lambda _, answer: self._request(DriverCore.arm, answer))
        self.create_service(Trigger, topics.DISARM, lambda _, answer: self._request(DriverCore.disarm, answer))
        self.create_service(Trigger, topics.ESTOP, lambda _, answer: self._request(DriverCore.estop, answer))
        self.create_service(
            SetBool,
            topics.TORQUE_MODE,
            lambda ask, answer: self._request(lambda core: core.torque_mode(ask.data), answer),
        )
        self.create_timer(0.5, self._publish_diagnostics)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the robot's description and say which interface it has."""
        try:
            robot = load_robot(value(self, "robot"))
        except UserError as error:
            return self._fail(error)
        self._core = self._new_core(robot)
        self._interface.publish(String(data=robot.interface.to_json()))
        return TransitionCallbackReturn.SUCCESS

    def _new_core(self, robot: Robot) -> DriverCore:
        limits = Limits(**{f.name: value(self, f.name) for f in dataclasses.fields(Limits)})
        explore = Exploration(value(self, "exploration"), value(self, "seed"))
        return DriverCore(robot, limits, explore)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the port and start the control thread; the robot stays disarmed."""
        assert self._core is not None
        port = value(self, "port")
        try:
            link = SerialLink(port, value(self, "port_wait_s"))
        except UserError as error:
            return self._fail(error)
        # Nothing of an earlier activation is carried over, least of all a wish to arm.
        self._core, self._link = self._new_core(self._core.robot), link
        self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self._clock_map = ClockMap()
        self._running = True
        self._thread = threading.Thread(target=self._control, name="control", daemon=True)
        self._thread.start()
        self.get_logger().info(f"robot {self._core.robot.name!r} on {port}: disarmed, waiting to be armed")
        self._publish_mode()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disarm and close the port."""
        self.make_safe()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the robot."""
        self._core = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disarm and close the port."""
        self.make_safe()
        return TransitionCallbackReturn.SUCCESS

    def make_safe(self) -> None:
        """Send a last disarm and stop the control thread."""
        self._running = False
        if self._thread is not None:
            self._thread.join(timeout=1.0)
            self._thread = None
        if self._link is not None and self._core is not None:
            self._core.disarm("driver stopped")
            try:
                for command in (self._core.zero(), self._core.zero()):
                    self._link.send(command)
            except PortError as error:
                self.get_logger().warning(f"could not send the last disarm ({error}); the firmware's watchdog acts")
            self._link.close()
            self._link = None
            self._publish_mode()

    def _fail(self, error: UserError) -> TransitionCallbackReturn:
        self._error = error
        self.get_logger().error(str(error))
        return TransitionCallbackReturn.FAILURE

    # The control thread: everything between a telemetry frame and the command that answers it.

    def _control(self) -> None:
        """Run the loop; whatever ends it unasked ends the node, and the firmware is told to disarm."""
        try:
            self._loop()
        except PortError as error:
            self._give_up(f"link lost: {error}", 1)
        except Exception as error:
            # A thread that dies in silence would leave a robot that the rest of the node believes to be balanced.
            self._give_up(f"internal error: {type(error).__name__}: {error}", 70)
            raise

    def _give_up(self, reason: str, exit_code: int) -> None:
        assert self._core is not None
        self.get_logger().fatal(f"{reason}; stopping")
        with self._lock:
            self._core.disarm(reason)
        self._publish_mode()
        self.exit_code, self.finished = exit_code, True

    def _loop(self) -> None:
        assert self._link is not None and self._core is not None
        heard_s = time.monotonic()
        silent = False
        # Whatever an earlier driver left behind is disarmed before anything else; it also starts lock-step.
        with self._lock:
            self._link.send(self._core.zero())
        while self._running:
            frames = self._link.receive()
            now = time.monotonic()
            if frames:
                heard_s, silent = now, False
                self._skipped += len(frames) - 1
                for frame in frames[:-1]:
                    self._tick(frame, now, newest=False)
                self._tick(frames[-1], now, newest=True)
            elif now - heard_s > SILENCE_S and not silent:
                silent = True
                why = f"; last dropped frame: {self._link.last_error}" if self._link.frame_errors else ""
                self.get_logger().error(f"no telemetry for {now - heard_s:.2f} s{why}")
                with self._lock:
                    if self._core.mode != topics.DISARMED:
                        self._core.latch("no telemetry")
                self._publish_mode()

    def _tick(self, telemetry: Telemetry, arrived_s: float, newest: bool) -> None:
        assert self._core is not None and self._link is not None
        host_s = self._clock_map.to_host(telemetry.device_time_us, arrived_s)
        stamp_ns = int(host_s * 1e9) + self._wall_offset_ns
        stamp = Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
        with self._lock:
            self._telemetry = telemetry
            self._recent.append((stamp_ns, telemetry.device_time_us))
            tick = self._core.on_telemetry(telemetry)
            command = tick.command if newest else None
            if command is not None:
                self._link.send(command)
        self._frames += 1
        messages = self._messages
        messages.fill(stamp, telemetry, tick.estimate)
        # The observation goes first: a commander is waiting for it.
        self._odom.publish(messages.odom)
        if command is not None:
            self._loop_ms.append((time.monotonic() - arrived_s) * 1e3)
            self._command.publish(messages.fill_command(stamp, command, tick.mode))
        self._joints.publish(messages.joints)
        self._imu.publish(messages.imu)
        if telemetry.sequence % 20 == 0:
            self._battery.publish(messages.battery)
        self._publish_mode()

    def _publish_mode(self) -> None:
        if self._core is None:
            return
        text = f"{self._core.mode}: {self._core.reason}"
        if text != self._published_mode:
            self._published_mode = text
            self._mode.publish(String(data=text))
            self.get_logger().info(text)

    # The executor's thread: requests and commands from the graph.

    def _on_speed(self, message: TwistStamped) -> None:
        with self._lock:
            if self._core is not None:
                self._core.on_speed(message.twist.linear.x, message.twist.angular.z)

    def _on_torque(self, message: JointState) -> None:
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        torque = sum(message.effort) / 2 if len(message.effort) == 2 else math.nan
        with self._lock:
            if self._core is None or self._link is None:
                return
            observed_us = next((device for stamp, device in reversed(self._recent) if stamp == stamp_ns), -1)
            command = self._core.on_torque(torque, observed_us, message.header.frame_id)
            if command is None:
                return
            try:
                self._link.send(command)
            except PortError as error:
                self.get_logger().error(str(error))
                return
            host_ns = time.monotonic_ns() + self._wall_offset_ns
            self._loop_ms.append((host_ns - stamp_ns) * 1e-6)
        self._command.publish(self._answers.fill_command(message.header.stamp, command, topics.TORQUE))

    def _request(self, act: Callable[[DriverCore], None], answer: Trigger.Response) -> Trigger.Response:
        with self._lock:
            try:
                if self._core is None or self._link is None:
                    raise RefusedError("the driver is not active: no port is open and the robot is disarmed")
                act(self._core)
                answer.success = True
            except RefusedError as error:
                answer.success = False
                answer.message = str(error)
                self.get_logger().warning(f"refused: {error}")
        self._publish_mode()
        return answer

    def _publish_diagnostics(self) -> None:
        core, telemetry = self._core, self._telemetry
        if core is None:
            return
        frames, self._frames = self._frames, 0
        loop = sorted(self._loop_ms)
        self._loop_ms.clear()
        values = {
            "mode": core.mode,
            "reason": core.reason,
            "telemetry rate (Hz)": f"{frames / 0.5:.0f}",
            "frame errors": str(self._link.frame_errors if self._link else 0),
            "last frame error": self._link.last_error if self._link else "",
            "frames skipped": str(self._skipped),
            "commands dropped": str(self._link.dropped_commands if self._link else 0),
            "sensor to command, median (ms)": f"{loop[len(loop) // 2]:.2f}" if loop else "nan",
            "sensor to command, max (ms)": f"{loop[-1]:.2f}" if loop else "nan",
            "hand-backs": str(core.hand_backs),
            "torques rejected": str(core.commands_rejected),
            "pitch trim (rad)": f"{core.trim_rad:.4f}",
        }
        level = DiagnosticStatus.OK
        if telemetry is not None:
            values["battery (V)"] = f"{telemetry.sensors.battery_v:.2f}"
            values["hottest (C)"] = f"{max(telemetry.sensors.temperatures_c):.1f}"
            values["firmware faults"] = describe(telemetry.faults)
        if core.mode == topics.FAULT:
            level = DiagnosticStatus.ERROR
        elif frames == 0:
            level = DiagnosticStatus.STALE
        status = DiagnosticStatus(
            level=level,
            name="wheel_leg_driver",
            message=f"{core.mode}: {core.reason}",
            hardware_id=core.robot.name,
            values=[KeyValue(key=key, value=text) for key, text in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> None:
    """Console script `driver_node`."""
    sys.exit(run(DriverNode))
