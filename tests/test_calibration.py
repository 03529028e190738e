# SPDX-License-Identifier: Apache-2.0
"""Calibration files, what they correct, and the steps of `h2o-robot calibrate` (tests/test_calibrate.py walks them)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from h2o_control.contract import pitch_rad
from h2o_control.errors import ConfigError
from test_estimator import frame
from wheel_leg_driver.calibration import Calibration, load_calibration

angles = st.floats(-math.pi, math.pi)
FULL = Calibration(
    "worn", 3.1, -0.2, 1.5, 0.02, (1, -1), (-1, -1), True, (0.01, 0.0, -0.02), ("torque",), "today, by hand"
)


def test_default_changes_nothing() -> None:
    telemetry = frame(3, gyro_radps=(1.0, 2.0, 3.0))
    assert Calibration().correct(telemetry) is telemetry
    assert Calibration().to_motors(1.0, 2.0) == (1.0, 2.0)


def test_sensor_turned_by_half_a_turn_about_z_reads_forward_as_forward() -> None:
    turned = Calibration(imu_yaw_rad=math.pi)
    # Leaning forward by 0.2 rad at 1 rad/s, the sensor that looks backward reads leaning backward.
    raw = frame(
        gyro_radps=(0.0, -1.0, 0.5),
        accel_mps2=(9.81 * math.sin(0.2), 0.0, 9.81 * math.cos(0.2)),
        quaternion_wxyz=(0.0, math.sin(-0.1), 0.0, math.cos(0.1)),
    )
    sensors = turned.correct(raw).sensors
    assert sensors.gyro_radps == pytest.approx((0.0, 1.0, 0.5))
    assert sensors.accel_mps2 == pytest.approx((-9.81 * math.sin(0.2), 0.0, 9.81 * math.cos(0.2)))
    assert abs(pitch_rad(*sensors.quaternion_wxyz)) == pytest.approx(0.2)


def test_pitch_zero_is_taken_from_pitch_and_gravity_alike() -> None:
    zeroed = Calibration(pitch_zero_rad=0.1)
    raw = frame(
        quaternion_wxyz=(math.cos(0.05), 0.0, math.sin(0.05), 0.0),
        accel_mps2=(-9.81 * math.sin(0.1), 0.0, 9.81 * math.cos(0.1)),
    )
    sensors = zeroed.correct(raw).sensors
    assert pitch_rad(*sensors.quaternion_wxyz) == pytest.approx(0.0)
    assert sensors.accel_mps2 == pytest.approx((0.0, 0.0, 9.81))


@given(roll=angles, pitch=angles, yaw=angles, attitude=st.tuples(angles, angles, angles))
def test_any_mounting_gives_back_the_body(
    roll: float, pitch: float, yaw: float, attitude: tuple[float, float, float]
) -> None:
    mount, body = Rotation.from_euler("ZYX", [yaw, pitch, roll]), Rotation.from_euler("ZYX", attitude)
    omega = np.array([0.3, -0.7, 1.1])
    x, y, z, w = (body * mount).as_quat()
    raw = frame(quaternion_wxyz=(w, x, y, z), gyro_radps=tuple(mount.apply(omega, inverse=True)))
    sensors = Calibration(imu_roll_rad=roll, imu_pitch_rad=pitch, imu_yaw_rad=yaw).correct(raw).sensors
    w, x, y, z = sensors.quaternion_wxyz
    assert (Rotation.from_quat([x, y, z, w]) * body.inv()).magnitude() < 1e-6
    assert sensors.gyro_radps == pytest.approx(tuple(omega), abs=1e-9)


def test_wheels_are_swapped_before_they_get_the_signs_of_the_real_wheels() -> None:
    crossed = Calibration(encoder_signs=(-1, 1), torque_signs=(1, -1), swapped=True)
    raw = dataclasses.replace(
        frame(wheel_pos_rad=(1.0, 2.0), wheel_vel_radps=(3.0, 4.0), temperatures_c=(50.0, 60.0, 20.0)),
        executed_nm=(0.5, 0.7),
    )
    corrected = crossed.correct(raw)
    assert corrected.sensors.wheel_pos_rad == (-2.0, 1.0)
    assert corrected.sensors.wheel_vel_radps == (-4.0, 3.0)
    assert corrected.sensors.temperatures_c == (60.0, 50.0, 20.0)
    assert corrected.executed_nm == (0.7, -0.5)


@given(
    signs=st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
    swapped=st.booleans(),
    torque=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_torque_that_is_sent_and_executed_is_recorded_as_the_torque_that_was_asked_for(
    signs: tuple[int, int], swapped: bool, torque: tuple[float, float]
) -> None:
    calibration = Calibration(torque_signs=signs, swapped=swapped)
    wire = calibration.to_motors(*torque)
    assert calibration.correct(dataclasses.replace(frame(), executed_nm=wire)).executed_nm == torque


def test_file_gives_back_what_was_written(tmp_path: Path) -> None:
    FULL.write(tmp_path / "c.yaml")
    assert load_calibration(tmp_path / "c.yaml", "worn") == FULL
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    assert load_calibration("") == Calibration()


def test_another_robots_file_is_neither_used_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    FULL.write(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="robot 'worn', this is 'ideal'"):
        load_calibration(path, "ideal")
    with pytest.raises(ConfigError, match="robot 'worn'"):
        Calibration("ideal").write(path)
    (tmp_path / "notes.yaml").write_text("shopping: [milk]\n")
    with pytest.raises(ConfigError, match="unknown key 'shopping'"):
        FULL.write(tmp_path / "notes.yaml")
    assert path.read_bytes() == before
    dataclasses.replace(FULL, pitch_zero_rad=0.0).write(path)
    assert load_calibration(path).pitch_zero_rad == 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("encoder_signs: [1, 2]", "1 or -1, got"),
        ("encoder_signs: [1]", "must hold 2 values"),
        ("pitch_zero_rad: 0.5", "the mounting is wrong"),
        ("imu_rol_rad: 0.5", "Did you mean 'imu_roll_rad'"),
        ("imu_roll_rad: .nan", "finite"),
    ],
)
def test_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_calibration(tmp_path / "c.yaml")
