# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot operate` against a robot: one request, its answer, an exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graph import BIN, Nodes, Probe, graph
from h2o_control import topics
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

H2O = str(BIN / "h2o-robot")


class Terminal:
    """Runs the command as an operator would, while the test's own node keeps listening."""

    def __init__(self, nodes: Nodes, probe: Probe) -> None:
        self.nodes, self.probe = nodes, probe

    def operate(self, *arguments: str) -> tuple[int, str]:
        process = subprocess.Popen(
            [H2O, "operate", "--timeout", "15", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.nodes.environment, "COLUMNS": "200"},
        )
        self.nodes.processes.append(process)
        self.probe.wait(lambda: process.poll() is not None, f"end of operate {arguments}", 60.0)
        assert process.stdout is not None
        return process.returncode, process.stdout.read()


@pytest.mark.ros
def test_an_operators_evening(tmp_path: Path, stand_policy: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot("ideal")
        nodes.start("policy_node", policy=str(stand_policy), priority=20)
        probe.wait(lambda: bool(probe.joints) and bool(probe.torques), "telemetry and answers")
        operate = Terminal(nodes, probe).operate
        status, said = operate("policy", "on")
        assert (status, "arm and let the driver balance first" in said) == (1, True)
        assert operate("arm") == (0, "balance: armed\n")
        status, said = operate("height", "0.25")
        assert (status, said) == (0, "hips at 0.250 m\n"), said
        status, said = operate("height", "0.9")
        assert status == 1
        assert "0.900 m may be out of reach" in said
        assert operate("stand")[0] == 0
        probe.spin(1.5)
        assert operate("policy", "on")[0] == 0
        probe.wait(lambda: probe.mode == topics.TORQUE, "policy in command")
        gain = [1.01 * g for g in lqr_gain(load_robot("ideal"))]
        status, said = operate("swap", str(linear_policy(tmp_path / "next.onnx", gain)))
        assert status == 0, said
        assert "next.onnx answers" in said
        status, said = operate("swap", str(linear_policy(tmp_path / "bad.onnx", [float("nan")] * 4)))
        assert status == 1
        assert "answers a zero observation with nan" in said
        assert probe.mode == topics.TORQUE, probe.reason
        status, said = operate("status")
        assert status == 0
        assert "driver: timing" in said and "next.onnx" in said and "histogram" not in said
        assert operate("estop")[0] == 0
        probe.wait(lambda: probe.mode == topics.FAULT, "fault")
        assert operate("mode") == (0, "fault: emergency stop\n")
        status, said = operate("arm")
        assert (status, "disarm first" in said) == (1, True)
        assert operate("disarm")[0] == 0
        assert probe.mode == topics.DISARMED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swap", "nowhere.onnx"], "no such file: nowhere.onnx"),
        (["height", "-1"], "height -1 m: give a positive number"),
        (["--timeout", "0", "mode"], "--timeout is 0 s"),
        (["policy", "perhaps"], "invalid choice: 'perhaps'"),
        (["jump"], "invalid choice: 'jump'"),
    ],
)
def test_wrong_input_is_status_2(arguments: list[str], said: str) -> None:
    result = subprocess.run([H2O, "operate", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.ros
@pytest.mark.parametrize("action", ["mode", "estop", "arm"])
def test_nobody_there_is_status_2_and_says_what_to_look_at(action: str) -> None:
    result = subprocess.run([H2O, "operate", "--timeout", "0.5", action], capture_output=True, text=True)
    assert result.returncode == 2
    assert "no driver answers within 0.5 s: is the robot's launch file running" in result.stderr
    assert sys.executable not in result.stderr
