# SPDX-License-Identifier: Apache-2.0
"""The demo apart from its steps: what is refused before anything is made, and how its children end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from h2o_control import cli
from h2o_training.child import TerminatedError, ended, raise_when_terminated
from h2o_training.demo import absolute

ROOT = Path(__file__).parents[1]

#: Says when it is ready; on Ctrl-C it takes a while to clean up and ends with 7.
SLOW_TO_CLEAN_UP = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--robot", "wron"), "worn"),
        (("--robot", "nowhere.yaml"), "nowhere.yaml"),
        (("--robot", "hardware.yaml"), "real hardware"),
        (("--config", "h2o_plsu"), "h2o_plus"),
        (("--config", "wrong.yaml"), "learning_rate"),
        (("--config", "sac"), "dataset"),
        (("--config", "moving.yaml"), "--task move"),
        (("--drive-s", "4"), "--drive-s must be at least 5, got 4"),
        (("--deploy-s", "-1"), "--deploy-s must be at least 5, got -1"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--updates", "0"), "--updates must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_status_2_before_a_folder_is_made(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.setenv("H2O_CONFIG_DIR", str(ROOT / "config"))
    monkeypatch.chdir(tmp_path)
    ideal = (ROOT / "config" / "robots" / "ideal.yaml").read_text()
    Path("hardware.yaml").write_text(ideal[: ideal.index("\nplant:")])
    Path("wrong.yaml").write_text("algorithm: h2o_plus\nlearning_rat: 1\n")
    Path("moving.yaml").write_text("algorithm: h2o_plus\ntask: move\nvalue: {}\nh2o_plus: {}\n")
    assert cli.main(["demo", "--folder", "demo", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not Path("demo").exists()


def test_a_file_is_named_by_its_absolute_path_and_a_shipped_one_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("my.yaml") == str(tmp_path / "my.yaml")
    assert absolute("worn") == "worn"


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt(), 7), (TerminatedError(signal.SIGTERM), None)])
def test_child_that_ctrl_c_has_reached_ends_by_itself_and_another_is_asked_to(interrupt, status):
    child = subprocess.Popen([sys.executable, "-c", SLOW_TO_CLEAN_UP], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    if status is not None:
        child.send_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), ended(child):
        raise interrupt
    child.stdout.close()
    assert child.returncode == (-signal.SIGTERM if status is None else status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_would_end_the_process_raises_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)
    with pytest.raises(TerminatedError) as caught, raise_when_terminated():
        os.kill(os.getpid(), number)
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_signal_that_is_ignored_as_under_nohup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_when_terminated():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
