# SPDX-License-Identifier: Apache-2.0
"""Restarts, lost links, calibration and steering as the driver's core sees them, in lock-step."""

from __future__ import annotations

import os
import pty
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from serial.tools.list_ports_common import ListPortInfo

from lockstep import LockStep
from test_driver_core import commanded
from wheel_leg_driver import link
from wheel_leg_driver.backend import PortError
from wheel_leg_driver.core import RefusedError
from wheel_leg_driver.firmware import Firmware
from wheel_leg_driver.protocol import CommandFlag, encode_command


def test_lost_link_latches_what_was_armed_and_forgets_what_was_measured() -> None:
    rig = LockStep()
    rig.balance()
    rig.core.lost("link lost: unplugged")
    assert rig.core.mode == "fault"
    rig.core.disarm()
    with pytest.raises(RefusedError, match="no telemetry yet"):
        rig.core.arm()


def test_lost_link_while_arming_arms_nothing_when_it_is_back() -> None:
    rig = LockStep()
    rig.step()
    rig.core.arm()
    rig.core.lost("link lost")
    assert rig.core.mode == "disarmed"
    assert rig.core.zero().flags & CommandFlag.DISARM
    rig.seconds(0.5)
    assert not rig.firmware.armed


@pytest.mark.parametrize("armed", [True, False])
def test_restarted_microcontroller_is_never_armed_unasked(armed: bool) -> None:
    rig = LockStep()
    rig.balance() if armed else rig.seconds(1.0)
    rig.firmware = Firmware(rig.robot, rig.plant)
    rig._frame = rig.firmware.step(encode_command(rig.core.zero()))
    rig.step(2)
    assert rig.core.mode == ("fault" if armed else "disarmed")
    rig.seconds(0.2)
    assert not rig.firmware.armed


def test_gyro_bias_is_measured_at_arming_where_the_robot_was_still() -> None:
    rig = LockStep("worn", pitch_rad=0.0)
    rig.seconds(0.6)
    rig.core.arm()
    rig.step(3)
    assert rig.core.reason == "armed"
    # Three standard errors of a mean over half a second of this robot's noise.
    assert rig.core.estimator.gyro_bias_radps[1] == pytest.approx(0.005, abs=3 * 0.01 / np.sqrt(100))
    hasty = LockStep("worn")
    hasty.balance()
    assert "gyro bias not measured" in hasty.core.reason


def test_steering_acts_under_a_commander_too_and_yaw_is_damped() -> None:
    rig = commanded()
    rates = []
    for _ in range(40):
        rig.core.on_speed(0.5, 0.6)
        rig.step(10)
        assert rig.tick is not None
        rates.append(rig.tick.estimate.yaw_rate_radps)
    assert rig.core.mode == "torque", rig.core.reason
    assert np.mean(rates[-10:]) > 0.15
    rig.seconds(2.0)
    assert rig.tick is not None
    assert abs(rig.tick.estimate.yaw_rate_radps) < 0.1, "a forgotten yaw command counts as zero"


def test_late_commander_is_waited_for_with_the_firmwares_watchdog_content() -> None:
    rig = commanded()
    standing = rig.answer
    for steps in (1, 2, 3):
        rig.answer = lambda _t, _k: None
        rig.step(steps)
        rig.answer = standing
        rig.step(20)
        assert rig.core.mode == "torque", f"{steps} answers missing: {rig.core.reason}"
    sent = []
    rig.answer = lambda _t, _k: None
    while rig.core.mode == "torque":
        rig.step()
        assert rig.tick is not None
        sent.append(rig.tick.command.flags if rig.tick.command else None)
    assert sent[:1] == [None]
    assert CommandFlag.HEARTBEAT in sent
    assert rig.core.mode == "hold"
    assert not rig.firmware.faults


def test_port_is_found_by_the_serial_number_of_its_usb_device(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged = ListPortInfo("/dev/ttyACM7")
    plugged.serial_number = "A1B2"
    monkeypatch.setattr(link.list_ports, "comports", lambda: [plugged])
    assert link.device_path("usb:A1B2") == "/dev/ttyACM7"
    with pytest.raises(PortError, match=r"number 'X'; plugged in are: A1B2 \(/dev/ttyACM7\)"):
        link.device_path("usb:X")


def test_loop_allocates_nothing_that_stays() -> None:
    rig = LockStep()
    rig.balance()
    rig.seconds(2.0)
    frames = []
    for _ in range(100):
        rig.step()
        assert rig.telemetry is not None
        frames.append(rig.telemetry)
    tracemalloc.start()
    try:
        for frame in frames * 5:
            rig.core.on_telemetry(frame)
        before = tracemalloc.get_traced_memory()[0]
        for frame in frames * 50:
            rig.core.on_telemetry(frame)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000, "5000 ticks"


def test_a_port_that_cannot_be_opened_is_refused_with_its_reason_once(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    first = link.SerialLink(os.ttyname(slave))
    try:
        for port, reason in (
            (os.ttyname(slave), "Resource temporarily unavailable"),
            (str(tmp_path), "Is a directory"),
        ):
            with pytest.raises(PortError) as caught:
                link.SerialLink(port)
            assert str(caught.value).startswith(f"cannot open {port!r}: {reason}. It has to be a serial port")
    finally:
        first.close()
        os.close(master)
        os.close(slave)
