# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: what is one group, what is refused, which numbers come out, and no update counted twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from h2o_control import cli
from h2o_control.contract import PolicyContract, get_task
from h2o_control.errors import ContractError, DataError
from h2o_training.compare import find_runs, group_curve, groups, mean_band, read_run
from h2o_training.compare_page import content, twin_table
from h2o_training.metrics_log import read_curves
from h2o_training.run_dir import Progress, RunDirectory, RunInfo
from h2o_training.train_config import load_train_config
from h2o_training.trainer import Trainer
from wheel_leg_driver.robot import load_robot

torch.set_num_threads(1)


def made_run(
    folder: Path,
    seed: int = 0,
    returns: Sequence[float] = (1.0, 2.0),
    overrides: Sequence[str] = (),
    algorithm: str = "sac",
    task: str = "stand",
    body: float = 1.0,
    state: str = "finished",
) -> Path:
    """A run's folder with known numbers: evaluations at updates 100, 200, …, half of the robots standing at each."""
    words = [*overrides, f"seed={seed}", *([f"task={task}"] if algorithm == "sac" else ["dataset=d.h5"])]
    config = load_train_config(algorithm, words)
    contract = PolicyContract(load_robot(config.robot).interface, get_task(task))
    origin = {"dataset": None, "twin": {"body": {"body_mass_kg": body}}, "created": "2026-01-01T00:00:00+00:00"}
    directory = RunDirectory(folder)
    directory.create(RunInfo(config, contract, origin))
    update = 100 * len(returns)
    directory.write_progress(Progress(update, 200, state=state, trained_s=update / 50.0))
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for number, value in enumerate(returns, start=1):
            writer.add_scalar("evaluation/return", value, 100 * number)
            writer.add_scalar("evaluation/survived", 0.5, 100 * number)
    return folder


def compared(*folders: Path) -> Any:
    return groups([read_run(path) for path in find_runs(folders)])


def test_runs_that_differ_by_their_seed_only_are_one_group_with_mean_and_interval(tmp_path: Path) -> None:
    for seed, last in enumerate((0.0, 0.0, 3.0)):
        made_run(tmp_path / "seeds" / f"seed-{seed}", seed, (5.0, last), [f"run=runs/{seed}"])
    (group,) = compared(tmp_path)
    assert (group.label, [run.seed for run in group.runs]) == ("SAC", [0, 1, 2])
    curve = group_curve(group, "evaluation/return")
    assert curve is not None
    assert curve.updates.tolist() == [100, 200]
    np.testing.assert_allclose(curve.band.mean, [5.0, 1.0])
    # Three draws out of (0, 0, 3): their mean is 0 with 8/27, 3 with 1/27, so that 95 % reach from 0 to 3.
    np.testing.assert_allclose((curve.band.low[1], curve.band.high[1]), (0.0, 3.0))
    np.testing.assert_allclose((curve.band.low[0], curve.band.high[0]), (5.0, 5.0))
    (row,) = twin_table([group]).rows
    assert row[:5] == ["SAC", "0-2", "200", "50%\n[50%, 50%]", "1\n[0, 3]"]
    assert row[-2:] == ["50", "4 s"]


def test_the_interval_of_many_seeds_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, (60, 1))
    band = mean_band(values)
    half = 1.96 * values.std() / np.sqrt(60)
    np.testing.assert_allclose((band.low[0], band.high[0]), (band.mean[0] - half, band.mean[0] + half), atol=0.06)


def test_two_seeds_have_no_interval_and_both_values_are_told(tmp_path: Path) -> None:
    for seed, last in enumerate((4.0, 6.0)):
        made_run(tmp_path / str(seed), seed, (last,))
    these = compared(tmp_path)
    assert twin_table(these).rows[0][4] == "4, 6"
    latest = content(these)["groups"][0]["latest"]["evaluation/return"]
    assert (latest["mean"], latest["values"]) == (5.0, [4.0, 6.0])
    assert np.isnan(latest["low"])


def test_groups_of_one_algorithm_are_told_apart_by_what_they_differ_in(tmp_path: Path) -> None:
    made_run(tmp_path / "a", overrides=["discount=0.9"])
    made_run(tmp_path / "b", overrides=["discount=0.8"])
    made_run(tmp_path / "c", algorithm="h2o_plus")
    labels = [group.label for group in compared(tmp_path / "a", tmp_path / "b", tmp_path / "c")]
    assert labels == ["SAC, discount 0.9", "SAC, discount 0.8", "H2O+"]
    made_run(tmp_path / "d", algorithm="h2o_plus", overrides=["ratio=null"])
    assert [g.label for g in compared(tmp_path / "c", tmp_path / "d")] == ["H2O+, ratio given", "H2O+, ratio null"]


