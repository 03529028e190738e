# SPDX-License-Identifier: Apache-2.0
"""Judging: the same numbers each time, measured on the truth, and the fallback's standing is nobody else's."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_tools import make_bag, swaying
from h2o_control import topics
from h2o_control.bag_reader import read_bag
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ContractError, UserError
from h2o_training import evaluate
from h2o_training.episode_result import EpisodeResult, measure, policy_table, summarise
from h2o_training.figures import EPISODE_COLOURS, Episode, Limits, episode_figure, mode_spans, thin
from h2o_training.lockstep import Outcome, Run, outcome, run_episode
from h2o_training.mode_summary import summarise_modes, write_bag_report
from h2o_training.report import MAX_EPISODES
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

STAND = TASKS["stand"]


class Constant:
    def __init__(self, torque: float) -> None:
        self.torque = torque

    def torque_nm(self, state: Any) -> float:
        return self.torque


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return linear_policy(tmp_path / "policy.onnx", lqr_gain(load_robot("ideal")))


def test_a_robot_without_torque_falls_and_the_run_ends_there() -> None:
    run = run_episode(Constant(0.0), load_robot("ideal"), STAND, seconds=5.0, seed=1)
    assert (run.failed, run.outcome) == (True, "fell")
    assert len(run.time_s) == len(run.truth) == len(run.asked_nm) + 1 < 1000
    assert abs(run.truth[-1, 2]) > STAND.fall_pitch_rad
    assert (np.abs(run.truth[:-1, 2]) <= STAND.fall_pitch_rad).all()
    assert (run.executed_nm == 0).all()


@pytest.mark.parametrize("limit", [{"v_limit_mps": 0.05}, {"x_limit_m": 0.003}])
def test_a_robot_that_runs_away_upright_ends_the_run_and_has_not_fallen(limit: dict[str, float]) -> None:
    task = dataclasses.replace(STAND, **limit)
    run = run_episode(Constant(0.5), load_robot("ideal"), task, seconds=5.0, seed=1)
    assert (run.failed, run.outcome) == (True, "ran away")
    assert task.failed(run.truth).tolist() == [False] * (len(run.truth) - 1) + [True]
    assert not task.fallen(run.truth).any()


def test_a_robot_beyond_several_limits_has_fallen_and_one_within_all_stands() -> None:
    assert outcome(STAND, np.array([0.0, 1.5, 0.6, 0.0])) == "fell"
    assert outcome(STAND, np.array([0.0, -1.01, 0.4, 0.0])) == "ran away"
    assert outcome(STAND, np.array([-2.01, 0.0, 0.0, 0.0])) == "ran away"
    assert outcome(STAND, np.array([2.0, 1.0, 0.5, 9.0])) == "stood"
    free = dataclasses.replace(STAND, v_limit_mps=None, x_limit_m=None)
    assert outcome(free, np.array([1e3, 1e3, 0.0, 0.0])) == "stood"


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    robot = load_robot("worn")
    first, again, other = (run_episode(Constant(0.1), robot, STAND, 1.0, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.truth, again.truth)
    np.testing.assert_array_equal(first.estimate, again.estimate)
    assert first.truth[0, 2] != other.truth[0, 2]


def test_a_torque_that_is_not_finite_or_too_large_never_reaches_the_wheels() -> None:
    robot = load_robot("ideal")
    assert (run_episode(Constant(float("nan")), robot, STAND, 0.05, 0).executed_nm == 0).all()
    # The first millisecond of an answer already counts: commands act at the motor loop's next tick.
    assert run_episode(Constant(50.0), robot, STAND, 0.03, 0).executed_nm.tolist() == [3.0] * 6


def test_an_episode_is_measured_on_the_truth() -> None:
    truth = np.array([[1.0, 0, 0, 0], [1.1, 0.2, 0, 0], [0.7, -0.4, 0, 0]])
    torque = np.array([1.0, -1.0])
    run = Run(np.array([0.0, 0.005, 0.010]), truth, truth * np.nan, torque, torque, "fell", 0.0, 0.0)
    result = measure(run, STAND, seed=5)
    assert (result.outcome, result.survival_s) == ("fell", 0.010)
    assert result.max_abs_x_m == pytest.approx(0.3)
    assert result.v_error_mean_mps == pytest.approx(-0.1)
    assert result.v_error_rms_mps == pytest.approx(np.sqrt((0.04 + 0.16) / 2))
    assert (result.torque_rms_nm, result.torque_change_rms_nm) == (1.0, 2.0)
    assert result.task_return == pytest.approx(60 - 1.21 - 0.04 - 1 - 0.49 - 0.16 - 1)
    summary = summarise([result, measure(run, STAND, 6)])
    assert (summary["episodes"], summary["survived"], summary["survival_median_s"]) == (2, 0, 0.010)


def result(outcome: Outcome, survival_s: float) -> EpisodeResult:
    return EpisodeResult(0, outcome, survival_s, 0.1, 0.0, 0.02, 0.5, 0.01, 100.0)


def test_policies_are_compared_by_how_they_ended_and_a_median_beyond_the_end_is_a_bound() -> None:
    bad = [result("fell", 1.0), result("ran away", 2.0), result("stood", 30.0)]
    good = [result("fell", 1.0), result("stood", 30.0), result("stood", 30.0)]
    table = policy_table({"bad": bad, "good": good}, "two")
    assert [row[:5] for row in table.rows] == [
        ["bad", "1/3", "1", "1", "2.00"],
        ["good", "2/3", "1", "0", "≥30.00"],
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_evaluate_writes_table_json_and_a_page_that_needs_no_network(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = policy.parent / "out"
    arguments = [str(policy), "--robot", "ideal", "--task", "stand", "--episodes", "3", "--seconds", "4"]
    arguments += ["-o", str(out)]
    assert evaluate.command(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 of 3" in printed
    content = json.loads((out / "evaluation.json").read_text())
    (judged,) = content["policies"]
    assert [e["survival_s"] for e in judged["episodes"]] == [4.0, 4.0, 4.0]
    assert [e["outcome"] for e in judged["episodes"]] == ["stood"] * 3
    assert judged["summary"]["max_abs_x_m"] == max(e["max_abs_x_m"] for e in judged["episodes"]) > 0
    assert judged["provenance"]["how the policy was made"] == {"made": "by hand"}
    page = (out / "report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert page.count("Plotly.newPlot") >= 1
    for label in ("x (m)", "v (m/s)", "θ (rad)", "τ a wheel (Nm)", "time (s)"):
        assert json.dumps(label).replace("/", "\\u002f") in page
    evaluate.command(arguments)
    assert json.loads((out / "evaluation.json").read_text())["policies"][0]["episodes"] == judged["episodes"]


def test_several_policies_get_the_same_starts_in_one_table_one_picture_and_one_file(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = linear_policy(tmp_path / "idle.onnx", (0, 0, 0, 0))
    arguments = ["--robot", "worn", "--episodes", "2", "--seconds", "2"]
    assert evaluate.command([str(policy), str(idle), *arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1:4] for line in lines if line[:1] == ["policy.onnx"]] == [["2/2", "0", "0"]]
    assert [line[1:4] for line in lines if line[:1] == ["idle.onnx"]] == [["0/2", "2", "0"]]
    both = json.loads((tmp_path / "comparison-worn" / "evaluation.json").read_text())
    assert [p["policy"] for p in both["policies"]] == ["policy.onnx", "idle.onnx"]
    page = (tmp_path / "comparison-worn" / "report.html").read_text()
    assert page.count("Plotly.newPlot(") == 1
    evaluate.command([str(idle), *arguments])
    one = json.loads((tmp_path / "idle-worn" / "evaluation.json").read_text())
    assert one["policies"][0]["episodes"] == both["policies"][1]["episodes"]


def test_episodes_shared_among_processes_are_the_same(policy: Path) -> None:
    robot = load_robot("worn")
    policies = evaluate.load_policies([str(policy)], None, robot)
    alone, shared = (list(evaluate.judge(policies, robot, 0.5, range(3), jobs)) for jobs in (1, 2))
    assert [(name, seed) for name, seed, _ in shared] == [("policy.onnx", 0), ("policy.onnx", 1), ("policy.onnx", 2)]
    for (_, _, first), (_, _, second) in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(first.truth, second.truth)
        np.testing.assert_array_equal(first.executed_nm, second.executed_nm)


def test_policies_that_cannot_be_compared_are_refused(policy: Path, tmp_path: Path) -> None:
    move = linear_policy(tmp_path / "move.onnx", (0, 0, 0, 0), TASKS["move"])
    with pytest.raises(ContractError, match=r"move\.onnx was made for task 'move', policy\.onnx for 'stand'"):
        evaluate.command([str(policy), str(move), "--robot", "ideal"])
    older = linear_policy(tmp_path / "older.onnx", (0, 0, 0, 0), dataclasses.replace(STAND, v_limit_mps=None))
    with pytest.raises(ContractError, match="different versions of task 'stand'"):
        evaluate.command([str(policy), str(older), "--robot", "ideal"])
    with pytest.raises(UserError, match="given twice"):
        evaluate.command([str(policy), str(policy.parent / "." / policy.name), "--robot", "ideal"])
    weak = linear_policy(tmp_path / "weak.onnx", (1, 1, 1, 1), interface=Interface(torque_limit_nm=2.0))
    with pytest.raises(ContractError, match="another interface"):
        evaluate.command([str(policy), str(weak), "--robot", "ideal"])
    with pytest.raises(UserError, match=r"range, 10 m, after 50 s"):
        evaluate.command([str(move), "--robot", "ideal", "--seconds", "60"])


def test_policies_of_the_same_file_name_are_told_apart_by_path(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = linear_policy(tmp_path / "other" / policy.name, (1, 1, 1, 1))
    assert list(evaluate.load_policies([str(policy), str(other)], None, load_robot("ideal"))) == [
        str(policy),
        str(other),
    ]


def test_evaluate_refuses_what_does_not_fit(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="made for task 'stand', not 'move'"):
        evaluate.command([str(policy), "--robot", "ideal", "--task", "move"])
    for wrong in (["--episodes", "0"], ["--seconds", "inf"], ["--seconds", "nan"], ["--seconds", "-1"]):
        with pytest.raises(UserError, match="must be positive"):
            evaluate.command([str(policy), "--robot", "ideal", *wrong])
    weak = linear_policy(tmp_path / "weak.onnx", (1, 1, 1, 1), interface=Interface(torque_limit_nm=2.0))
    with pytest.raises(ContractError, match="another interface"):
        evaluate.command([str(weak), "--robot", "ideal"])


def deployment(seed: int = 0) -> dict[str, Any]:
    """Four seconds: balance, policy (taken back by tilt), balance; then policy again, given back by request."""
    run = swaying(800, seed)
    run["modes"] = [topics.BALANCE] * 200 + [topics.TORQUE] * 300 + [topics.BALANCE] * 300
    run["states"] = np.zeros((800, 4))
    run["states"][:, 0] = np.linspace(0.0, 0.799, 800)
    run["states"][:, 1] = 0.2
    run["executed"] = np.where(np.arange(800) <= 200, 1.0, 2.0)
    return run


def test_time_in_command_is_split_between_policy_and_balance(tmp_path: Path) -> None:
    bag = read_bag(make_bag(tmp_path / "bag", [deployment()], Interface()))
    modes = summarise_modes(bag, STAND)
    assert list(modes) == ["torque", "balance"]
    policy, balance = modes["torque"], modes["balance"]
    assert (policy.seconds, policy.longest_s, policy.stretches) == (1.5, 1.5, 1)
    assert (balance.seconds, balance.longest_s, balance.stretches) == (2.5, 1.5, 2)
    assert policy.max_distance_m == pytest.approx(0.299)
    assert policy.mean_v_mps == pytest.approx(0.2)
    assert policy.torque_rms_nm == pytest.approx(2.0)  # the torque executed after each state, not before it
    assert (policy.falls, policy.lost, balance.lost) == (0, 1, 0)


def test_a_fall_counts_for_who_was_in_command_when_it_happened(tmp_path: Path) -> None:
    run = deployment()
    run["states"][499:510, 2] = 0.55
    run["states"][700:, 2] = -0.6
    modes = summarise_modes(read_bag(make_bag(tmp_path / "bag", [run], Interface())), STAND)
    assert (modes["torque"].falls, modes["balance"].falls) == (1, 1)


def test_the_page_of_a_bag_shows_every_mode_that_was_in_command(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", [deployment(), deployment(1)], Interface())
    summaries = write_bag_report(tmp_path / "page.html", bag, STAND, "Deployment <1>")
    page = (tmp_path / "page.html").read_text()
    assert "Deployment &lt;1&gt;" in page
    assert summaries["torque"].seconds == 3.0
    for text in ("bag_0.mcap", "bag_1.mcap", "policy", "driver&#x27;s balance", "h2o.interface_hash"):
        assert text in page
    assert page.count("<script") < 8  # plotly's own script is there once


def test_every_episode_of_a_page_has_a_colour_of_its_own() -> None:
    time_s = np.arange(3.0)
    episodes = [Episode(str(k), time_s, np.zeros((3, 4)), {"executed": time_s}) for k in range(MAX_EPISODES)]
    figure = episode_figure(episodes, Limits(0.5, 3.0))
    colours = {trace.legendgroup: trace.line.color for trace in figure.data if trace.legendgroup}
    assert len(colours) == len(set(colours.values())) == MAX_EPISODES


def test_episodes_of_a_group_share_colour_and_legend_and_only_what_is_asked_for_is_drawn() -> None:
    time_s, far = np.arange(3.0), np.full((3, 4), 1.5)
    torques = {"executed": time_s}
    episodes = [Episode(str(k), time_s, far, torques, group="ab"[k // 2]) for k in range(4)]
    figure = episode_figure(episodes, Limits.of(STAND, Interface()), ("theta", "x"))
    assert [axis.title.text for axis in figure.select_yaxes()] == ["θ (rad)", "x (m)"]
    assert [t.line.color for t in figure.data] == [EPISODE_COLOURS[k] for k in (0, 0, 0, 0, 1, 1, 1, 1)]
    assert [t.name for t in figure.data if t.showlegend] == ["a", "b"]
    # Fall pitch below, the range above: both limits are near these curves.
    assert sorted((s.y0, s.yref) for s in figure.layout.shapes) == [(-2, "y2"), (-0.5, "y"), (0.5, "y"), (2, "y2")]


def test_thinned_curves_keep_their_extremes() -> None:
    time_s = np.arange(50_000) * 0.005
    values = np.sin(time_s)
    values[12_345], values[40_000] = 9.0, -7.0
    values[20_000:20_010] = np.nan
    thin_time, thinned = thin(time_s, values, limit=1000)
    assert len(thinned) <= 1000
    assert (thinned.max(), thinned.min()) == (9.0, -7.0)
    assert (np.diff(thin_time) > 0).all()


def test_mode_spans_cover_the_time_without_gaps() -> None:
    modes = np.array(["balance", "balance", "torque", "torque", "fault"])
    spans = mode_spans(np.arange(5.0), modes)
    assert spans == [(0.0, 2.0, "balance"), (2.0, 4.0, "torque"), (4.0, 4.0, "fault")]
