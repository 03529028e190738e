# SPDX-License-Identifier: Apache-2.0
"""Several seeds with one command: side by side, stopped together, resumed, and one that fails is not all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from h2o_control import cli
from h2o_control.errors import ConfigError
from h2o_training.run_dir import Progress, RunDirectory
from h2o_training.train_config import load_train_config
from h2o_training.train_seeds import begin, parse_seeds, unfinished

SMALL = ("policy_layers=[16]", "critic_layers=[16]", "batch_simulated=16", "twin.num_envs=4", "task=stand")
SMALL = (*SMALL, "collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return RunDirectory(run).load_checkpoint()["agent"]


@pytest.mark.parametrize(("text", "seeds"), [("5", [0, 1, 2, 3, 4]), ("3-5", [3, 4, 5]), ("7-7", [7])])
def test_seeds_are_a_count_or_a_range(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "5-3", "1,2", "many", "", "100000"])
def test_what_names_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_each_seed_is_the_run_it_would_be_alone_and_one_that_fails_does_not_stop_the_others(tmp_path, capsys) -> None:
    run = tmp_path / "seeds"
    # A file where the log of seed 1 should go.
    (run / "seed-1").mkdir(parents=True)
    (run / "seed-1" / "tensorboard").write_text("")
    words = ["train", "sac", *SMALL, "updates=40"]
    assert cli.main([*words, f"run={run}", "--seeds", "3", "--jobs", "2"]) == 1
    said = capsys.readouterr()
    assert "seed 1 failed" in said.err and "train.log" in said.err
    assert "SAC" in said.out and "0-2*" in said.out
    assert cli.main([*words, "seed=2", f"run={tmp_path / 'alone'}"]) == 0
    for name, value in weights(tmp_path / "alone").items():
        assert torch.equal(value, weights(run / "seed-2")[name]), name
    assert not torch.equal(weights(run / "seed-0")["policy.head.weight"], weights(run / "seed-2")["policy.head.weight"])
    capsys.readouterr()
    assert cli.main([*words, f"run={run}", "--seeds", "3"]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
    # Whatever was in the way is gone; only what is not finished is run.
    before = (run / "seed-0" / "checkpoint.pt").stat().st_mtime_ns
    (run / "seed-1" / "tensorboard").unlink()
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert weights(run / "seed-1")
    assert (run / "seed-0" / "checkpoint.pt").stat().st_mtime_ns == before


def test_ctrl_c_stops_all_with_a_checkpoint_and_resume_goes_on_with_all(tmp_path: Path, capsys) -> None:
    run = tmp_path / "seeds"
    words = ["train", "sac", *SMALL, "updates=1000000", f"run={run}", "--seeds", "2", "--jobs", "1"]
    code = "import sys; from h2o_control.cli import main; sys.exit(main())"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "seed-0" / "progress.json").exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: parent and seeds
        _, error = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    assert child.returncode == 130
    assert f"h2o-robot train --resume {run}" in error
    progress = RunDirectory(run / "seed-0").read_progress()
    assert progress is not None and progress.state == "interrupted"
    assert not (run / "seed-1" / "run.json").exists()
    wanted = RunDirectory(run / "seed-0").load_checkpoint()["updates"] + 20
    assert cli.main(["train", "--resume", str(run), f"updates={wanted}"]) == 0
    for seed in (0, 1):
        assert RunDirectory(run / f"seed-{seed}").load_checkpoint()["updates"] == wanted
    assert "0-1 " in capsys.readouterr().out


def test_what_is_left_to_do_follows_from_the_folders(tmp_path: Path) -> None:
    config = load_train_config("sac", (*SMALL, "updates=40"))
    names = [seed.folder.name for seed in begin(config, tmp_path, [0, 1, 2])]
    assert names == ["seed-0", "seed-1", "seed-2"]
    for seed, state in enumerate(("finished", "interrupted")):
        directory = RunDirectory(tmp_path / f"seed-{seed}")
        directory.save_checkpoint({})
        directory.write_progress(Progress(40 if seed == 0 else 20, 40, state=state))

    def words(*overrides: str) -> dict[int, list[str]]:
        return {seed.number: seed.words[:3] for seed in unfinished(tmp_path, overrides)}

    resumed = ["train", "--resume", str(tmp_path / "seed-1")]
    anew = ["train", str(tmp_path / "config.yaml"), "seed=2"]
    assert words() == {1: resumed, 2: anew}
    assert words("log.every=10") == {1: resumed, 2: anew}
    assert list(words("updates=60")) == [0, 1, 2]


def test_a_folder_is_not_shared_by_configurations_nor_with_a_single_run(tmp_path: Path) -> None:
    config = load_train_config("sac", (*SMALL, "updates=40"))
    begin(config, tmp_path, [0])
    assert [seed.number for seed in begin(config, tmp_path, [5])] == [5]
    other = load_train_config("sac", (*SMALL, "updates=41"))
    with pytest.raises(ConfigError, match="another configuration"):
        begin(other, tmp_path, [6])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="single run"):
        begin(config, tmp_path, [6])


WRONG = {
    "a seed beside seeds": (["sac", *SMALL, "seed=3", "--seeds", "2"], "seed=3"),
    "jobs without seeds": (["sac", *SMALL, "--jobs", "2"], "--jobs"),
    "no job at all": (["sac", *SMALL, "--seeds", "2", "--jobs", "0"], "--jobs"),
    "a wrong key": (["sac", *SMALL, "--seeds", "2", "discont=0.9"], "discount"),
    "a missing dataset": (["h2o_plus", "--seeds", "2", "dataset=nowhere.h5"], "nowhere.h5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_before_any_seed_starts(name: str, tmp_path: Path, capsys) -> None:
    words, expected = WRONG[name]
    assert cli.main(["train", *words, f"run={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
