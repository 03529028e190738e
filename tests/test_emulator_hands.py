# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fault_bench import STEP_S, Bench
from h2o_control.contract import pitch_rad
from lockstep import LockStep
from wheel_leg_driver.emulated_robot import EmulatedRobot
from wheel_leg_driver.faults import InjectionError, parse
from wheel_leg_driver.protocol import CommandFlag
from wheel_leg_driver.robot import load_robot

G = 9.81


def test_a_tilted_body_reports_attitude_gravity_and_the_way_there() -> None:
    bench = Bench(inject="tilt pitch=0.3")
    bench.seconds(0.5)
    rates = [m.sensors.gyro_radps[1] for m in bench.messages]
    assert sum(rates) * STEP_S == pytest.approx(0.3, abs=2e-3)
    assert max(rates) == pytest.approx(0.3 / 0.5 * 1.875, rel=1e-3), "a minimum-jerk motion's peak"
    assert rates[0] < 0.05 and rates[-1] < 0.01, "it starts and ends softly"
    bench.seconds(1.0)
    assert pitch_rad(*bench.sensors.quaternion_wxyz) == pytest.approx(0.3, abs=1e-6)
    assert bench.sensors.accel_mps2 == pytest.approx((-G * math.sin(0.3), 0.0, G * math.cos(0.3)), abs=1e-5)
    assert bench.sensors.gyro_radps == (0.0, 0.0, 0.0)
    assert bench.sensors.wheel_pos_rad == pytest.approx((-0.3, -0.3), abs=1e-6), "wheels stand, the leg turns"
    assert bench.robot.truth()[2] == pytest.approx(0.3)


def test_roll_and_yaw_turn_as_rep_103_says() -> None:
    bench = Bench(inject="tilt roll=0.2; tilt yaw=0.5 at=1")
    bench.seconds(1.0)
    assert bench.sensors.accel_mps2 == pytest.approx((0.0, G * math.sin(0.2), G * math.cos(0.2)), abs=1e-5)
    bench.seconds(1.0)
    assert bench.sensors.quaternion_wxyz == pytest.approx((math.cos(0.25), 0.0, 0.0, math.sin(0.25)), abs=1e-6)
    yawed = sum(m.sensors.gyro_radps[2] for m in bench.messages) * STEP_S
    assert yawed == pytest.approx(0.5, abs=0.02)


def test_clear_puts_the_body_upright_again() -> None:
    bench = Bench(inject="tilt pitch=0.3 roll=-0.2 yaw=1")
    bench.seconds(1.0)
    bench.robot.clear()
    bench.seconds(0.6)
    assert bench.sensors.quaternion_wxyz == pytest.approx((1.0, 0.0, 0.0, 0.0), abs=1e-6)
    assert bench.sensors.wheel_pos_rad == pytest.approx((0.0, 0.0), abs=1e-6)


def test_arming_lets_go_from_where_the_body_was_held() -> None:
    bench = Bench(inject="tilt pitch=0.1 yaw=0.5")
    bench.seconds(1.0)
    bench.arm()
    assert pitch_rad(*bench.sensors.quaternion_wxyz) == pytest.approx(0.1, abs=5e-3)
    assert bench.sensors.wheel_pos_rad == pytest.approx((-0.1, -0.1), abs=5e-3)
    heading = Rotation.from_quat(np.roll(bench.sensors.quaternion_wxyz, -1)).as_euler("ZYX")[0]
    assert heading == pytest.approx(0.5, abs=1e-3)
    assert not bench.robot.scheduled
    bench.seconds(0.3)
    assert bench.robot.truth()[2] > 0.15, "nobody holds it any more"


def test_nobody_holds_a_robot_that_drives() -> None:
    bench = Bench(inject="tilt pitch=0.2 at=0.1")
    bench.arm()
    with pytest.raises(InjectionError, match="disarm it first"):
        bench.inject("tilt pitch=0.2")
    bench.seconds(0.2)
    assert bench.robot.armed and not bench.robot.held
    assert [p.begun for p in bench.robot.scheduled] == [False], "what was planned waits"
    bench.disarm()
    bench.seconds(0.6)
    assert bench.robot.held and bench.robot.truth()[2] == pytest.approx(0.2, abs=1e-3)


def test_a_fallen_robot_is_picked_up_by_the_hand_that_tilts_it() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(200, 3.0)
    assert abs(bench.robot.truth()[2]) > 0.6
    bench.disarm()
    bench.inject("tilt pitch=0.1")
    bench.seconds(0.6)
    assert bench.robot.held and bench.robot.truth()[2] == pytest.approx(0.1, abs=1e-3)


