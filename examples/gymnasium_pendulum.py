# SPDX-License-Identifier: Apache-2.0
"""Gymnasium's public inverted pendulum as a robot: the firmware emulator, and so the driver, cannot tell."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import mujoco

from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sagittal import GRAVITY_MPS2

#: The model of InvertedPendulum-v5 as the package ships it: a cart on a rail of 2 m, a pole hinged to it.
MODEL = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "inverted_pendulum.xml"


class GymnasiumPendulum:
    """The cart plays the axle, the pole the body: wheels that roll without slipping push the cart with torque / radius.

    It has one dimension, no legs and ideal sensors; steering and posture do nothing.
    """

    def __init__(self, robot: Robot, seed: int) -> None:
        self._model = mujoco.MjModel.from_xml_path(str(MODEL))
        self._data = mujoco.MjData(self._model)
        self._radius_m = robot.interface.wheel_radius_m

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Put the cart in the middle of the rail, the pole at this pitch and pitch rate."""
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = (0.0, pitch_rad)
        self._data.qvel[:] = (0.0, pitch_rate_radps)

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        """Push the cart for dt_s; one step of the model's own integrator."""
        self._model.opt.timestep = dt_s
        self._data.ctrl[0] = sum(torque_nm) / self._radius_m / self._model.actuator_gear[0, 0]
        mujoco.mj_step(self._model, self._data)

    def sense(self) -> SensorReadings:
        """Read an IMU on the pole at its hinge, and encoders that see the wheel turn relative to the pole."""
        x, v, theta, theta_dot = self.truth()
        sin, cos, forward = math.sin(theta), math.cos(theta), float(self._data.qacc[0])
        accel = (forward * cos - GRAVITY_MPS2 * sin, 0.0, forward * sin + GRAVITY_MPS2 * cos)
        attitude = (math.cos(theta / 2), 0.0, math.sin(theta / 2), 0.0)
        angle, rate = x / self._radius_m - theta, v / self._radius_m - theta_dot
        still = (0.0, 0.0, 0.0, 0.0)
        gyro, warm = (0.0, theta_dot, 0.0), (25.0, 25.0, 25.0)
        return SensorReadings(accel, gyro, attitude, (angle, angle), (rate, rate), still, still, 24.0, warm)

    def truth(self) -> tuple[float, float, float, float]:
        """Cart position (m) and speed (m/s), pole angle (rad) and rate (rad/s), positive forward."""
        (x, theta), (v, theta_dot) = self._data.qpos.tolist(), self._data.qvel.tolist()
        return x, v, theta, theta_dot
