# SPDX-License-Identifier: Apache-2.0
"""What telemetry of a robot in a person's hands says about its mounting and wiring: no dialogue and no I/O here.

Directions of "up" are unit vectors [3] in the sensor's axes. In the body's axes (x forward, y left, z up), up is
(0, 0, 1) upright, (−sin a, 0, cos a) leaning forward by a, and (0, −sin b, cos b) leaning left by b.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import FloatArray
from h2o_control.errors import UserError
from wheel_leg_driver.calibration import Calibration, Quaternion
from wheel_leg_driver.estimator import BIAS_LIMIT_RADPS, angle_between
from wheel_leg_driver.protocol import Telemetry

#: A pose that is held by hand may shake by this much (standard deviation, and drift of gravity).
HAND_RATE_RADPS = 0.15
HAND_TILT_RAD = 0.05
#: A body at rest shakes less than this.
STILL_RATE_RADPS = 0.05
#: At rest the accelerometer reads gravity to this share.
GRAVITY_SHARE = 0.05
#: A lean that is asked for lies between these.
LEAN_RAD = (math.radians(8), math.radians(50))
#: How far forward and left may be from a right angle, and the two upright poses from each other.
SQUARE_RAD, UPRIGHT_RAD = math.radians(20), math.radians(8)
#: By how much the gyro's account of a motion may differ from gravity's.
GYRO_RAD = math.radians(10)
#: A wheel that was turned has turned by this; one that was not, by less than this share of the other.
TURN_RAD, OTHER_SHARE = 0.5, 0.25


class NotSeenError(UserError):
    """What was asked for did not happen, or not so that anything follows from it; try again."""


@dataclass(frozen=True)
class Pose:
    """The mean of a second or so at rest, in the sensor's axes.

    Attributes:
        up: direction [3].
        gravity_mps2: length of the acceleration.
        rate_radps, noise_radps: mean and standard deviation [3] of the gyro.
        wheels_rad: as on the wire [2].
        attitude_error_rad: between up by the accelerometer and by the attitude the IMU reports; not-a-number where it
            reports none.
    """

    up: FloatArray
    gravity_mps2: float
    rate_radps: FloatArray
    noise_radps: FloatArray
    wheels_rad: FloatArray
    attitude_error_rad: float


def pose(frames: Sequence[Telemetry], rate_limit_radps: float = HAND_RATE_RADPS) -> Pose:
    """Average frames at rest.

    Raises:
        NotSeenError: not at rest, or the sensors do not say what a body at rest feels.
    """
    accelerations = np.array([t.sensors.accel_mps2 for t in frames])
    rates = np.array([t.sensors.gyro_radps for t in frames])
    wheels = np.array([t.sensors.wheel_pos_rad for t in frames])
    if len(frames) < 10 or not (np.isfinite(accelerations).all() and np.isfinite(rates).all()):
        raise NotSeenError(f"{len(frames)} frames came, or the IMU reports values that are no numbers: is it alive?")
    mean, noise, half = accelerations.mean(axis=0), rates.std(axis=0), len(frames) // 2
    gravity = float(np.linalg.norm(mean))
    drift = angle_between(accelerations[:half].mean(axis=0), accelerations[half:].mean(axis=0))
    if not (noise.max() <= rate_limit_radps and drift <= HAND_TILT_RAD):
        raise NotSeenError(
            f"it moved: rates vary by {noise.max():.3f} rad/s (limit {rate_limit_radps}), "
            f"gravity by {math.degrees(drift):.1f}° (limit {math.degrees(HAND_TILT_RAD):.1f}°). Hold it still"
        )
    if not abs(gravity / 9.81 - 1.0) <= GRAVITY_SHARE:
        raise NotSeenError(
            f"at rest the accelerometer reads {gravity:.2f} m/s², not 9.81: its scale or unit is wrong in the firmware"
        )
    attitudes = [_up_of(t.sensors.quaternion_wxyz) for t in frames]
    return Pose(
        mean / gravity,
        gravity,
        rates.mean(axis=0),
        noise,
        wheels.mean(axis=0),
        angle_between(np.mean(attitudes, axis=0), mean / gravity),
    )


def _up_of(q: Quaternion) -> FloatArray:
    w, x, y, z = q
    return np.array([2 * (x * z - w * y), 2 * (y * z + w * x), w * w + z * z - x * x - y * y])


def gyro_bias(rest: Pose) -> tuple[float, float, float]:
    """Return the gyro's bias [3] in the sensor's axes from a pose at rest; NotSeenError where it is too large."""
    x, y, z = (float(rate) for rate in rest.rate_radps)
    if not max(abs(x), abs(y), abs(z)) <= BIAS_LIMIT_RADPS:
        raise NotSeenError(
            f"the gyro reads ({x:+.3f}, {y:+.3f}, {z:+.3f}) rad/s at rest; up to {BIAS_LIMIT_RADPS} would be a bias. "
            "Was it turning? If not, take the bias out in the firmware"
        )
    return x, y, z


@dataclass(frozen=True)
class Mounting:
    """How the IMU is turned against the body, and how badly the poses fit together (rad)."""

    roll_rad: float
    pitch_rad: float
    yaw_rad: float
    misfit_rad: float


def mounting(upright: FloatArray, forward: FloatArray, left: FloatArray) -> Mounting:
    """Find the rotation from three directions of up: it makes the upright one z, the leans −x and −y as well as can be.

    Raises:
        NotSeenError: the poses are too much alike or do not fit to a forward and a left lean.
    """
    toward = []
    for name, up in (("forward", forward), ("left", left)):
        angle = angle_between(upright, up)
        if not LEAN_RAD[0] <= angle <= LEAN_RAD[1]:
            raise NotSeenError(
                f"the {name} lean was {math.degrees(angle):.0f}° from upright; "
                f"lean it by about 20° ({math.degrees(LEAN_RAD[0]):.0f} to {math.degrees(LEAN_RAD[1]):.0f}°)"
            )
        away = upright * float(upright @ up) - up
        toward.append(away / np.linalg.norm(away))
    x, y = toward
    # In the plane across up: the angle from forward to left, a right angle were both leans perfect.
    square = math.atan2(float(np.cross(x, y) @ upright), float(x @ y))
    if not abs(square - math.pi / 2) <= SQUARE_RAD:
        raise NotSeenError(
            f"the left lean went {math.degrees(square):+.0f}° from the forward one, not +90°: forward first, "
            "then to the robot's own left (your left when you stand behind it)"
        )
    half = (square - math.pi / 2) / 2
    x = x * math.cos(half) + np.cross(upright, x) * math.sin(half)
    rows = np.array([x, np.cross(upright, x), upright])
    return Mounting(
        math.atan2(rows[2, 1], rows[2, 2]),
        math.asin(max(-1.0, min(1.0, -rows[2, 0]))),
        math.atan2(rows[1, 0], rows[0, 0]),
        abs(half),
    )


def check_gyro(frames: Sequence[Telemetry], bias: Sequence[float], start: FloatArray, end: FloatArray) -> float:
    """Integrate the gyro over a motion from one direction of up to another; return the angle it is off by at its end.

    Raises:
        NotSeenError: it contradicts gravity, as a gyro with a wrong axis, sign or unit does.
    """
    up = start
    for before, after in itertools.pairwise(frames):
        step_s = (after.device_time_us - before.device_time_us) * 1e-6
        rate = (np.array(before.sensors.gyro_radps) + np.array(after.sensors.gyro_radps)) / 2 - np.array(bias)
        up = up + step_s * np.cross(up, rate)
        up = up / np.linalg.norm(up)
    off = angle_between(up, end)
    if not off <= GYRO_RAD:
        raise NotSeenError(
            f"gravity turned by {math.degrees(angle_between(start, end)):.0f}°, but by the gyro it ends "
            f"{math.degrees(off):.0f}° away from there. If this repeats, the firmware gives the gyro other axes, signs "
            "or units than the accelerometer: no mounting can mend that"
        )
    return off


def wheel_turns(before: Pose, after: Pose) -> FloatArray:
    """Return by how much the wheels turned, rad, as on the wire [2]."""
    return after.wheels_rad - before.wheels_rad


def rolled_signs(turns: FloatArray) -> tuple[int, int]:
    """Return the signs of the two channels of a robot that was rolled straight forward.

    Raises:
        NotSeenError: a wheel did not turn, or they turned by different amounts.
    """
    smaller, larger = sorted(abs(turns))
    if not smaller >= TURN_RAD:
        raise NotSeenError(
            f"the wheels turned by {turns[0]:+.2f} and {turns[1]:+.2f} rad; both must turn by {TURN_RAD} or more. "
            "If one never counts, its encoder is not connected"
        )
    if not larger - smaller <= OTHER_SHARE * larger:
        raise NotSeenError(f"the wheels turned by {turns[0]:+.2f} and {turns[1]:+.2f} rad: roll it straight")
    return (1 if turns[0] > 0 else -1), (1 if turns[1] > 0 else -1)


def turned_channel(turns: FloatArray, signs: tuple[int, int], wheel: str) -> int:
    """Return which channel (0, 1) a wheel is on that was turned forward alone.

    Raises:
        NotSeenError: not exactly one turned, or it turned against what rolling forward showed.
    """
    channel = int(abs(turns[1]) > abs(turns[0]))
    if not abs(turns[channel]) >= TURN_RAD or not abs(turns[1 - channel]) <= OTHER_SHARE * abs(turns[channel]):
        raise NotSeenError(
            f"the wheels turned by {turns[0]:+.2f} and {turns[1]:+.2f} rad: turn the {wheel} one alone by half a turn"
        )
    if turns[channel] * signs[channel] < 0:
        raise NotSeenError(
            f"the {wheel} wheel now counted the other way than when it rolled forward: turn it forward, as in rolling"
        )
    return channel


def pitch_zero(frames: Sequence[Telemetry], mounted: Calibration, from_gravity: bool) -> tuple[float, float]:
    """Return mean and standard deviation of the pitch, rad, that a calibration without pitch zero gives.

    Args:
        frames: of a robot held at its balance point.
        mounted: its calibration so far, with pitch_zero_rad 0.
        from_gravity: take pitch from the accelerometer, for robots whose IMU reports no attitude.
    """
    pitches = []
    for frame in frames:
        sensors = mounted.correct(frame).sensors
        x, _, z = sensors.accel_mps2 if from_gravity else _up_of(sensors.quaternion_wxyz)
        pitches.append(math.atan2(-x, z))
    return float(np.mean(pitches)), float(np.std(pitches))
