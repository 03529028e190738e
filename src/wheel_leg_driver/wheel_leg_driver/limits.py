# SPDX-License-Identifier: Apache-2.0
"""The driver's limits: what each one watches, between which bounds it may be set, and what it does when it is hit.

Each field is a parameter of the driver node of the same name. A `…_action` says what its limit does:

    balance  the driver's balance takes command and stops the robot where it is (mode hold)
    zero     zero torque (mode fault)
    damp     torque against the wheels' turning for a second, then zero (mode fault)
    off      nothing; said at start as a warning

Whatever it does lasts, with its reason, until the robot is disarmed; then it may be armed anew.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from h2o_control import topics
from h2o_control.contract import Interface
from h2o_control.errors import ConfigError, nearest
from wheel_leg_driver.estimator import Estimate
from wheel_leg_driver.protocol import Telemetry

HOLD, ZERO, DAMP, OFF = "balance", "zero", "damp", "off"
#: Which of two actions asked for at once is taken: the one further right.
SEVERITY = (OFF, HOLD, DAMP, ZERO)
#: Voltage and temperature must stay beyond their limit for this long: motors make the voltage dip for milliseconds.
SUSTAINED_US = 100_000


def _value(default: float, low: float, high: float, description: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "description": description})


def _action(default: str, choices: tuple[str, ...], what: str) -> Any:
    description = f"what {what} does: {', '.join(choices)}"
    return dataclasses.field(default=default, metadata={"choices": choices, "description": description})


@dataclass(frozen=True)
class Limits:
    """When the driver stops obeying, and what it does then; descriptions, units and ranges are in the fields."""

    fall_rad: float = _value(0.6, 0.1, 1.5, "pitch that counts as fallen, rad")
    fall_action: str = _action(ZERO, (ZERO, DAMP), "a fall")
    tilt_rad: float = _value(0.4, 0.05, 1.5, "largest pitch under a commander, rad")
    tilt_action: str = _action(HOLD, (HOLD, ZERO, DAMP, OFF), "too much pitch under a commander")
    speed_mps: float = _value(1.2, 0.1, 5.0, "largest speed under a commander, m/s")
    speed_action: str = _action(HOLD, (HOLD, ZERO, DAMP, OFF), "too much speed under a commander")
    distance_m: float = _value(10.0, 0.1, 1000.0, "largest displacement from where the robot was armed, m")
    distance_action: str = _action(HOLD, (HOLD, ZERO, DAMP, OFF), "too much displacement")
    staleness_s: float = _value(0.025, 0.002, 0.029, "oldest answer of a commander, in device time, s")
    staleness_action: str = _action(HOLD, (HOLD, ZERO, DAMP), "a commander that does not answer")
    torque_nm: float = _value(1000.0, 0.0, 1000.0, "largest torque of a wheel, within the robot's own; cut to it, Nm")
    torque_rate_nmps: float = _value(1000.0, 10.0, 100_000.0, "largest change of a wheel's torque; cut to it, Nm/s")
    voltage_v: float = _value(19.0, 0.0, 100.0, "lowest bus voltage, V")
    voltage_action: str = _action(HOLD, (HOLD, ZERO, DAMP, OFF), "too low a voltage")
    temperature_c: float = _value(80.0, 20.0, 150.0, "highest temperature of motors and board, °C")
    temperature_action: str = _action(HOLD, (HOLD, ZERO, DAMP, OFF), "too high a temperature")
    nan_action: str = _action(HOLD, (HOLD, ZERO, DAMP), "a torque that is not a number")
    sensor_action: str = _action(ZERO, (ZERO, DAMP), "a sensor that sends what is not a number, or is stuck")
    stuck_s: float = _value(0.05, 0.02, 5.0, "how long a sensor may send the same while the other moves, s")
    damping_nms: float = _value(0.1, 0.0, 10.0, "torque against a wheel's turning while damping, Nm/(rad/s)")
    command_timeout_s: float = _value(0.2, 0.05, 5.0, "age at which /cmd_vel counts as zero, s")
    arm_rad: float = _value(0.2, 0.01, 0.5, "largest pitch at which arming is granted, rad")
    arm_rate_radps: float = _value(0.5, 0.05, 5.0, "largest pitch rate at which arming is granted, rad/s")
    speed_command_mps: float = _value(1.2, 0.0, 5.0, "largest speed taken from /cmd_vel, m/s")
    yaw_rate_command_radps: float = _value(1.5, 0.0, 10.0, "largest yaw rate taken from /cmd_vel, rad/s")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            given, meta = getattr(self, f.name), f.metadata
            if "choices" in meta and given not in meta["choices"]:
                raise ConfigError(f"{f.name} is {given!r} ({meta['description']}).{nearest(given, meta['choices'])}")
            if "low" in meta and not meta["low"] <= given <= meta["high"]:
                raise ConfigError(
                    f"{f.name} is {given} ({meta['description']}), must be between {meta['low']} and {meta['high']}"
                )

    @property
    def switched_off(self) -> list[str]:
        """Names of the limits that do nothing."""
        return [f.name[:-7] for f in dataclasses.fields(self) if getattr(self, f.name) == OFF]

    def largest_nm(self, interface: Interface) -> float:
        """Return the largest torque of a wheel: what is set here, within the robot's own limit."""
        return min(self.torque_nm, interface.torque_limit_nm)

    def cut(
        self, wanted_nm: tuple[float, float], last_nm: tuple[float, float], interface: Interface
    ) -> tuple[float, float]:
        """Return left and right torque (Nm) as they may be sent a control step after `last_nm`: within cap and rate."""
        cap, step = self.largest_nm(interface), self.torque_rate_nmps * interface.dt_s
        left, right = (
            max(last - step, min(last + step, max(-cap, min(cap, wanted))))
            for last, wanted in zip(last_nm, wanted_nm, strict=True)
        )
        return left, right


