# SPDX-License-Identifier: Apache-2.0
"""Operators: the script that drives like a person, and a person's keyboard."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from graph import BIN, Nodes, Probe, graph
from h2o_control import teleop_node, topics
from h2o_control.keyboard import DISCARD, EPISODE_KEYS
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS
from h2o_control.operator_script import Habits, ScriptedOperator
from h2o_control.teleop_node import TeleopNode
from lockstep import LockStep
from played_driver import PlayedDriver
from wheel_leg_driver.core import Exploration

LOG = Path(__file__).parents[2] / "shared" / "data" / "robot_log" / "standing_a.txt.gz"


def drive(seed: int, seconds: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """States [n, 4] and executed torque [n] of a scripted collection on `worn`, as the launch file sets it up."""
    rig = LockStep("worn", seed=seed, explore=Exploration(1.0, seed))
    operator = ScriptedOperator(seed)
    rig.balance()
    states, torques = [], []
    for step in range(int(seconds * 200)):
        assert rig.tick is not None
        if step % 10 == 0:
            rig.core.on_speed(*operator.command(step / 200, rig.tick.estimate.x_m))
        rig.step()
        assert rig.telemetry is not None
        states.append(rig.tick.estimate.state)
        torques.append(sum(rig.telemetry.executed_nm) / 2)
    assert rig.core.mode == topics.BALANCE, rig.core.reason
    return np.array(states), np.array(torques)


def test_script_drives_both_ways_stops_and_stays_in_its_field() -> None:
    states, _ = drive(1)
    v = states[:, 1]
    assert v.max() > 0.3
    assert v.min() < -0.3
    slow = np.convolve(np.abs(v), np.ones(100) / 100, "same")
    assert (slow < 0.15).mean() > 0.05, "it also stands"
    assert np.abs(states[:, 0]).max() < 6 * Habits().field_m


def test_same_seed_drives_the_same_way() -> None:
    def ride(seed: int) -> list[tuple[float, float]]:
        operator = ScriptedOperator(seed)
        return [operator.command(k / 20, 0.0) for k in range(400)]

    assert ride(3) == ride(3) != ride(4)


@pytest.mark.skipif(not LOG.exists(), reason="the log of the real robot is not here")
def test_spread_is_comparable_to_that_of_the_real_operator() -> None:
    with gzip.open(LOG, "rt") as file:
        real = np.loadtxt(file)[:, :5].std(axis=0)
    states, torques = drive(2)
    ours = np.append(states.std(axis=0), torques.std())
    assert (ours > 0.5 * real).all(), (ours, real)
    assert (ours < 2.0 * real).all(), (ours, real)


class Keyboard:
    """`h2o-robot teleop` in a terminal of its own."""

    def __init__(self, nodes: Nodes) -> None:
        self.master, slave = pty.openpty()
        command = [str(BIN / "h2o-robot"), "teleop"]
        # A session of its own, as a terminal's shell has: closing the terminal hangs it up.
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**nodes.environment, "COLUMNS": "120", "LINES": "40"},
        )
        nodes.processes.append(self.process)
        os.close(slave)
        self.screen = ""
        # A terminal that shows nothing any more would fill up.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 4096):
                self.screen = (self.screen + data.decode(errors="ignore"))[-20000:]

    def shown(self) -> str:
        """What the operator sees now: the last screen that was drawn to its end."""
        return self.screen.rpartition("space E-STOP")[0].rpartition("space E-STOP")[2]

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@pytest.mark.ros
def test_keyboard_arms_drives_and_stops_the_robot(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot()
        probe.wait(lambda: bool(probe.joints), "telemetry")
        keyboard = Keyboard(nodes)

        def press_until(key: str, mode: str) -> None:
            for _ in range(20):
                keyboard.press(key)
                probe.spin(0.5)
                if probe.mode == mode:
                    return
            raise AssertionError(f"{key!r} did not lead to {mode}: {probe.mode} ({probe.reason})")

        press_until("a", topics.BALANCE)
        for _ in range(6):
            keyboard.press("\x1b[A")
        probe.spin(2.5)
        forward = [m.velocity[0] for m in probe.joints[-100:]]
        assert np.mean(forward) * 0.065 == pytest.approx(0.3, abs=0.15)
        press_until(" ", topics.FAULT)
        press_until("d", topics.DISARMED)
        keyboard.press("q")
        probe.wait(lambda: keyboard.process.poll() is not None, "end of the keyboard")
        assert keyboard.process.returncode == 0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Probe, PlayedDriver, Keyboard]]:
    """A keyboard whose requests are noted."""
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("balance: armed")
        keyboard = Keyboard(nodes)
        probe.wait(lambda: "balance" in keyboard.screen and "0.270 m" in keyboard.screen, "screen")
        probe.wait(lambda: bool(driver.speeds), "speed commands")
        # Services are found one by one.
        probe.spin(1.5)
        yield probe, driver, keyboard


@pytest.mark.ros
def test_keyboard_moves_the_legs_shows_hold_and_stops_in_every_state(
    desk: tuple[Probe, PlayedDriver, Keyboard],
) -> None:
    probe, driver, keyboard = desk
    for key, asked in (("u", topics.STAND_UP), ("j", topics.SIT_DOWN), ("[", "height 0.260")):
        keyboard.press(key)
        probe.wait(lambda asked=asked: driver.asked[-1:] == [asked], asked)  # type: ignore[misc]
        probe.spin(0.3)
    assert "driver/sit_down granted" in keyboard.screen
    driver.say("hold: speed +1.30 m/s is beyond 1.2 m/s")
    probe.wait(lambda: "take hold of it, then d" in keyboard.screen, "what to do")
    assert "speed +1.30 m/s is beyond" in keyboard.screen
    probe.wait(lambda: "driver/sit_down granted" not in keyboard.shown(), "what was granted in another mode to go")
    driver.speeds.clear()
    for key in ("\x1b[A", "\x1b[D", "["):
        keyboard.press(key)
        probe.wait(lambda: "disarm and arm first: d, then a" in keyboard.shown(), f"advice on {key!r}")
        keyboard.press("s")
    probe.spin(0.5)
    assert set(driver.speeds) == {(0.0, 0.0)}
    for mode in ("hold: a limit", "disarmed: start", "torque: by request", "fault: fallen"):
        driver.say(mode)
        probe.spin(0.2)
        driver.asked.clear()
        keyboard.press(" ")
        probe.wait(lambda: {topics.ESTOP, "estop topic True"} <= set(driver.asked), f"e-stop in {mode}")
    probe.spin(0.3)
    # Nobody records here: the screen says so instead of saying nothing.
    keyboard.press(DISCARD)
    probe.wait(lambda: "x again within 3 s deletes the running episode" in keyboard.shown(), "a question")
    for key, name in EPISODE_KEYS.items():
        keyboard.press(key * 2 if key == DISCARD else key)
        probe.wait(lambda name=name: f"nobody offers {name}" in keyboard.screen, f"what became of {key}")  # type: ignore[misc]


@pytest.mark.ros
def test_keyboard_shows_only_what_means_something_and_says_refusals_once(
    desk: tuple[Probe, PlayedDriver, Keyboard],
) -> None:
    probe, driver, keyboard = desk
    driver.x_m = 3.21
    probe.wait(lambda: "x +3.21 m" in keyboard.shown(), "displacement")
    driver.say("disarmed: by request")
    probe.wait(lambda: "x from arming on" in keyboard.shown(), "no displacement of an earlier run")
    assert "3.21" not in keyboard.shown()
    keyboard.press("\x1b[A")
    probe.wait(lambda: "arm first: a" in keyboard.shown(), "advice")
    driver.say("balance: armed")
    probe.wait(lambda: "arm first" not in keyboard.shown(), "advice to go")
    shadow = probe.node.create_publisher(JointState, topics.SHADOW_TORQUE, STREAM_QOS)
    probe.spin(1.5)
    driver.refusal = "nobody answers observations"
    keyboard.press("p")
    probe.wait(lambda: "nobody answers observations /probe only watches" in keyboard.shown(), "hint at the shadow")
    assert "WARN" not in keyboard.screen
    probe.node.destroy_publisher(shadow)


@pytest.mark.ros
def test_a_lost_terminal_stops_the_robot_and_the_policy(desk: tuple[Probe, PlayedDriver, Keyboard]) -> None:
    probe, driver, keyboard = desk
    keyboard.press("\x1b[A\x1b[A")
    probe.wait(lambda: driver.speeds[-1][0] == pytest.approx(0.1), "speed")
    keyboard.press("p")
    probe.wait(lambda: probe.mode == topics.TORQUE, "policy in command")
    keyboard.press("\x1b[D")
    probe.wait(lambda: driver.speeds[-1][1] > 0, "steering under a policy")
    os.close(keyboard.master)
    probe.wait(lambda: keyboard.process.poll() is not None, "end of the keyboard")
    probe.wait(lambda: driver.asked[-1] == f"{topics.TORQUE_MODE} False", "policy off")
    assert driver.speeds[-1] == (0.0, 0.0)
    assert keyboard.process.returncode == 1


@pytest.mark.ros
def test_scripted_operator_takes_a_hold_for_a_fall_and_counts_both(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("disarmed: start")
        operator = nodes.start("teleop_node", duration_s=60.0, max_falls=1, settle_s=0.2)
        probe.wait(lambda: probe.mode == topics.BALANCE, "arming")
        driver.say("hold: too far")
        probe.wait(lambda: probe.mode == topics.DISARMED, "disarming")
        probe.wait(lambda: probe.mode == topics.BALANCE, "arming again")
        driver.say("fault: fallen")
        probe.wait(lambda: operator.poll() is not None, "end of the operator")
        assert operator.returncode == 1
        log = nodes.log("teleop_node")
        assert "fallen or stopped 1 time, held 1 time in" in log
        assert "s: fallen. Not armed again" in log
        assert driver.asked == [topics.ARM, topics.DISARM, topics.ARM, topics.DISARM]


@pytest.mark.ros
def test_scripted_operator_ends_with_a_reason_once_the_driver_has_died(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot()
        operator = nodes.start("teleop_node", duration_s=60.0)
        probe.wait(lambda: probe.mode == topics.BALANCE, "balance")
        probe.spin(1.0)
        assert operator.poll() is None
        nodes.processes[1].kill()
        probe.wait(lambda: operator.poll() is not None, "end of the operator", 30.0)
        assert operator.returncode == 1
        assert "has not been heard for 10 s: does the driver still run?" in nodes.log("teleop_node")


def test_keyboard_without_a_terminal_says_so() -> None:
    result = subprocess.run(
        [str(BIN / "h2o-robot"), "teleop"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr


@pytest.mark.ros
def test_operator_that_is_interrupted_leaves_the_robot_standing_still(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot()
        operator = nodes.start("teleop_node", duration_s=60.0, seed=5)
        probe.wait(lambda: probe.mode == topics.BALANCE, "balance")
        probe.spin(4.0)
        operator.send_signal(signal.SIGINT)
        assert operator.wait(10.0) == 0
        probe.spin(3.0)
        assert probe.mode == topics.BALANCE, probe.reason
        assert abs(np.mean([m.velocity[0] for m in probe.joints[-100:]])) * 0.065 < 0.1


@pytest.mark.ros
def test_keyboard_shows_what_the_recorder_does_and_a_refusal_swallows_no_other_key(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot()
        recorder = nodes.start("recorder_node", bag=tmp_path / "walk")
        keyboard = Keyboard(nodes)
        probe.wait(lambda: "ready" in keyboard.shown(), "recorder")
        probe.wait(lambda: "disarmed" in keyboard.shown(), "driver")
        # Services are found one by one.
        probe.spin(1.5)
        keyboard.press("y")
        probe.wait(lambda: "no episode has been recorded" in keyboard.shown(), "refusal")
        keyboard.press("y")
        probe.wait(
            lambda: "refused a moment ago: no episode has been recorded" in keyboard.shown(), "what held the key back"
        )
        keyboard.press("r")
        probe.wait(lambda: "recording walk_0.mcap, 0 lost, 1" in keyboard.shown(), "file, losses and seconds")
        assert "no episode has been recorded" not in keyboard.shown()
        recorder.kill()
        probe.wait(lambda: "silent for" in keyboard.shown(), "a recorder that was killed")
        # What only a full disk makes the recorder say.
        diagnostics = probe.node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        full = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="recorder", message="[disk] is full")
        assert keyboard.shown().count("recording walk_0.mcap") == 1, "the answer to r"

        def says() -> bool:
            diagnostics.publish(DiagnosticArray(status=[full]))
            return "[disk] is full" in keyboard.shown() and "recording walk_0.mcap" not in keyboard.shown()

        probe.wait(says, "why nothing is recorded")


@pytest.mark.ros
def test_scripted_operator_says_who_refuses_to_arm_and_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teleop_node, "ARM_S", 3.0)
    with graph(tmp_path) as (_, probe):
        driver = PlayedDriver(probe)
        driver.arm_refusal = "it lies on its side"
        # Another robot's driver in the same domain.
        probe.node.create_publisher(String, topics.MODE, LATCHED_QOS)
        driver.say("disarmed: start")
        operator = TeleopNode()
        executor = SingleThreadedExecutor()
        executor.add_node(operator)

        def finished() -> bool:
            executor.spin_once(timeout_sec=0.02)
            return operator.finished

        probe.wait(finished, "end of the operator")
        assert operator.exit_code == 1
        assert 1 < driver.asked.count(topics.ARM) < 8, "what was refused is not asked for at once again"
        operator.destroy_node()
    said = capfd.readouterr().err
    assert "2 drivers are in this domain (/probe, /probe)" in said
    assert "/probe did not arm within 3 s" in said and "it lies on its side" in said
