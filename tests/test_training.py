# SPDX-License-Identifier: Apache-2.0
"""Whole runs: learning, resuming, exporting, and what is said when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from rich.console import Console

from h2o_control import cli
from h2o_control.config import apply_overrides, find_config
from h2o_control.contract import PolicyContract, get_task
from h2o_control.errors import ConfigError
from h2o_control.policy import Policy as DeployedPolicy
from h2o_training.dataset import Dataset
from h2o_training.demo import Demo, Settings
from h2o_training.export import restore_policy
from h2o_training.layered_yaml import load_layered
from h2o_training.run_dir import RunDirectory
from h2o_training.stopping import stop_on_signal
from h2o_training.train_config import load_train_config
from h2o_training.trainer import Trainer, TrainingDivergedError
from h2o_training.twin import TwinConfig, make_twin
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

torch.set_num_threads(1)

QUICK = ("policy_layers=[16]", "critic_layers=[16]", "batch_simulated=16", "twin.num_envs=4")
QUICK_H2O = (*QUICK, "batch_real=16", "value.layers=[16]", "ratio.layers=[16]", "ratio.batch=16")
QUICK_H2O = (*QUICK_H2O, "collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """600 transitions of an LQR with noise in the twin itself."""
    robot, task = load_robot("worn"), get_task("stand")
    twin = make_twin(TwinConfig(num_envs=1), robot, torch.Generator().manual_seed(0))
    rng, gain = np.random.default_rng(0), lqr_gain(robot)
    states, torques = [twin.state[0].numpy()], []
    for _ in range(600):
        torques.append(float(-gain @ states[-1] + rng.normal(0, 0.3)))
        states.append(twin.step(torch.tensor([torques[-1]], dtype=torch.float32))[0].numpy())
    no = np.zeros(600, dtype=bool)
    last = np.arange(600) == 599
    path = tmp_path_factory.mktemp("data") / "stand.h5"
    made = Dataset.from_states(
        np.array(states[:-1]),
        np.array(states[1:]),
        np.array(torques),
        no,
        last,
        robot.interface,
        task,
        {"kind": "test"},
    )
    made.save(path)
    return path


def train(*arguments: object) -> int:
    return cli.main(["train", *map(str, arguments)])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return RunDirectory(run).load_checkpoint()["agent"]


@pytest.mark.parametrize("kind", ["closed_form", "mujoco"])
def test_resumed_run_ends_with_the_same_weights(tmp_path, data, kind):
    common = ("h2o_plus", f"dataset={data}", "robot=worn", "seed=7", f"twin.kind={kind}", *QUICK_H2O)
    assert train(*common, "updates=120", f"run={tmp_path / 'whole'}") == 0
    assert train(*common, "updates=60", f"run={tmp_path / 'parts'}") == 0
    assert train("--resume", tmp_path / "parts", "updates=120") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_another_seed_gives_other_weights(tmp_path, data):
    for seed in (1, 2):
        common = ("h2o_plus", f"dataset={data}", "robot=worn", f"seed={seed}", *QUICK_H2O)
        assert train(*common, "updates=20", f"run={tmp_path / str(seed)}") == 0
    a, b = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert not torch.equal(a["policy.head.weight"], b["policy.head.weight"])


def test_sac_learns_to_stand_in_the_twin():
    # At 50 Hz a second is a quarter of the decisions, so that a few thousand updates are enough.
    nominal = load_robot("ideal")
    robot = dataclasses.replace(nominal, interface=dataclasses.replace(nominal.interface, rate_hz=50.0))
    small = ("updates=5000", "batch_simulated=128", "policy_layers=[32,32]", "critic_layers=[32,32]")
    fast = ("discount=0.97", "learning_rate=2e-3", "polyak=0.03", "policy_average=0.995", "log.evaluate_s=5")
    config = load_train_config("sac", (*small, *fast))
    trainer = Trainer(config, robot, PolicyContract(robot.interface, get_task("stand")), None)
    before = trainer.evaluate()
    while trainer.agent.updates < config.updates:
        trainer.round()
    after = trainer.evaluate()
    assert before["survived"] == 0.0
    assert after["survived"] >= 0.75


def test_onnx_answers_as_the_trained_policy_and_carries_its_provenance(tmp_path, data, capsys):
    run, output = tmp_path / "run", tmp_path / "new" / "policy.onnx"
    assert train("h2o_plus", f"dataset={data}", "robot=worn", *QUICK_H2O, "updates=40", f"run={run}") == 0
    assert cli.main(["export", str(run), "-o", str(output)]) == 0
    assert "10,000 states" in capsys.readouterr().out
    assert cli.main(["export", str(run), "-o", str(output / "inside.onnx")]) == 2
    assert "inside.onnx: Not a directory" in capsys.readouterr().err
    directory = RunDirectory(run)
    info = directory.read_info()
    policy, scaling = restore_policy(info, directory.load_checkpoint())
    deployed = DeployedPolicy(output)
    rng = np.random.default_rng(1)
    for size in (0.01, 1.0, 100.0):
        for state in (rng.standard_normal((50, 4)) * size).astype(np.float32):
            with torch.no_grad():
                observation = torch.from_numpy(state[info.contract.task.indices]).double()
                wanted = 3.0 * policy.double().act(scaling.double()(observation[None])).item()
            assert deployed.torque_nm(state) == pytest.approx(wanted, abs=3e-6)
    assert deployed.contract == PolicyContract(load_robot("worn").interface, get_task("stand"))
    source = deployed.provenance
    assert source["seed"] == 0
    assert source["updates"] == 40
    assert source["config"]["h2o_plus"]["lambda_v"] == 0.1
    assert len(source["dataset"]["sha256"]) == 64
    assert source["dataset"]["provenance"] == {"kind": "test"}
    assert source["twin"]["kind"] == "closed_form"
    assert source["software"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert max(o.version for o in onnx.load(output).opset_import) <= 17


def test_export_refuses_weights_that_are_not_finite(tmp_path, data, capsys):
    run = tmp_path / "run"
    assert train("h2o_plus", f"dataset={data}", "robot=worn", *QUICK_H2O, "updates=20", f"run={run}") == 0
    directory = RunDirectory(run)
    state = directory.load_checkpoint()
    state["agent"]["averaged_policy.head.bias"][0] = float("nan")
    directory.save_checkpoint(state)
    assert cli.main(["export", str(run), "-o", str(tmp_path / "p.onnx")]) == 2
    assert "finite" in capsys.readouterr().err
    assert not (tmp_path / "p.onnx").exists()


def test_divergence_names_what_diverged(tmp_path, data):
    config = load_train_config("h2o_plus", (f"dataset={data}", "robot=worn", *QUICK_H2O))
    robot, dataset = load_robot("worn"), Dataset.load(data)
    trainer = Trainer(config, robot, PolicyContract(robot.interface, dataset.task), dataset)
    with torch.no_grad():
        trainer.agent.critic.net.biases[-1].fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="loss/critic"):
        trainer.run(RunDirectory(tmp_path))
    assert RunDirectory(tmp_path).read_progress().state == "failed"
    assert not RunDirectory(tmp_path).has_checkpoint()


WRONG = {
    "unknown key": (("h2o_plus", "h2o_plus.lamda_v=0.1"), "lambda_v"),
    "unknown config": (("h2o_plsu",), "h2o_plus"),
    "wrong type": (("h2o_plus", "updates=many"), "updates"),
    "impossible value": (("h2o_plus", "h2o_plus.lambda_v=2"), "[0, 1]"),
    "no dataset given": (("h2o_plus",), "dataset="),
    "missing file": (("h2o_plus", "dataset=nowhere.h5"), "nowhere.h5"),
    "unknown robot": (("sac", "robot=wron"), "worn"),
    "unknown task": (("sac", "task=stnad"), "stand"),
    "sac with data": (("sac", "dataset=x.h5"), "dataset"),
    "unknown device": (("sac", "device=abacus"), "abacus"),
    "no run to resume": (("--resume", "nowhere"), "run.json"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_with_status_2_and_one_line(name, tmp_path, capsys):
    arguments, word = WRONG[name]
    run = [] if "--resume" in arguments else [f"run={tmp_path / 'run'}"]
    assert train(*arguments, *run) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_dataset_of_another_robot_is_refused(tmp_path, data, capsys):
    other = tmp_path / "other.yaml"
    text = (Path(__file__).parents[1] / "config" / "robots" / "worn.yaml").read_text()
    other.write_text(text.replace("wheel_radius_m: 0.065", "wheel_radius_m: 0.1"))
    assert train("h2o_plus", f"dataset={data}", f"robot={other}", f"run={tmp_path / 'run'}") == 2
    assert "interface" in capsys.readouterr().err


def test_task_that_is_not_the_dataset_s_is_refused(tmp_path, data, capsys):
    assert train("h2o_plus", f"dataset={data}", "robot=worn", "task=move", f"run={tmp_path / 'run'}") == 2
    assert "stand" in capsys.readouterr().err


def test_limits_tighter_than_the_data_are_refused(tmp_path, data, capsys):
    common = ("h2o_plus", f"dataset={data}", "robot=worn", f"run={tmp_path / 'run'}")
    assert train(*common, "shaping.stand.x_limit_m=0.001") == 2
    assert "shaping.stand.x_limit_m=0.001" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_folder_is_not_overwritten_and_resume_changes_no_hyperparameter(tmp_path, data, capsys):
    common = ("h2o_plus", f"dataset={data}", "robot=worn", *QUICK_H2O, "updates=20", f"run={tmp_path / 'run'}")
    assert train(*common) == 0
    capsys.readouterr()
    assert train(*common) == 2
    assert "--resume" in capsys.readouterr().err
    assert train("--resume", tmp_path / "run", "discount=0.5") == 2
    assert "discount" in capsys.readouterr().err


def test_damaged_checkpoint_is_refused(tmp_path, data, capsys):
    run = tmp_path / "run"
    assert train("h2o_plus", f"dataset={data}", "robot=worn", *QUICK_H2O, "updates=20", f"run={run}") == 0
    file = run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:2000])
    capsys.readouterr()
    assert train("--resume", run, "updates=40") == 2
    assert "not a checkpoint" in capsys.readouterr().err


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, data):
    run = tmp_path / "run"
    arguments = ["h2o_plus", f"dataset={data}", "robot=worn", *QUICK_H2O, "updates=1000000", f"run={run}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "h2o_training.train_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / "progress.json").exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert f"--resume {run}" in error
    assert json.loads((run / "progress.json").read_text())["state"] == "interrupted"
    done = RunDirectory(run).load_checkpoint()["updates"]
    assert done > 0
    assert train("--resume", run, f"updates={done + 20}") == 0


def test_second_ctrl_c_and_sigterm_do_not_cost_the_checkpoint_but_a_third_ctrl_c_stops_at_once():
    with stop_on_signal() as stopped:
        assert not stopped()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
            assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


IMPOSSIBLE = [
    *("time_limit_s=0", "policy_average=1", "policy_average=-0.1", "policy_learning_rate=0", "value.temperature=0"),
    *("shaping.stand.smoothness=-1", "shaping.stand.x_limit_m=0", "shaping.move.v_limit_mps=-1"),
    *("policy_layers=[]", "critic_layers=[64,0]", "policy_layers=[1000000]", "batch_real=0", "batch_real=100001"),
    *("batch_simulated=0", "seed=-1", "updates=0", "learning_rate=0", "reward_scale=0", "reward_scale=.inf"),
    *("discount=1", "discount=0", "polyak=0", "polyak=1.1", "log.every=0", "log.evaluate_every=0", "log.evaluate_s=0"),
    *("log.checkpoint_every=-1", "collect.episode_s=0", "collect.episode_s=1e9", "collect.steps=0"),
    *("value.layers=[]", "ratio.noise_std=-1", "ratio.logit_bound=0", "ratio.every=0"),
    *("ratio.batch=0", "ratio.clip_max=0", "ratio.clip_min=2", "ratio.layers=[-1]"),
    *("twin.num_envs=0", "twin.effects.torque_factor=0", "shaping.stand.smoothness=.nan", f"seed={2**63}"),
]


@pytest.mark.parametrize("override", IMPOSSIBLE)
def test_impossible_value_is_refused_by_the_name_of_its_key(override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load_train_config("h2o_plus", [override])
    *groups, name = key.split(".")
    assert name in str(caught.value)
    assert not groups or groups[-1] in str(caught.value).split(":", 1)[1]
    assert "must" in str(caught.value)


def test_episode_shorter_than_a_control_step_is_refused(tmp_path, capsys):
    assert train("sac", "collect.episode_s=0.004", f"run={tmp_path / 'run'}") == 2
    assert "collect.episode_s must be at least one control step of robot 'ideal', 0.005 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "not JSON"),
        ("[]", "format 2"),
        ('{"format": 2}', "no config, interface, task, provenance"),
        ('{"format": 2, "config": {}, "interface": {}, "task": {}, "provenance": 3}', "provenance"),
    ],
)
def test_damaged_run_json_is_status_2(tmp_path, capsys, content, word):
    (tmp_path / "run.json").write_text(content)
    assert train("--resume", tmp_path) == 2
    assert word in capsys.readouterr().err


def test_resume_without_the_dataset_says_how_to_name_its_new_place(tmp_path, data, capsys):
    moved, run = tmp_path / "moved.h5", tmp_path / "run"
    moved.write_bytes(data.read_bytes())
    assert train("h2o_plus", f"dataset={moved}", "robot=worn", *QUICK_H2O, "updates=20", f"run={run}") == 0
    moved.unlink()
    capsys.readouterr()
    assert train("--resume", run, "updates=40") == 2
    error = capsys.readouterr().err
    assert str(moved) in error
    assert "dataset=PATH" in error
    assert train("--resume", run, "updates=40", f"dataset={data}") == 0


def test_demo_trains_anew_where_its_run_was_stopped_before_the_first_checkpoint(tmp_path, data):
    shipped = load_layered(find_config("training", "h2o_plus"))
    quick = tmp_path / "quick.yaml"
    quick.write_text(yaml.safe_dump(apply_overrides(shipped, [*QUICK_H2O, "updates=20"])))
    (tmp_path / "dataset.h5").write_bytes(data.read_bytes())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    demo = Demo(tmp_path, Settings(robot="worn", config=str(quick)), Console())
    next(step for step in demo.steps() if step.product == "trained").run()
    assert RunDirectory(tmp_path / "run").load_checkpoint()["updates"] == 20


@pytest.mark.parametrize("name", ["h2o_plus", "paper/h2o_plus", "sac"])
def test_shipped_configurations_load(name):
    load_train_config(name, ())
