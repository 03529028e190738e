# SPDX-License-Identifier: Apache-2.0
"""From telemetry to the robot's state: pitch from the IMU, displacement from the wheels with body pitch taken out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from h2o_control.contract import FloatArray, pitch_rad, state_array
from wheel_leg_driver.protocol import Telemetry


@dataclass(frozen=True)
class Estimate:
    """State at the telemetry frame's instant, no filter and so no latency of its own.

    Attributes:
        x_m, v_mps: displacement since the origin was set, and forward speed.
        theta_rad, theta_dot_radps: pitch (positive leaning forward) and pitch rate.
        yaw_rad, yaw_rate_radps: heading from the IMU and its rate.
    """

    x_m: float
    v_mps: float
    theta_rad: float
    theta_dot_radps: float
    yaw_rad: float
    yaw_rate_radps: float

    @property
    def state(self) -> FloatArray:
        """State [4] in the order of STATE."""
        return state_array(self.x_m, self.v_mps, self.theta_rad, self.theta_dot_radps)


class Estimator:
    """Encoders count wheel angle relative to the leg; adding the body's pitch gives the wheel's turn on the floor."""

    def __init__(self, wheel_radius_m: float) -> None:
        self._radius = wheel_radius_m
        self._origin_m = 0.0
        self._last_m = 0.0

    def update(self, telemetry: Telemetry) -> Estimate:
        """Estimate the state from one telemetry frame; gyro and attitude are taken from the IMU as reported."""
        s = telemetry.sensors
        w, x, y, z = s.quaternion_wxyz
        theta = pitch_rad(w, x, y, z)
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        theta_dot = s.gyro_radps[1]
        self._last_m = self._radius * (sum(s.wheel_pos_rad) / 2 + theta)
        speed = self._radius * (sum(s.wheel_vel_radps) / 2 + theta_dot)
        return Estimate(self._last_m - self._origin_m, speed, theta, theta_dot, yaw, s.gyro_radps[2])

    def set_origin(self) -> None:
        """Make the place of the last update the origin of displacement (done at arming)."""
        self._origin_m = self._last_m