def test_runs_of_other_tasks_or_robots_are_refused_with_the_reason(tmp_path: Path) -> None:
    made_run(tmp_path / "first")
    made_run(tmp_path / "moves", task="move")
    made_run(tmp_path / "worn", overrides=["robot=worn"])
    made_run(tmp_path / "heavier", 1, body=2.0)
    for name, words in {
        "moves": "different tasks, 'stand' and 'move'",
        "worn": "different robots, 'ideal' and 'worn'",
        "heavier": "'ideal' with different bodies",
    }.items():
        with pytest.raises(ContractError, match=words):
            compared(tmp_path / "first", tmp_path / name)


def test_the_same_run_twice_is_refused_and_a_folder_given_twice_counts_once(tmp_path: Path) -> None:
    made_run(tmp_path / "one"), made_run(tmp_path / "two")
    assert len(find_runs([tmp_path / "one", tmp_path / "one", tmp_path])) == 2
    with pytest.raises(DataError, match="the same run, seed 0"):
        compared(tmp_path)


def test_an_unfinished_run_is_marked_and_ends_the_curve_of_its_group(tmp_path: Path) -> None:
    made_run(tmp_path / "0", 0, (1.0, 2.0, 3.0))
    made_run(tmp_path / "1", 1, (1.0,), state="failed")
    these = compared(tmp_path)
    data = twin_table(these)
    assert data.rows[0][1:3] == ["0-1*", "100 to\n300"]
    assert "SAC, seed 1: failed at update 100" in data.note
    curve = group_curve(these[0], "evaluation/return")
    assert curve is not None
    assert curve.updates.tolist() == [100]


def test_a_run_that_was_never_evaluated_has_no_numbers(tmp_path: Path) -> None:
    made_run(tmp_path / "0", 0, (), state="interrupted")
    assert twin_table(compared(tmp_path)).rows[0][3:5] == ["–", "–"]


def test_a_resumed_run_has_each_update_once_and_loses_none(tmp_path: Path) -> None:
    small = ("task=stand", "policy_layers=[16]", "critic_layers=[16]", "batch_simulated=16", "twin.num_envs=4")
    logs = ("collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1", "log.every=20", "log.evaluate_every=20")
    config = load_train_config("sac", (*small, *logs, "updates=100", "log.checkpoint_every=40"))
    robot = load_robot("ideal")
    contract = PolicyContract(robot.interface, get_task("stand"))
    directory = RunDirectory(tmp_path)

    def trainer() -> Trainer:
        return Trainer(config, robot, contract, None)

    first = trainer()
    # Killed behind update 60: the checkpoint is of update 40, the log holds more.
    first.run(directory, stop=lambda: first.agent.updates >= 60)
    killed = trainer()
    killed.run(RunDirectory(tmp_path / "other"), stop=lambda: killed.agent.updates >= 40)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "other" / "checkpoint.pt").read_bytes())
    second = trainer()
    second.load_state_dict(directory.load_checkpoint())
    assert second.agent.updates == 40
    second.run(directory)
    curves = read_curves(tmp_path)
    assert curves["evaluation/return"].updates.tolist() == [20, 40, 60, 80, 100]
    assert curves["loss/critic"].updates.tolist() == [20, 40, 60, 80, 100]


def test_compare_writes_table_json_and_a_page_that_needs_no_network(tmp_path: Path, capsys) -> None:
    for seed in range(3):
        made_run(tmp_path / "sac" / f"seed-{seed}", seed, (1.0 + seed, 2.0))
    made_run(tmp_path / "h2o_plus", 0, (7.0, 8.0), algorithm="h2o_plus")
    assert cli.main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "H2O+" in printed and "SAC" in printed
    page = (tmp_path / "compare" / "report.html").read_text(encoding="utf-8")
    assert "return on the twin" in page and 'src="http' not in page
    data = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert {group["label"]: len(group["runs"]) for group in data["groups"]} == {"SAC": 3, "H2O+": 1}
    assert data["groups"][1]["curves"]["evaluation/return"]["mean"] == [2.0, 2.0]
    assert cli.main(["compare", str(tmp_path / "compare")]) == 2
    assert "no training runs in" in capsys.readouterr().err


def test_a_folder_name_is_the_label_where_too_much_differs(tmp_path: Path) -> None:
    keys = ["discount=0.9", "polyak=0.1", "policy_average=0.5", "learning_rate=1e-4"]
    made_run(tmp_path / "shipped"), made_run(tmp_path / "mine", overrides=keys)
    one, other = compared(tmp_path / "shipped", tmp_path / "mine")
    assert one.label == f"SAC, {tmp_path / 'shipped'}"
    assert other.label == f"SAC, {tmp_path / 'mine'}"
