# SPDX-License-Identifier: Apache-2.0
"""The loop with real nodes, in real time: drive and record, build, train a little, export, deploy, judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graph import BIN
from h2o_control.bag_reader import read_bag
from h2o_control.contract import TASKS
from h2o_training.dataset import Dataset
from h2o_training.mode_summary import summarise_modes

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parents[1]


def h2o_robot(*words: object, cwd: Path = ROOT, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "H2O_CONFIG_DIR": str(ROOT / "config")}
    command = [str(BIN / "h2o-robot"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s)


def succeed(*words: object) -> str:
    result = h2o_robot(*words)
    assert result.returncode == 0, f"h2o-robot {words[0]}: {result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen seconds of the scripted operator, recorded through the graph."""
    path = tmp_path_factory.mktemp("drive") / "bag"
    succeed("up", "launch/collect.launch.yaml", f"bag:={path}", "duration_s:=15", "seed:=3", "--until", "teleop")
    return path


def test_recorded_bag_becomes_a_dataset_with_executed_torque(bag: Path, tmp_path: Path) -> None:
    succeed("dataset", "build", bag, "--task", "stand", "-o", tmp_path / "d.h5")
    data = Dataset.load(tmp_path / "d.h5")
    assert len(data) > 0.8 * 15 * 200
    # Driven, not parked: the spread of every column is that of a robot in motion.
    assert (data.states.std(axis=0) > [0.03, 0.1, 0.02, 0.1]).all()
    assert data.actions.std() > 0.05
    # The state moves by its own velocity: stamps, order and units are right.
    step = data.next_states[:, 0] - data.states[:, 0]
    assert step == pytest.approx(data.states[:, 1] * 0.005, abs=0.004)


def test_other_peoples_readers_open_the_recorded_bag(bag: Path) -> None:
    from mcap.reader import make_reader
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        connection = next(c for c in reader.connections if c.topic == "/odom")
        _, _, raw = next(reader.messages([connection]))
        assert reader.deserialize(raw, connection.msgtype).child_frame_id == "base_link"
    assert counts["/odom"] == pytest.approx(counts["/wheel_command"], rel=0.05)
    with next(iter(bag.glob("*.mcap"))).open("rb") as stream:
        summary = make_reader(stream).get_summary()
        assert summary is not None
        assert {"/odom", "/joint_states", "/interface"} <= {c.topic for c in summary.channels.values()}


def test_policy_deployed_through_the_graph_is_in_command(stand_policy: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    said = succeed(
        *("up", "launch/deploy.launch.yaml", "robot:=ideal", f"policy:={stand_policy}", f"bag:={bag}"),
        *("duration_s:=8", "--until", "teleop"),
    )
    summaries = summarise_modes(read_bag(bag), TASKS["stand"])
    assert summaries["torque"].longest_s > 5.0, said
    assert summaries["torque"].max_distance_m < 0.3
    assert summaries["balance"].seconds > 1.0
    out = succeed("replay", bag, "--policy", stand_policy, "-o", tmp_path / "replayed")
    assert "policy" in out
    assert (tmp_path / "replayed" / "report.html").stat().st_size > 100_000


def test_demo_runs_the_loop_and_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ("demo", "--folder", tmp_path, "--robot", "ideal", "--drive-s", "8", "--deploy-s", "6", "--updates", "200")
    first = succeed(*words)
    folder = tmp_path / "001"
    result = json.loads((folder / "demo.json").read_text())
    assert result["alone"]["episodes"] == 10
    # A policy of 200 updates may fall, which ends an episode.
    assert sum(mode["seconds"] for mode in result["deployed"].values()) > 3.0
    assert "who was in command" in first
    (folder / "demo.json").unlink()
    (folder / "policy.onnx").unlink()
    again = succeed(*words)
    assert again.count("already in") == 5
    assert (folder / "policy.onnx").exists()


@pytest.mark.parametrize(("signal_name", "to_group", "status"), [("SIGINT", True, 130), ("SIGTERM", False, 143)])
def test_interrupted_demo_leaves_nothing_running_and_says_how_to_go_on(
    tmp_path: Path, signal_name: str, to_group: bool, status: int
) -> None:
    import signal
    import time

    import psutil

    process = subprocess.Popen(
        [str(BIN / "h2o-robot"), "demo", "--folder", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "001" / "drive.log"
    deadline = time.monotonic() + 60.0
    children = []
    try:
        while not (log.exists() and "balance: armed" in log.read_text()):
            assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 5
        # A terminal interrupts the whole group; a service manager or `kill` may end the demo's own process alone.
        (os.killpg if to_group else os.kill)(process.pid, signal.Signals[signal_name])
        out, _ = process.communicate(timeout=40.0)
        assert process.returncode == status
        assert "make demo" in out
        assert not [child for child in children if child.is_running()]
    finally:
        # What a failed test leaves behind at real-time priority would starve those after it.
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "data" / "robot_log").is_dir(), reason="the log of the real robot is not here"
)
def test_log_of_the_real_robot_goes_through_the_loop(tmp_path: Path) -> None:
    logs = sorted((ROOT.parent / "shared" / "data" / "robot_log").glob("*.txt.gz"))
    succeed(
        *("dataset", "import-log", *logs, "--columns", "x,v,theta,theta_dot,tau,done", "--rate-hz", "200"),
        *("-o", tmp_path / "log.h5"),
    )
    data = Dataset.load(tmp_path / "log.h5")
    assert len(data) > 14_000
    assert data.terminals.sum() == 1
    succeed(
        "train", "h2o_plus", f"dataset={tmp_path / 'log.h5'}", "robot=ideal", f"run={tmp_path / 'run'}", "updates=200"
    )
    succeed("export", tmp_path / "run", "-o", tmp_path / "p.onnx")
    succeed("evaluate", tmp_path / "p.onnx", "--robot", "worn", "--task", "stand", "--episodes", "1", "--seconds", "2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("up", "launch/collect.launch.yaml", "bag:=runs/never", "port:=/dev/ttyNothing"), "/dev/ttyNothing"),
        (("up", "launch/collect.launch.yaml", "bag:=runs/never", "robbot:=ideal"), "Did you mean 'robot'?"),
        (("dataset", "build", "launch", "--task", "stand", "-o", "x.h5"), "launch"),
        (("train", "h2o_plus", "learning_rat=1"), "Did you mean 'learning_rate'?"),
        (("train", "h2o_plus", "dataset=nowhere.h5"), "nowhere.h5"),
        (("evaluate", "nowhere.onnx", "--robot", "ideal"), "nowhere.onnx"),
        (("emulate", "--robot", "idael"), "Did you mean 'ideal'?"),
        (("fly",), "fly"),
    ],
)
def test_wrong_input_is_status_2_and_one_clear_line(words: tuple[str, ...], expected: str) -> None:
    result = h2o_robot(*words)
    assert result.returncode == 2, result.stdout + result.stderr
    assert expected in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert not (ROOT / "runs" / "never").exists()


def test_robot_side_runs_without_the_trainer() -> None:
    code = (
        "import sys; import h2o_control.policy_node, h2o_control.recorder_node, h2o_control.teleop_node, "
        "h2o_control.up, wheel_leg_driver.driver_node, wheel_leg_driver.emulator; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'mujoco', 'h2o_training')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"
