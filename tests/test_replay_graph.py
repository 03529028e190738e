# SPDX-License-Identifier: Apache-2.0
"""A bag played through the real policy node: every observation answered, with the bits that replay gives offline."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bag_tools import START_NS, STEP_NS, make_bag, swaying
from graph import BIN
from h2o_control import topics
from h2o_control.bag_reader import read_bag
from h2o_control.contract import Interface
from h2o_training import replay_bag

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parents[1]


def play(bag: Path, policy: Path, record: Path, timeout_s: float = 120.0) -> str:
    """Play a bag by the launch file, which must end by itself."""
    words = [str(BIN / "h2o-robot"), "up", "launch/replay.launch.yaml"]
    words += [f"bag:={bag}", f"policy:={policy}", f"record:={record}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_played_bag_gets_the_answers_that_replay_gives_and_the_launch_file_ends_by_itself(
    stand_policy: Path, tmp_path: Path
) -> None:
    first, second = swaying(300), swaying(200, 1, START_NS + 350 * STEP_NS)
    first["modes"] = [topics.BALANCE] * 100 + [topics.TORQUE] * 120 + [topics.HOLD] * 80
    second["modes"] = [topics.BALANCE] * 50 + [topics.TORQUE] * 150
    bag = make_bag(tmp_path / "bag", [first, second], Interface())
    answers = tmp_path / "answers"
    said = play(bag, stand_policy, answers)
    words = [str(bag), "--policy", str(stand_policy), "--against", str(answers), "-o", str(tmp_path / "out")]
    status = replay_bag.command(words)
    (found,) = json.loads((tmp_path / "out" / "replay.json").read_text())["agreement"]["policies"]
    assert (status, found["agreed"]) == (0, True), (found, said)
    assert found["recorded"] == found["answered"] == found["equal"] == 500
    recorded = read_bag(answers, require=(topics.WHEEL_TORQUE,))
    assert sum(len(e.requested.stamp_ns) for e in recorded.episodes) == 500
