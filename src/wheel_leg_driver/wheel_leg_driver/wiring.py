# SPDX-License-Identifier: Apache-2.0
"""How an emulated robot's IMU, encoders and motors are connected: right, or as somebody got it wrong.

An IMU mounted turned by R (body from sensor) reports Rᵀω, Rᵀa and the attitude q·q_R.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from wheel_leg_driver.faults import Injection
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.rotations import pair, quaternion, rotation, triple


@dataclasses.dataclass(frozen=True)
class Wiring:
    """The default is right.

    Attributes:
        imu: R, None for not turned.
        encoders, motors: signs of the channels called left and right.
        swap: the channels called left go to the right wheel, and the other way round.
    """

    imu: Rotation | None = None
    encoders: tuple[float, float] = (1.0, 1.0)
    motors: tuple[float, float] = (1.0, 1.0)
    swap: bool = False

    @classmethod
    def of(cls, injection: Injection) -> Wiring:
        """Return what an injection `miswire` says; its angles turn by yaw, then pitch, then roll."""
        number = injection.number
        turned = [number("imu_yaw"), number("imu_pitch"), number("imu_roll")]
        return cls(
            Rotation.from_euler("ZYX", turned) if any(turned) else None,
            (number("left_encoder"), number("right_encoder")),
            (number("left_motor"), number("right_motor")),
            number("swap") == 1,
        )

    def at_wheels(self, torque_nm: tuple[float, float]) -> tuple[float, float]:
        """Return the torques of the left and right wheel, given those of the channels called so."""
        left, right = torque_nm[0] * self.motors[0], torque_nm[1] * self.motors[1]
        return (right, left) if self.swap else (left, right)

    def read(self, readings: SensorReadings) -> SensorReadings:
        """Return what the microcontroller reads, given what there is to be read."""
        if self.imu is not None:
            readings = dataclasses.replace(
                readings,
                quaternion_wxyz=quaternion(rotation(readings.quaternion_wxyz) * self.imu),
                gyro_radps=triple(self.imu.apply(readings.gyro_radps, inverse=True)),
                accel_mps2=triple(self.imu.apply(readings.accel_mps2, inverse=True)),
            )
        order = -1 if self.swap else 1
        signs = np.array(self.encoders)
        left_c, right_c, board_c = readings.temperatures_c
        return dataclasses.replace(
            readings,
            wheel_pos_rad=pair(signs * readings.wheel_pos_rad[::order]),
            wheel_vel_radps=pair(signs * readings.wheel_vel_radps[::order]),
            temperatures_c=(right_c, left_c, board_c) if self.swap else readings.temperatures_c,
        )
