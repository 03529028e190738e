# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault_bench import STEP_S, Bench
from h2o_control.contract import pitch_rad
from wheel_leg_driver.black_box import TRACE_ROWS
from wheel_leg_driver.core import DriverCore
from wheel_leg_driver.emulated_robot import EmulatedRobot
from wheel_leg_driver.fault_kinds import EVER, KINDS, describe_kinds
from wheel_leg_driver.faults import InjectionError, parse
from wheel_leg_driver.firmware import WATCHDOG_US, Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import Fault, FrameReader, Status, Telemetry, encode_command
from wheel_leg_driver.robot import load_robot

# The text.


def test_text_gives_kind_times_and_keys_with_their_defaults() -> None:
    unplug, noise, tilt = parse("unplug at=5 for=0.5; byte_noise at=8 for=2 share=0.25 direction=command;tilt pitch=-1")
    assert (unplug.kind, unplug.at_s, unplug.for_s) == ("unplug", 5.0, 0.5)
    assert (noise.number("share"), noise.acts_on("command"), noise.acts_on("telemetry")) == (0.25, True, False)
    assert (tilt.at_s, tilt.for_s, tilt.number("pitch"), tilt.number("roll")) == (0.0, EVER, -1.0, 0.0)
    assert parse(" ; ") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unplugg", "Did you mean 'unplug'"),
        ("stuck_imu form=2", "Did you mean 'for'"),
        ("byte_noise share=2", "share must be a number from 0 to 1, got '2'"),
        ("byte_noise share=nan", "share must be a number from 0 to 1"),
        ("byte_noise direction=up", "one of telemetry|command|both"),
        ("miswire left_motor=0.5", "one of -1|1"),
        ("delay_telemetry s=-1", "from 0.001 to 1 s"),
        ("tilt 0.2", "no key=value; tilt takes at= .*pitch= .*-3.14"),
        ("reset at=1 at=2", "twice"),
        ("stall for=ever", "for must be a number"),
    ],
)
def test_wrong_text_is_refused_with_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(InjectionError, match=says):
        parse(text)


@given(
    st.lists(
        st.sampled_from(
            [*KINDS, "unplugs", ";", "at=1", "for=", "share=0.1", "=", "pitch=1e999", "at=-0", "on=1", "c="]
        )
    )
)
def test_any_text_is_read_or_refused_in_words(words: list[str]) -> None:
    try:
        injections = parse(" ".join(words))
    except InjectionError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert all(i.kind in KINDS and i.at_s >= 0 for i in injections)


def test_the_list_names_every_kind_and_key_with_its_range() -> None:
    text = describe_kinds()
    for kind in KINDS.values():
        assert kind.summary in text
        for key in kind.keys:
            assert f"{key.name}=" in text and key.range in text


# Without any.


def test_a_robot_that_nothing_is_done_to_is_the_firmware_bit_for_bit() -> None:
    description = load_robot("worn")
    plain, robot = Firmware(description, make_plant(description, 0)), EmulatedRobot(description)
    core, reader = DriverCore(description), FrameReader()
    command = encode_command(core.zero())
    frames = [r.step(command) for r in (plain, robot)]
    for n in range(400):
        first, second = reader.feed(b"".join(frames))
        assert isinstance(first, Telemetry) and isinstance(second, Telemetry)
        # In the hands of a person it feels gravity; the plant alone reports what its contacts make of being set down.
        assert first == (second if robot.armed else _with_acceleration_of(first, second))
        tick = core.on_telemetry(first)
        if n == 100:
            core.arm()
        command = encode_command(tick.command or core.zero())
        frames = [r.step(command) for r in (plain, robot)]
    assert robot.armed and abs(robot.truth()[0]) > 0.0


def _with_acceleration_of(first: Telemetry, second: Telemetry) -> Telemetry:
    sensors = dataclasses.replace(second.sensors, accel_mps2=first.sensors.accel_mps2)
    return dataclasses.replace(second, sensors=sensors)


# The wire.