def test_pushed_wheels_turn_by_what_was_said_within_a_second_and_stay() -> None:
    bench = Bench(inject="push_wheels left=6 right=-2")
    bench.seconds(1.0)
    speeds = np.array([m.sensors.wheel_vel_radps for m in bench.messages])
    assert speeds.sum(axis=0) * STEP_S == pytest.approx([6.0, -2.0], abs=0.02)
    bench.inject("push_wheels left=1 right=1")
    bench.seconds(1.1)
    bench.robot.clear()
    bench.seconds(0.5)
    assert bench.sensors.wheel_pos_rad == pytest.approx((7.0, -1.0), abs=1e-5)
    assert bench.sensors.wheel_vel_radps == (0.0, 0.0)
    # On the floor, turned wheels roll: the mean of 3 rad at 65 mm.
    assert bench.robot.truth()[0] == pytest.approx(3 * 0.065)


def test_clear_stops_a_push_where_the_wheels_are() -> None:
    bench = Bench(inject="push_wheels left=2 right=2")
    bench.seconds(0.5)
    bench.robot.clear()
    bench.seconds(0.5)
    assert bench.sensors.wheel_pos_rad == pytest.approx((1.0, 1.0), abs=1e-5)
    assert bench.sensors.wheel_vel_radps == (0.0, 0.0)


def test_on_the_stand_torque_spins_the_wheels_and_nothing_falls() -> None:
    bench = Bench(inject="stand on=1; tilt pitch=0.2")
    bench.seconds(1.0)
    bench.arm()
    bench.steps(20, 0.1, -0.05)
    inertia = (0.0026 + 0.002) / 2
    # A step before the torque came, the robot was armed at zero.
    assert bench.sensors.wheel_vel_radps == pytest.approx((0.1 / inertia * 0.1, -0.05 / inertia * 0.1), rel=1e-6)
    assert bench.last.executed_nm == pytest.approx((0.1, -0.05))
    bench.steps(200, 0.1, -0.05)
    assert pitch_rad(*bench.sensors.quaternion_wxyz) == pytest.approx(0.2, abs=1e-6)
    assert bench.sensors.gyro_radps == (0.0, 0.0, 0.0)
    assert bench.robot.truth()[2] == pytest.approx(0.2) and not bench.robot.faults


def test_friction_stops_the_wheels_on_the_stand_once_disarmed() -> None:
    description = load_robot("ideal")
    # 0.01 Nm a wheel of dry friction on (0.0026 + 0.002) / 2 kg m²: 1 rad/s is gone after 0.23 s.
    body = dataclasses.replace(description.body, coulomb_nm=0.02)
    bench = Bench(dataclasses.replace(description, body=body), inject="stand on=1")
    bench.arm()
    while bench.sensors.wheel_vel_radps[0] < 1.0:
        bench.steps(1, 0.02)
    speed = bench.sensors.wheel_vel_radps[0]
    bench.disarm()
    stops = 1 + round(speed * 0.0023 / 0.01 / STEP_S)
    bench.steps(stops - 5)
    assert bench.sensors.wheel_vel_radps[0] > 0.0
    # tanh lets the last of it fade.
    bench.steps(30)
    assert bench.sensors.wheel_vel_radps == pytest.approx((0.0, 0.0), abs=1e-3)


def test_off_the_stand_the_robot_stands_on_the_floor_and_encoders_do_not_jump() -> None:
    bench = Bench(inject="stand on=1")
    bench.arm()
    bench.steps(20, 0.1)
    bench.disarm()
    before = bench.sensors.wheel_pos_rad
    speed = bench.sensors.wheel_vel_radps[0]
    bench.inject("stand on=0")
    bench.steps(1)
    assert bench.robot.held and bench.robot.truth()[2] == 0.0, "whoever took it down holds it"
    assert bench.sensors.wheel_pos_rad == pytest.approx(before, abs=2 * STEP_S * speed + 1e-6)
    assert not bench.robot.scheduled
    bench.arm()
    bench.steps(200, 3.0)
    assert abs(bench.robot.truth()[2]) > 0.6, "on the floor it falls again"


