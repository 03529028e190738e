# SPDX-License-Identifier: Apache-2.0
"""The golden bags show what bags/README.md says, and every reader of the project takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h2o_control import topics
from h2o_control.bag_messages import bag_files
from h2o_control.bag_reader import read_bag
from h2o_control.contract import TASKS
from h2o_training import dataset_cli, replay_bag
from h2o_training.bag_configuration import configuration
from h2o_training.dataset_build import build_dataset
from h2o_training.mode_summary import write_bag_report
from make_golden_bags import GOLDEN, GOLDENS, MOST_BYTES, PAGE, SUMS, Golden, gaps, private, sums

ROOT = Path(__file__).parents[1]
STAND = TASKS["stand"]
each = pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_files_are_those_that_are_listed_and_small() -> None:
    assert sums() == SUMS.read_text()
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) <= MOST_BYTES
    page = PAGE.read_text("utf-8")
    assert all(f"| `{golden.name}` |" in page and golden.command in page for golden in GOLDENS)


@each
def test_a_bag_shows_what_the_page_says(golden: Golden) -> None:
    bag = read_bag(GOLDEN / golden.name)
    assert (golden.wrong(bag), gaps(bag)) == ("", "")
    assert private(bag.path) == ""
    robots = {c.robot.name for e in bag.episodes if (c := configuration(e)) is not None}
    assert robots == {golden.given["robot"]}
    # Device times are those of a clock that ran along with the stamps, as far as the emulator kept up with this one.
    for episode in bag.episodes:
        device_s = (episode.device_us - episode.device_us[0]) * 1e-6
        stamp_s = (episode.stamp_ns - episode.stamp_ns[0]) * 1e-9
        assert np.abs(device_s - stamp_s).max() < 0.2


@each
def test_a_bag_becomes_a_dataset(golden: Golden) -> None:
    dataset = build_dataset([GOLDEN / golden.name], STAND)
    bag = read_bag(GOLDEN / golden.name)
    armed = sum(int(np.isin(e.modes(), topics.ARMED).sum()) for e in bag.episodes)
    assert len(dataset) > 0.9 * armed
    assert (dataset.terminals.sum() > 0) == (golden.name == "fall")
    # The state moves by its own velocity.
    step = dataset.next_states[:, 0] - dataset.states[:, 0]
    assert np.median(np.abs(step - dataset.states[:, 1] * 0.005)) < 5e-4


def test_a_namespace_is_kept_in_the_bag_and_nothing_else_is_in_it() -> None:
    _, metadata = bag_files(GOLDEN / "namespaced")
    names = {row["topic_metadata"]["name"] for row in metadata["topics_with_message_count"]}
    assert names == {f"/robot1/{name}" for name in topics.TYPES}


def replayed(name: str, tmp_path: Path, *policies: str) -> dict[str, Any]:
    words = [word for name in policies for word in ("--policy", str(GOLDEN / "policies" / f"{name}.onnx"))]
    assert replay_bag.command([str(GOLDEN / name), *words, "-o", str(tmp_path)]) == 0
    return dict(json.loads((tmp_path / "replay.json").read_text()))


def test_answers_recorded_on_the_robot_are_those_that_replay_gives(tmp_path: Path) -> None:
    content = replayed("policy", tmp_path, "stand")
    (found,) = content["agreement"]["policies"]
    assert found["answered"] > 0.9 * found["states"]
    # Another machine's arithmetic may differ in the last bits of single precision.
    assert found["agreed"] or (found["rms_nm"] < 1e-5 and found["strays"] == 0)
    assert content["limits"]["source"] == "Limits are those of the driver when the bag was recorded."


def test_the_twin_explains_the_robot_that_it_was_made_of_and_not_the_worn_one(tmp_path: Path) -> None:
    ratios = {}
    for name in ("ideal", "worn"):
        twin = replayed(name, tmp_path / name, "stand")["twin"]
        assert twin["robot"] == name
        ratios[name] = np.array(twin["twin_rms"]["20"]) / np.array(twin["nothing_changes_rms"]["20"])
    assert (ratios["ideal"] < 0.5).all()
    assert (ratios["worn"][1:] > 1.0).all()


def test_two_policies_and_the_limits_on_a_bag_with_a_fall(tmp_path: Path) -> None:
    content = replayed("fall", tmp_path, "weak", "stand")
    assert {row["policy"] for row in content["comparisons"]} == {"weak.onnx", "stand.onnx"}
    assert [a["policy"] for a in content["agreement"]["policies"]] == ["weak.onnx"]
    tilt = next(cut for cut in content["limits"]["cuts"] if cut["limit"] == "tilt")
    assert tilt["bounds"] == [1.5]
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("name", "gaps_of_the_robot"), [("ideal", set()), ("worn", set()), ("killed", set()), ("hard", {"pitch", "lag"})]
)
def test_check_finds_in_a_bag_that_it_is_short_and_what_the_robot_is_known_for(
    name: str, gaps_of_the_robot: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset_cli.command(["check", str(GOLDEN / name), "--json", "-o", str(tmp_path / "check")]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    found = {f["check"] for f in findings if f["level"] in ("care", "refuse")}
    assert found - {"amount", "coverage"} == gaps_of_the_robot


def test_a_report_is_drawn_of_a_bag_that_was_cut_off(tmp_path: Path) -> None:
    summaries = write_bag_report(tmp_path / "page.html", GOLDEN / "killed", STAND, "Killed")
    assert summaries["balance"].seconds > 2.0
    assert "(recovered)" in (tmp_path / "page.html").read_text()
