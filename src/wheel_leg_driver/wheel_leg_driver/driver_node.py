# SPDX-License-Identifier: Apache-2.0
"""The driver node: owns the serial port, publishes what the robot reports, keeps it up and obeys within limits."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import BatteryState, Imu, JointState, TimeReference
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.clock import ClockMap, WallStamp, stamp_ns
from h2o_control.config import to_mapping
from h2o_control.errors import UserError
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
from h2o_control.realtime import REALTIME_PARAMETERS, make_real_time
from wheel_leg_driver.authority import PROCESS
from wheel_leg_driver.backend import SERIAL, Backend, PortError, connect
from wheel_leg_driver.calibration import load_calibration
from wheel_leg_driver.core import DriverCore, Exploration, RefusedError
from wheel_leg_driver.diagnostics import Reporter
from wheel_leg_driver.estimator import Estimator
from wheel_leg_driver.kernel_workers import KernelWorkers
from wheel_leg_driver.limits import Limits
from wheel_leg_driver.messages import Messages
from wheel_leg_driver.protocol import CommandFlag, Telemetry
from wheel_leg_driver.robot import Robot, load_robot
from wheel_leg_driver.timing import Timing

PARAMETERS = (
    Parameter("robot", "ideal", "robot description: a name in config/robots or the path of a file"),
    Parameter("port", "/dev/ttyACM0", "serial port of the robot: a path, or usb:SERIAL_NUMBER of its USB device"),
    Parameter("port_wait_s", 0.0, "how long the port may take to appear at first, s", 0.0, 60.0),
    Parameter("backend", SERIAL, "class that talks to the hardware, module:Class or file.py:Class"),
    Parameter("calibration", "", "file that h2o-robot calibrate wrote for this very robot; empty corrects nothing"),
    Parameter("attitude", "imu", "imu takes the attitude from the IMU's own filter, complementary computes it here"),
    Parameter("attitude_time_constant_s", 2.0, "of the complementary filter, s", 0.05, 60.0),
    Parameter("auto_activate", False, "configure and activate at start; it still never arms by itself"),
    *REALTIME_PARAMETERS,
    Parameter("raise_kernel_workers", True, "with a priority: give the kernel's workers that serve the port one more"),
    *(
        Parameter(f.name, f.default, f.metadata["description"], f.metadata.get("low"), f.metadata.get("high"))
        for f in dataclasses.fields(Limits)
    ),
    Parameter("exploration", 0.0, "random torque added to balance, as a share of what the robot's file says", 0.0, 2.0),
    Parameter("seed", 0, "seed of that torque"),
)
#: Without telemetry for this long the robot counts as gone, in host time; its firmware has stopped long before.
SILENCE_S = 0.1
#: How often a port that is gone is looked for.
RETRY_S = 0.05
#: How often the log says that something still lasts.
REMIND_S = 10.0
DIAGNOSTICS_S = 0.5
#: How long a driver that stops waits for others to hear so.
LAST_WORDS_S = 0.3


class DriverNode(LifecycleNode):
    """Lifecycle node around DriverCore: configure loads the robot, activate opens the port, neither arms."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.finished = False
        self.exit_code = 0
        self._error: UserError | None = None
        self._lock = threading.Lock()
        self._lane: HotLane | None = None
        self._answered = threading.Event()
        self._core: DriverCore | None = None
        self._link: Backend | None = None
        self._thread: threading.Thread | None = None
        self._workers: KernelWorkers | None = None
        self._running = False
        self._clock_map = ClockMap()
        self._wall = WallStamp()
        self._timing = Timing(1.0)
        self._reporter = Reporter()
        self._messages = Messages()
        # The thread that takes torque has messages of its own: the control thread refills the others meanwhile.
        self._answers = Messages()
        # Stamp, device time, and when it was read and published on the monotonic clock.
        self._recent: deque[tuple[int, int, float, float]] = deque(maxlen=64)
        self._published_mode = ""
        self._telemetry: Telemetry | None = None
        self._stop_latched = False
        self._refused: dict[str, int] = {}
        declare(self, PARAMETERS)
        # The control thread inherits this.
        for refused in make_real_time(self):
            self.get_logger().warning(refused)
        self._workers = self._kernel_workers()
        self._join_graph()
        if value(self, "auto_activate"):
            for transition in (self.trigger_configure, self.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    raise self._error or UserError("the driver could not be activated")
        self._lane = HotLane(self, JointState, topics.WHEEL_TORQUE, self._on_torque, STREAM_QOS)

    def _kernel_workers(self) -> KernelWorkers | None:
        priority = value(self, "priority")
        if priority <= 0 or not value(self, "raise_kernel_workers"):
            return None
        workers = KernelWorkers(min(priority + 1, 99))
        if refused := workers.keep():
            self.get_logger().warning(refused)
            return None
        return workers

    def _join_graph(self) -> None:
        """Create what stays for the node's life: configured twice, it must not answer twice."""
        self._odom = publisher(self, Odometry, topics.ODOM, STREAM_QOS)
        self._imu = publisher(self, Imu, topics.IMU, STREAM_QOS)
        self._joints = publisher(self, JointState, topics.JOINT_STATES, STREAM_QOS)
        self._command = publisher(self, JointState, topics.WHEEL_COMMAND, STREAM_QOS)
        self._device_time = publisher(self, TimeReference, topics.DEVICE_TIME, STREAM_QOS)
        self._battery = publisher(self, BatteryState, topics.BATTERY, STREAM_QOS)
        self._diagnostics = publisher(self, DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        self._mode = publisher(self, String, topics.MODE, LATCHED_QOS)
        self._interface = publisher(self, String, topics.INTERFACE, LATCHED_QOS)
        self._configuration = publisher(self, String, topics.CONFIGURATION, LATCHED_QOS)
        subscription(self, TwistStamped, topics.CMD_VEL, self._on_speed, STREAM_QOS)
        subscription(self, Float64, topics.CMD_HEIGHT, self._on_height, STREAM_QOS)
        subscription(self, Bool, topics.ESTOP_TOPIC, self._on_estop, STREAM_QOS)
        requests: dict[str, tuple[Callable[[DriverCore], None], str]] = {
            topics.ARM: (DriverCore.arm, "arming"),
            topics.STAND_UP: (lambda core: core.move_to(core.posture.standing_m), "standing up"),
            topics.SIT_DOWN: (lambda core: core.move_to(core.posture.lowest_m), "sitting down"),
        }
        for name, (act, does) in requests.items():
            self.create_service(Trigger, name, lambda _, answer, act=act, does=does: self._request(act, answer, does))
        self.create_service(Trigger, topics.DISARM, lambda _, answer: self._disarm(answer))
        self.create_service(Trigger, topics.ESTOP, lambda _, answer: self._estop(answer))
        self.create_service(
            SetBool,
            topics.TORQUE_MODE,
            lambda ask, answer: self._request(lambda core: self._torque_mode(core, ask.data), answer),
        )
        steady_timer(self, DIAGNOSTICS_S, self._report)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the robot's description and say which interface it has."""
        try:
            self._core = self._new_core(load_robot(value(self, "robot")))
        except UserError as error:
            return self._fail(error)
        core = self._core
        self._interface.publish(String(data=core.robot.interface.to_json()))
        used = {"robot": core.robot, "calibration": core.estimator.calibration, "limits": core.limits}
        self._configuration.publish(String(data=json.dumps(to_mapping(used), sort_keys=True, default=str)))
        return TransitionCallbackReturn.SUCCESS

    def _new_core(self, robot: Robot) -> DriverCore:
        limits = Limits(**{f.name: value(self, f.name) for f in dataclasses.fields(Limits)})
        explore = Exploration(value(self, "exploration"), value(self, "seed"))
        estimator = Estimator(
            robot.interface.wheel_radius_m,
            load_calibration(value(self, "calibration"), robot.name),
            robot.interface.rate_hz,
            value(self, "attitude"),
            value(self, "attitude_time_constant_s"),
        )
        return DriverCore(robot, limits, explore, estimator)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the port, or begin to wait for it, and start the control thread; the robot stays disarmed."""
        assert self._core is not None
        port, wait_s = value(self, "port"), value(self, "port_wait_s")
        try:
            # Nothing of an earlier activation is carried over, least of all a wish to arm.
            core = self._new_core(self._core.robot)
            link = self._connect(core, wait_s)
        except UserError as error:
            return self._fail(error)
        if self._stop_latched:
            core.latch("emergency stop")
        self._core, self._link = core, link
        self._wall = WallStamp()
        self._clock_map, self._timing, self._reporter = ClockMap(), Timing(core.robot.interface.dt_s), Reporter()
        for name in core.limits.switched_off:
            self.get_logger().warning(f"limit {name!r} is switched off")
        if skipped := core.estimator.calibration.skipped:
            steps = ", ".join(skipped)
            self.get_logger().warning(f"the calibration was not finished: {steps}; h2o-robot calibrate --steps does it")
        self._running = True
        self._thread = threading.Thread(target=self._control, args=(wait_s,), name="control", daemon=True)
        self._thread.start()
        self.get_logger().info(f"robot {core.robot.name!r} on {port}: not armed, waiting to be")
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
        if self._core is not None:
            self._core.disarm("driver stopped")
        if self._link is not None and self._core is not None:
            try:
                for command in (self._core.zero(), self._core.zero()):
                    self._link.send(command)
            except PortError as error:
                self.get_logger().warning(f"could not send the last disarm ({error}); the firmware's watchdog acts")
            self._link.close()
            self._link = None
        self._publish_mode()
        # A node that is destroyed next would take its last words with it.
        self._mode.wait_for_all_acked(Duration(seconds=LAST_WORDS_S))

    def destroy_node(self) -> None:
        """Leave the graph; rclpy calls this for a node that was never finished, too."""
        if self._lane is not None:
            self._lane.stop()
            self._lane = None
        if self._workers is not None:
            self._workers.restore()
        super().destroy_node()

    def _fail(self, error: UserError) -> TransitionCallbackReturn:
        self._error = error
        self.get_logger().error(str(error))
        return TransitionCallbackReturn.FAILURE

    # The control thread: everything between a telemetry frame and the command that answers it.

    def _control(self, wait_s: float) -> None:
        """Serve the robot, and look for it again when it is gone; what ends this unasked ends the node, disarmed."""
        try:
            first_s = time.monotonic()
            while self._running:
                if self._link is None:
                    patience_s = wait_s - (time.monotonic() - first_s) if self._timing.ticks == 0 else math.inf
                    self._reconnect(patience_s)
                    continue
                try:
                    self._serve(self._link)
                except PortError as error:
                    self._lose(error)
        except UserError as error:
            self._give_up(str(error), 2)
        except Exception as error:
            # A thread that dies in silence would leave a robot that the rest of the node believes to be balanced.
            self._give_up(f"internal error: {type(error).__name__}: {error}", 70)
            raise

    def _give_up(self, reason: str, exit_code: int) -> None:
        self.get_logger().error(reason)
        with self._lock:
            assert self._core is not None
            self._core.disarm(reason)
        self._publish_mode()
        self.exit_code, self.finished = exit_code, True

    def _connect(self, core: DriverCore, patience_s: float) -> Backend | None:
        """Try once; None where there is nothing yet, PortError where patience is at its end."""
        try:
            return connect(value(self, "backend"), value(self, "port"), core.robot)
        except PortError as error:
            if patience_s <= 0:
                raise
            self.get_logger().warning(
                f"waiting: {error}", throttle_duration_sec=REMIND_S, throttle_time_source_type=STEADY_CLOCK
            )
            return None

    def _reconnect(self, patience_s: float) -> None:
        """Try once, and wait a little where there is nothing yet."""
        assert self._core is not None
        link = self._connect(self._core, patience_s)
        if link is None:
            time.sleep(RETRY_S)
            return
        with self._lock:
            self._clock_map = ClockMap()
            self._recent.clear()
            self._timing.relinked()
            self._link = link
        self.get_logger().info(f"connected to {value(self, 'port')}: {self._core.mode}")

    def _lose(self, error: PortError) -> None:
        with self._lock:
            assert self._core is not None
            link, self._link = self._link, None
            self._core.lost(f"link lost: {error}")
        if link is not None:
            link.close()
        self.get_logger().error(f"{error}; looking for it until it is back")
        self._publish_mode()

    def _serve(self, link: Backend) -> None:
        """Answer frames until stopped; raises PortError where the link is lost."""
        core, timing = self._core, self._timing
        assert core is not None
        period_s = core.robot.interface.dt_s
        heard_s = time.monotonic()
        # When the next frame should be here, by the schedule of the frames themselves: a late one moves no later one.
        due_s = heard_s + SILENCE_S
        silent = False
        # Whatever an earlier driver left behind is disarmed before anything else; it also starts lock-step.
        with self._lock:
            link.send(core.zero())
        while self._running:
            frames = link.receive(due_s + period_s)
            now = time.monotonic()
            if frames:
                heard_s, silent = now, False
                timing.skipped_frames += len(frames) - 1
                for frame in frames[:-1]:
                    self._tick(link, frame, now, newest=False)
                sampled_s = self._tick(link, frames[-1], now, newest=True)
                # The clock's map follows a device that stood still only slowly; that frames are late is then known.
                due_s = max(sampled_s, now - period_s / 2) + period_s
                continue
            timing.deadline_misses += timing.ticks > 0 and not silent
            due_s = max(due_s + period_s, now - period_s)
            if now - heard_s > SILENCE_S and not silent:
                silent = True
                why = f"; last dropped frame: {link.last_error}" if link.last_error else ""
                self.get_logger().error(f"no telemetry for {now - heard_s:.2f} s{why}")
                with self._lock:
                    core.lost(f"no telemetry for {now - heard_s:.2f} s")
                self._publish_mode()
            if silent:
                due_s = now + SILENCE_S
                with self._lock:
                    # A microcontroller that was reset in lock-step waits to be spoken to.
                    link.send(core.zero())

    def _tick(self, link: Backend, telemetry: Telemetry, arrived_s: float, newest: bool) -> float:
        """Answer one frame; returns when it was sampled, on the monotonic clock."""
        assert self._core is not None
        host_s = self._clock_map.to_host(telemetry.device_time_us, arrived_s)
        sampled_ns = self._wall.from_monotonic(host_s)
        self._timing.arrived(telemetry, arrived_s, host_s)
        with self._lock:
            self._telemetry = telemetry
            tick = self._core.on_telemetry(telemetry)
            command = tick.command if newest else None
            sent_nm = self._core.sent_nm
            if command is not None:
                link.send(command)
                if command.flags & CommandFlag.HEARTBEAT:
                    command = None
                else:
                    now = time.monotonic()
                    self._timing.written(command.sequence, telemetry.device_time_us, arrived_s, arrived_s, now)
            self._recent.append((sampled_ns, telemetry.device_time_us, arrived_s, time.monotonic()))
        messages = self._messages
        stamp = stamp_of(sampled_ns)
        messages.fill(stamp, telemetry, tick.telemetry, tick.estimate)
        # The observation goes first: a commander is waiting for it.
        self._answered.clear()
        self._odom.publish(messages.odom)
        if tick.mode == topics.TORQUE:
            # What nobody waits for gives way to the processes that the answer takes on its way.
            self._answered.wait(self._core.robot.interface.dt_s / 2)
        if command is not None:
            self._command.publish(messages.fill_command(stamp, sent_nm, tick.mode))
        self._joints.publish(messages.joints)
        self._imu.publish(messages.imu)
        self._device_time.publish(messages.time)
        if telemetry.sequence % 20 == 0:
            self._battery.publish(messages.battery)
        self._publish_mode()
        return host_s

    def _publish_mode(self) -> None:
        if self._core is None:
            return
        text = f"{self._core.mode}: {self._core.reason}"
        if text != self._published_mode:
            self._published_mode = text
            self._mode.publish(String(data=text))
            self.get_logger().info(text)

    # The executor's thread: requests and commands from the graph. A commander's torque has a thread of its own.

    def _on_speed(self, message: TwistStamped) -> None:
        with self._lock:
            if self._core is not None:
                self._core.on_speed(message.twist.linear.x, message.twist.angular.z)

    def _on_height(self, message: Float64) -> None:
        self._request(lambda core: core.move_to(message.data), Trigger.Response())

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self._estop(Trigger.Response())

    def _on_torque(self, message: JointState, info: dict[str, Any]) -> None:
        heard_s = time.monotonic()
        answered_ns = stamp_ns(message.header.stamp)
        torque = sum(message.effort) / 2 if len(message.effort) == 2 else math.nan
        source = publisher_of(info)
        with self._lock:
            core, link = self._core, self._link
            if core is None or link is None:
                return
            _, observed_us, arrived_s, published_s = next(
                (entry for entry in reversed(self._recent) if entry[0] == answered_ns), (0, -1, heard_s, heard_s)
            )
            command = core.on_torque(torque, observed_us, message.header.frame_id, source)
            if command is None:
                return
            try:
                link.send(command)
            except PortError:
                # The control thread meets the same, says so and looks for the port.
                return
            now = time.monotonic()
            self._answered.set()
            self._timing.turnaround.add(heard_s - published_s)
            self._timing.written(command.sequence, observed_us, arrived_s, heard_s, now)
            sent_nm = core.sent_nm
        self._command.publish(self._answers.fill_command(message.header.stamp, sent_nm, topics.TORQUE))

    def _torque_mode(self, core: DriverCore, on: bool) -> None:
        others = self._name_publishers(core)
        if on and len(others) > 1 and "" in core.publishers:
            # This middleware does not say who sent a message.
            raise RefusedError(f"more than one publisher on /wheel_torque ({', '.join(others)}): stop all but one")
        core.torque_mode(on)

    def _name_publishers(self, core: DriverCore) -> list[str]:
        """Return the names of the nodes that publish torque, and let the core know them."""
        found = self.get_publishers_info_by_topic(self.resolve_topic_name(topics.WHEEL_TORQUE))
        names = told_apart(
            {bytes(p.endpoint_gid)[:16].hex(): f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in found}
        )
        core.publisher_names.update(names)
        return sorted(names.values())

    def _request(self, act: Callable[[DriverCore], None], answer: Trigger.Response, does: str = "") -> Trigger.Response:
        with self._lock:
            try:
                if self._core is None or not self._running:
                    raise RefusedError("the driver is not active: no port is open and the robot is disarmed")
                if self._link is None:
                    raise RefusedError(f"no connection to {value(self, 'port')}: plug the robot in and switch it on")
                act(self._core)
                answer.success = True
                answer.message = does or f"{self._core.mode}: {self._core.reason}"
            except RefusedError as error:
                answer.success = False
                answer.message = str(error)
                self.get_logger().warning(
                    f"refused: {error}", throttle_duration_sec=0.5, throttle_time_source_type=STEADY_CLOCK
                )
        self._publish_mode()
        return answer

    def _estop(self, answer: Trigger.Response) -> Trigger.Response:
        """Stop in every state: an inactive driver remembers it and is not armed before somebody disarms."""
        with self._lock:
            self._stop_latched = True
            if self._core is not None:
                self._core.estop()
                self._send_zero(self._core)
        answer.success, answer.message = True, "stopped: zero torque until disarm"
        self._publish_mode()
        return answer

    def _disarm(self, answer: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._stop_latched = False
            if self._core is not None:
                self._core.disarm()
                self._send_zero(self._core)
        answer.success, answer.message = True, "disarmed"
        self._publish_mode()
        return answer

    def _send_zero(self, core: DriverCore) -> None:
        """Do not wait for the next frame, which may not come."""
        try:
            if self._link is not None:
                self._link.send(core.zero())
        except PortError:
            # The control thread meets the same, says so and looks for the port.
            pass

    def _report(self) -> None:
        if self._workers is not None:
            self._workers.keep()
        core = self._core
        if core is None:
            return
        others = self._name_publishers(core)
        if len(others) > 1 and "" in core.publishers:
            with self._lock:
                core.intrusion(", ".join(others))
            self._publish_mode()
        before, self._refused = self._refused, core.intruders
        if intruders := [name for name, count in self._refused.items() if count != before.get(name)]:
            self.get_logger().warning(
                f"refused torque from {', '.join(intruders)}: another one is in command",
                throttle_duration_sec=REMIND_S,
                throttle_time_source_type=STEADY_CLOCK,
            )
        message = self._reporter.report(
            time.monotonic(), core, self._timing, self._clock_map, self._link, self._telemetry, others
        )
        message.header.stamp = stamp_of(self._wall.now_ns())
        self._diagnostics.publish(message)


def told_apart(names: dict[str, str]) -> dict[str, str]:
    """Return the names of publishers by id; where several have the same name, with what differs in their ids."""
    several = Counter(names.values())
    return {gid: f"{name} ({gid[PROCESS]})" if several[name] > 1 else name for gid, name in names.items()}


def stamp_of(time_ns: int) -> Time:
    """Return a time in ns as a message."""
    return Time(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)


def publisher_of(info: dict[str, Any]) -> str:
    """Return what tells the sender of a message from others, hexadecimal; empty where the middleware does not say."""
    data = (info.get("publisher_gid") or {}).get("data", b"")
    return bytes(data)[:16].hex()


def main() -> None:
    """Console script `driver_node`."""
    sys.exit(run(DriverNode))