@dataclass(frozen=True)
class Violation:
    """A limit that was hit: its name, what to do (one of SEVERITY), and why, with the numbers."""

    limit: str
    action: str
    reason: str


class Monitor:
    """Checks every telemetry frame of an armed robot against the limits; keeps count of what was hit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.hits: dict[str, int] = {}
        self._since_us = {"voltage": -1, "temperature": -1}
        self._watch = StuckWatch(limits.stuck_s)

    def start(self) -> None:
        """Forget what was seen before arming."""
        self._since_us = dict.fromkeys(self._since_us, -1)
        self._watch = StuckWatch(self.limits.stuck_s)

    def hit(self, limit: str) -> None:
        """Count a limit that cut a torque or ended a command."""
        self.hits[limit] = self.hits.get(limit, 0) + 1

    def check(self, telemetry: Telemetry, estimate: Estimate, mode: str, answer_age_s: float) -> Violation | None:
        """Return the most severe limit that is hit in an armed mode, or None.

        Args:
            telemetry: of this frame, corrected by the calibration.
            estimate: of this frame.
            mode: one of topics.ARMED.
            answer_age_s: age of the newest observation that a commander answered; counts in mode torque.
        """
        found = self.violations(telemetry, estimate, mode, answer_age_s)
        return max(found, key=lambda v: SEVERITY.index(v.action)) if found else None

    def violations(self, telemetry: Telemetry, estimate: Estimate, mode: str, answer_age_s: float) -> list[Violation]:
        """Return every limit that is hit and not switched off; arguments are those of `check`."""
        li, s, now_us = self.limits, telemetry.sensors, telemetry.device_time_us
        found: list[Violation] = []

        def hit(limit: str, action: str, reason: str) -> None:
            if action != OFF:
                found.append(Violation(limit, action, reason))

        if not finite(estimate):
            hit("sensor", li.sensor_action, "a sensor sends what is not a number")
        elif stuck := self._watch.update(telemetry, estimate.theta_dot_radps):
            hit("sensor", li.sensor_action, stuck)
        if abs(estimate.theta_rad) > li.fall_rad:
            hit("fall", li.fall_action, f"fallen: pitch {estimate.theta_rad:+.2f} rad is beyond {li.fall_rad} rad")
        if abs(estimate.x_m) > li.distance_m:
            hit(
                "distance",
                li.distance_action,
                f"{estimate.x_m:+.2f} m from where it was armed, limit {li.distance_m} m",
            )
        if self._sustained("voltage", s.battery_v < li.voltage_v, now_us):
            hit("voltage", li.voltage_action, f"{s.battery_v:.1f} V is below {li.voltage_v} V: charge the battery")
        hottest = max(s.temperatures_c)
        if self._sustained("temperature", hottest > li.temperature_c, now_us):
            hit("temperature", li.temperature_action, f"{hottest:.0f} °C is above {li.temperature_c} °C: let it cool")
        if mode == topics.TORQUE:
            # Ages come in control steps: the one that reaches the limit counts.
            if answer_age_s >= li.staleness_s - 1e-9:
                hit("staleness", li.staleness_action, f"no fresh torque for {answer_age_s * 1e3:.0f} ms")
            if abs(estimate.theta_rad) > li.tilt_rad:
                hit("tilt", li.tilt_action, f"pitch {estimate.theta_rad:+.2f} rad is beyond {li.tilt_rad} rad")
            if abs(estimate.v_mps) > li.speed_mps:
                hit("speed", li.speed_action, f"speed {estimate.v_mps:+.2f} m/s is beyond {li.speed_mps} m/s")
        return found

    def _sustained(self, name: str, beyond: bool, now_us: int) -> bool:
        if not beyond:
            self._since_us[name] = -1
            return False
        if self._since_us[name] < 0:
            self._since_us[name] = now_us
        return now_us - self._since_us[name] >= SUSTAINED_US


class StuckWatch:
    """Notices an IMU or wheel encoders that send the very same values while the other says that the robot moves.

    A robot at rest repeats itself too. So the IMU counts as stuck when all of its ten values stay bitwise the same
    while the wheels' speed changes by more than MOVED_RADPS, and the encoders when all four values do while the body
    swings by more than MOVED_RAD, or for RESTING_S.
    """

    #: Change of wheel speed over the window that no resting body goes with, rad/s.
    MOVED_RADPS = 1.0
    #: Swing of the body that no resting wheel goes with, since wheels are counted relative to it, rad.
    MOVED_RAD = 0.02
    #: What is left of a gyro's bias may look like a turn at this rate, rad/s.
    BIAS_RADPS = 0.01
    #: No balancing robot's wheels rest this long, s: with coarse encoders and much friction they do for 0.6 s.
    RESTING_S = 1.5

    def __init__(self, window_s: float) -> None:
        self._window_us = round(window_s * 1e6)
        self._imu: tuple[float, ...] = ()
        self._wheels: tuple[float, ...] = ()
        self._imu_since_us = self._wheels_since_us = self._last_us = 0
        self._speeds = self._turns = (0.0, 0.0)
        self._turned_rad = 0.0

    def update(self, telemetry: Telemetry, theta_dot_radps: float) -> str:
        """Take a frame and the pitch rate estimated from it; returns what is stuck, in words, or nothing."""
        s, now_us = telemetry.sensors, telemetry.device_time_us
        imu = (*s.gyro_radps, *s.accel_mps2, *s.quaternion_wxyz)
        wheels = (*s.wheel_pos_rad, *s.wheel_vel_radps)
        speed = sum(s.wheel_vel_radps) / 2
        if imu != self._imu:
            self._imu, self._imu_since_us, self._speeds = imu, now_us, (speed, speed)
        else:
            self._speeds = (min(self._speeds[0], speed), max(self._speeds[1], speed))
            same_us = now_us - self._imu_since_us
            if same_us >= self._window_us and self._speeds[1] - self._speeds[0] > self.MOVED_RADPS:
                return f"the IMU has sent the same for {same_us / 1e3:.0f} ms"
        if wheels != self._wheels:
            self._wheels, self._wheels_since_us, self._turned_rad, self._turns = wheels, now_us, 0.0, (0.0, 0.0)
        else:
            self._turned_rad += theta_dot_radps * (now_us - self._last_us) * 1e-6
            self._turns = (min(self._turns[0], self._turned_rad), max(self._turns[1], self._turned_rad))
            same_us = now_us - self._wheels_since_us
            swing = self._turns[1] - self._turns[0]
            swings = same_us >= self._window_us and swing > max(self.MOVED_RAD, self.BIAS_RADPS * same_us * 1e-6)
            if swings or same_us >= self.RESTING_S * 1e6:
                return f"the wheel encoders have sent the same for {same_us / 1e3:.0f} ms"
        self._last_us = now_us
        return ""


def finite(estimate: Estimate) -> bool:
    """Whether every number of an estimate is one."""
    return all(
        map(
            math.isfinite,
            (
                estimate.x_m,
                estimate.v_mps,
                estimate.theta_rad,
                estimate.theta_dot_radps,
                estimate.yaw_rad,
                estimate.yaw_rate_radps,
            ),
        )
    )