def test_unplug_silences_both_ways_while_the_robot_goes_on() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(20, 0.2)
    bench.inject("unplug for=0.1")
    before = bench.robot.device_time_us
    bench.steps(1, 0.2)
    assert bench.robot.unplugged
    bench.steps(19, 0.2)
    assert b"".join(bench.wire[-20:]) == b""
    assert bench.robot.device_time_us == before + 100_000
    assert bench.robot.faults == Fault.WATCHDOG and bench.robot.torque_nm == (0.0, 0.0)
    bench.steps(1)
    assert not bench.robot.unplugged and len(bench.messages) == 22


def test_torn_frames_end_early_and_the_next_whole_one_is_understood() -> None:
    bench = Bench()
    bench.inject("torn_frames share=1 for=0.1 direction=telemetry")
    bench.steps(20)
    assert not bench.messages
    assert len({len(data) for data in bench.wire}) > 5, "at a random byte"
    bench.steps(1)
    assert len(bench.messages) == 1 and max(map(len, bench.wire[:-1])) < len(bench.wire[-1])


def test_corrupted_frames_have_flipped_bits_and_none_is_believed() -> None:
    good, bad = Bench(), Bench()
    bad.inject("corrupt_frames share=1 for=1 direction=telemetry")
    for bench in (good, bad):
        bench.seconds(1.0)
    flipped = [
        sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
        for one, other in zip(good.wire, bad.wire, strict=True)
    ]
    assert set(flipped) == set(range(1, 9))
    assert not bad.messages


def test_byte_noise_hits_the_share_of_bytes_that_was_asked_for() -> None:
    bench = Bench()
    bench.inject("byte_noise share=0.1 for=5 direction=telemetry")
    bench.seconds(5.0)
    good = Bench()
    good.seconds(5.0)
    sent = sum(map(len, good.wire))
    inserted = sum(map(len, bench.wire)) - sent
    assert inserted == pytest.approx(0.05 * sent, rel=0.05)
    assert len(bench.messages) < 10


@pytest.mark.parametrize("kind", ["torn_frames", "corrupt_frames", "byte_noise"])
def test_a_bad_cable_towards_the_robot_trips_its_watchdog(kind: str) -> None:
    bench = Bench()
    bench.arm()
    bench.inject(f"{kind} share=1 for=0.1 direction=command")
    bench.steps(10, 0.5)
    assert bench.robot.faults == Fault.WATCHDOG
    assert len(bench.messages) == 11, "telemetry comes through"
    assert bench.last.command_sequence == 0


def test_dropped_telemetry_is_lost_by_its_share_and_counted_on() -> None:
    bench = Bench()
    bench.inject("drop_telemetry share=0.5 for=5")
    bench.seconds(5.0)
    assert len(bench.messages) == pytest.approx(500, rel=0.1)
    assert bench.reader.errors == 0
    bench.steps(1)
    assert bench.last.sequence == 1000


def test_delayed_telemetry_comes_late_and_in_order() -> None:
    bench = Bench()
    bench.inject("delay_telemetry s=0.05 for=0.5")
    bench.steps(10)
    assert not bench.messages
    bench.steps(30)
    assert bench.robot.device_time_us - bench.last.device_time_us == 50_000
    bench.seconds(1.0)
    assert [m.sequence for m in bench.messages] == list(range(240))
    assert bench.last.device_time_us == bench.robot.device_time_us


def test_telemetry_of_another_version_is_whole_but_not_ours() -> None:
    bench = Bench()
    bench.inject("wrong_version version=7 for=0.1")
    bench.steps(20)
    assert not bench.messages and bench.reader.other_version == 7
    bench.steps(1)
    assert bench.messages


def test_commands_of_another_version_latch_a_fault() -> None:
    bench = Bench()
    bench.arm()
    bench.inject("wrong_version direction=command for=0.02")
    bench.steps(1, 0.5)
    assert bench.last.faults == Fault.PROTOCOL_VERSION and bench.robot.torque_nm == (0.0, 0.0)


