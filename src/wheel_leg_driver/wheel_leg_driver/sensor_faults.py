# SPDX-License-Identifier: Apache-2.0
"""Sensors that freeze, err or fail, between any plant and the firmware that reads them."""

from __future__ import annotations

import dataclasses
import math

from scipy.spatial.transform import Rotation

from wheel_leg_driver.faults import Injection
from wheel_leg_driver.plant import Plant, SensorReadings
from wheel_leg_driver.rotations import quaternion, rotation, triple

_IMU = ("accel_mps2", "gyro_radps", "quaternion_wxyz")
_ENCODERS = ("wheel_pos_rad", "wheel_vel_radps")
_NAN3 = (math.nan,) * 3


class FaultySensors:
    """A plant whose sensors report what active injections make of them; without any, what it is given."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._now_s = 0.0
        #: With the time at which each began, and, for stuck sensors, what they showed then.
        self._active: dict[Injection, tuple[float, SensorReadings]] = {}

    def begin(self, injection: Injection) -> None:
        """Let an injection of this layer, or a brown-out, take effect."""
        self._active[injection] = (self._now_s, self._plant.sense())

    def end(self, injection: Injection) -> None:
        """Let it end."""
        self._active.pop(injection, None)

    def advance(self, dt_s: float) -> None:
        """Let time pass, which ramps need."""
        self._now_s += dt_s

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """See Plant.reset."""
        self._plant.reset(pitch_rad, pitch_rate_radps)

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        """See Plant.step."""
        self._plant.step(torque_nm, posture_rad, dt_s)

    def truth(self) -> tuple[float, float, float, float]:
        """See Plant.truth."""
        return self._plant.truth()

    def sense(self) -> SensorReadings:
        """Read the plant's sensors and disturb them."""
        readings = self._plant.sense()
        for injection, (since_s, first) in self._active.items():
            readings = _disturbed(readings, injection, self._now_s - since_s, first)
        return readings


def _disturbed(readings: SensorReadings, injection: Injection, age_s: float, first: SensorReadings) -> SensorReadings:
    kind = injection.kind
    if kind == "stuck_imu":
        return dataclasses.replace(readings, **{name: getattr(first, name) for name in _IMU})
    if kind == "stuck_encoders":
        return dataclasses.replace(readings, **{name: getattr(first, name) for name in _ENCODERS})
    if kind == "nan_imu":
        return dataclasses.replace(readings, accel_mps2=_NAN3, gyro_radps=_NAN3, quaternion_wxyz=(math.nan,) * 4)
    if kind == "bias_pitch":
        off = Rotation.from_euler("y", injection.number("rad"))
        return dataclasses.replace(
            readings,
            quaternion_wxyz=quaternion(rotation(readings.quaternion_wxyz) * off),
            accel_mps2=triple(off.apply(readings.accel_mps2, inverse=True)),
        )
    if kind == "bias_gyro":
        roll, pitch, yaw = readings.gyro_radps
        return dataclasses.replace(readings, gyro_radps=(roll, pitch + injection.number("radps"), yaw))
    if kind == "brown_out":
        return dataclasses.replace(readings, battery_v=injection.number("v"))
    if kind == "overheating":
        *motors_c, board_c = readings.temperatures_c
        target_c, ramp = injection.number("c"), injection.number("ramp")
        left_c, right_c = (_towards(motor_c, target_c, ramp * age_s) if ramp else target_c for motor_c in motors_c)
        return dataclasses.replace(readings, temperatures_c=(left_c, right_c, board_c))
    return readings


def _towards(start: float, end: float, way: float) -> float:
    return start + math.copysign(min(way, abs(end - start)), end - start)
