# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from h2o_control.config import config_dir
from lockstep import LockStep
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.core import Exploration, Limits, RefusedError, Tick
from wheel_leg_driver.protocol import CommandFlag
from wheel_leg_driver.robot import load_robot

ROBOTS = [path.stem for path in sorted((config_dir() / "robots").glob("*.yaml")) if load_robot(str(path)).plant]


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_balance_holds_every_shipped_robot_for_30_s(robot: str, sign: float) -> None:
    # The weak motors of `hard` catch it only when it is let go nearly upright.
    rig = LockStep(robot, pitch_rad=sign * (0.05 if robot == "hard" else 0.15))
    rig.balance()
    furthest = 0.0
    for _ in range(30 * 200):
        rig.step()
        furthest = max(furthest, abs(rig.plant.truth()[0]))
    assert rig.core.mode == "balance"
    assert furthest < 0.4
    assert abs(rig.plant.truth()[0]) < 0.1, "the trim has found the bias"


def test_balance_follows_commanded_speed_and_forgets_stale_commands() -> None:
    rig = LockStep()
    rig.balance()
    speeds = []
    for _ in range(160):
        rig.core.on_speed(0.3, 0.0)
        rig.step(10)
        speeds.append(rig.plant.truth()[1])
    assert np.mean(speeds[80:]) == pytest.approx(0.3, abs=0.05)
    rig.seconds(3.0)
    assert abs(rig.plant.truth()[1]) < 0.1


def test_exploration_moves_the_robot_and_is_off_by_default() -> None:
    quiet, loud = LockStep(), LockStep(explore=Exploration(1.0, seed=1))
    spread = []
    for rig in (quiet, loud):
        rig.balance()
        torques = []
        for _ in range(1000):
            rig.step()
            assert rig.telemetry is not None
            torques.append(sum(rig.telemetry.executed_nm) / 2)
        spread.append(np.std(torques))
    assert spread[1] > 1.5 * spread[0]


def test_never_arms_by_itself() -> None:
    rig = LockStep()
    rig.seconds(2.0)
    assert rig.core.mode == "disarmed"
    assert not rig.firmware.armed


def test_arming_is_refused_when_leaning_or_latched() -> None:
    rig = LockStep(pitch_rad=0.3)
    with pytest.raises(RefusedError, match="no telemetry"):
        rig.core.arm()
    rig.step()
    with pytest.raises(RefusedError, match="hold the robot upright"):
        rig.core.arm()
    rig.core.estop()
    with pytest.raises(RefusedError, match="emergency stop"):
        rig.core.arm()


def test_arming_is_refused_while_the_body_swings_through_the_upright() -> None:
    rig = LockStep(pitch_rad=0.0)
    rig.step()
    rig.plant.reset(0.0, 0.8)
    rig.step(2)
    with pytest.raises(RefusedError, match=r"swings at \+0\.\d+ rad/s: hold it still, within 0\.5"):
        rig.core.arm()


def test_trim_that_was_found_on_a_stand_is_forgotten_at_the_next_arming() -> None:
    rig = LockStep("ideal")
    rig.balance()
    rig.core._balancer.trim_rad = -0.1
    rig.core.disarm()
    rig.seconds(1.5)
    rig.core.arm()
    rig.step(3)
    assert rig.core.mode == "balance"
    assert abs(rig.core.trim_rad) < 0.01


def test_fall_means_zero_torque_until_disarmed_and_armed() -> None:
    rig = LockStep(limits=Limits(fall_rad=0.3))
    rig.balance()
    rig.plant.reset(pitch_rad=0.35)
    rig.step(3)
    assert rig.core.mode == "fault"
    assert "fallen" in rig.core.reason
    assert rig.firmware.torque_nm == (0.0, 0.0)
    with pytest.raises(RefusedError):
        rig.core.arm()
    rig.core.disarm()
    rig.seconds(1.5)
    rig.core.arm()
    rig.seconds(0.1)
    assert rig.core.mode == "balance"


def test_emergency_stop_is_zero_torque_within_a_step() -> None:
    rig = LockStep()
    rig.balance()
    rig.core.estop()
    rig.step(2)
    assert rig.firmware.torque_nm == (0.0, 0.0)
    assert not rig.firmware.armed


def law(rig: LockStep, v_mps: float = 0.0) -> Callable[[object, Tick], float]:
    """A commander that stands, or drives at a speed: the driver's own gain on the state."""
    gain = lqr_gain(rig.robot) * ([1.0, 1.0, 1.0, 1.0] if v_mps == 0.0 else [0.0, 1.0, 1.0, 1.0])
    return lambda _t, tick: rig.core._balancer.compensate(
        -float(gain @ (tick.estimate.state - [0.0, v_mps, rig.core.trim_rad, 0.0]))
    )


def commanded(**limits: Any) -> LockStep:
    """A rig in torque mode under a commander that stands."""
    rig = LockStep(limits=Limits(**limits))
    rig.answer = law(rig)
    rig.balance()
    rig.core.torque_mode(True)
    rig.seconds(0.5)
    assert rig.core.mode == "torque"
    return rig