def test_a_stalled_firmware_is_silent_and_its_watchdog_runs() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(5, 0.5)
    bench.inject("stall for=0.1")
    began = bench.robot.elapsed_us
    bench.steps(20, 0.5)
    assert b"".join(bench.wire[-20:]) == b""
    zero = next(r for r in bench.robot.trace(began) if r.left_nm == 0.0)
    assert zero.elapsed_us - began <= WATCHDOG_US + 1_000
    bench.steps(1)
    assert bench.last.faults == Fault.WATCHDOG


def test_same_seed_same_disturbance() -> None:
    wires = []
    for seed in (1, 1, 2):
        bench = Bench(seed=seed, inject="byte_noise share=0.05 for=1; torn_frames for=1")
        bench.seconds(0.5)
        wires.append(bench.wire)
    assert wires[0] == wires[1] != wires[2]


# The sensors.


def falling() -> Bench:
    bench = Bench()
    bench.arm()
    bench.steps(20, 0.3)
    return bench


def test_a_stuck_imu_shows_what_it_showed_and_the_wheels_go_on() -> None:
    bench = falling()
    bench.inject("stuck_imu for=0.1")
    bench.steps(1, 0.3)
    first = bench.sensors
    bench.steps(19, 0.3)
    then = bench.sensors
    assert then.quaternion_wxyz == first.quaternion_wxyz and then.gyro_radps == first.gyro_radps
    assert then.accel_mps2 == first.accel_mps2
    assert then.wheel_pos_rad != first.wheel_pos_rad
    bench.steps(2, 0.3)
    assert bench.sensors.quaternion_wxyz != first.quaternion_wxyz


def test_stuck_encoders_show_what_they_showed_and_the_imu_goes_on() -> None:
    bench = falling()
    bench.inject("stuck_encoders for=0.1")
    bench.steps(1, 0.3)
    first = bench.sensors
    bench.steps(19, 0.3)
    then = bench.sensors
    assert then.wheel_pos_rad == first.wheel_pos_rad and then.wheel_vel_radps == first.wheel_vel_radps
    assert then.quaternion_wxyz != first.quaternion_wxyz


def test_pitch_bias_is_in_attitude_and_acceleration_alike() -> None:
    bench = Bench(inject="bias_pitch rad=0.2")
    bench.steps(1)
    assert pitch_rad(*bench.sensors.quaternion_wxyz) == pytest.approx(0.2, abs=1e-6)
    # Leaning forward, gravity's reaction moves towards −x.
    assert bench.sensors.accel_mps2 == pytest.approx((-9.81 * math.sin(0.2), 0.0, 9.81 * math.cos(0.2)), abs=1e-5)
    assert bench.robot.truth()[2] == 0.0


def test_gyro_bias_is_in_the_pitch_rate_alone_and_ends_with_clear() -> None:
    bench = Bench(inject="bias_gyro radps=0.25")
    bench.steps(1)
    assert bench.sensors.gyro_radps == (0.0, 0.25, 0.0)
    bench.robot.clear()
    bench.steps(1)
    assert bench.sensors.gyro_radps == (0.0, 0.0, 0.0)


def test_nan_imu_is_not_a_number_where_the_imu_speaks() -> None:
    bench = Bench(inject="nan_imu for=0.1")
    bench.steps(1)
    sensors = bench.sensors
    assert np.isnan([*sensors.accel_mps2, *sensors.gyro_radps, *sensors.quaternion_wxyz]).all()
    assert np.isfinite([*sensors.wheel_pos_rad, sensors.battery_v, *sensors.temperatures_c]).all()


def test_overheating_jumps_or_ramps_and_the_firmware_gives_up() -> None:
    bench = Bench(inject="overheating c=85 for=1")
    bench.steps(1)
    assert bench.sensors.temperatures_c[:2] == (85.0, 85.0) and bench.sensors.temperatures_c[2] < 40.0
    assert not bench.robot.faults
    bench = Bench(inject="overheating c=95 ramp=100 for=10")
    start_c = 24.0
    bench.seconds(0.3)
    assert bench.sensors.temperatures_c[0] == pytest.approx(start_c + 30.0, abs=0.2)
    bench.seconds(1.0)
    assert bench.sensors.temperatures_c[0] == 95.0 and bench.robot.faults == Fault.OVERTEMPERATURE


# The microcontroller.


