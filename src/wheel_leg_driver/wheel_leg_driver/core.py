# SPDX-License-Identifier: Apache-2.0
"""Who commands the wheels, and within which limits. No ROS and no I/O: a test or a judge can run it in lock-step.

disarmed ──arm──▶ balance ◀──torque_mode──▶ torque
    ▲                │ fall, fault, e-stop     │ fall, fault, e-stop       stale, bad or rejected torque, tilt, speed,
    └────disarm──── fault ◀────────────────────┘                           distance: back to balance, which stops
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from h2o_control.errors import UserError
from h2o_control.topics import BALANCE, DISARMED, FAULT, TORQUE
from wheel_leg_driver.balance import Balancer, wheel_torques, yaw_torque
from wheel_leg_driver.estimator import Estimate, Estimator
from wheel_leg_driver.protocol import NO_FLAGS, Command, CommandFlag, Fault, Status, Telemetry
from wheel_leg_driver.robot import Robot


class RefusedError(UserError):
    """A request that the driver does not grant in its present state; the message says why."""


@dataclass(frozen=True)
class Limits:
    """When the driver stops obeying.

    Attributes:
        fall_rad: |pitch| beyond which torque only makes it worse: zero torque, latched.
        tilt_rad, speed_mps, distance_m: beyond these (distance from where it took command) a commander on
            /wheel_torque loses command to the driver's balance, which stops the robot.
        staleness_s: age, in device time, of the last obeyed observation at which the same happens.
        torque_nm: largest torque of one wheel; the robot's own limit holds in any case.
        command_timeout_s: a speed command older than this counts as zero.
        arm_rad: |pitch| up to which arming is granted.
        speed_command_mps, yaw_rate_command_radps: largest speed and yaw rate taken from /cmd_vel.
    """

    fall_rad: float = 0.6
    tilt_rad: float = 0.4
    speed_mps: float = 1.2
    distance_m: float = 10.0
    staleness_s: float = 0.025
    torque_nm: float = 1000.0
    command_timeout_s: float = 0.5
    arm_rad: float = 0.2
    speed_command_mps: float = 1.2
    yaw_rate_command_radps: float = 1.5


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
    """What came out of one telemetry frame; `command` is None where a commander's torque is awaited."""

    estimate: Estimate
    command: Command | None
    mode: str


