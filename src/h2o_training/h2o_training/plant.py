# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo robot behind the firmware emulator, with the imperfections that no twin models."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from h2o_control.config import from_mapping
from h2o_training.model import PHYSICS_STEP_S, Ground, Payload, build_model, set_state
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.robot import Robot

LEG_JOINTS = ("left_thigh", "left_shin", "right_thigh", "right_shin")
WHEEL_JOINTS = ("left_wheel", "right_wheel")
#: A 6-cell lithium pack behind 60 mΩ, motors with 2 Nm per ampere-volt scale: enough to see the bus sag under load.
BATTERY_V, BATTERY_OHM, AMPERE_PER_NM = 25.2, 0.06, 1.6
AMBIENT_C, HEATING_C_PER_NM2_S, COOLING_TIME_S = 24.0, 0.05, 300.0


@dataclass(frozen=True)
class Gap:
    """Where the emulated robot differs from its description; every default is "it does not".

    Attributes:
        torque_factor: produced over commanded torque.
        dead_zone_nm: commanded torque a wheel that produces nothing (subtractive).
        actuation_delay_s, torque_lag_s: pure delay and first-order lag of the motors.
        coulomb_nm, viscous_nms: friction of both wheels together, on top of the description's.
        payload_kg, payload_forward_m, payload_height_m: a mass nobody weighed.
        rolling_friction_m, sliding_friction: between wheel and floor.
        floor_time_constant_s, floor_damping_ratio: how soft the floor is.
        pitch_bias_rad, pitch_noise_rad, gyro_bias_radps, gyro_noise_radps: of the IMU.
        observation_delay_s: of all sensors.
        encoder_counts: a turn (0: exact); velocity_cutoff_hz: low-pass on wheel speed (0: none).
        odometry_scale: reported over true wheel angle.
    """

    torque_factor: float = 1.0
    dead_zone_nm: float = 0.0
    actuation_delay_s: float = 0.0
    torque_lag_s: float = 0.0
    coulomb_nm: float = 0.0
    viscous_nms: float = 0.0
    payload_kg: float = 0.0
    payload_forward_m: float = 0.0
    payload_height_m: float = 0.3
    rolling_friction_m: float = 0.0
    sliding_friction: float = 1.0
    floor_time_constant_s: float = 0.004
    floor_damping_ratio: float = 1.0
    pitch_bias_rad: float = 0.0
    pitch_noise_rad: float = 0.0
    gyro_bias_radps: float = 0.0
    gyro_noise_radps: float = 0.0
    observation_delay_s: float = 0.0
    encoder_counts: int = 0
    velocity_cutoff_hz: float = 0.0
    odometry_scale: float = 1.0


