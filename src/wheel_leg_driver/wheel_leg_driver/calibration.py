# SPDX-License-Identifier: Apache-2.0
"""What is particular to one robot's wiring and IMU mounting, read from a file that `h2o-robot calibrate` writes.

Telemetry stays on the wire as the robot sends it. `correct` turns it into this project's conventions (docs/protocol.md)
and `to_motors` turns torques back. Of what the driver publishes, /imu is as measured, in the sensor's own axes
(imu_link), and everything that has a sign or a side is corrected: /odom, and position, velocity and effort in
/joint_states, so that a recorded torque means "positive drives forward" on every robot.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from h2o_control.atomic_file import write_atomically
from h2o_control.config import from_mapping, load_yaml, to_mapping
from h2o_control.errors import ConfigError
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Telemetry

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

#: The balance point may lie this far from what a person took for upright; beyond it the mounting is wrong instead.
PITCH_ZERO_LIMIT_RAD = 0.25


@dataclass(frozen=True)
class Calibration:
    """Where the sensors sit and which way the motors turn; the default corrects nothing.

    Attributes:
        robot: name of the robot it was made on; empty fits every robot and is what the default has.
        imu_roll_rad, imu_pitch_rad, imu_yaw_rad: how the IMU is turned against the body, any angles: a vector in the
            sensor's axes becomes one in the body's by Rz(yaw) Ry(pitch) Rx(roll).
        pitch_zero_rad: pitch that the mounted IMU reads where the robot is in balance; it becomes zero.
        encoder_signs: left and right wheel, 1 or -1: -1 where the wire counts down as the wheel rolls forward.
        torque_signs: left and right wheel, 1 or -1: -1 where positive torque on the wire drives backward.
        swapped: whether what the wire calls left is the right wheel, motor and encoder alike. Signs are those of the
            real wheels.
        gyro_bias_radps: as last seen at rest, in the sensor's axes; the driver starts from it and measures anew.
        skipped: names of the steps that were not done, whose values are the defaults.
        made: when and by what; for people.
        unfinished: steps that an interrupted calibration still has to do; only `h2o-robot calibrate` takes such a file.
    """

    robot: str = ""
    imu_roll_rad: float = 0.0
    imu_pitch_rad: float = 0.0
    imu_yaw_rad: float = 0.0
    pitch_zero_rad: float = 0.0
    encoder_signs: tuple[int, int] = (1, 1)
    torque_signs: tuple[int, int] = (1, 1)
    swapped: bool = False
    gyro_bias_radps: Vector = (0.0, 0.0, 0.0)
    skipped: tuple[str, ...] = ()
    made: str = ""
    unfinished: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("encoder_signs", "torque_signs"):
            signs = getattr(self, name)
            if any(sign not in (1, -1) for sign in signs):
                raise ValueError(f"{name} are 1 or -1, got {list(signs)}")
        if not abs(self.pitch_zero_rad) <= PITCH_ZERO_LIMIT_RAD:
            raise ValueError(
                f"pitch_zero_rad {self.pitch_zero_rad:+.3f} is beyond {PITCH_ZERO_LIMIT_RAD}: the mounting is wrong"
            )
        # The pitch zero turns the body's axes, so that in balance gravity lies on z and rates are split accordingly.
        q = _product(
            _axis(1, self.pitch_zero_rad),
            _product(_axis(2, self.imu_yaw_rad), _product(_axis(1, self.imu_pitch_rad), _axis(0, self.imu_roll_rad))),
        )
        setter = object.__setattr__
        setter(self, "_inverse", (q[0], -q[1], -q[2], -q[3]))
        setter(self, "_rows", _rows(q))
        setter(self, "_turned", any((self.imu_roll_rad, self.imu_pitch_rad, self.imu_yaw_rad, self.pitch_zero_rad)))
        rewired = self.swapped or -1 in (*self.encoder_signs, *self.torque_signs)
        setter(self, "_identity", not rewired and not self._turned)

    # Computed once, no fields: they must not appear in files.
    _inverse: Any = dataclasses.field(init=False, repr=False, compare=False)
    _rows: Any = dataclasses.field(init=False, repr=False, compare=False)
    _turned: bool = dataclasses.field(init=False, repr=False, compare=False)
    _identity: bool = dataclasses.field(init=False, repr=False, compare=False)

    def to_body(self, vector: Vector) -> Vector:
        """Turn a vector [3] from the sensor's axes into the body's."""
        (a, b, c), (d, e, f), (g, h, i) = self._rows
        x, y, z = vector
        return a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z

    def wheels(self, values: tuple[float, float], signs: tuple[int, int]) -> tuple[float, float]:
        """Return the left and right wheel's value of a pair as it comes on the wire, or the other way round."""
        first, second = values
        if self.swapped:
            first, second = second, first
        return first * signs[0], second * signs[1]

    def correct(self, telemetry: Telemetry) -> Telemetry:
        """Return telemetry in the body's axes, left as left, and with signs as docs/protocol.md demands."""
        if self._identity:
            return telemetry
        s = telemetry.sensors
        temperatures = s.temperatures_c
        if self.swapped:
            temperatures = (temperatures[1], temperatures[0], temperatures[2])
        turned = self._turned
        sensors = SensorReadings(
            accel_mps2=self.to_body(s.accel_mps2) if turned else s.accel_mps2,
            gyro_radps=self.to_body(s.gyro_radps) if turned else s.gyro_radps,
            quaternion_wxyz=_product(s.quaternion_wxyz, self._inverse) if turned else s.quaternion_wxyz,
            wheel_pos_rad=self.wheels(s.wheel_pos_rad, self.encoder_signs),
            wheel_vel_radps=self.wheels(s.wheel_vel_radps, self.encoder_signs),
            leg_pos_rad=s.leg_pos_rad,
            leg_vel_radps=s.leg_vel_radps,
            battery_v=s.battery_v,
            temperatures_c=temperatures,
        )
        return Telemetry(
            telemetry.sequence,
            telemetry.device_time_us,
            telemetry.command_sequence,
            sensors,
            self.wheels(telemetry.executed_nm, self.torque_signs),
            telemetry.status,
            telemetry.faults,
        )

    def to_motors(self, left_nm: float, right_nm: float) -> tuple[float, float]:
        """Return the two torques for the wire of torques (Nm, positive drives forward) for the left and right wheel."""
        first, second = left_nm * self.torque_signs[0], right_nm * self.torque_signs[1]
        return (second, first) if self.swapped else (first, second)

    def write(self, path: str | Path) -> None:
        """Write the file whole or not at all.

        Raises:
            ConfigError: it cannot be written, or what is there is of another robot or no calibration.
        """
        target = Path(path)
        if target.exists():
            load_calibration(target, self.robot, interrupted=True)
        text = "# Written by h2o-robot calibrate; for the driver's parameter `calibration`. Angles in rad.\n"
        text += yaml.safe_dump(
            to_mapping(self), sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
        )
        try:
            write_atomically(target, text.encode(), sync=True)
        except OSError as error:
            raise ConfigError(f"cannot write {target}: {error.strerror}") from error