def test_shaking_hands_show_in_the_gyro_by_their_rms() -> None:
    bench = Bench(inject="shake radps=0.3")
    bench.seconds(10.0)
    gyro = np.array([m.sensors.gyro_radps for m in bench.messages])
    assert np.sqrt((gyro**2).mean(axis=0)) == pytest.approx([0.3] * 3, rel=0.1)
    bench.robot.clear()
    bench.steps(1)
    assert bench.sensors.gyro_radps == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("turn", [(0.0, 0.0, math.pi / 2), (math.pi, 0.0, 0.0), (0.1, -0.2, 0.3)])
def test_a_turned_imu_sees_everything_from_where_it_sits(turn: tuple[float, float, float]) -> None:
    roll, pitch, yaw = turn
    right = Bench(inject="tilt pitch=0.3 roll=0.1")
    wrong = Bench(inject=f"tilt pitch=0.3 roll=0.1; miswire imu_roll={roll} imu_pitch={pitch} imu_yaw={yaw}")
    for bench in (right, wrong):
        bench.seconds(0.25)
    mount = Rotation.from_euler("ZYX", [yaw, pitch, roll])
    good, bad = right.sensors, wrong.sensors
    assert mount.apply(bad.gyro_radps) == pytest.approx(np.array(good.gyro_radps), abs=1e-5)
    assert mount.apply(bad.accel_mps2) == pytest.approx(np.array(good.accel_mps2), abs=1e-5)
    seen, body = (Rotation.from_quat(np.roll(s.quaternion_wxyz, -1)) for s in (bad, good))
    assert (seen * mount.inv() * body.inv()).magnitude() == pytest.approx(0.0, abs=1e-5)


def test_an_imu_on_its_side_reads_pitch_as_roll() -> None:
    # Turned by 90° about z, the sensor's x points to the body's left: pitching forward is rolling, for it.
    bench = Bench(inject=f"tilt pitch=0.3; miswire imu_yaw={math.pi / 2}")
    bench.seconds(0.25)
    assert bench.sensors.gyro_radps[0] > 1.0
    assert bench.sensors.gyro_radps[1:] == pytest.approx((0.0, 0.0), abs=1e-5)


def test_encoders_wired_the_other_way_count_backwards_and_swapped_ones_change_sides() -> None:
    bench = Bench(inject="push_wheels left=2 right=3; miswire left_encoder=-1 swap=1")
    bench.seconds(1.1)
    assert bench.sensors.wheel_pos_rad == pytest.approx((-3.0, 2.0), abs=1e-5)


def test_motors_wired_the_other_way_turn_backwards_and_swapped_ones_change_sides() -> None:
    bench = Bench(inject="stand on=1; miswire right_motor=-1 swap=1 left_encoder=1")
    bench.arm()
    bench.steps(20, 0.0, 0.1)
    # The channel called right drives the left wheel backwards, and its encoder is read as the right one's too.
    left, right = bench.sensors.wheel_vel_radps
    assert left == 0.0 and right < -1.0
    bench.inject("miswire left_motor=-1")
    bench.disarm()
    bench.arm()
    bench.steps(20, 0.1, 0.1)
    left, right = bench.sensors.wheel_vel_radps
    assert left < -1.0


@pytest.mark.parametrize("wiring", ["left_motor=-1 right_motor=-1", "imu_yaw=3.14159"])
def test_a_miswired_robot_falls_when_it_is_armed(wiring: str) -> None:
    falls = {}
    for text in ("", f"miswire {wiring}"):
        lock = LockStep("ideal", pitch_rad=0.0)
        robot = EmulatedRobot(lock.robot, injections=parse(text))
        lock.firmware = robot  # type: ignore[assignment]
        robot.step()
        lock.step(5)
        lock.core.arm()
        lock.seconds(1.5)
        falls[text] = max(abs(row.theta_rad) for row in robot.trace(0.0)) > 0.5
    assert list(falls.values()) == [False, True]


def test_a_tilt_takes_the_place_of_the_one_before_and_clear_ends_all() -> None:
    bench = Bench(inject="tilt pitch=0.3; tilt pitch=-0.1 at=0.2; miswire swap=1; bias_gyro")
    bench.seconds(1.0)
    assert pitch_rad(*bench.sensors.quaternion_wxyz) == pytest.approx(-0.1, abs=1e-6)
    assert [p.injection.kind for p in bench.robot.scheduled] == ["tilt", "miswire", "bias_gyro"]
    bench.robot.clear()
    bench.seconds(0.6)
    assert bench.sensors.quaternion_wxyz == pytest.approx((1.0, 0.0, 0.0, 0.0), abs=1e-6)
    assert not bench.robot.scheduled
    bench.send(CommandFlag.DISARM)
