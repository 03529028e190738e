# SPDX-License-Identifier: Apache-2.0
"""A robot that was wired wrongly, walked through calibration by a scripted operator; and what each step refuses."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from h2o_control.errors import UserError
from test_estimator import frame
from wheel_leg_driver.backend import PortError
from wheel_leg_driver.calibrate import (
    NotSeenError,
    check_gyro,
    gyro_bias,
    mounting,
    pose,
    rolled_signs,
    turned_channel,
)
from wheel_leg_driver.calibrate_cli import command
from wheel_leg_driver.calibrate_steps import CONSENT, STEPS, StopError, Walk
from wheel_leg_driver.calibration import Calibration
from wheel_leg_driver.core import DriverCore
from wheel_leg_driver.emulated_robot import EmulatedRobot
from wheel_leg_driver.emulator_control import EmulatorControl, EmulatorError
from wheel_leg_driver.estimator import Estimator
from wheel_leg_driver.faults import parse
from wheel_leg_driver.link import SerialLink
from wheel_leg_driver.protocol import FrameReader, Status, Telemetry, encode_command
from wheel_leg_driver.robot import load_robot

UP = np.array([0.0, 0.0, 1.0])
MISWIRED = "miswire imu_roll=0.1 imu_pitch=0.0873 imu_yaw=3.1415 left_encoder=-1 left_motor=-1 right_motor=-1 swap=1"
UNTILT = "tilt pitch=0 roll=0"

#: What a person does when asked (start of the question): injections, how long it takes, and what is typed then.
HANDS = {
    "Put the robot upright": ("", 0.0, ""),
    "Hold it upright": (UNTILT, 0.7, ""),
    "Lean it forward": ("tilt pitch=0.35", 0.7, ""),
    "Back upright": (UNTILT, 0.7, ""),
    "Lean it to its own left": ("tilt roll=-0.35", 0.7, ""),
    "Lean it about": (UNTILT, 0.7, ""),
    "Hold it at the balance point": ("tilt pitch=0.05", 0.7, ""),
    "Upright on the floor": (UNTILT, 0.7, ""),
    "Roll it straight forward": ("push_wheels left=4.6 right=4.6", 1.2, ""),
    "How far": ("", 0.0, "0.31"),
    "Now the left": ("", 0.0, ""),
    "Turn the left": ("push_wheels left=3 right=0", 1.2, ""),
    "Now the right": ("", 0.0, ""),
    "Turn the right": ("push_wheels left=0 right=3", 1.2, ""),
    f"Type {CONSENT!r}": ("stand on=0; stand on=1", 0.1, CONSENT),
    # Wheels in the air hardly slow down by themselves: the stand is left and taken again.
    "Stop the wheel": ("stand on=0; stand on=1", 0.1, ""),
    "Enter to try again": ("", 0.0, ""),
}


class Script:
    """An operator with EmulatorControl for hands."""

    def __init__(self, hands: EmulatorControl, **instead: tuple[str, float, str]) -> None:
        self._hands = hands
        self.answers = {**HANDS, **{key.replace("_", " "): value for key, value in instead.items()}}
        self.said: list[str] = []
        self._due_s, self._typed = 0.0, ""
        # A shared machine that stands still for 30 ms trips the firmware's watchdog.
        self.patience = 5

    def say(self, text: str) -> None:
        self.said.append(text)

    def ask(self, question: str) -> None:
        self.said.append(question)
        if question == "Enter to try again":
            self.patience -= 1
        (found,) = [value for start, value in self.answers.items() if question.startswith(start)]
        injections, wait_s, self._typed = found if self.patience > 0 else ("", 0.0, "q")
        if injections:
            self._hands.inject(injections)
        self._due_s = time.monotonic() + wait_s

    def answer(self) -> str | None:
        return self._typed if time.monotonic() >= self._due_s else None

    def live(self, text: str) -> None:
        pass


@contextmanager
def emulated(folder: Path, miswired: str = "") -> Iterator[tuple[SerialLink, EmulatorControl]]:
    link = str(folder / "tty")
    run = [
        sys.executable,
        "-c",
        "from wheel_leg_driver.emulator import main; main()",
        "--robot",
        "ideal",
        "--link",
        link,
    ]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while True:
            try:
                port, hands = SerialLink(link), EmulatorControl(link)
                break
            except (PortError, EmulatorError):
                assert time.monotonic() < deadline, "no emulator"
                time.sleep(0.05)
        with hands:
            if miswired:
                hands.inject(miswired)
            yield port, hands
        port.close()
    finally:
        process.terminate()
        process.wait(10.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SerialLink, EmulatorControl]]:
    with emulated(tmp_path_factory.mktemp("robot")) as robot:
        yield robot


def settled(link: SerialLink, hands: EmulatorControl, injection: str) -> list:
    hands.inject(injection)
    deadline = time.monotonic() + 1.2
    frames = []
    while time.monotonic() < deadline:
        frames = link.receive(time.monotonic() + 0.05) or frames
    return frames


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Calibration, Script, SerialLink, EmulatorControl]]:
    with emulated(tmp_path_factory.mktemp("robot"), MISWIRED) as (link, hands):
        script = Script(hands)
        walk = Walk(link, script, load_robot("ideal"), Calibration("ideal", skipped=tuple(STEPS)))
        calibration = walk.run(list(STEPS))
        yield calibration, script, link, hands


def test_miswired_robot_is_found_as_it_was_wired(
    found: tuple[Calibration, Script, SerialLink, EmulatorControl],
) -> None:
    calibration, script, _, _ = found
    assert calibration.skipped == ()
    assert calibration.swapped
    # What is wired wrongly are channels; the left channel is the right wheel.
    assert calibration.encoder_signs == (1, -1)
    assert calibration.torque_signs == (-1, -1)
    assert abs(math.remainder(calibration.imu_yaw_rad - math.pi, 2 * math.pi)) < 0.01
    assert (calibration.imu_roll_rad, calibration.imu_pitch_rad) == pytest.approx((0.1, 0.0873), abs=0.01)
    assert calibration.pitch_zero_rad == pytest.approx(0.05, abs=0.01)
    said = "\n".join(script.said)
    assert "Heard: 200 Hz" in said
    # 0.31 m in 4.6 rad.
    assert "Rolling radius 0.067" in said


def test_corrected_telemetry_is_that_of_a_robot_wired_rightly(
    found: tuple[Calibration, Script, SerialLink, EmulatorControl],
) -> None:
    calibration, _, link, hands = found
    hands.inject("stand on=0")
    calibration = dataclasses.replace(calibration, pitch_zero_rad=0.0)
    start = calibration.correct(settled(link, hands, UNTILT)[-1]).sensors
    hands.inject("push_wheels left=1 right=-2")
    s = calibration.correct(settled(link, hands, "tilt pitch=0.3 roll=0.1")[-1]).sensors
    assert s.accel_mps2 == pytest.approx(
        (-9.81 * math.sin(0.3), 9.81 * math.cos(0.3) * math.sin(0.1), 9.81 * math.cos(0.3) * math.cos(0.1)), abs=0.15
    )
    turns = np.subtract(s.wheel_pos_rad, start.wheel_pos_rad)
    # Wheels stand on the floor, so that leaning turns the legs against them.
    assert turns == pytest.approx([1.0 - 0.3, -2.0 - 0.3], abs=0.01)


def drive(miswired: str, calibration: Calibration | None) -> tuple[DriverCore, float]:
    """Let the driver balance and drive the miswired robot in lock-step; return it and how far the robot came."""
    described = load_robot("ideal")
    robot, reader = EmulatedRobot(described, 0, parse(miswired)), FrameReader()
    core = DriverCore(described, estimator=Estimator(described.interface.wheel_radius_m, calibration))
    command = core.zero()
    for k in range(1200):
        (telemetry,) = reader.feed(robot.step(encode_command(command) if command else b""))
        assert isinstance(telemetry, Telemetry)
        command = core.on_telemetry(telemetry).command
        if k == 150:
            core.arm()
        core.on_speed(0.3 if k > 500 else 0.0, 0.0)
    return core, robot.truth()[0]


def test_driver_drives_the_miswired_robot_with_the_file_and_falls_without(
    found: tuple[Calibration, Script, SerialLink, EmulatorControl],
) -> None:
    # The operator's balance point was 0.05 rad off; the driver's trim finds that.
    core, distance_m = drive(MISWIRED, found[0])
    assert core.mode == "balance"
    assert 0.5 < distance_m < 1.5
    # Not the same wiring: an IMU that looks backward makes up for motors that turn backward.
    backward = "miswire left_motor=-1 right_motor=-1"
    core, _ = drive(backward, None)
    assert core.mode == "fault"
    core, distance_m = drive(backward, Calibration("ideal", torque_signs=(-1, -1)))
    assert core.mode == "balance"
    assert 0.5 < distance_m < 1.5


def walk_torque(link: SerialLink, script: Script) -> None:
    Walk(link, script, load_robot("ideal"), Calibration("ideal")).run(["torque"])


@pytest.mark.flaky(reruns=2, only_rerun=["watchdog"])
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("", 0.0, "yes"), "so no torque"),
        # On the floor: arming lets go of it.
        (("tilt pitch=0.2", 0.7, CONSENT), "stopped: "),
        (("stand on=1; motor_fault at=0.05 for=0.5", 0.0, CONSENT), "motor"),
        (("stand on=1; nan_imu at=0.05 for=1", 0.0, CONSENT), "tilted by nan"),
        (("stand on=1; stall at=0.1 for=0.2", 0.0, CONSENT), "no telemetry"),
    ],
)
def test_anything_odd_stops_the_torque(
    plain: tuple[SerialLink, EmulatorControl], typed: tuple[str, float, str], said: str
) -> None:
    link, hands = plain
    hands.clear()
    script = Script(hands, **{f"Type {CONSENT!r}": typed})
    script.patience = 1
    with pytest.raises(StopError):
        walk_torque(link, script)
    assert any(said in text for text in script.said), script.said
    state = hands.state()
    assert not state.armed
    assert state.torque_nm == (0.0, 0.0)


class Interrupted(SerialLink):
    """The person presses Ctrl-C while a wheel turns."""

    armed_frames = 0

    def receive(self, until_s: float) -> list[Telemetry]:
        frames = super().receive(until_s)
        self.armed_frames += sum(bool(frame.status & Status.ARMED) for frame in frames)
        if self.armed_frames >= 10:
            self.armed_frames = -1000
            raise KeyboardInterrupt
        return frames


def test_interrupt_disarms(tmp_path: Path) -> None:
    with emulated(tmp_path) as (link, hands):
        link.close()
        second = Interrupted(str(tmp_path / "tty"))
        with pytest.raises(KeyboardInterrupt):
            walk_torque(second, Script(hands))
        state = hands.state()
        # By its own hand: a watchdog that had to do it would have latched a fault.
        assert (state.armed, state.faults) == (False, 0)
        second.close()


def test_skipped_step_is_marked_and_a_step_done_again_forgets_what_rested_on_it(
    found: tuple[Calibration, Script, SerialLink, EmulatorControl],
) -> None:
    calibration, script, link, hands = found
    hands.inject("stand on=0")
    again = Walk(link, script, load_robot("ideal"), calibration)
    script.answers["Put the robot upright"] = ("", 0.0, "s")
    assert again.run(["rest"]).skipped == ()
    assert again.run(["mounting"]).skipped == ("zero",)
    fresh = Walk(link, script, load_robot("ideal"), Calibration("ideal", skipped=tuple(STEPS)))
    assert fresh.run(["rest"]) == Calibration("ideal", skipped=tuple(STEPS))


def lean(axis: int, angle: float) -> np.ndarray:
    up = np.array([0.0, 0.0, math.cos(angle)])
    up[axis] = -math.sin(angle)
    return up


def test_leans_that_say_nothing_are_refused() -> None:
    forward, left = lean(0, 0.35), lean(1, 0.35)
    found = mounting(UP, forward, left)
    assert (found.roll_rad, found.pitch_rad, found.yaw_rad, found.misfit_rad) == pytest.approx((0, 0, 0, 0), abs=1e-9)
    with pytest.raises(NotSeenError, match="forward lean was 3° from upright"):
        mounting(UP, lean(0, 0.05), left)
    with pytest.raises(NotSeenError, match=r"went -90° .*your left when you stand behind"):
        mounting(UP, forward, lean(1, -0.35))
    with pytest.raises(NotSeenError, match=r"went \+0°"):
        mounting(UP, forward, forward)


def test_gyro_with_a_wrong_sign_is_told_from_one_that_is_right() -> None:
    # 0.35 rad forward in 0.35 s.
    def motion(rate: float) -> list:
        return [frame(k, gyro_radps=(0.0, rate, 0.0)) for k in range(71)]

    assert check_gyro(motion(1.0), (0.0, 0.0, 0.0), UP, lean(0, 0.35)) < 1e-3
    with pytest.raises(NotSeenError, match="40° away"):
        check_gyro(motion(-1.0), (0.0, 0.0, 0.0), UP, lean(0, 0.35))


def test_rest_is_refused_where_it_moves_or_sensors_are_out_of_scale() -> None:
    with pytest.raises(NotSeenError, match="it moved"):
        pose([frame(k, gyro_radps=(0.0, 0.4 * (-1) ** k, 0.0)) for k in range(100)])
    with pytest.raises(NotSeenError, match=r"reads 1\.00 m/s², not 9\.81"):
        pose([frame(k, accel_mps2=(0.0, 0.0, 1.0)) for k in range(100)])
    with pytest.raises(NotSeenError, match="no numbers"):
        pose([frame(k, accel_mps2=(math.nan, 0.0, 9.81)) for k in range(100)])
    with pytest.raises(NotSeenError, match="would be a bias"):
        gyro_bias(pose([frame(k, gyro_radps=(0.0, 0.0, 0.2)) for k in range(100)]))


def test_wheels_that_did_not_do_what_was_asked_are_refused() -> None:
    assert rolled_signs(np.array([4.6, -4.5])) == (1, -1)
    with pytest.raises(NotSeenError, match="both must turn"):
        rolled_signs(np.array([4.6, 0.0]))
    with pytest.raises(NotSeenError, match="roll it straight"):
        rolled_signs(np.array([4.6, 2.0]))
    assert turned_channel(np.array([0.1, -3.0]), (1, -1), "left") == 1
    with pytest.raises(NotSeenError, match="the left one alone"):
        turned_channel(np.array([2.0, 3.0]), (1, 1), "left")
    with pytest.raises(NotSeenError, match="turn it forward"):
        turned_channel(np.array([3.0, 0.0]), (-1, 1), "left")


def test_command_refuses_before_it_opens_the_port(tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"

    def run(*more: str, robot: str = "worn") -> None:
        command(["--port", "/nowhere", "--robot", robot, "-o", str(output), *more])

    with pytest.raises(UserError, match="Did you mean 'wheels'"):
        run("--steps", "wheel")
    with pytest.raises(UserError, match="there is no"):
        run("--steps", "wheels")
    with pytest.raises(UserError, match=r"at most 1\.5"):
        run("--torque-nm", "5")
    Calibration("worn").write(output)
    with pytest.raises(UserError, match="there already"):
        run()
    with pytest.raises(UserError, match="robot 'worn', this is 'ideal'"):
        run(robot="ideal")
    with pytest.raises(UserError, match="in a terminal"):
        run("--steps", "wheels")
