# SPDX-License-Identifier: Apache-2.0
"""Operators: the script that drives like a person, and a person's keyboard."""

from __future__ import annotations

import contextlib
import gzip
import os
import pty
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from graph import BIN, graph
from h2o_control import topics
from h2o_control.operator_script import Habits, ScriptedOperator
from lockstep import LockStep
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


def drain(master: int) -> None:
    """Read what a terminal shows until its program is gone."""
    with contextlib.suppress(OSError):
        while os.read(master, 4096):
            pass


@pytest.mark.ros
def test_keyboard_arms_drives_and_stops_the_robot(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot()
        probe.wait(lambda: bool(probe.joints), "telemetry")
        master, slave = pty.openpty()
        keyboard = subprocess.Popen([str(BIN / "h2o-robot"), "teleop"], stdin=slave, stdout=slave, stderr=slave)
        nodes.processes.append(keyboard)
        os.close(slave)
        # A terminal that shows nothing any more stops the operator's commands too, and with them the robot.
        threading.Thread(target=drain, args=(master,), daemon=True).start()

        def press_until(key: bytes, mode: str) -> None:
            for _ in range(20):
                os.write(master, key)
                probe.spin(0.5)
                if probe.mode == mode:
                    return
            raise AssertionError(f"{key!r} did not lead to {mode}: {probe.mode} ({probe.reason})")

        press_until(b"a", topics.BALANCE)
        for _ in range(6):
            os.write(master, b"\x1b[A")
        probe.spin(2.5)
        forward = [m.velocity[0] for m in probe.joints[-100:]]
        assert np.mean(forward) * 0.065 == pytest.approx(0.3, abs=0.15)
        press_until(b" ", topics.FAULT)
        press_until(b"d", topics.DISARMED)
        os.write(master, b"q")
        probe.wait(lambda: keyboard.poll() is not None, "end of the keyboard")
        assert keyboard.returncode == 0


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
