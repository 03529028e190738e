# SPDX-License-Identifier: Apache-2.0
"""Legs held by servos: a crouch commanded through the firmware while the driver balances."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from h2o_training.model import leg_points
from h2o_training.plant import MujocoPlant
from wheel_leg_driver.core import DriverCore
from wheel_leg_driver.firmware import Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Body, load_robot

Posture = tuple[float, float]


def crouch(body: Body, thigh_rad: float) -> Posture:
    """Fold the legs so that the hip stays above the axle."""
    hip, _ = leg_points(body)
    shin_abs = math.asin((hip[0] - body.thigh_length_m * math.sin(thigh_rad)) / body.shin_length_m)
    return thigh_rad, shin_abs - thigh_rad


def hip_height_m(body: Body, posture: Posture) -> float:
    hip, _ = leg_points(dataclasses.replace(body, thigh_rad=posture[0], shin_rad=posture[1]))
    return float(hip[1])


class Squatting:
    """The driver's balance in lock-step with the firmware; only the posture in its commands is ours."""

    def __init__(self, name: str) -> None:
        self.robot = load_robot(name)
        self.plant = make_plant(self.robot, 0)
        self.firmware = Firmware(self.robot, self.plant, 0.02)
        self.core = DriverCore(self.robot)
        self.posture: Posture = (self.robot.body.thigh_rad, self.robot.body.shin_rad)
        self._reader = FrameReader()
        self._frame = self.firmware.step(encode_command(self.core.zero()))
        self._step()
        self.core.arm()

    def _step(self) -> None:
        (telemetry,) = self._reader.feed(self._frame)
        assert isinstance(telemetry, Telemetry)
        self.telemetry = telemetry
        command = self.core.on_telemetry(telemetry).command
        assert command is not None
        self._frame = self.firmware.step(encode_command(dataclasses.replace(command, posture_rad=self.posture)))

    def move(self, posture: Posture, ramp_s: float, hold_s: float) -> float:
        """Ramp the posture and hold it; returns the largest |pitch| in rad on the way."""
        start, ramp = np.array(self.posture), round(ramp_s * self.robot.interface.rate_hz)
        worst = 0.0
        for n in range(1, ramp + round(hold_s * self.robot.interface.rate_hz) + 1):
            thigh, shin = start + min(1.0, n / ramp) * (np.array(posture) - start)
            self.posture = (float(thigh), float(shin))
            self._step()
            worst = max(worst, abs(self.plant.truth()[2]))
        return worst

    def torso_height_m(self) -> float:
        """Height of the hips' middle above the axle, from the simulator itself."""
        assert isinstance(self.plant, MujocoPlant)
        data = self.plant._data
        axle = np.mean([data.body(f"{side}_wheel").xpos[2] for side in ("left", "right")])
        return float(data.site("imu").xpos[2] - axle)

    def servo_error_rad(self) -> float:
        return float(np.abs(np.array(self.telemetry.sensors.leg_pos_rad) - np.array(self.posture * 2)).max())


@pytest.mark.parametrize("name", ["ideal", "worn"])
@pytest.mark.parametrize("thigh_rad", [1.3, 1.88])
def test_a_crouch_and_back_changes_the_height_as_the_legs_say_and_the_robot_stays_up(
    name: str, thigh_rad: float
) -> None:
    robot = Squatting(name)
    stand = robot.posture
    low = crouch(robot.robot.body, thigh_rad)
    drop = hip_height_m(robot.robot.body, stand) - hip_height_m(robot.robot.body, low)
    assert drop > 0.03
    robot.move(stand, 0.5, 2.0)
    standing = robot.torso_height_m()
    assert standing == pytest.approx(hip_height_m(robot.robot.body, stand), abs=0.002)
    for posture, height in ((low, standing - drop), (stand, standing)):
        assert robot.move(posture, 0.5, 3.0) < 0.1
        assert robot.core.mode == "balance", robot.core.reason
        assert robot.torso_height_m() == pytest.approx(height, abs=0.002)
        assert robot.servo_error_rad() < 0.004
    assert abs(robot.plant.truth()[0]) < 0.3


def test_legs_sag_by_what_the_load_asks_of_the_servos() -> None:
    robot = Squatting("ideal")
    robot.move(robot.posture, 0.5, 3.0)
    assert 0.00005 < robot.servo_error_rad() < 0.0005