class DriverCore:
    """Turns telemetry, speed commands and torque commands into command frames."""

    def __init__(self, robot: Robot, limits: Limits | None = None, exploration: Exploration | None = None) -> None:
        self.robot = robot
        self.limits = limits or Limits()
        self.mode = DISARMED
        self.reason = "start"
        self.hand_backs = 0
        self.commands_rejected = 0
        self._exploration = exploration or Exploration()
        self._rng = np.random.default_rng(self._exploration.seed)
        self._noise = 0.0
        self._estimator = Estimator(robot.interface.wheel_radius_m)
        self._balancer = Balancer(robot)
        self._telemetry: Telemetry | None = None
        self._estimate: Estimate | None = None
        self._sequence = 0
        self._flags = CommandFlag.DISARM
        self._arming = False
        self._stopping = False
        self._speed = (0.0, 0.0, -math.inf)
        self._obeyed_us = 0
        self._offer = ("", -1_000_000_000)
        self._start_x_m = 0.0

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
        self._telemetry = telemetry
        self._estimate = estimate = self._estimator.update(telemetry)
        self._check_firmware(telemetry)
        if self.mode in (BALANCE, TORQUE) and not abs(estimate.theta_rad) <= self.limits.fall_rad:
            self.latch(f"fallen: pitch {estimate.theta_rad:+.2f} rad is beyond {self.limits.fall_rad} rad")
        if self.mode == TORQUE:
            self._check_commander(estimate)
        command = None if self.mode == TORQUE else self._own_command(estimate)
        return Tick(estimate, command, self.mode)

    def _check_firmware(self, telemetry: Telemetry) -> None:
        if self.mode in (BALANCE, TORQUE):
            if telemetry.faults:
                self.latch(f"firmware latched {describe(telemetry.faults)}")
            elif not telemetry.status & Status.ARMED:
                self.latch("firmware is not armed any more: it was reset, or something else disarmed it")
        elif self._arming and telemetry.status & Status.ARMED and not telemetry.faults:
            self._arming, self._flags = False, NO_FLAGS
            self._estimator.set_origin()
            self._estimate = self._estimator.update(telemetry)
            self._balancer.take_over(self._estimate)
            self._noise, self._stopping = 0.0, False
            self._change(BALANCE, "armed")

    def _check_commander(self, estimate: Estimate) -> None:
        limits = self.limits
        age_s = (self.device_time_us - self._obeyed_us) * 1e-6
        distance = abs(estimate.x_m - self._start_x_m)
        if age_s > limits.staleness_s + 1e-9:
            self._hand_back(f"no fresh torque for {age_s * 1e3:.0f} ms")
        elif abs(estimate.theta_rad) > limits.tilt_rad:
            self._hand_back(f"pitch {estimate.theta_rad:+.2f} rad is beyond {limits.tilt_rad} rad")
        elif abs(estimate.v_mps) > limits.speed_mps:
            self._hand_back(f"speed {estimate.v_mps:+.2f} m/s is beyond {limits.speed_mps} m/s")
        elif distance > limits.distance_m:
            self._hand_back(f"{distance:.2f} m from where it took command, limit {limits.distance_m} m")

    def _own_command(self, estimate: Estimate) -> Command:
        if self.mode != BALANCE:
            return self.zero()
        dt = self.robot.interface.dt_s
        v, yaw_rate, set_us = self._speed
        if self._stopping or (self.device_time_us - set_us) * 1e-6 > self.limits.command_timeout_s:
            v, yaw_rate = 0.0, 0.0
        common = self._balancer.torque(estimate, v)
        torque_nm = self._exploration.share * self.robot.balance.exploration_nm
        if torque_nm > 0:
            keep = math.exp(-dt / self.robot.balance.exploration_time_s)
            self._noise = keep * self._noise + math.sqrt(1 - keep * keep) * float(self._rng.standard_normal())
            common += torque_nm * self._peaked(self._noise)
        return self._command(common, yaw_torque(estimate, yaw_rate))

    def _peaked(self, normal: float) -> float:
        """Give normal noise its tail; for z normal, z + t z³ has variance 1 + 6 t + 15 t²."""
        tail = self.robot.balance.exploration_tail
        return (normal + tail * normal**3) / math.sqrt(1 + 6 * tail + 15 * tail * tail)

    def _command(self, common_nm: float, yaw_nm: float) -> Command:
        limit = min(self.limits.torque_nm, self.robot.interface.torque_limit_nm)
        self._sequence += 1
        body = self.robot.body
        torques = wheel_torques(common_nm, yaw_nm, limit)
        return Command(self._sequence, torques, (body.thigh_rad, body.shin_rad), self._flags)

    def zero(self) -> Command:
        """Return a command of zero torque with the flags of the present mode."""
        return self._command(0.0, 0.0)

    def on_speed(self, v_mps: float, yaw_rate_radps: float) -> None:
        """Take a speed command for the driver's balance; not-a-number counts as zero."""
        limits = self.limits
        v = max(-limits.speed_command_mps, min(limits.speed_command_mps, v_mps)) if math.isfinite(v_mps) else 0.0
        yaw = yaw_rate_radps if math.isfinite(yaw_rate_radps) else 0.0
        yaw = max(-limits.yaw_rate_command_radps, min(limits.yaw_rate_command_radps, yaw))
        self._speed = (v, yaw, self.device_time_us)
        if v == 0.0 and yaw == 0.0:
            # After a hand-back the robot stops until the operator has let go of the stick once.
            self._stopping = False

    def on_torque(self, torque_nm: float, observed_us: int, interface_hash: str) -> Command | None:
        """Take a commander's common torque that answers the observation of device time `observed_us`.

        Returns the command to send, or None where it does not count: another mode, another interface, an old
        observation. NaN, infinity or an empty message (given here as NaN) hands the robot back to balance.
        """
        problem = ""
        if interface_hash != self.robot.interface.hash:
            problem = f"torque for interface {interface_hash!r}, this robot is {self.robot.interface.hash}"
        elif not math.isfinite(torque_nm):
            problem = "the commander gave the robot back, or sent a torque that is not a number"
        self._offer = (problem, self.device_time_us)
        if self.mode != TORQUE or self._estimate is None:
            return None
        if problem:
            self.commands_rejected += 1
            self._hand_back(problem)
            return None
        if not self._obeyed_us < observed_us <= self.device_time_us:
            self.commands_rejected += 1
            return None
        self._obeyed_us = observed_us
        return self._command(torque_nm, yaw_torque(self._estimate, 0.0))

    def arm(self) -> None:
        """Ask the firmware to arm; balance takes command once it says so.

        Raises:
            RefusedError: no telemetry yet, not disarmed, or not held upright.
        """
        if self._telemetry is None or self._estimate is None:
            raise RefusedError("no telemetry yet: is the robot on and the port right?")
        if self.mode != DISARMED:
            raise RefusedError(f"mode is {self.mode} ({self.reason}): disarm first")
        if not abs(self._estimate.theta_rad) <= self.limits.arm_rad:
            raise RefusedError(
                f"pitch is {self._estimate.theta_rad:+.2f} rad: "
                f"hold the robot upright, within {self.limits.arm_rad} rad"
            )
        if self._telemetry.faults:
            raise RefusedError(f"firmware reports {describe(self._telemetry.faults)}: disarm first")
        self._arming, self._flags = True, CommandFlag.ARM

    def disarm(self, reason: str = "disarmed by request") -> None:
        """Zero torque, and clear what is latched; works in every state."""
        self._arming, self._flags = False, CommandFlag.DISARM
        self._change(DISARMED, reason)

    def estop(self) -> None:
        """Zero torque now, latched until disarmed."""
        self.latch("emergency stop")

    def torque_mode(self, on: bool) -> None:
        """Give command to the commander on /wheel_torque, or take it back.

        Raises:
            RefusedError: the driver's balance is not in command, or no commander offers torque that could be obeyed.
        """
        if not on:
            if self.mode == TORQUE:
                self._hand_back("by request", counts=False)
            return
        if self.mode != BALANCE or self._estimate is None:
            raise RefusedError(f"mode is {self.mode} ({self.reason}): arm and let the driver balance first")
        problem, offered_us = self._offer
        if self.device_time_us - offered_us > self.limits.staleness_s * 1e6:
            raise RefusedError("nobody answers observations on /wheel_torque: is a policy node running?")
        if problem:
            raise RefusedError(f"what comes on /wheel_torque cannot be obeyed: {problem}")
        self._obeyed_us = self.device_time_us
        self._start_x_m = self._estimate.x_m
        self._change(TORQUE, "by request")

    def _hand_back(self, reason: str, counts: bool = True) -> None:
        assert self._estimate is not None
        self.hand_backs += counts
        self._balancer.take_over(self._estimate)
        self._stopping = True
        self._noise = 0.0
        self._change(BALANCE, reason)

    def latch(self, reason: str) -> None:
        """Zero torque until disarmed, for this reason."""
        self._arming, self._flags = False, CommandFlag.DISARM
        self._change(FAULT, reason)

    def _change(self, mode: str, reason: str) -> None:
        self.mode, self.reason = mode, reason


def describe(faults: Fault) -> str:
    """Name the fault bits in words."""
    return ", ".join(fault.name.lower().replace("_", " ") for fault in Fault if fault in faults and fault.name)
