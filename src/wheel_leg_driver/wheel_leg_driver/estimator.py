# SPDX-License-Identifier: Apache-2.0
"""From telemetry to the robot's state: pitch from the IMU, displacement from the wheels with body pitch taken out.

docs/robot.md, section "State estimate", says what comes from what, with which latency.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from h2o_control.contract import FloatArray, pitch_rad, state_array
from wheel_leg_driver.calibration import Calibration, Vector
from wheel_leg_driver.complementary import Complementary
from wheel_leg_driver.protocol import Telemetry

Attitude = Literal["imu", "complementary"]

#: Rest before arming that the gyro bias is the mean of, s of device time.
BIAS_WINDOW_S = 0.5
#: Beyond these in that window the robot counts as moving: standard deviation of any axis' rate, tilt of gravity
#: between the window's two halves, and how far a wheel turned.
STILL_RATE_RADPS = 0.05
STILL_TILT_RAD = 0.01
STILL_WHEEL_RAD = 0.03
#: A larger bias (5.7 deg/s) is no bias but a turning robot or a broken sensor.
BIAS_LIMIT_RADPS = 0.1
#: After a longer gap in device time nothing is integrated over it.
GAP_S = 0.1


@dataclass(frozen=True)
class Estimate:
    """State at the telemetry frame's instant.

    Attributes:
        x_m, v_mps: displacement since the origin was set, and forward speed.
        theta_rad, theta_dot_radps: pitch (positive leaning forward) and pitch rate.
        yaw_rad, yaw_rate_radps: heading from the IMU and its rate.
        roll_rad: positive leaning right.
    """

    x_m: float
    v_mps: float
    theta_rad: float
    theta_dot_radps: float
    yaw_rad: float
    yaw_rate_radps: float
    roll_rad: float = 0.0

    @property
    def state(self) -> FloatArray:
        """State [4] in the order of STATE."""
        return state_array(self.x_m, self.v_mps, self.theta_rad, self.theta_dot_radps)


class Estimator:
    """Encoders count wheel angle relative to the leg; adding the body's pitch gives the wheel's turn on the floor.

    Attributes:
        calibration: where the sensors sit.
        gyro_bias_radps: [3], body axes; subtracted from the rates.
        corrected: the telemetry of the last update as the calibration corrects it, rates without the bias taken out.
    """

    def __init__(
        self,
        wheel_radius_m: float,
        calibration: Calibration | None = None,
        rate_hz: float = 200.0,
        attitude: Attitude = "imu",
        time_constant_s: float = 2.0,
    ) -> None:
        """Start with the calibration's gyro bias.

        Args:
            wheel_radius_m: rolling radius.
            calibration: where the sensors sit; None corrects nothing.
            rate_hz: of telemetry; sizes the window of `measure_bias`.
            attitude: "imu" takes the attitude that the IMU's own filter reports, "complementary" computes roll, pitch
                and yaw here from rates and acceleration.
            time_constant_s: of "complementary".
        """
        self._radius = wheel_radius_m
        self.calibration = calibration or Calibration()
        self.gyro_bias_radps: Vector = self.calibration.to_body(self.calibration.gyro_bias_radps)
        self._filter = Complementary(time_constant_s) if attitude == "complementary" else None
        self._origin_m = 0.0
        self._last_m = 0.0
        self._time_us: int | None = None
        self._rest: deque[Telemetry] = deque(maxlen=max(10, round(BIAS_WINDOW_S * rate_hz)))
        self.corrected: Telemetry | None = None

    def update(self, telemetry: Telemetry, held: bool = False) -> Estimate:
        """Estimate the state from one telemetry frame as it came; the same frame may come again.

        Args:
            telemetry: of the wire, not corrected.
            held: no torque acts, so that this frame may count for `measure_bias`.
        """
        self.corrected = telemetry = self.calibration.correct(telemetry)
        s = telemetry.sensors
        before_us, self._time_us = self._time_us, telemetry.device_time_us
        step_s = 0.0 if before_us is None else (telemetry.device_time_us - before_us) * 1e-6
        fresh = before_us is None or not 0.0 <= step_s <= GAP_S
        if fresh or not held:
            self._rest.clear()
        if held and (fresh or step_s > 0.0):
            self._rest.append(telemetry)
        bias = self.gyro_bias_radps
        roll_rate, theta_dot, yaw_rate = (
            s.gyro_radps[0] - bias[0],
            s.gyro_radps[1] - bias[1],
            s.gyro_radps[2] - bias[2],
        )
        speed = self._radius * (sum(s.wheel_vel_radps) / 2 + theta_dot)
        if self._filter is None:
            w, x, y, z = s.quaternion_wxyz
            theta = pitch_rad(w, x, y, z)
            yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
            sideways = 2 * (y * z + w * x)
            roll = math.asin(max(-1.0, min(1.0, sideways))) if math.isfinite(sideways) else math.nan
        else:
            rates = (roll_rate, theta_dot, yaw_rate)
            roll, theta, yaw = self._filter.update(rates, s.accel_mps2, speed, -1.0 if fresh else step_s)
        turned_m = self._radius * (sum(s.wheel_pos_rad) / 2 + theta)
        if before_us is not None and step_s < 0.0:
            # The firmware was restarted, and its encoders may count from elsewhere.
            self._origin_m = turned_m
        if math.isfinite(turned_m):
            self._last_m = turned_m
        return Estimate(turned_m - self._origin_m, speed, theta, theta_dot, yaw, yaw_rate, roll)

    def set_origin(self) -> None:
        """Make the place of the last update the origin of displacement (done at arming)."""
        self._origin_m = self._last_m

    def measure_bias(self) -> str:
        """Take the mean rates of the last half second of rest for the gyro's bias.

        Returns:
            '' where it was measured, else why it was not; the bias is then the one before.
        """
        frames = list(self._rest)
        if len(frames) < (self._rest.maxlen or 0):
            return f"only {len(frames)} of {self._rest.maxlen} frames at rest so far"
        rates = np.array([f.sensors.gyro_radps for f in frames])
        accelerations = np.array([f.sensors.accel_mps2 for f in frames])
        turns = np.array([f.sensors.wheel_pos_rad for f in frames])
        bias = rates.mean(axis=0)
        shake = float(rates.std(axis=0).max())
        half = len(frames) // 2
        tilt = angle_between(accelerations[:half].mean(axis=0), accelerations[half:].mean(axis=0))
        turn = float(np.ptp(turns, axis=0).max())
        # Written so that not-a-number fails.
        if not shake <= STILL_RATE_RADPS:
            return f"not held still: rates vary by {shake:.3f} rad/s, limit {STILL_RATE_RADPS}"
        if not tilt <= STILL_TILT_RAD:
            return f"not held still: gravity moved by {tilt:.3f} rad, limit {STILL_TILT_RAD}"
        if not turn <= STILL_WHEEL_RAD:
            return f"a wheel turned by {turn:.3f} rad, limit {STILL_WHEEL_RAD}"
        largest = float(np.abs(bias).max())
        if not largest <= BIAS_LIMIT_RADPS:
            return f"a rate of {largest:.3f} rad/s at rest is no bias, limit {BIAS_LIMIT_RADPS}: turning, or a bad gyro"
        self.gyro_bias_radps = (float(bias[0]), float(bias[1]), float(bias[2]))
        if self._filter is not None:
            x, y, z = accelerations.mean(axis=0)
            self._filter.settle((float(x), float(y), float(z)))
        return ""


def angle_between(a: FloatArray, b: FloatArray) -> float:
    """Angle in rad between two vectors [3]; not-a-number where one of them has no direction."""
    return math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b)) if a.any() and b.any() else math.nan