def test_commander_torque_reaches_the_motors() -> None:
    rig = commanded()
    rig.answer = lambda _t, _k: 0.125
    rig.step(2)
    assert rig.telemetry is not None
    assert sum(rig.telemetry.executed_nm) / 2 == pytest.approx(0.125, abs=1e-6)


def test_dead_commander_loses_command_before_the_watchdog_bites() -> None:
    rig = commanded()
    rig.answer = lambda _t, _k: None
    rig.step(4)
    assert rig.core.mode == "torque"
    rig.seconds(5.0)
    assert rig.core.mode == "hold"
    assert "no fresh torque" in rig.core.reason
    assert not rig.firmware.faults
    assert abs(rig.plant.truth()[2]) < 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_torque_that_is_no_number_gives_the_robot_back_at_once(bad: float) -> None:
    rig = commanded()
    rig.answer = lambda _t, _k: bad
    rig.step(2)
    assert rig.core.mode == "hold"
    rig.seconds(3.0)
    assert abs(rig.plant.truth()[2]) < 0.1


def test_commander_that_tips_the_robot_loses_command_and_the_robot_stays_up() -> None:
    rig = commanded(tilt_rad=0.2)
    rig.answer = lambda _t, _k: 1.0
    rig.seconds(6.0)
    assert rig.core.mode == "hold"
    assert "pitch" in rig.core.reason
    assert abs(rig.plant.truth()[2]) < 0.1


def test_commander_that_runs_away_loses_command() -> None:
    rig = commanded(speed_mps=0.3)
    rig.answer = law(rig, 1.0)
    rig.seconds(3.0)
    assert rig.core.mode == "hold"
    assert "speed" in rig.core.reason


def test_commander_that_strays_loses_command() -> None:
    rig = commanded(distance_m=0.2)
    rig.answer = law(rig, 0.4)
    rig.seconds(4.0)
    assert "limit 0.2 m" in rig.core.reason


def test_torque_for_another_interface_is_refused() -> None:
    rig = commanded()
    assert rig.core.on_torque(0.0, rig.core.device_time_us, "0123456789abcdef") is None
    assert rig.core.mode == "hold"
    assert "0123456789abcdef" in rig.core.reason


def test_old_and_repeated_answers_do_not_count() -> None:
    rig = commanded()
    now = rig.core.device_time_us
    hash_ = rig.robot.interface.hash
    rig.step()
    assert rig.core.on_torque(0.1, now - 50_000, hash_) is None
    assert rig.core.on_torque(0.1, now + 999_000, hash_) is None
    assert rig.core.commands_rejected == 2


def test_torque_mode_needs_balance_first() -> None:
    rig = LockStep()
    rig.step()
    with pytest.raises(RefusedError, match="arm and let the driver balance first"):
        rig.core.torque_mode(True)


def test_torque_mode_needs_somebody_who_answers() -> None:
    rig = LockStep()
    rig.balance()
    with pytest.raises(RefusedError, match="is a policy node running"):
        rig.core.torque_mode(True)
    rig.core.on_torque(0.0, rig.core.device_time_us, "another robot")
    with pytest.raises(RefusedError, match="interface 'another robot'"):
        rig.core.torque_mode(True)
    rig.core.on_torque(math.nan, rig.core.device_time_us, rig.robot.interface.hash)
    with pytest.raises(RefusedError, match="not a number"):
        rig.core.torque_mode(True)


def test_hand_back_stops_until_the_stick_was_let_go() -> None:
    rig = commanded()
    rig.core.torque_mode(False)
    for speed, expected in ((0.4, 0.0), (0.0, 0.0), (0.4, 0.4)):
        speeds = []
        for _ in range(60):
            rig.core.on_speed(speed, 0.0)
            rig.step(10)
            speeds.append(rig.plant.truth()[1])
        # Dead zone and friction make it hunt around the wanted speed.
        assert np.mean(speeds[30:]) == pytest.approx(expected, abs=0.1)


def test_firmware_watchdog_is_reported_as_a_fault() -> None:
    rig = LockStep()
    rig.balance()
    for _ in range(8):
        frame = rig.firmware.step()
    rig._frame = frame
    rig.step()
    assert rig.core.mode == "fault"
    assert "watchdog" in rig.core.reason


def test_steering_turns_the_robot_and_yields_to_balance() -> None:
    rig = LockStep("ideal")
    rig.balance()
    rates = []
    for _ in range(20):
        rig.core.on_speed(0.0, 0.5)
        rig.step(10)
        assert rig.tick is not None
        rates.append(rig.tick.estimate.yaw_rate_radps)
    assert np.mean(rates[10:]) > 0.3
    left, right = rig.core._command(3.0, 0.4).torque_nm
    assert (left, right) == (3.0, 3.0)


def test_disarm_flag_is_sent_while_disarmed() -> None:
    rig = LockStep()
    rig.step()
    assert rig.tick is not None
    assert rig.tick.command is not None
    assert rig.tick.command.flags & CommandFlag.DISARM


def test_torque_is_cut_to_the_lower_of_both_limits() -> None:
    for limits, expected in ((Limits(), 3.0), (Limits(torque_nm=0.5), 0.5), (Limits(torque_nm=9.0), 3.0)):
        assert LockStep(limits=limits).core._command(50.0, 0.0).torque_nm == (expected, expected)
