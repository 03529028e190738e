# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot operate` against a robot: one request, its answer, an exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graph import BIN, Nodes, Probe, graph
from h2o_control import operate_cli, topics
from played_driver import PlayedDriver
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

H2O = str(BIN / "h2o-robot")
#: Requests of command, each a process of a second or so, until the driver hears the policy.
TRIES = 5


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
def test_requests_reach_the_driver_and_its_answers_the_terminal(tmp_path: Path, stand_policy: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot("ideal")
        nodes.start("policy_node", policy=str(stand_policy), priority=20)
        probe.wait(lambda: bool(probe.joints) and bool(probe.torques), "telemetry and answers")
        operate = Terminal(nodes, probe).operate
        assert operate("arm") == (0, "balance: armed\n")
        # The driver has yet to find the policy that the probe hears, and on a busy machine an answer may be too old.
        for _ in range(TRIES):
            status, said = operate("policy", "on")
            if status == 0 or "nobody answers observations" not in said:
                break
        assert status == 0, said
        gain = [1.01 * g for g in lqr_gain(load_robot("ideal"))]
        status, said = operate("swap", str(linear_policy(tmp_path / "next.onnx", gain)))
        assert status == 0, said
        assert "next.onnx answers" in said
        assert said.endswith("It is in command\n")
        status, said = operate("status")
        assert status == 0
        assert "driver: timing" in said
        assert "next.onnx" in said
        assert "histogram" not in said
        assert operate("estop")[0] == 0
        probe.wait(lambda: probe.mode == topics.FAULT, "fault")
        status, said = operate("arm")
        assert (status, "refused: mode is fault" in said) == (1, True)


@pytest.mark.ros
def test_a_swap_reaches_the_node_it_names_and_no_two_of_one_name(tmp_path: Path, stand_policy: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("torque: by request")
        for name in ("policy", "policy", "second"):
            nodes.start("policy_node", "--ros-args", "-r", f"__node:={name}", "-p", f"policy:={stand_policy}")
        probe.wait(lambda: probe.node.count_publishers(topics.POLICY) == 3, "three policy nodes")
        # They have to find one another, too.
        probe.spin(3.0)
        operate = Terminal(nodes, probe).operate
        copy = linear_policy(tmp_path / "next.onnx", [0.0, 0.0, 1.0, 0.0])
        status, said = operate("swap", str(copy))
        assert status == 1
        assert "2 policy nodes are named /policy" in said
        assert "--node NAME" in said
        status, said = operate("--timeout", "4", "swap", str(copy), "--node", "third")
        assert (status, "there are /policy, /policy, /second" in said) == (2, True), said
        driver.obeys_not = "/second"
        status, said = operate("swap", str(copy), "--node", "second")
        assert status == 0, said
        assert "next.onnx answers" in said
        assert said.endswith("It is not in command: the driver obeys another node\n")


@pytest.mark.ros
def test_a_shadow_is_told_from_no_policy_at_all(tmp_path: Path, stand_policy: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("balance: armed")
        driver.refusal = "nobody answers: is a policy node running?"
        operate = Terminal(nodes, probe).operate
        assert operate("policy", "on") == (1, f"refused: {driver.refusal}\n")
        shadow = ("--ros-args", "-r", "__node:=shadow", "-p", f"policy:={stand_policy}", "-p", "shadow:=true")
        nodes.start("policy_node", *shadow)
        probe.wait(lambda: probe.node.count_publishers(topics.SHADOW_TORQUE) == 1, "shadow")
        hint = " /shadow only watches, as a shadow: start a policy node without shadow:=true\n"
        assert operate("policy", "on") == (1, f"refused: {driver.refusal}{hint}")
        status, said = operate("--timeout", "4", "swap", str(stand_policy))
        assert (status, said.endswith(hint)) == (2, True), said


@pytest.mark.ros
def test_a_height_is_granted_once_the_legs_are_there(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("balance: armed")
        operate = Terminal(nodes, probe).operate
        assert operate("height", "0.25") == (0, "hips at 0.250 m\n")
        status, said = operate("height", "0.9")
        assert (status, said[:34]) == (1, "refused: hips stay at 0.250 m, 0.9")
        driver.say("hold: pitch +0.45 rad is beyond 0.4 rad")
        status, said = operate("height", "0.2")
        assert status == 1
        assert "hold: pitch +0.45 rad" in said
        assert driver.asked == ["height 0.250", "height 0.900"]


@pytest.mark.ros
def test_estop_goes_by_topic_and_service(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        driver = PlayedDriver(probe)
        driver.say("disarmed: start")
        assert Terminal(nodes, probe).operate("estop")[0] == 0
        assert topics.ESTOP in driver.asked or "estop topic True" in driver.asked


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swap", "nowhere.onnx"], "no such file: nowhere.onnx"),
        (["swap", "/tmp"], "/tmp is a folder: give the ONNX file itself"),
        (["swap", __file__, "--node", ""], "--node is empty"),
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


@pytest.mark.parametrize("action", operate_cli.ACTIONS)
def test_every_request_is_explained_with_an_example_that_parses(
    action: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        operate_cli.parse([action, "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    _, description, example = operate_cli.ACTIONS[action]
    assert description in said
    assert f"example: {example}" in said
    (tmp_path / "tuesday.onnx").touch()
    monkeypatch.chdir(tmp_path)
    for each in example.split(" && "):
        operate_cli.parse(each.removeprefix("h2o-robot operate ").split())


@pytest.mark.ros
@pytest.mark.parametrize("action", ["mode", "estop", "arm"])
def test_nobody_there_is_status_2_and_says_what_to_look_at(action: str) -> None:
    result = subprocess.run([H2O, "operate", "--timeout", "0.5", action], capture_output=True, text=True)
    assert result.returncode == 2
    assert "no driver answers within 0.5 s: is the robot's launch file running" in result.stderr
    assert sys.executable not in result.stderr