def test_a_sagging_bus_latches_undervoltage_and_the_microcontroller_lives() -> None:
    bench = Bench(inject="brown_out v=15 for=0.05")
    bench.steps(2)
    assert bench.sensors.battery_v == 15.0 and bench.last.faults == Fault.UNDERVOLTAGE
    bench.steps(10)
    assert bench.sensors.battery_v > 20.0 and bench.last.sequence == 11


def test_below_12_v_the_microcontroller_is_off_and_starts_from_nothing() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(20, 0.5)
    bench.inject("brown_out v=9 for=0.1")
    bench.steps(20, 0.5)
    assert b"".join(bench.wire[-20:]) == b"" and bench.robot.torque_nm == (0.0, 0.0)
    assert bench.robot.elapsed_us == 41 * 5_000
    bench.steps(1, 0.5)
    assert (bench.last.sequence, bench.last.device_time_us) == (0, 5_000)
    assert bench.last.status == Status(0) and bench.robot.torque_nm == (0.0, 0.0)
    assert abs(bench.robot.truth()[2]) > 0.0, "it fell meanwhile"


def test_reset_starts_time_and_sequences_again_disarmed() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(20, 0.5)
    bench.inject("reset")
    bench.steps(1, 0.5)
    assert (bench.last.sequence, bench.last.device_time_us) == (0, 5_000)
    assert not bench.robot.armed and not bench.last.faults and bench.robot.torque_nm == (0.0, 0.0)


@pytest.mark.parametrize(("kind", "fault"), [("motor_fault", Fault.MOTOR), ("imu_fault", Fault.IMU)])
def test_a_fault_once_clears_with_disarm_and_one_that_lasts_comes_back(kind: str, fault: Fault) -> None:
    bench = Bench()
    bench.arm()
    bench.inject(kind)
    bench.steps(1, 0.5)
    assert bench.last.faults == fault and bench.robot.torque_nm == (0.0, 0.0)
    bench.disarm()
    assert not bench.last.faults
    bench.arm()
    bench.inject(f"{kind} for=0.5")
    bench.steps(1)
    bench.disarm()
    assert bench.last.faults == fault
    bench.seconds(0.5)
    bench.disarm()
    assert not bench.last.faults


# Schedule and black box.


def test_injections_wait_for_their_time_and_end_at_theirs() -> None:
    bench = Bench(inject="bias_gyro at=0.1 for=0.05; bias_gyro radps=1 at=0.12 for=0.05")
    bench.steps(40)
    rates = [m.sensors.gyro_radps[1] for m in bench.messages]
    assert rates == pytest.approx([0.0] * 20 + [0.2] * 4 + [1.2] * 6 + [1.0] * 4 + [0.0] * 6)
    assert not bench.robot.scheduled


def test_black_box_keeps_30_s_of_motor_loop_steps() -> None:
    bench = Bench()
    bench.arm()
    bench.steps(1, 0.75, 0.25)
    *_, before, last = bench.robot.trace(0.0)
    assert (last.elapsed_us, last.device_time_us, before.elapsed_us) == (10_000, 10_000, 9_000)
    assert (last.left_nm, last.right_nm, last.armed, last.fault_bits) == (0.75, 0.25, 1.0, 0.0)
    assert last.theta_rad == bench.robot.truth()[2] and last.x_m == bench.robot.truth()[0]
    assert last.host_monotonic_s >= before.host_monotonic_s
    assert [r.elapsed_us for r in bench.robot.trace(7_000, 2)] == [8_000, 9_000]
    bench.silent(7)
    tripped = next(r for r in bench.robot.trace(10_000) if r.fault_bits)
    assert tripped.fault_bits == Fault.WATCHDOG and (tripped.left_nm, tripped.armed) == (0.0, 0.0)
    bench.disarm()
    bench.silent(round(31.0 / STEP_S))
    rows = bench.robot.trace(0.0)
    assert len(rows) == TRACE_ROWS
    assert rows[-1].elapsed_us == bench.robot.elapsed_us
    assert np.unique(np.diff([r.elapsed_us for r in rows])).tolist() == [1_000]
