# SPDX-License-Identifier: Apache-2.0
"""Static maps: the function, its ONNX form, the search, and what they show about the robot `hard`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_control.contract import TASKS, PolicyContract, Task
from h2o_control.errors import ConfigError
from h2o_control.policy import Policy
from h2o_training import feasible
from h2o_training.lockstep import run_episode
from h2o_training.static_map import StaticMap
from h2o_training.static_map_search import Goal, Search, closed_form_effects, find_static_map
from lockstep import LockStep
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.core import Exploration
from wheel_leg_driver.robot import PlantSpec, load_robot

ROOT = Path(__file__).parents[1]
#: Written by `make bench-hard`.
HARD = json.loads((ROOT / "docs" / "robots-hard.json").read_text())
STAND = StaticMap(2.0, 3.0, 20.0, 2.5, -0.2, 0.3, 0.1, 0.0, 3.0)


def shipped(name: str) -> StaticMap:
    return StaticMap(**HARD["maps"][name])


def test_map_against_values_by_hand() -> None:
    # u0 = 2 · 0.1 + 3 · (0.2 − 0.1) + 20 · 0.05 + 2.5 · 0.1 − 0.2 = 1.55, and tanh(15.5) is 1 to 7e-14.
    driving = dataclasses.replace(STAND, v_ref_mps=0.1)
    assert driving.torque_nm(np.array([0.1, 0.2, 0.05, 0.1])) == pytest.approx(1.85, abs=1e-12)
    # u0 = −0.2: tanh(−2) of the compensation.
    assert STAND.torque_nm(np.zeros(4)) == pytest.approx(-0.2 - 0.3 * math.tanh(2.0))
    assert STAND.torque_nm(np.array([0.0, 0.0, 1.0, 0.0])) == 3.0


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = tmp_path_factory.mktemp("map") / "map.onnx"
    contract = PolicyContract(load_robot("hard").interface, TASKS["stand"])
    STAND.write_onnx(path, contract, {"seed": 0})
    return Policy(path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-3.0, 3.0, width=32), min_size=4, max_size=4))
def test_onnx_policy_answers_as_the_map(policy: Policy, state: list[float]) -> None:
    assert policy.torque_nm(np.array(state)) == pytest.approx(STAND.torque_nm(np.array(state)), abs=1e-6)


def test_onnx_policy_says_what_it_is(policy: Policy) -> None:
    assert policy.contract.task == TASKS["stand"]
    assert policy.provenance["static map"] == dataclasses.asdict(STAND)


def test_map_with_a_gain_that_the_task_cannot_see_is_refused() -> None:
    with pytest.raises(ConfigError, match="'move' does not observe x"):
        STAND.to_onnx(PolicyContract(load_robot("hard").interface, TASKS["move"]), {})


@pytest.mark.parametrize(("name", "value"), [("width_nm", 0.0), ("limit_nm", -1.0), ("theta", math.nan)])
def test_impossible_map_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(STAND, **{name: value})


def test_closed_form_gets_all_imperfections_but_those_of_contact() -> None:
    options = {"dead_zone_nm": 0.3, "sliding_friction": 0.5, "torque_factor": 1.0}
    robot = dataclasses.replace(load_robot("ideal"), plant=PlantSpec(options=options))
    assert closed_form_effects(robot) == {"dead_zone_nm": 0.3}


def test_robot_that_the_closed_form_cannot_imitate_is_refused() -> None:
    for plant in (None, PlantSpec(path="somebody.elses:Plant")):
        with pytest.raises(ConfigError, match="the closed form"):
            closed_form_effects(dataclasses.replace(load_robot("ideal"), plant=plant))


SHORT = Search(generations=8, population=48, episodes=2, seconds=2.0, trials=2, trial_episodes=1, trial_seconds=1.0)


def test_search_finds_a_map_that_stands_and_the_same_one_again() -> None:
    robot, goal = load_robot("ideal"), Goal.of(TASKS["stand"])
    scores: list[tuple[float, float]] = []
    found = find_static_map(robot, goal, SHORT, lambda share, best: scores.append((share, best)))
    assert run_episode(found, robot, TASKS["stand"], 5.0, 7).outcome == "stood"
    assert [share for share, _ in scores] == sorted(share for share, _ in scores)
    assert scores[-1] == (1.0, pytest.approx(30.0, abs=1.0))
    assert find_static_map(robot, goal, SHORT) == found


def test_feasible_writes_a_policy_and_says_how_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "map.onnx"
    monkeypatch.setattr(feasible, "SEARCH", SHORT)
    words = ["ideal", "--task", "stand", "-o", str(output), "--episodes", "2", "--seconds", "3", "--generations", "8"]
    assert feasible.command(words) == 0
    assert "feasible: it stood in all 2" in capsys.readouterr().out
    assert run_episode(Policy(output), load_robot("ideal"), TASKS["stand"], 3.0, 0).outcome == "stood"


# What follows notices when a change of the emulator, or of hard.yaml, takes away what `make bench-hard` showed.


@pytest.mark.parametrize("task", [TASKS["stand"], TASKS["move"]], ids=lambda task: task.name)
def test_shipped_map_does_the_task_on_hard(task: Task) -> None:
    found = shipped(f"{task.name}: static map")
    for seed in (2000, 2001):
        run = run_episode(found, load_robot("hard"), task, 10.0, seed)
        assert run.outcome == "stood"
        if task.name == "stand":
            assert np.abs(run.truth[:, 0]).max() < 0.2
        else:
            assert run.truth[600:, 1].mean() == pytest.approx(0.2, abs=0.04)


def test_plain_lqr_fails_on_hard_within_seconds_and_stands_on_ideal() -> None:
    x, v, theta, theta_dot = -lqr_gain(load_robot("ideal"))
    plain = StaticMap(x, v, theta, theta_dot, 0.0, 0.0, 1.0, 0.0, 3.0)
    for seed in (2000, 2001):
        assert run_episode(plain, load_robot("ideal"), TASKS["stand"], 5.0, seed).outcome == "stood"
        run = run_episode(plain, load_robot("hard"), TASKS["stand"], 10.0, seed)
        assert run.failed
        assert run.time_s[-1] < 5.0


@pytest.mark.parametrize("exploration", [0.0, 1.0])
def test_drivers_balance_keeps_hard_up_while_data_is_collected(exploration: float) -> None:
    loop = LockStep("hard", seed=5, pitch_rad=0.03, explore=Exploration(exploration, seed=5))
    loop.balance()
    farthest = 0.0
    for step in range(6000):
        if step % 20 == 0:
            loop.core.on_speed(0.2 * math.sin(step * 0.005), 0.0)
        loop.step()
        farthest = max(farthest, abs(loop.plant.truth()[0]))
    assert loop.core.mode == "balance", loop.core.reason
    assert farthest < 1.0
