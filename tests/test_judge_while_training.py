# SPDX-License-Identifier: Apache-2.0
"""Judging on an emulated robot while training: shown, and without any effect on what is learned."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from h2o_control.contract import PolicyContract, get_task
from h2o_control.errors import ConfigError, ContractError, UserError
from h2o_control.policy import Policy as DeployedPolicy
from h2o_training.episode_result import measure
from h2o_training.export import build_onnx
from h2o_training.judge_while_training import Judge
from h2o_training.lockstep import run_episode
from h2o_training.metrics_log import read_curves
from h2o_training.run_dir import RunDirectory
from h2o_training.train_config import JudgeConfig, LogConfig, load_train_config
from h2o_training.trainer import Trainer
from h2o_training.wandb_log import require_wandb
from wheel_leg_driver.robot import load_robot

torch.set_num_threads(1)
SMALL = ("task=stand", "policy_layers=[16]", "critic_layers=[16]", "batch_simulated=16", "twin.num_envs=4")
SMALL = (*SMALL, "collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1", "log.evaluate_every=20", "updates=60")
JUDGE = "log.judge={robot: hard, episodes: 2, seconds: 0.5}"


def trained(folder: Path, *overrides: str) -> Trainer:
    robot = load_robot("ideal")
    config = load_train_config("sac", (*SMALL, *overrides))
    trainer = Trainer(config, robot, PolicyContract(robot.interface, get_task("stand")), None)
    trainer.run(RunDirectory(folder))
    return trainer


def test_weights_are_the_same_to_the_bit_with_and_without_judging(tmp_path: Path) -> None:
    judged, alone = trained(tmp_path / "judged", JUDGE), trained(tmp_path / "alone")
    ours, theirs = judged.state_dict(), alone.state_dict()
    assert ours["agent"].keys() == theirs["agent"].keys()
    for name, value in ours["agent"].items():
        assert torch.equal(value, theirs["agent"][name]), name
    assert torch.equal(ours["generator"], theirs["generator"])
    assert torch.equal(ours["replay"]["rows"], theirs["replay"]["rows"])


def test_what_the_judge_said_has_tags_and_a_field_of_its_own(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "judged", JUDGE)
    progress = RunDirectory(tmp_path / "judged").read_progress()
    assert progress is not None and progress.judged is not None and progress.evaluation is not None
    assert 0.0 < progress.judged["survival_s"] <= 0.5
    curves = read_curves(tmp_path / "judged")
    assert curves["judge/survival_s"].updates.tolist() == curves["evaluation/return"].updates.tolist() == [20, 40, 60]
    assert progress.judged["return"] == pytest.approx(curves["judge/return"].values[-1])
    assert not any("judge" in name for name in trainer.state_dict())
    trained(tmp_path / "alone")
    assert RunDirectory(tmp_path / "alone").read_progress().judged is None  # type: ignore[union-attr]


def test_the_judge_says_what_lock_step_says_of_the_exported_policy(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    policy, scaling, contract = trainer.agent.averaged_policy, trainer.scaling, trainer.contract
    said = Judge(JudgeConfig("worn", 2, 1.0), contract)(policy, scaling)
    onnx = DeployedPolicy("p.onnx", build_onnx(policy, scaling, contract, {}).SerializeToString())
    runs = [run_episode(onnx, load_robot("worn"), contract.task, 1.0, seed) for seed in (0, 1)]
    results = [measure(run, contract.task, seed) for seed, run in enumerate(runs)]
    assert said["return"] == pytest.approx(sum(r.task_return for r in results) / 2)
    assert said["survived"] == sum(r.outcome == "stood" for r in results) / 2
    assert math.isfinite(said["x_abs_m"])


@pytest.mark.parametrize(
    ("judge", "error", "word"),
    [
        (JudgeConfig("wron"), ConfigError, "worn"),
        (JudgeConfig("ideal", seconds=50.0), ConfigError, "range, 10 m"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_before_training(judge, error, word) -> None:
    contract = PolicyContract(load_robot("ideal").interface, get_task("move"))
    with pytest.raises(error, match=word):
        Judge(judge, contract)


def test_a_robot_of_another_interface_is_no_judge(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "config" / "robots" / "worn.yaml").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(text.replace("rate_hz: 200", "rate_hz: 100"))
    contract = PolicyContract(load_robot("ideal").interface, get_task("stand"))
    with pytest.raises(ContractError, match=r"rate_hz"):
        Judge(JudgeConfig(str(other)), contract)


@pytest.mark.parametrize("override", ["log.judge.episodes=0", "log.judge.seconds=0", "log.judge.seconds=1e9"])
def test_an_impossible_judge_is_refused_by_the_name_of_its_key(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].removeprefix("log.")):
        load_train_config("sac", (*SMALL, JUDGE, override))


def test_wandb_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    require_wandb(LogConfig())
    with pytest.raises(UserError, match=r"wandb.*h2o_training\[wandb\]"):
        require_wandb(LogConfig(wandb="robots"))
