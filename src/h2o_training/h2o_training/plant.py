# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo robot behind the firmware emulator, with the imperfections that no twin models."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import mujoco
import numpy as np

from h2o_control.contract import FloatArray
from h2o_training.effects import effects_from
from h2o_training.model import PHYSICS_STEP_S, build_model, set_state
from h2o_training.robots import blend_effects
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sagittal import FRICTION_SHARPNESS_S, GRAVITY_MPS2

LEG_JOINTS = ("left_thigh", "left_shin", "right_thigh", "right_shin")
WHEEL_JOINTS = ("left_wheel", "right_wheel")
#: A 6-cell lithium pack behind 60 mΩ, motors with 2 Nm per ampere-volt scale: enough to see the bus sag under load.
BATTERY_V, BATTERY_OHM, AMPERE_PER_NM = 25.2, 0.06, 1.6
AMBIENT_C, HEATING_C_PER_NM2_S, COOLING_TIME_S = 24.0, 0.05, 300.0


class MujocoPlant:
    """A robot on a floor, in 3-D, legs held by servos (see `wheel_leg_driver.plant.Plant`)."""

    #: What lies between the options of two such robots (see wheel_leg_driver.blend).
    blend_options = staticmethod(blend_effects)

    def __init__(self, robot: Robot, seed: int, **options: Any) -> None:
        """Build the model; `options` are the fields of Effects (see effects.py)."""
        self._gap = gap = effects_from(options, f"robot {robot.name!r}: plant options")
        self._robot = robot
        self._rng = np.random.default_rng(seed)
        self._model = build_model(robot, effects=gap)
        self._data = mujoco.MjData(self._model)
        self._wheel_q = [self._model.joint(name).qposadr[0] for name in WHEEL_JOINTS]
        self._wheel_v = [self._model.joint(name).dofadr[0] for name in WHEEL_JOINTS]
        self._leg_q = [self._model.joint(name).qposadr[0] for name in LEG_JOINTS]
        self._leg_v = [self._model.joint(name).dofadr[0] for name in LEG_JOINTS]
        self._motor = [self._model.actuator(name).id for name in WHEEL_JOINTS]
        self._wheel_body = [self._model.body(name).id for name in WHEEL_JOINTS]
        self._delay_steps = gap.actuation_delay_s / PHYSICS_STEP_S
        # Rolling resistance of one wheel. MuJoCo's own, in the contact, depends on how soft the floor is.
        weight_n = GRAVITY_MPS2 * (robot.body.body_mass_kg + robot.body.wheels_mass_kg + gap.payload_kg)
        self._rolling_nm = 0.5 * gap.rolling_friction_m * weight_n
        self._drag_nms = 0.5 * gap.rolling_drag_nspm * robot.interface.wheel_radius_m**2
        self._servo = [self._model.actuator(name).id for name in LEG_JOINTS]
        lags = np.array([gap.velocity_lag_s] * 2 + [gap.gyro_lag_s] * 3)
        # Filters are solved for an input that is linear over a physics step.
        self._rate_keep, self._rate_lag = np.array([_keep(lag) for lag in lags]), lags / PHYSICS_STEP_S
        # Joint angles of the model count from the standing posture, those of the robot from the straight leg.
        self._leg_zero = np.array([robot.body.thigh_rad, robot.body.shin_rad] * 2)
        self.reset()

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Stand the robot at the origin, legs in standing posture, motors cold."""
        set_state(self._model, self._data, np.array([0.0, 0.0, pitch_rad, pitch_rate_radps]))
        self._queue: deque[FloatArray] = deque([np.zeros(2)] * (math.floor(self._delay_steps) + 1))
        self._torque: FloatArray = np.zeros(2)
        self._rates = self._filtered = self._turn_rates()
        self._pitch_lag_rad = 0.0
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
            self._data.ctrl[self._motor] = self._produced(torque_nm)
            if self._drag_nms > 0 or self._rolling_nm > 0:
                self._data.xfrc_applied[self._wheel_body, 3:] = self._resistance_nm()
            mujoco.mj_step(self._model, self._data)
            self._filter_sensors()
        yaw = self._yaw()
        moved = self._data.qpos[:2] - self._axle
        self._path_m += float(moved[0] * math.cos(yaw) + moved[1] * math.sin(yaw))
        self._axle = self._data.qpos[:2].copy()
        heat = HEATING_C_PER_NM2_S * self._torque**2 - (self._temperature[:2] - AMBIENT_C) / COOLING_TIME_S
        self._temperature[:2] += dt_s * heat

    def _resistance_nm(self) -> FloatArray:
        """Moments against each wheel's turn on the floor (not against its turn in the leg), world frame [2, 3]."""
        axles = self._data.xmat[self._wheel_body].reshape(-1, 3, 3)[:, :, 1]
        spin = np.array(
            [float(self._data.cvel[body, :3] @ axle) for body, axle in zip(self._wheel_body, axles, strict=True)]
        )
        moment = self._drag_nms * spin + self._rolling_nm * np.tanh(FRICTION_SHARPNESS_S * spin)
        against: FloatArray = -moment[:, None] * axles
        return against

    def _filter_sensors(self) -> None:
        gap, new = self._gap, self._turn_rates()
        behind = self._rate_lag * (new - self._rates)
        self._filtered = new - behind + self._rate_keep * (self._filtered - self._rates + behind)
        self._rates = new
        keep = _keep(gap.pitch_lag_s)
        self._pitch_lag_rad = keep * self._pitch_lag_rad + (1.0 - keep) * gap.pitch_lag_s * float(new[3])

    def _turn_rates(self) -> FloatArray:
        """Both wheels against the legs, then the body about its axes: [5] in rad/s."""
        rates: FloatArray = np.concatenate((self._data.qvel[self._wheel_v], self._data.qvel[3:6]))
        return rates

    def _produced(self, commanded: tuple[float, float]) -> FloatArray:
        gap = self._gap
        wanted: FloatArray = np.array(commanded)
        wanted = gap.torque_factor * np.sign(wanted) * np.maximum(np.abs(wanted) - gap.dead_zone_nm, 0.0)
        self._queue.append(wanted)
        late = self._delay_steps % 1.0
        wanted = late * self._queue.popleft() + (1.0 - late) * self._queue[0]
        if gap.torque_lag_s <= 0:
            self._torque = wanted
            return wanted
        # What acts in a physics step is the mean of the rising torque, not its end.
        before, self._torque = self._torque, wanted + _keep(gap.torque_lag_s) * (self._torque - wanted)
        mean: FloatArray = wanted + gap.torque_lag_s / PHYSICS_STEP_S * (before - self._torque)
        return mean

    def sense(self) -> SensorReadings:
        """Read the sensors with this robot's noise, bias, resolution and delay."""
        gap, data, rng = self._gap, self._data, self._rng
        gyro = gap.gyro_scale * self._filtered[2:] + rng.normal(0.0, gap.gyro_noise_radps, 3)
        gyro[1] += gap.gyro_bias_radps
        accel = data.sensor("accel").data + rng.normal(0.0, 5.0 * gap.gyro_noise_radps, 3)
        error = gap.pitch_bias_rad + rng.normal(0.0, gap.pitch_noise_rad) - self._pitch_lag_rad
        quaternion = np.zeros(4)
        mujoco.mju_mulQuat(quaternion, data.qpos[3:7], np.array([math.cos(error / 2), 0.0, math.sin(error / 2), 0.0]))
        # The driver adds the pitch that the IMU reports; what this robot's odometry leaves in is taken away here.
        share = gap.odometry_pitch - 1.0
        angle = data.qpos[self._wheel_q] * gap.odometry_scale + share * (self._pitch_rad() + error)
        if gap.encoder_step_rad > 0:
            angle = np.floor(angle / gap.encoder_step_rad) * gap.encoder_step_rad
        speed = self._filtered[:2] * gap.odometry_scale + share * gyro[1]
        speed += rng.normal(0.0, gap.velocity_noise_mps) / self._robot.interface.wheel_radius_m
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
        return self._path_m, speed, self._pitch_rad(), float(self._data.qvel[4])

    def _pitch_rad(self) -> float:
        yaw = self._yaw()
        w, x, y, z = self._data.qpos[3:7]
        # The angle of the body's z axis from the vertical, signed along the heading: also right when lying down.
        up_forward = 2 * (x * z + w * y) * math.cos(yaw) + 2 * (y * z - w * x) * math.sin(yaw)
        return math.atan2(up_forward, 1 - 2 * (x * x + y * y))

    def _yaw(self) -> float:
        w, x, y, z = self._data.qpos[3:7]
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _keep(time_constant_s: float) -> float:
    # What a first-order low-pass keeps of a difference over one physics step.
    return math.exp(-PHYSICS_STEP_S / time_constant_s) if time_constant_s > 0 else 0.0


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _quad(values: Any) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in values)
    return a, b, c, d
