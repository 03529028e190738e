# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from h2o_control.config import config_dir
from h2o_control.errors import ConfigError
from wheel_leg_driver.firmware import WATCHDOG_US, Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import (
    NO_FLAGS,
    Command,
    CommandFlag,
    Fault,
    FrameReader,
    Status,
    Telemetry,
    encode_command,
)
from wheel_leg_driver.robot import load_robot


@pytest.fixture
def firmware() -> Firmware:
    robot = load_robot("ideal")
    return Firmware(robot, make_plant(robot, 0))


def telemetry(frame: bytes) -> Telemetry:
    (message,) = FrameReader().feed(frame)
    assert isinstance(message, Telemetry)
    return message


def send(firmware: Firmware, torque: float = 0.0, flags: CommandFlag = NO_FLAGS) -> Telemetry:
    return telemetry(firmware.step(encode_command(Command(1, (torque, torque), flags=flags))))


def test_torque_without_arming_goes_nowhere(firmware: Firmware) -> None:
    assert send(firmware, 1.0).executed_nm == (0.0, 0.0)
    assert not firmware.armed


def test_executed_torque_is_limited_and_reported(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    reply = send(firmware, 9.0)
    assert reply.executed_nm == (3.0, 3.0)
    assert reply.status & Status.ARMED


def test_executed_torque_is_the_mean_over_the_step(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    firmware.receive(encode_command(Command(2, (1.0, 1.0))))
    assert firmware.substep() is None
    firmware.receive(encode_command(Command(3, (2.0, 0.0))))
    frames = [firmware.substep() for _ in range(4)]
    assert telemetry(frames[-1] or b"").executed_nm == pytest.approx(((1 + 4 * 2) / 5, 1 / 5))


def test_watchdog_zeroes_torque_after_30_ms_and_latches(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    send(firmware, 1.0)
    since = firmware.device_time_us - 5_000
    while firmware.torque_nm != (0.0, 0.0):
        firmware.substep()
    # The trip is found at the start of the motor-loop step after the limit.
    assert WATCHDOG_US < firmware.device_time_us - since <= WATCHDOG_US + 1_000
    assert firmware.faults == Fault.WATCHDOG
    reply = send(firmware, 1.0)
    assert reply.executed_nm == (0.0, 0.0)
    assert reply.status & Status.LATCHED
    assert send(firmware, 1.0, CommandFlag.ARM).executed_nm == (0.0, 0.0)


def test_only_disarm_then_arm_clears_the_latch(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    for _ in range(8):
        firmware.step()
    assert firmware.faults
    send(firmware, flags=CommandFlag.DISARM)
    send(firmware, flags=CommandFlag.ARM)
    assert send(firmware, 0.5).executed_nm == (0.5, 0.5)


def test_heartbeat_keeps_the_watchdog_and_the_torque(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    send(firmware, 0.25)
    for _ in range(20):
        reply = send(firmware, 9.0, CommandFlag.HEARTBEAT)
    assert reply.executed_nm == (0.25, 0.25)
    assert not firmware.faults


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_torque_that_is_no_number_is_ignored(firmware: Firmware, bad: float) -> None:
    send(firmware, flags=CommandFlag.ARM)
    send(firmware, 0.5)
    assert send(firmware, bad).executed_nm == (0.5, 0.5)


def test_another_protocol_version_stops_the_motors(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    send(firmware, 1.0)
    reply = telemetry(firmware.step(encode_command(Command(4, (1.0, 1.0)), version=2)))
    assert reply.faults & Fault.PROTOCOL_VERSION
    assert reply.executed_nm == (0.0, 0.0)


def test_lock_step_advances_one_control_step_a_frame(firmware: Firmware) -> None:
    times = [send(firmware).device_time_us for _ in range(3)]
    assert [b - a for a, b in itertools.pairwise(times)] == [5_000, 5_000]


def test_fallen_robot_is_picked_up_a_second_after_disarming(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    for _ in range(200):
        send(firmware, 3.0)
    plant = firmware._plant
    assert abs(plant.truth()[2]) > 0.6
    for _ in range(199):
        send(firmware, flags=CommandFlag.DISARM)
    assert abs(plant.truth()[2]) > 0.6
    for _ in range(3):
        send(firmware, flags=CommandFlag.DISARM)
    assert plant.truth()[2] == pytest.approx(0.0, abs=1e-9)


def test_restarted_firmware_knows_nothing_of_before(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    send(firmware, 1.0)
    firmware.trip(Fault.MOTOR)
    firmware.restart()
    assert not firmware.armed and not firmware.faults and firmware.torque_nm == (0.0, 0.0)
    reply = send(firmware, 1.0)
    assert (reply.sequence, reply.device_time_us, reply.executed_nm) == (0, 5_000, (0.0, 0.0))
    assert not firmware.held, "nobody has picked it up"
    send(firmware, flags=CommandFlag.ARM)
    assert send(firmware, 0.5).executed_nm == (0.5, 0.5)


def test_tripped_fault_is_latched_until_disarm(firmware: Firmware) -> None:
    send(firmware, flags=CommandFlag.ARM)
    firmware.trip(Fault.IMU)
    assert send(firmware, 1.0).faults == Fault.IMU
    assert send(firmware, 1.0).executed_nm == (0.0, 0.0)
    assert not send(firmware, flags=CommandFlag.DISARM).faults


def test_balance_that_cannot_work_and_a_rate_that_cannot_be_are_refused(tmp_path: Path) -> None:
    text = (config_dir() / "robots" / "worn.yaml").read_text()
    for old, new, named in (
        ("torque_factor: 0.75}", "torque_factor: 0}", "torque_factor must be positive"),
        ("dead_zone_width_nm: 0.1", "dead_zone_width_nm: 0", "dead_zone_width_nm must be positive"),
        ("name: worn", "name: lab/worn", "slash"),
    ):
        path = tmp_path / "robot.yaml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=named):
            load_robot(str(path))
    path.write_text(text.replace("rate_hz: 200", "rate_hz: 300"))
    robot = load_robot(str(path))
    with pytest.raises(ConfigError, match="rate_hz 300"):
        Firmware(robot, make_plant(robot, 0))
