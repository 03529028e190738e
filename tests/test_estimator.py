# SPDX-License-Identifier: Apache-2.0
"""The estimate against values computed by hand, and against the plant's truth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lockstep import LockStep
from wheel_leg_driver.calibration import Calibration
from wheel_leg_driver.estimator import BIAS_LIMIT_RADPS, Estimator
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Fault, Status, Telemetry

RADIUS_M = 0.1
REST = SensorReadings(
    accel_mps2=(0.0, 0.0, 9.81),
    gyro_radps=(0.0, 0.0, 0.0),
    quaternion_wxyz=(1.0, 0.0, 0.0, 0.0),
    wheel_pos_rad=(0.0, 0.0),
    wheel_vel_radps=(0.0, 0.0),
    leg_pos_rad=(0.0,) * 4,
    leg_vel_radps=(0.0,) * 4,
    battery_v=24.0,
    temperatures_c=(20.0, 21.0, 22.0),
)


def frame(number: int = 0, *, step_us: int = 5000, **sensors: object) -> Telemetry:
    readings = dataclasses.replace(REST, **sensors)  # type: ignore[arg-type]
    return Telemetry(number, number * step_us, 0, readings, (0.0, 0.0), Status(0), Fault(0))


def rest(estimator: Estimator, frames: int, start: int = 0, **sensors: object) -> None:
    for k in range(start, start + frames):
        estimator.update(frame(k, **sensors), held=True)


def test_state_is_what_a_ruler_says() -> None:
    # Leaning 0.2 rad forward at 0.5 rad/s, wheels 3 rad ahead of the leg at 4 rad/s: 0.1 m (3 + 0.2), 0.1 m (4 + 0.5).
    estimate = Estimator(RADIUS_M).update(
        frame(
            quaternion_wxyz=(math.cos(0.1), 0.0, math.sin(0.1), 0.0),
            gyro_radps=(0.0, 0.5, 0.25),
            wheel_pos_rad=(2.0, 4.0),
            wheel_vel_radps=(3.0, 5.0),
        )
    )
    assert estimate.state == pytest.approx([0.32, 0.45, 0.2, 0.5])
    assert (estimate.yaw_rate_radps, estimate.roll_rad) == pytest.approx((0.25, 0.0))


def test_leaning_right_is_positive_roll_in_both_attitudes() -> None:
    leaning = frame(
        quaternion_wxyz=(math.cos(0.15), math.sin(0.15), 0.0, 0.0),
        accel_mps2=(0.0, 9.81 * math.sin(0.3), 9.81 * math.cos(0.3)),
    )
    for attitude in ("imu", "complementary"):
        estimate = Estimator(RADIUS_M, attitude=attitude).update(leaning)  # type: ignore[arg-type]
        assert (estimate.roll_rad, estimate.theta_rad) == pytest.approx((0.3, 0.0))


def test_origin_is_the_place_of_the_last_finite_update() -> None:
    estimator = Estimator(RADIUS_M)
    estimator.update(frame(0, wheel_pos_rad=(5.0, 5.0)))
    assert math.isnan(estimator.update(frame(1, wheel_pos_rad=(math.nan, 5.0))).x_m)
    estimator.set_origin()
    assert estimator.update(frame(2, wheel_pos_rad=(6.0, 6.0))).x_m == pytest.approx(0.1)


def test_restart_of_the_firmware_does_not_move_the_robot() -> None:
    estimator = Estimator(RADIUS_M)
    estimator.update(frame(1000, wheel_pos_rad=(50.0, 50.0)))
    assert estimator.update(frame(1)).x_m == 0.0
    assert estimator.update(frame(2, wheel_pos_rad=(1.0, 1.0))).x_m == pytest.approx(0.1)


def test_bias_at_rest_is_subtracted_from_all_three_rates() -> None:
    estimator = Estimator(RADIUS_M)
    rest(estimator, 100, gyro_radps=(0.01, -0.02, 0.03))
    assert estimator.measure_bias() == ""
    assert estimator.gyro_bias_radps == pytest.approx((0.01, -0.02, 0.03))
    estimate = estimator.update(frame(100, gyro_radps=(0.01, 0.98, 0.53)))
    assert (estimate.theta_dot_radps, estimate.yaw_rate_radps) == pytest.approx((1.0, 0.5))
    # 0.1 m · (0 + 1 rad/s): the bias is out of the speed too.
    assert estimate.v_mps == pytest.approx(0.1)


def test_bias_is_not_measured_from_too_few_frames_or_frames_under_torque() -> None:
    estimator = Estimator(RADIUS_M)
    rest(estimator, 99)
    assert "99 of 100" in estimator.measure_bias()
    # The same frame again is no news.
    estimator.update(frame(98), held=True)
    assert "99 of 100" in estimator.measure_bias()
    estimator.update(frame(99), held=False)
    rest(estimator, 5, start=100)
    assert "5 of 100" in estimator.measure_bias()


@pytest.mark.parametrize(
    ("sensors", "reason"),
    [
        ({"gyro_radps": (0.0, math.nan, 0.0)}, "vary by nan"),
        ({"gyro_radps": (0.0, 0.0, BIAS_LIMIT_RADPS * 1.01)}, "no bias"),
        ({"accel_mps2": (0.0, 0.0, 0.0)}, "moved by nan"),
    ],
)
def test_implausible_rest_leaves_the_bias_as_it_was(sensors: dict[str, object], reason: str) -> None:
    estimator = Estimator(RADIUS_M, Calibration(gyro_bias_radps=(0.01, 0.0, 0.0)))
    rest(estimator, 100, **sensors)
    assert reason in estimator.measure_bias()
    assert estimator.gyro_bias_radps == (0.01, 0.0, 0.0)


def test_movement_is_told_from_rest() -> None:
    def moved(**sensors: object) -> str:
        estimator = Estimator(RADIUS_M)
        rest(estimator, 50)
        rest(estimator, 50, start=50, **sensors)
        return estimator.measure_bias()

    # Half a window at 0.2 rad/s: a standard deviation of 0.1 rad/s.
    assert "vary by 0.100 rad/s" in moved(gyro_radps=(0.2, 0.0, 0.0))
    assert "gravity moved by 0.020 rad" in moved(accel_mps2=(9.81 * math.sin(0.02), 0.0, 9.81 * math.cos(0.02)))
    assert "turned by 0.050 rad" in moved(wheel_pos_rad=(0.0, 0.05))
    assert moved() == ""


def test_complementary_filter_follows_a_turn_of_the_gyro_at_once_and_gravity_slowly() -> None:
    estimator = Estimator(RADIUS_M, attitude="complementary", time_constant_s=2.0)
    rest(estimator, 1)
    # 1 rad/s about y for 0.3 s, in a fall: the accelerometer feels nothing and is not listened to.
    for k in range(1, 62):
        rate = 1.0 if k < 61 else 0.0
        theta = estimator.update(frame(k, gyro_radps=(0.0, rate, 0.0), accel_mps2=(0.0, 0.0, 0.0))).theta_rad
    # Trapezoids: the ramps up and down at its ends make half a step each, 60 in all.
    assert theta == pytest.approx(0.3, abs=1e-4)
    # Then at rest, upright: e^-1 of it is left after T.
    for k in range(62, 462):
        theta = estimator.update(frame(k)).theta_rad
    assert theta == pytest.approx(0.3 / math.e, rel=0.02)


def test_driving_off_does_not_look_like_tilt() -> None:
    estimator = Estimator(RADIUS_M, attitude="complementary", time_constant_s=1.0)
    rest(estimator, 1)
    # Upright, 1 m/s² for a second: without the wheels it would read −0.06 rad.
    thetas = [
        estimator.update(frame(k, accel_mps2=(1.0, 0.0, 9.81), wheel_vel_radps=(0.05 * k, 0.05 * k))).theta_rad
        for k in range(1, 200)
    ]
    assert max(map(abs, thetas)) < 2e-3


def test_complementary_yaw_is_the_heading_also_when_leaning() -> None:
    estimator = Estimator(RADIUS_M, attitude="complementary")
    # Turning about the vertical at 0.5 rad/s while leaning forward by 0.3 rad.
    up = (-math.sin(0.3), 0.0, math.cos(0.3))
    for k in range(201):
        estimate = estimator.update(
            frame(k, gyro_radps=tuple(0.5 * u for u in up), accel_mps2=tuple(9.81 * u for u in up))
        )
    assert (estimate.yaw_rad, estimate.theta_rad) == pytest.approx((0.5, 0.3), abs=1e-3)


def test_a_gap_starts_the_filter_anew_from_gravity_and_nan_does_not_stay() -> None:
    estimator = Estimator(RADIUS_M, attitude="complementary")
    rest(estimator, 10)
    lean = (-9.81 * math.sin(0.2), 0.0, 9.81 * math.cos(0.2))
    assert estimator.update(frame(40, accel_mps2=lean)).theta_rad == pytest.approx(0.2)
    assert math.isnan(estimator.update(frame(41, gyro_radps=(math.nan,) * 3)).theta_rad)
    assert estimator.update(frame(42, accel_mps2=lean)).theta_rad == pytest.approx(0.2, abs=1e-6)


def test_complementary_pitch_agrees_with_the_truth_of_a_worn_robot_that_drives() -> None:
    run = LockStep("worn", pitch_rad=0.0)
    estimator = Estimator(run.robot.interface.wheel_radius_m, attitude="complementary")
    errors = []
    run.balance()
    for k in range(200 * 20):
        run.core.on_speed(0.5 if k % 1000 < 500 else -0.5, 0.5)
        run.step()
        assert run.telemetry is not None
        errors.append(estimator.update(run.telemetry).theta_rad - run.plant.truth()[2])
    # The first gravity it sees is of a robot under way: after two time constants that is forgotten.
    settled = np.array(errors[800:])
    assert run.core.mode == "balance"
    # Measured 2 mrad rms about a mean that the gyro's bias of 5 mrad/s makes in 2 s.
    assert np.std(settled) < 0.006
    assert abs(np.mean(settled)) < 0.02
