# SPDX-License-Identifier: Apache-2.0
"""Who commands the wheels, and within which limits. No ROS and no I/O: a test or a judge can run it in lock-step.

disarmed ──arm──▶ balance ◀──torque_mode──▶ torque
    ▲                │  limit (limits.py)      │  limit, commander dead or talking nonsense
    │                ├──────────▶ hold ◀───────┤
    └────disarm──────┴── fault ◀── fall, firmware's fault, e-stop, lost link: from everywhere

In `hold` the driver balances on the spot, in `fault` the torque is zero; both last until disarm, and nothing arms by
itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from h2o_control.errors import UserError
from h2o_control.topics import ARMED, BALANCE, DISARMED, FAULT, HOLD, TORQUE
from wheel_leg_driver import limits as limit
from wheel_leg_driver.authority import PROCESS, Authority
from wheel_leg_driver.balance import Balancer, wheel_torques, yaw_torque
from wheel_leg_driver.estimator import Estimate, Estimator
from wheel_leg_driver.limits import Limits, Monitor
from wheel_leg_driver.posture import Posture
from wheel_leg_driver.protocol import NO_FLAGS, Command, CommandFlag, Fault, Status, Telemetry
from wheel_leg_driver.robot import Robot

#: Steps without an answer after which a commander is late.
LATE_STEPS = 2
#: A commander whose last answer is older than this is not there; to be given command, it need not be on time already.
OFFER_US = 100_000
#: Damping ends after this long; what still turns then is stopped by friction.
DAMPING_US = 1_000_000


class RefusedError(UserError):
    """A request that the driver does not grant in its present state; the message says why."""


@dataclass(frozen=True)
class Exploration:
    """Smooth random torque added to the driver's balance while data are collected (Ornstein–Uhlenbeck).

    Attributes:
        share: of what the robot's file says under `balance`; 0 is off.
        seed: of the noise.
    """

    share: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Tick:
    """What came out of one telemetry frame.

    Attributes:
        estimate: the state.
        telemetry: the frame as the calibration corrects it.
        command: what to send; None, or a heartbeat, where a commander's torque is awaited.
        mode: in command.
    """

    estimate: Estimate
    telemetry: Telemetry
    command: Command | None
    mode: str


class DriverCore:
    """Turns telemetry, speed commands and torque commands into command frames.

    Attributes:
        mode, reason: who commands the wheels, and why since the last change.
        sent_nm: torque of the left and right wheel in the last command, positive drives forward.
        hand_backs: how often a limit took the robot from a commander.
        commands_rejected: torque messages that were not obeyed though a commander was in command.
        publisher_names: names for what tells publishers apart; the node fills it.
        monitor, estimator, posture: see there.
    """

    def __init__(
        self,
        robot: Robot,
        limits: Limits | None = None,
        exploration: Exploration | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        """Start disarmed.

        Args:
            robot: its description.
            limits: defaults where None.
            exploration: none where None.
            estimator: one made for this robot, with its calibration and settings of its own; the default where None.

        Raises:
            ConfigError: the description contradicts itself.
        """
        self.robot = robot
        self.limits = limits or Limits()
        self.monitor = Monitor(self.limits)
        self.mode = DISARMED
        self.reason = "start"
        self.hand_backs = 0
        self.commands_rejected = 0
        self.publisher_names: dict[str, str] = {}
        self._exploration = exploration or Exploration()
        self._rng = np.random.default_rng(self._exploration.seed)
        self._noise = 0.0
        interface = robot.interface
        self.estimator = estimator or Estimator(interface.wheel_radius_m, rate_hz=interface.rate_hz)
        self._balancer = Balancer(robot)
        self.posture = Posture(robot)
        self._authority = Authority(OFFER_US)
        self._telemetry: Telemetry | None = None
        self._estimate: Estimate | None = None
        self._sequence = 0
        self._flags = CommandFlag.DISARM
        self._arming = False
        self._bias_note = ""
        self._stopping = False
        self._damp_until_us = 0
        self._speed = (0.0, 0.0, -math.inf)
        self._obeyed_us = 0
        self.sent_nm = (0.0, 0.0)

    @property
    def device_time_us(self) -> int:
        """Device time of the newest telemetry."""
        return self._telemetry.device_time_us if self._telemetry else 0

    @property
    def trim_rad(self) -> float:
        """Pitch at which the driver's balance found the robot to be in balance."""
        return self._balancer.trim_rad

    def on_telemetry(self, telemetry: Telemetry) -> Tick:
        """Estimate, check every limit and, unless a commander is awaited, decide the next command."""
        if self._telemetry is not None and telemetry.device_time_us < self._telemetry.device_time_us:
            self._restarted()
        self._telemetry = telemetry
        self._estimate = estimate = self.estimator.update(telemetry, held=self.mode == DISARMED)
        self._check_firmware(telemetry)
        estimate, corrected = self._estimate, self.estimator.corrected or telemetry
        if self.mode in ARMED:
            age_s = (telemetry.device_time_us - self._obeyed_us) * 1e-6
            violation = self.monitor.check(corrected, estimate, self.mode, age_s)
            if violation is not None and not (violation.action == limit.HOLD and self.mode == HOLD):
                self._enforce(violation)
        command = self._keep_waiting(telemetry) if self.mode == TORQUE else self._own_command(corrected, estimate)
        return Tick(estimate, corrected, command, self.mode)

    def _restarted(self) -> None:
        # Ages in device time mean nothing across a restart.
        self._speed = (0.0, 0.0, -math.inf)
        self._authority.forget()
        self._arming, self._flags, self._damp_until_us = False, CommandFlag.DISARM, 0
        if self.mode in ARMED:
            self.latch("the microcontroller was reset")

    def _check_firmware(self, telemetry: Telemetry) -> None:
        if self.mode in ARMED:
            if telemetry.faults:
                self.latch(f"firmware latched {describe(telemetry.faults)}")
            elif not telemetry.status & Status.ARMED:
                self.latch("firmware is not armed any more: it was reset, or something else disarmed it")
        elif self._arming and telemetry.status & Status.ARMED and not telemetry.faults:
            self._arming, self._flags = False, NO_FLAGS
            self.estimator.set_origin()
            self._estimate = self.estimator.update(telemetry)
            self._balancer.start(self._estimate)
            self.monitor.start()
            self._noise, self._stopping = 0.0, False
            self._change(BALANCE, f"armed{self._bias_note}")

    def _enforce(self, violation: limit.Violation) -> None:
        self.monitor.hit(violation.limit)
        if violation.action == limit.HOLD:
            self.hand_backs += self.mode == TORQUE
            self._take_back(HOLD, violation.reason)
        else:
            self.latch(violation.reason, damped=violation.action == limit.DAMP)

    def _keep_waiting(self, telemetry: Telemetry) -> Command | None:
        """Keep the firmware's watchdog content while a late commander may still answer: it must not bite first."""
        if telemetry.device_time_us - self._obeyed_us < LATE_STEPS * 1e6 * self.robot.interface.dt_s:
            return None
        self._sequence += 1
        return Command(self._sequence, flags=CommandFlag.HEARTBEAT)

    def _own_command(self, telemetry: Telemetry, estimate: Estimate) -> Command:
        if self._damp_until_us and telemetry.device_time_us >= self._damp_until_us:
            self._damp_until_us, self._flags = 0, CommandFlag.DISARM
        if self._damp_until_us:
            gain = self.limits.damping_nms
            left, right = telemetry.sensors.wheel_vel_radps
            return self._send((-gain * left, -gain * right))
        if self.mode not in ARMED:
            return self.zero()
        dt = self.robot.interface.dt_s
        v, yaw_rate = self._wanted_speed()
        common = self._balancer.torque(estimate, v)
        torque_nm = self._exploration.share * self.robot.balance.exploration_nm
        if torque_nm > 0 and self.mode == BALANCE:
            keep = math.exp(-dt / self.robot.balance.exploration_time_s)
            self._noise = keep * self._noise + math.sqrt(1 - keep * keep) * float(self._rng.standard_normal())
            common += torque_nm * self._peaked(self._noise)
        return self._command(common, self._steer(estimate, yaw_rate))

    def _wanted_speed(self) -> tuple[float, float]:
        v, yaw_rate, set_us = self._speed
        stale = (self.device_time_us - set_us) * 1e-6 > self.limits.command_timeout_s
        return (0.0, 0.0) if self.mode == HOLD or self._stopping or stale else (v, yaw_rate)

    def _steer(self, estimate: Estimate, yaw_rate_radps: float) -> float:
        """Torque in Nm for the right wheel, and against it for the left: the commanded yaw rate, with damping."""
        wanted = yaw_torque(estimate, yaw_rate_radps)
        # Damping alone must not chatter through the motors' dead zone, a commanded turn must get past it.
        return self._balancer.compensate(wanted) if yaw_rate_radps != 0.0 else wanted

    def _peaked(self, normal: float) -> float:
        """Give normal noise its tail; for z normal, z + t z³ has variance 1 + 6 t + 15 t²."""
        tail = self.robot.balance.exploration_tail
        return (normal + tail * normal**3) / math.sqrt(1 + 6 * tail + 15 * tail * tail)

    def _command(self, common_nm: float, yaw_nm: float) -> Command:
        cap = self.limits.largest_nm(self.robot.interface)
        if abs(common_nm) > cap:
            self.monitor.hit("torque")
        return self._send(wheel_torques(common_nm, yaw_nm, cap))

    def _send(self, torques_nm: tuple[float, float]) -> Command:
        left, right = self.limits.cut(torques_nm, self.sent_nm, self.robot.interface)
        if max(abs(left - torques_nm[0]), abs(right - torques_nm[1])) > 1e-9:
            self.monitor.hit("torque rate")
        self.sent_nm = (left, right)
        self._sequence += 1
        return Command(
            self._sequence, self.estimator.calibration.to_motors(left, right), self.posture.step(), self._flags
        )

    def zero(self) -> Command:
        """Return a command of zero torque with the flags of the present mode."""
        self.sent_nm = (0.0, 0.0)
        self._sequence += 1
        angles = self.posture.angles_rad(self.posture.height_m)
        return Command(self._sequence, (0.0, 0.0), angles, self._flags)

    def on_speed(self, v_mps: float, yaw_rate_radps: float) -> None:
        """Take a speed and yaw rate; the speed is for the driver's balance, steering acts under a commander too.

        What is not a number counts as zero.
        """
        limits = self.limits
        v = max(-limits.speed_command_mps, min(limits.speed_command_mps, v_mps)) if math.isfinite(v_mps) else 0.0
        yaw = yaw_rate_radps if math.isfinite(yaw_rate_radps) else 0.0
        yaw = max(-limits.yaw_rate_command_radps, min(limits.yaw_rate_command_radps, yaw))
        self._speed = (v, yaw, self.device_time_us)
        if v == 0.0 and yaw == 0.0:
            # After a hand-back the robot stops until the operator has let go of the stick once.
            self._stopping = False

    def on_torque(self, torque_nm: float, observed_us: int, interface_hash: str, source: str = "") -> Command | None:
        """Take a commander's common torque that answers the observation of device time `observed_us`.

        Returns the command to send, or None where it does not count: another mode, another commander, another
        interface, an old observation. NaN, infinity or an empty message (given here as NaN) ends the command.

        Args:
            torque_nm: of one wheel, both alike.
            observed_us: device time of the answered observation, negative where it is none of this driver's.
            interface_hash: that the commander works for.
            source: tells publishers apart.
        """
        problem = ""
        if interface_hash != self.robot.interface.hash:
            problem = f"torque for interface {interface_hash!r}, this robot is {self.robot.interface.hash}"
        elif not math.isfinite(torque_nm):
            problem = "the commander gave the robot back, or sent a torque that is not a number"
        obeyed = self._authority.offer(source, problem, self.device_time_us)
        if self.mode != TORQUE or self._estimate is None:
            return None
        if not obeyed:
            self.commands_rejected += 1
            return None
        if problem:
            self.commands_rejected += 1
            self._enforce(limit.Violation("not a number", self.limits.nan_action, problem))
            return None
        if not self._obeyed_us < observed_us <= self.device_time_us:
            self.commands_rejected += 1
            return None
        self._obeyed_us = observed_us
        return self._command(torque_nm, self._steer(self._estimate, self._wanted_speed()[1]))

    @property
    def publishers(self) -> tuple[str, ...]:
        """What tells the publishers of torque apart that were heard so far."""
        return self._authority.heard

    @property
    def intruders(self) -> dict[str, int]:
        """Names of publishers whose torque was refused because another one is in command, with how often."""
        return {self._name(source): count for source, count in self._authority.refused.items()}

    def _name(self, source: str) -> str:
        return self.publisher_names.get(source) or source[PROCESS] or "unknown"

    def arm(self) -> None:
        """Ask the firmware to arm; balance takes command once it says so.

        Raises:
            RefusedError: no telemetry yet, not disarmed, or not held upright and still.
        """
        if self._telemetry is None or self._estimate is None:
            raise RefusedError("no telemetry yet: is the robot on and the port right?")
        if self.mode != DISARMED:
            raise RefusedError(f"mode is {self.mode} ({self.reason}): disarm first")
        if not limit.finite(self._estimate):
            raise RefusedError("a sensor sends what is not a number: look at /imu and /joint_states")
        if not abs(self._estimate.theta_rad) <= self.limits.arm_rad:
            raise RefusedError(
                f"pitch is {self._estimate.theta_rad:+.2f} rad: "
                f"hold the robot upright, within {self.limits.arm_rad} rad"
            )
        if not abs(self._estimate.theta_dot_radps) <= self.limits.arm_rate_radps:
            raise RefusedError(
                f"the body swings at {self._estimate.theta_dot_radps:+.2f} rad/s: "
                f"hold it still, within {self.limits.arm_rate_radps} rad/s"
            )
        sensors = self._telemetry.sensors
        if sensors.battery_v < self.limits.voltage_v and self.limits.voltage_action != limit.OFF:
            raise RefusedError(f"{sensors.battery_v:.1f} V is below {self.limits.voltage_v} V: charge the battery")
        if max(sensors.temperatures_c) > self.limits.temperature_c and self.limits.temperature_action != limit.OFF:
            raise RefusedError(
                f"{max(sensors.temperatures_c):.0f} °C is above {self.limits.temperature_c} °C: let it cool"
            )
        if self._telemetry.faults:
            raise RefusedError(f"firmware reports {describe(self._telemetry.faults)}: disarm first")
        problem = self.estimator.measure_bias()
        self._bias_note = f", gyro bias not measured: {problem}" if problem else ""
        self.posture.start_from(sensors.leg_pos_rad)
        self._damp_until_us = 0
        self._arming, self._flags = True, CommandFlag.ARM

    def disarm(self, reason: str = "disarmed by request") -> None:
        """Zero torque, and clear what is latched; works in every state."""
        self._arming, self._flags, self._damp_until_us = False, CommandFlag.DISARM, 0
        self._authority.release()
        self._change(DISARMED, reason)

    def estop(self) -> None:
        """Zero torque now, latched until disarmed; works in every state."""
        self.latch("emergency stop")

    def lost(self, reason: str) -> None:
        """No link to the robot any more: its firmware stops by itself, and nobody but an operator arms it again."""
        self._arming, self._damp_until_us = False, 0
        if self.mode in ARMED:
            self.latch(reason)
        self._flags = CommandFlag.DISARM
        self._telemetry = self._estimate = None

    def move_to(self, height_m: float) -> None:
        """Raise or lower the body; hips above the axle, m.

        Raises:
            RefusedError: the driver's balance is not in command, or this height is none that the legs take up.
        """
        if self.mode != BALANCE:
            raise RefusedError(
                f"mode is {self.mode} ({self.reason}): the legs move only while the driver balances at your command"
            )
        low, high = self.posture.lowest_m, self.posture.standing_m
        if not low - 1e-6 <= height_m <= high + 1e-6:
            raise RefusedError(f"height {height_m:.3f} m is out of reach: between {low:.3f} and {high:.3f} m")
        self.posture.goal_m = max(low, min(high, height_m))

    def torque_mode(self, on: bool) -> None:
        """Give command to the commander on /wheel_torque, or take it back.

        Raises:
            RefusedError: the driver's balance is not in command, or no single commander offers torque to obey.
        """
        if not on:
            if self.mode == TORQUE:
                self._take_back(BALANCE, "by request")
            return
        if self.mode != BALANCE or self._estimate is None:
            first = "disarm, then arm" if self.mode in (HOLD, FAULT) else "arm and let the driver balance first"
            raise RefusedError(f"mode is {self.mode} ({self.reason}): {first}")
        if not self.posture.standing:
            raise RefusedError("policies are made for the standing posture: stand up first")
        offers = self._authority.fresh(self.device_time_us)
        if not offers:
            raise RefusedError("nobody answers observations on /wheel_torque: is a policy node running?")
        if len(offers) > 1:
            names = ", ".join(sorted(map(self._name, offers)))
            raise RefusedError(f"{len(offers)} publishers answer on /wheel_torque ({names}): stop all but one")
        ((source, problem),) = offers.items()
        if problem:
            raise RefusedError(f"what comes on /wheel_torque cannot be obeyed: {problem}")
        self._authority.grant(source)
        self._obeyed_us = self.device_time_us
        self._change(TORQUE, "by request")

    def intrusion(self, who: str) -> None:
        """Somebody else publishes torque, and this middleware cannot tell whose message is whose."""
        if self.mode == TORQUE:
            self._enforce(limit.Violation("authority", limit.HOLD, f"more than one publisher on /wheel_torque: {who}"))

    def _take_back(self, mode: str, reason: str) -> None:
        assert self._estimate is not None
        self._balancer.take_over(self._estimate)
        self._authority.release()
        self._stopping = True
        self._noise = 0.0
        self._change(mode, reason)

    def latch(self, reason: str, damped: bool = False) -> None:
        """Zero torque until disarmed, for this reason; where `damped`, the wheels are first slowed down."""
        self._arming = False
        self._authority.release()
        self._damp_until_us = self.device_time_us + DAMPING_US if damped and self.mode in ARMED else 0
        self._flags = NO_FLAGS if self._damp_until_us else CommandFlag.DISARM
        self._change(FAULT, reason)

    def _change(self, mode: str, reason: str) -> None:
        self.mode, self.reason = mode, reason


def describe(faults: Fault) -> str:
    """Name the fault bits in words."""
    return ", ".join(fault.name.lower().replace("_", " ") for fault in Fault if fault in faults and fault.name)