class MujocoPlant:
    """A robot on a floor, in 3-D, legs held by servos (see `wheel_leg_driver.plant.Plant`)."""

    def __init__(self, robot: Robot, seed: int, **options: Any) -> None:
        self._gap = gap = from_mapping(Gap, options, f"robot {robot.name!r}: plant options")
        self._robot = robot
        self._rng = np.random.default_rng(seed)
        self._model = build_model(
            robot,
            ground=Ground(
                gap.sliding_friction, gap.rolling_friction_m, gap.floor_time_constant_s, gap.floor_damping_ratio
            ),
            payload=Payload(gap.payload_kg, gap.payload_forward_m, gap.payload_height_m),
        )
        self._data = mujoco.MjData(self._model)
        for name in WHEEL_JOINTS:
            dof = self._model.joint(name).dofadr[0]
            self._model.dof_frictionloss[dof] += gap.coulomb_nm / 2
            self._model.dof_damping[dof] += gap.viscous_nms / 2
        self._wheel_q = [self._model.joint(name).qposadr[0] for name in WHEEL_JOINTS]
        self._wheel_v = [self._model.joint(name).dofadr[0] for name in WHEEL_JOINTS]
        self._leg_q = [self._model.joint(name).qposadr[0] for name in LEG_JOINTS]
        self._leg_v = [self._model.joint(name).dofadr[0] for name in LEG_JOINTS]
        self._motor = [self._model.actuator(name).id for name in WHEEL_JOINTS]
        self._servo = [self._model.actuator(name).id for name in LEG_JOINTS]
        # Joint angles of the model count from the standing posture, those of the robot from the straight leg.
        self._leg_zero = np.array([robot.body.thigh_rad, robot.body.shin_rad] * 2)
        self.reset()

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Stand the robot at the origin, legs in standing posture, motors cold."""
        set_state(self._model, self._data, np.array([0.0, 0.0, pitch_rad, pitch_rate_radps]))
        steps = round(self._gap.actuation_delay_s / PHYSICS_STEP_S)
        self._queue: deque[tuple[float, float]] = deque([(0.0, 0.0)] * steps)
        self._torque = np.zeros(2)
        self._wheel_speed = self._data.qvel[self._wheel_v].copy()
        self._temperature = np.array([AMBIENT_C, AMBIENT_C, AMBIENT_C + 6.0])
        self._path_m = 0.0
        self._axle = self._data.qpos[:2].copy()
        self._history: deque[SensorReadings] = deque(
            maxlen=1 + round(self._gap.observation_delay_s * self._robot.interface.rate_hz)
        )

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        """Advance by dt_s (a multiple of 1 ms) with commanded wheel torques and leg servo targets (thigh, shin)."""
        self._data.ctrl[self._servo] = np.array(posture_rad * 2) - self._leg_zero
        for _ in range(max(1, round(dt_s / PHYSICS_STEP_S))):
            self._queue.append(torque_nm)
            self._data.ctrl[self._motor] = self._produced(self._queue.popleft())
            mujoco.mj_step(self._model, self._data)
            if self._gap.velocity_cutoff_hz > 0:
                blend = 1.0 - math.exp(-2.0 * math.pi * self._gap.velocity_cutoff_hz * PHYSICS_STEP_S)
                self._wheel_speed += blend * (self._data.qvel[self._wheel_v] - self._wheel_speed)
        if self._gap.velocity_cutoff_hz <= 0:
            self._wheel_speed = self._data.qvel[self._wheel_v].copy()
        yaw = self._yaw()
        moved = self._data.qpos[:2] - self._axle
        self._path_m += float(moved[0] * math.cos(yaw) + moved[1] * math.sin(yaw))
        self._axle = self._data.qpos[:2].copy()
        heat = HEATING_C_PER_NM2_S * self._torque**2 - (self._temperature[:2] - AMBIENT_C) / COOLING_TIME_S
        self._temperature[:2] += dt_s * heat

    def _produced(self, commanded: tuple[float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        gap = self._gap
        wanted = np.array(commanded)
        wanted = gap.torque_factor * np.sign(wanted) * np.maximum(np.abs(wanted) - gap.dead_zone_nm, 0.0)
        if gap.torque_lag_s > 0:
            self._torque += (1.0 - math.exp(-PHYSICS_STEP_S / gap.torque_lag_s)) * (wanted - self._torque)
        else:
            self._torque = wanted
        return self._torque

    def sense(self) -> SensorReadings:
        """Read the sensors with this robot's noise, bias, resolution and delay."""
        gap, data, rng = self._gap, self._data, self._rng
        gyro = data.sensor("gyro").data + rng.normal(0.0, gap.gyro_noise_radps, 3)
        gyro[1] += gap.gyro_bias_radps
        accel = data.sensor("accel").data + rng.normal(0.0, 5.0 * gap.gyro_noise_radps, 3)
        error = gap.pitch_bias_rad + rng.normal(0.0, gap.pitch_noise_rad)
        quaternion = np.zeros(4)
        mujoco.mju_mulQuat(quaternion, data.qpos[3:7], np.array([math.cos(error / 2), 0.0, math.sin(error / 2), 0.0]))
        angle = data.qpos[self._wheel_q] * gap.odometry_scale
        if gap.encoder_counts > 0:
            count = 2.0 * math.pi / gap.encoder_counts
            angle = np.floor(angle / count) * count
        speed = self._wheel_speed * gap.odometry_scale
        volts = BATTERY_V - BATTERY_OHM * AMPERE_PER_NM * float(np.abs(self._torque).sum())
        reading = SensorReadings(
            accel_mps2=_triple(accel),
            gyro_radps=_triple(gyro),
            quaternion_wxyz=_quad(quaternion),
            wheel_pos_rad=(float(angle[0]), float(angle[1])),
            wheel_vel_radps=(float(speed[0]), float(speed[1])),
            leg_pos_rad=_quad(data.qpos[self._leg_q] + self._leg_zero),
            leg_vel_radps=_quad(data.qvel[self._leg_v]),
            battery_v=volts,
            temperatures_c=_triple(self._temperature),
        )
        self._history.append(reading)
        return self._history[0]

    def truth(self) -> tuple[float, float, float, float]:
        """True displacement along the heading (m), forward speed (m/s), pitch (rad) and pitch rate (rad/s)."""
        yaw = self._yaw()
        speed = float(self._data.qvel[0] * math.cos(yaw) + self._data.qvel[1] * math.sin(yaw))
        w, x, y, z = self._data.qpos[3:7]
        # The angle of the body's z axis from the vertical, signed along the heading: also right when lying down.
        up_forward = 2 * (x * z + w * y) * math.cos(yaw) + 2 * (y * z - w * x) * math.sin(yaw)
        pitch = math.atan2(up_forward, 1 - 2 * (x * x + y * y))
        return self._path_m, speed, float(pitch), float(self._data.qvel[4])

    def _yaw(self) -> float:
        w, x, y, z = self._data.qpos[3:7]
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _quad(values: Any) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in values)
    return a, b, c, d
