# SPDX-License-Identifier: Apache-2.0
"""A training that diverges stops, says since which update and what, and leaves its last good checkpoint alone."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from h2o_control import cli
from h2o_control.contract import PolicyContract, get_task
from h2o_training.divergence import BEYOND_RETURNS, DivergenceWatch, TrainingDivergedError, require_finite
from h2o_training.run_dir import RunDirectory
from h2o_training.train_config import load_train_config
from h2o_training.trainer import Trainer
from wheel_leg_driver.robot import load_robot

torch.set_num_threads(1)
SMALL = ("task=stand", "policy_layers=[16]", "critic_layers=[16]", "batch_simulated=16", "twin.num_envs=4")
SMALL = (*SMALL, "collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1", "log.checkpoint_every=20")


def history(**columns: list[float]) -> list[dict[str, torch.Tensor]]:
    """Metrics of updates; a value of inf stands for one that an update does not have."""
    length = len(next(iter(columns.values())))
    names = {name.replace("__", "/"): values for name, values in columns.items()}
    return [{n: torch.tensor(v[k]) for n, v in names.items() if not math.isinf(v[k])} for k in range(length)]


def small_trainer(*overrides: str) -> Trainer:
    robot = load_robot("ideal")
    config = load_train_config("sac", (*SMALL, *overrides))
    return Trainer(config, robot, PolicyContract(robot.interface, get_task("stand")), None)


def test_the_first_update_with_a_bad_value_is_named_with_the_value_before() -> None:
    watch = DivergenceWatch(0.99, lambda: 1.0)
    good, bad = [1.0, 2.0, 3.0, 4.0], [1.0, 2.5, math.nan, math.nan]
    watch.check(history(loss__critic=good, loss__value=good), 101)
    with pytest.raises(TrainingDivergedError, match=r"at update 103: loss/value is nan \(update 102: 2.5\)$"):
        watch.check(history(loss__critic=good, loss__value=bad), 101)


def test_a_metric_that_only_some_updates_have_is_no_bad_value() -> None:
    DivergenceWatch(0.99, lambda: 1.0).check(history(loss__ratio=[1.0, math.inf, 1.0], loss__critic=[1.0] * 3), 1)


def test_values_that_no_return_can_have_are_divergence_and_losses_of_any_size_are_not() -> None:
    discount, reward = 0.9, 5.0
    limit = BEYOND_RETURNS * reward / (1.0 - discount)
    watch = DivergenceWatch(discount, lambda: reward)
    watch.check(history(value__q_real=[0.99 * limit, -0.99 * limit], loss__critic=[1e9, 1e9]), 1)
    for value in (1.01 * limit, -1.01 * limit):
        with pytest.raises(TrainingDivergedError, match=r"at update 2: value/q_real is .* no return can be beyond ±50"):
            watch.check(history(value__q_real=[1.0, value]), 1)


def test_rewards_are_looked_at_only_when_a_value_passes_what_was_known() -> None:
    asked: list[int] = []
    watch = DivergenceWatch(0.9, lambda: float(asked.append(1) or 5.0))
    for _ in range(3):
        watch.check(history(value__q_real=[100.0]), 1)
    assert len(asked) == 1
    assert not watch.doubtful
    watch.check(history(value__q_real=[501.0]), 1)
    assert watch.doubtful
    watch.check(history(value__q_real=[499.0]), 1)
    assert not watch.doubtful


def test_weights_that_are_not_finite_are_never_saved() -> None:
    require_finite({"a": torch.ones(3), "steps": torch.tensor(3)}, 5)
    with pytest.raises(TrainingDivergedError, match="at update 5: b not finite"):
        require_finite({"a": torch.ones(3), "b": torch.tensor([1.0, math.inf])}, 5)


def test_training_that_really_diverges_says_since_when_and_what_is_left(tmp_path: Path) -> None:
    # At this rate values grow from update to update until no return can be so large.
    trainer = small_trainer("learning_rate=0.3", "optimistic=false", "updates=5000")
    with pytest.raises(TrainingDivergedError) as caught:
        trainer.run(RunDirectory(tmp_path))
    message = str(caught.value)
    update = int(re.search(r"diverged at update (\d+): .*value/q", message)[1])  # type: ignore[index]
    assert 1 < update <= trainer.agent.updates < 5000
    progress = RunDirectory(tmp_path).read_progress()
    assert progress is not None and progress.state == "failed"
    # The checkpoint is from before the values grew.
    saved = RunDirectory(tmp_path).load_checkpoint()["updates"]
    assert f"last good checkpoint is of update {saved}," in message
    assert saved < update


def test_the_last_good_checkpoint_is_left_and_goes_on_or_is_exported(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", "sac", *SMALL, "updates=40", f"run={run}"]) == 0
    directory = RunDirectory(run)
    before = (run / "checkpoint.pt").read_bytes()
    trainer = small_trainer("updates=100")
    trainer.load_state_dict(directory.load_checkpoint())
    with torch.no_grad():
        trainer.agent.critic.net.biases[-1].fill_(math.nan)
    with pytest.raises(
        TrainingDivergedError, match=r"at update 41: loss/critic is nan.* checkpoint is of update 40"
    ) as e:
        trainer.run(directory)
    assert f"h2o-robot export {run}" in str(e.value) and f"--resume {run}" in str(e.value)
    assert (run / "checkpoint.pt").read_bytes() == before
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(run), "updates=60"]) == 0
    assert cli.main(["export", str(run), "-o", str(tmp_path / "policy.onnx")]) == 0
