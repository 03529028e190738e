# SPDX-License-Identifier: Apache-2.0
"""A person's hands on an emulated robot, a stand under it, and the mistakes of whoever wired it: around any plant.

A held body is turned by yaw, then pitch, then roll (world from body, intrinsic z-y-x), and its rates follow from the
angles' own: ω = (φ' − ψ' sin θ, θ' cos φ + ψ' cos θ sin φ, −θ' sin φ + ψ' cos θ cos φ), e.g. Diebel, "Representing
Attitude" (2006).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.spatial.transform import Rotation

from h2o_control.contract import FloatArray
from wheel_leg_driver.faults import Injection
from wheel_leg_driver.plant import Plant, SensorReadings
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.rotations import pair, quaternion, rotation, triple
from wheel_leg_driver.sagittal import FRICTION_SHARPNESS_S, GRAVITY_MPS2
from wheel_leg_driver.wiring import Wiring

#: How long a hand takes to move the body from one pose to the next.
MOVE_S = 0.5
#: Two frequencies that hands shake at, whose sum does not repeat soon.
SHAKE_HZ = (1.7, 2.9)


@dataclasses.dataclass
class _Motion:
    """From one vector to another along a minimum-jerk curve: at rest at both ends (Flash and Hogan, 1985)."""

    start: FloatArray
    end: FloatArray
    since_s: float
    lasts_s: float

    def at(self, now_s: float) -> tuple[FloatArray, FloatArray]:
        """Return value and rate."""
        u = min(1.0, max(0.0, (now_s - self.since_s) / self.lasts_s)) if self.lasts_s > 0 else 1.0
        share, slope = u**3 * (10 - 15 * u + 6 * u * u), 30 * u * u * (1 - u) ** 2
        way = self.end - self.start
        return self.start + share * way, slope * way / self.lasts_s if 0 < u < 1 else np.zeros_like(way)


class HandledPlant:
    """A plant that can be held, pushed, put on a stand and wired wrongly; otherwise it is the plant it is given."""

    def __init__(self, plant: Plant, robot: Robot, seed: int = 0) -> None:
        self._plant, self._robot = plant, robot
        self._phases = np.random.default_rng(seed).uniform(0.0, 2 * math.pi, (len(SHAKE_HZ), 3))
        self._now_s = 0.0
        self._held = True
        self._pose = _Motion(np.zeros(3), np.zeros(3), 0.0, 0.0)
        self._shake_radps = 0.0
        self._in_hands = False
        self._heading_rad = 0.0
        self._pushes: dict[Injection, _Motion] = {}
        self._wheels_rad, self._wheels_radps = np.zeros(2), np.zeros(2)
        self._rolled_m = 0.0
        self._on_stand = self._driven = False
        self._wiring: Wiring | None = None

    @property
    def on_stand(self) -> bool:
        """Whether the wheels turn in the air."""
        return self._on_stand

    @property
    def in_hands(self) -> bool:
        """Whether a tilt or a shake was begun and nobody has let go since."""
        return self._in_hands

    # What people do.

    def begin(self, injection: Injection) -> None:
        """Start what the injection says; the robot is held by a person or on the stand, or it is about wiring."""
        number = injection.number
        if injection.kind == "tilt":
            self._move_to(np.array([number("roll"), number("pitch"), number("yaw")]))
        elif injection.kind == "push_wheels":
            way = np.array([number("left"), number("right")])
            self._pushes[injection] = _Motion(np.zeros(2), way, self._now_s, max(injection.for_s, 1e-3))
        elif injection.kind == "shake":
            self._in_hands = True
            self._shake_radps = number("radps")
        elif injection.kind == "stand":
            self._put_on_stand(number("on") == 1)
        elif injection.kind == "miswire":
            self._wiring = Wiring.of(injection)

    def end(self, injection: Injection) -> None:
        """Undo what can be undone: a body is put upright again, wheels stay where they were turned to."""
        if injection.kind == "tilt":
            self._move_to(np.zeros(3))
        elif injection.kind == "push_wheels":
            self._pushes.pop(injection, None)
        elif injection.kind == "shake":
            self._shake_radps = 0.0
        elif injection.kind == "stand":
            self._put_on_stand(False)
        elif injection.kind == "miswire":
            self._wiring = None

    def _move_to(self, pose: FloatArray) -> None:
        start, _ = self._pose.at(self._now_s)
        if not self._in_hands:
            # The body may have been set up leaning: the hand takes it from there.
            start = np.array([0.0, self._plant.truth()[2], 0.0])
            self._plant.reset()
        self._in_hands = True
        self._pose = _Motion(start, pose, self._now_s, MOVE_S)

    def _put_on_stand(self, on: bool) -> None:
        if on != self._on_stand:
            before = self._wheel_angles(self._plant.sense())
            self._plant.reset()
            self._wheels_radps = np.zeros(2)
            self._on_stand = on
            # Being lifted does not turn a wheel against its leg.
            self._wheels_rad += before - self._wheel_angles(self._plant.sense())

    def _wheel_angles(self, readings: SensorReadings) -> FloatArray:
        angles = np.array(readings.wheel_pos_rad) + self._wheels_rad
        # Wheels that stand on the floor stay while the body is turned in the hands, so the leg turns against them.
        return angles - self._held_pose()[0][1] if self._held and not self._on_stand else angles

    def let_go(self) -> None:
        """A hand that held the body opens: the plant starts from where it was held."""
        (_, pitch, yaw), (_, pitch_rate, _) = self._held_pose()
        self._plant.reset(float(pitch), float(pitch_rate))
        self._heading_rad = float(yaw)
        self._pose = _Motion(np.zeros(3), np.zeros(3), self._now_s, 0.0)
        self._shake_radps = 0.0
        self._in_hands = False

    def advance(self, dt_s: float, held: bool) -> None:
        """Let people's hands move on by dt_s; `held` says whether the firmware's robot is held at present."""
        self._held = held
        self._now_s += dt_s
        for push in self._pushes.values():
            before, _ = push.at(self._now_s - dt_s)
            after, _ = push.at(self._now_s)
            self._wheels_rad += after - before
            if not self._on_stand:
                self._rolled_m += float((after - before).mean()) * self._robot.interface.wheel_radius_m
        if self._on_stand and not self._driven:
            self._spin((0.0, 0.0), dt_s)
        self._driven = False

    def _held_pose(self) -> tuple[FloatArray, FloatArray]:
        """Roll, pitch, yaw by which hands turn the body, and their rates."""
        if not self._in_hands:
            return np.zeros(3), np.zeros(3)
        pose, rate = self._pose.at(self._now_s)
        for hz, phases in zip(SHAKE_HZ, self._phases, strict=True):
            omega = 2 * math.pi * hz
            # Two sines of rms 1/√2 each make the rms that was asked for.
            rate = rate + self._shake_radps * np.cos(omega * self._now_s + phases)
            pose = pose + self._shake_radps / omega * np.sin(omega * self._now_s + phases)
        return pose, rate

    # The plant's interface.

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Stand the robot up, see Plant.reset; on the stand it stays where it is."""
        self._rolled_m = self._heading_rad = 0.0
        if self._on_stand:
            self._plant.reset()
        else:
            self._plant.reset(pitch_rad, pitch_rate_radps)

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        """Advance with these torques of the channels called left and right."""
        if self._wiring is not None:
            torque_nm = self._wiring.at_wheels(torque_nm)
        if self._on_stand:
            self._spin(torque_nm, dt_s)
            self._driven = True
        else:
            self._plant.step(torque_nm, posture_rad, dt_s)

    def _spin(self, torque_nm: tuple[float, float], dt_s: float) -> None:
        """I ω' = τ − β ω − τ_c tanh(20 ω) a wheel, friction implicit so that it stops the wheel and no more."""
        body = self._robot.body
        inertia = 0.5 * (body.wheels_inertia_kgm2 + body.armature_kgm2)
        speed = self._wheels_radps + np.array(torque_nm) * dt_s / inertia
        bound = np.maximum(np.abs(speed), 1e-9)
        drag = 0.5 * (body.viscous_nms + body.coulomb_nm * np.tanh(FRICTION_SHARPNESS_S * bound) / bound)
        self._wheels_radps = speed / (1.0 + drag * dt_s / inertia)
        self._wheels_rad += self._wheels_radps * dt_s

    def sense(self) -> SensorReadings:
        """Read the plant's sensors as hands, stand and wiring change them."""
        readings = self._plant.sense()
        angle, speed = self._wheel_angles(readings), np.array(readings.wheel_vel_radps) + self._wheels_radps
        if self._held or self._on_stand:
            attitude = rotation(readings.quaternion_wxyz)
            if self._in_hands:
                (roll, pitch, yaw), rates = self._held_pose()
                attitude = Rotation.from_euler("ZYX", [yaw, pitch, roll]) * attitude
                omega = np.array(readings.gyro_radps) + _body_rates(roll, pitch, rates)
                readings = dataclasses.replace(readings, quaternion_wxyz=quaternion(attitude), gyro_radps=triple(omega))
                if not self._on_stand:
                    speed = speed - rates[1]
            # A body in the hands does not fall, whatever the plant's contacts make of a robot just set down.
            gravity = triple(attitude.apply([0.0, 0.0, GRAVITY_MPS2], inverse=True))
            readings = dataclasses.replace(readings, accel_mps2=gravity)
        for push in self._pushes.values():
            speed = speed + push.at(self._now_s)[1]
        readings = dataclasses.replace(readings, wheel_pos_rad=pair(angle), wheel_vel_radps=pair(speed))
        if self._heading_rad and not self._held:
            attitude = Rotation.from_euler("z", self._heading_rad) * rotation(readings.quaternion_wxyz)
            readings = dataclasses.replace(readings, quaternion_wxyz=quaternion(attitude))
        return readings if self._wiring is None else self._wiring.read(readings)

    def truth(self) -> tuple[float, float, float, float]:
        """True x, v, theta and theta_dot of the body, see Plant.truth."""
        x, v, theta, theta_dot = self._plant.truth()
        if self._held or self._on_stand:
            (_, pitch, _), (_, rate, _) = self._held_pose()
            theta, theta_dot = theta + float(pitch), theta_dot + float(rate)
        return x + self._rolled_m, v, theta, theta_dot


def _body_rates(roll: float, pitch: float, rates: FloatArray) -> FloatArray:
    roll_rate, pitch_rate, yaw_rate = rates
    return np.array(
        [
            roll_rate - yaw_rate * math.sin(pitch),
            pitch_rate * math.cos(roll) + yaw_rate * math.cos(pitch) * math.sin(roll),
            -pitch_rate * math.sin(roll) + yaw_rate * math.cos(pitch) * math.cos(roll),
        ]
    )