def load_calibration(path: str | Path, robot: str = "", interrupted: bool = False) -> Calibration:
    """Read a calibration file, for the robot of this name where one is given; an empty path is the default.

    Raises:
        ConfigError: no such file, not a calibration, of another robot, or of a calibration that was interrupted and
            may not be.
    """
    if not str(path):
        return Calibration()
    calibration = from_mapping(Calibration, load_yaml(path), str(path))
    if robot and calibration.robot and calibration.robot != robot:
        raise ConfigError(
            f"{path} is the calibration of robot {calibration.robot!r}, this is {robot!r}: "
            "name the right file, or make one with h2o-robot calibrate"
        )
    if calibration.unfinished and not interrupted:
        raise ConfigError(
            f"{path} is what an interrupted calibration left, with {', '.join(calibration.unfinished)} still to do: "
            "finish it with h2o-robot calibrate --resume"
        )
    return calibration


def _axis(axis: int, angle_rad: float) -> Quaternion:
    vector = [0.0, 0.0, 0.0]
    vector[axis] = math.sin(angle_rad / 2)
    return math.cos(angle_rad / 2), vector[0], vector[1], vector[2]


def _product(p: Quaternion, q: Quaternion) -> Quaternion:
    a, b, c, d = p
    w, x, y, z = q
    return (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )


def _rows(q: Quaternion) -> tuple[Vector, Vector, Vector]:
    w, x, y, z = q
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
