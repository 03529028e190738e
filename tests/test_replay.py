# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot replay`: the same torques each time, compared by place, cut by the driver's limits, beside the twin."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_tools import START_NS, STEP_NS, make_bag, swaying
from h2o_control import topics
from h2o_control.bag_reader import Episode, ModeChange, Torques, read_bag
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ContractError, DataError, UserError
from h2o_control.policy import Policy
from h2o_training import replay_bag
from h2o_training.dataset_build import build_dataset, damaged_files
from h2o_training.mode_summary import write_bag_report
from h2o_training.replay_agreement import agreement
from h2o_training.replay_answers import Answers, Recorded, ask, engaged
from h2o_training.replay_compare import EXECUTED, compare
from h2o_training.replay_limits import find_cuts, sent_nm
from h2o_training.replay_result import find_setting
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.limits import Limits
from wheel_leg_driver.robot import load_robot

GAIN = lqr_gain(load_robot("ideal"))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return linear_policy(tmp_path / "policy.onnx", list(GAIN))


def made(tmp_path: Path, *runs: dict[str, Any]) -> Recorded:
    return Recorded.of(read_bag(make_bag(tmp_path / "bag", runs, Interface())))


def answered(recorded: Recorded, torque_nm: Any, policy: Path) -> Answers:
    return Answers("policy", Policy(policy), np.asarray(torque_nm, dtype=np.float64), "")


def in_command(run: dict[str, Any]) -> dict[str, Any]:
    """The linear policy in command all along, x counted from the start, its own torque executed."""
    run["states"][:, 0] -= run["states"][0, 0]
    run["executed"] = np.concatenate([[0.0], -(run["states"] @ GAIN)[:-1]])
    run["modes"] = [topics.TORQUE] * len(run["modes"])
    return run


def replay(bag: Path, out: Path, *words: str | Path) -> dict[str, Any]:
    assert replay_bag.command([str(bag), "-o", str(out), *map(str, words)]) == 0
    return dict(json.loads((out / "replay.json").read_text()))


def test_policy_is_compared_with_what_was_executed_and_the_place_is_named(policy: Path, tmp_path: Path) -> None:
    run = in_command(swaying(400))
    run["executed"][301] += 0.5
    bag = make_bag(tmp_path / "bag", [run], Interface())
    (row,) = replay(bag, tmp_path / "out", "--policy", policy)["comparisons"]
    assert (row["policy"], row["other"], row["mode"]) == ("policy.onnx", "executed", "torque")
    assert (row["steps"], row["saturated_share"]) == (399, 0.0)
    assert row["rms_difference_nm"] == pytest.approx(0.5 / np.sqrt(399), rel=1e-3)
    assert row["correlation"] > 0.95
    worst = row["largest"][0]
    assert worst["policy_nm"] - worst["other_nm"] == pytest.approx(-0.5, abs=1e-5)
    assert worst["place"]["time_s"] == pytest.approx(300 * 0.005)
    assert worst["place"]["episode"] == "bag_0.mcap"
    assert worst["place"]["state"] == pytest.approx(run["states"][300], abs=1e-9)


def test_torques_are_the_same_bits_here_again_and_in_another_process(policy: Path, tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", [in_command(swaying(300))], Interface())
    first = replay(bag, tmp_path / "1", "--policy", policy, "--twin", "ideal")
    again = replay(bag, tmp_path / "2", "--policy", policy, "--twin", "ideal")
    assert first["twin"]["robot"] == "ideal"
    code = "import sys; from h2o_training.replay_bag import command; sys.exit(command(sys.argv[1:]))"
    words = [str(bag), "--policy", str(policy), "-o", str(tmp_path / "3")]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    files = [(tmp_path / name / "replay.npz").read_bytes() for name in "123"]
    assert files[0] == files[1] == files[2]
    assert first["torques"]["sha256"] == hashlib.sha256(files[0]).hexdigest()
    drop = re.compile(r'"created": "[^"]*"')
    assert drop.sub("", json.dumps(again)) == drop.sub("", json.dumps(first))
    with np.load(tmp_path / "3" / "replay.npz") as content:
        assert content["torque_nm"].shape == (1, 300)
        assert content["stamp_ns"].tolist() == [START_NS + k * STEP_NS for k in range(300)]
        assert content["policies"].tolist() == ["policy.onnx"]


def test_x_is_counted_from_the_takeover_as_the_robot_does(policy: Path, tmp_path: Path) -> None:
    run = swaying(400)
    run["states"][:, 0] += 2.0
    run["modes"] = [topics.BALANCE] * 100 + [topics.TORQUE] * 200 + [topics.BALANCE] * 100
    fed = run["states"].copy()
    fed[100:300, 0] -= fed[99, 0]
    run["executed"] = np.concatenate([[0.0], -(fed @ GAIN)[:-1]])
    recorded = made(tmp_path, run)
    answers = ask("policy", Policy(policy), recorded)
    compared = compare(recorded, "p", answers.torque_nm, EXECUTED, recorded.executed_nm, topics.TORQUE, 3.0)
    assert compared is not None
    assert (compared.steps, compared.saturated_share) == (200, 0.0)
    assert compared.policy_rms_nm > 0.05
    assert compared.rms_difference_nm == pytest.approx(0.0, abs=1e-5)


def test_a_policy_counts_as_in_command_by_the_modes_it_had_heard_of() -> None:
    # At 2 the driver takes the robot back: its command says so at once, /mode a moment later.
    stamps = np.arange(5, dtype=np.int64) * 5_000_000
    none = Torques.none()
    command = Torques(stamps, np.zeros((5, 2)), np.array(["balance", "torque", "hold", "hold", "hold"]))
    changes = (ModeChange(4_900_000, "torque", "by request"), ModeChange(12_000_000, "hold", "tilt"))
    episode = Episode("e", "", stamps, np.zeros((5, 4)), none, none, command, changes, False, stamps + 1_000_000)
    assert episode.modes().tolist() == ["balance", "torque", "hold", "hold", "hold"]
    assert engaged(episode).tolist() == [False, True, True, False, False]
    assert engaged(dataclasses.replace(episode, mode_changes=())).tolist() == [False, True, False, False, False]


def test_policies_of_different_tasks_are_compared_with_each_other(policy: Path, tmp_path: Path) -> None:
    move = linear_policy(tmp_path / "move.onnx", [0.0, *GAIN[1:]], TASKS["move"])
    run = in_command(swaying(200))
    bag = make_bag(tmp_path / "bag", [run], Interface())
    rows = replay(bag, tmp_path / "out", "--policy", policy, "--policy", move)["comparisons"]
    assert [(r["policy"], r["other"]) for r in rows] == [
        ("policy.onnx", "executed"),
        ("move.onnx", "executed"),
        ("policy.onnx", "move.onnx"),
    ]
    # They differ by what the first one says about x, and by nothing else.
    expected = np.sqrt(np.mean((GAIN[0] * run["states"][:, 0]) ** 2))
    assert rows[2]["rms_difference_nm"] == pytest.approx(expected, rel=1e-4)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Policies against each other" in page
    for label in ("x (m)", "v (m/s)", "θ (rad)", "θ̇ (rad/s)", "difference (Nm)", "time (s)"):
        assert json.dumps(label).replace("/", "\\u002f") in page or label in page


def test_limits_cut_torque_and_rate_as_the_driver_does(policy: Path, tmp_path: Path) -> None:
    run = swaying(6)
    run["executed"] = np.zeros(6)
    recorded = made(tmp_path, run)
    interface = Interface()  # 3 Nm, 200 Hz
    limits = Limits(torque_nm=2.0, torque_rate_nmps=100.0)  # 0.5 Nm a step
    answers = answered(recorded, [0.1, 0.7, 2.5, 2.5, np.nan, 0.2], policy)
    sent = sent_nm(recorded, answers, [limits], interface)
    # After the gap the rate counts from what was executed there: 0.
    assert sent == pytest.approx([0.1, 0.6, 1.1, 1.6, np.nan, 0.2], nan_ok=True)
    torque, rate, *_ = find_cuts(recorded, [answers], [limits], interface)
    assert (torque.limit, torque.steps, torque.of, torque.bounds) == ("torque", 2, 5, (2.0,))
    assert torque.rms_nm == pytest.approx(0.5)
    assert (rate.limit, rate.steps, rate.share) == ("torque rate", 3, 3 / 5)
    assert rate.first is not None
    assert rate.first.time_s == pytest.approx(0.005)
    assert rate.rms_nm == pytest.approx(np.sqrt((0.1**2 + 0.9**2 + 0.4**2) / 3))
    assert rate.worst_value == pytest.approx(0.9)


def test_limits_on_the_state_say_where_a_commander_would_have_lost_the_robot(policy: Path, tmp_path: Path) -> None:
    run = swaying(100)
    run["states"][:] = 0.0
    run["states"][40:45, 2] = 0.45
    run["states"][60:90, 1] = -1.3
    run["states"][99, 0] = 10.5
    run["modes"][70:] = [topics.DISARMED] * 30
    recorded = made(tmp_path, run)
    answers = answered(recorded, np.zeros(100), policy)
    cuts = {c.limit: c for c in find_cuts(recorded, [answers], [Limits(speed_action="off")], Interface())}
    assert (cuts["tilt"].steps, cuts["tilt"].of) == (5, 70)
    assert cuts["tilt"].worst is not None
    assert cuts["tilt"].worst.time_s == pytest.approx(0.2)
    assert (cuts["speed"].steps, cuts["speed"].off) == (0, True)
    assert cuts["distance"].steps == 0  # it was not armed there
    on = {c.limit: c for c in find_cuts(recorded, [answers], [Limits()], Interface())}
    assert (on["speed"].steps, on["speed"].worst_value) == (10, pytest.approx(1.3))


def test_robot_and_limits_are_those_of_the_bag_or_said_to_be_defaults(tmp_path: Path) -> None:
    recorded = made(tmp_path, swaying(20))
    assert "defaults" in find_setting(recorded, None).limits_source
    assert "--twin" in find_setting(recorded, None).no_robot
    assert find_setting(recorded, load_robot("worn")).robots[0].name == "worn"
    odd = dataclasses.replace(recorded, episodes=(dataclasses.replace(recorded.episodes[0], configuration="[1]"),))
    assert "not what a driver of this project says" in find_setting(odd, None).no_robot


def test_twin_predicts_what_its_own_kind_of_robot_did_and_a_wrong_one_does_not(tmp_path: Path, policy: Path) -> None:
    import torch

    from h2o_training.replay_twin import HORIZON, consistency
    from h2o_training.twin import TwinConfig, make_twin

    robot = load_robot("ideal")
    twin = make_twin(TwinConfig(num_envs=1), robot, torch.Generator().manual_seed(1), dtype=torch.float64)
    twin.set_state(torch.tensor([[0.0, 0.0, 0.05, 0.0]], dtype=torch.float64))
    states, torques = [twin.state[0].numpy()], [0.0]
    for k in range(300):
        torques.append(float(-states[-1] @ GAIN) + 0.3 * np.sin(0.3 * k))
        states.append(twin.step(torch.tensor([torques[-1]], dtype=torch.float64))[0].numpy())
    run = swaying(301) | {"states": np.array(states), "executed": np.array(torques)}
    (episode,) = made(tmp_path, run).episodes
    found = consistency([episode], [robot], Interface(), TASKS["stand"])
    assert found.windows == 301 - 24 - HORIZON
    assert (found.twin_rms[[0, -1]] < 0.02 * found.nothing_rms[[0, -1]] + 1e-9).all()
    heavy = dataclasses.replace(robot, body=dataclasses.replace(robot.body, com_height_m=0.4))
    other = consistency([episode], [heavy], Interface(), TASKS["stand"])
    assert other.twin_rms[-1, 2] > 10 * found.twin_rms[-1, 2]
    weak = dataclasses.replace(robot, interface=Interface(torque_limit_nm=2.0))
    with pytest.raises(ContractError, match="torque_limit_nm"):
        consistency([episode], [weak], Interface(), TASKS["stand"])
    short = made(tmp_path / "short", swaying(30))
    with pytest.raises(DataError, match="no unbroken stretch"):
        consistency(short.episodes, [robot], Interface(), TASKS["stand"])


def heard(recorded: Recorded, torque_nm: Any, keep: Any = slice(None), states: Any = slice(None)) -> list[Episode]:
    """Answers as recorded beside these states."""
    (episode,) = recorded.episodes
    pair = np.stack([torque_nm, torque_nm], axis=1)
    requested = Torques(recorded.stamp_ns[keep], pair[keep], np.full(len(recorded), "hash")[keep])
    return [dataclasses.replace(episode, requested=requested, stamp_ns=episode.stamp_ns[states])]


def test_recorded_answers_agree_only_where_every_observation_has_the_same_bits(policy: Path, tmp_path: Path) -> None:
    run = in_command(swaying(50))
    run["states"][:, 0] += 0.3
    recorded = made(tmp_path, run)
    ours = ask("policy", Policy(policy), recorded)
    whole = agreement(recorded, ours, heard(recorded, ours.torque_nm))
    assert (whole.agreed, whole.recorded, whole.answered, whole.equal, whole.reasons()) == (True, 50, 50, 50, [])

    late = agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(3, None)))
    assert (late.agreed, late.answered, late.equal) == (False, 47, 47)
    assert "3 observations were not answered, first 0.000 s into bag_0.mcap" in late.reasons()[0]

    part = agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(3, None), slice(3, None)))
    assert part.agreed
    assert "3 of 50 states are not in the recording" in part.reasons()[0]

    other = ours.torque_nm.copy()
    other[7] = np.nextafter(other[7], 9.0)
    other[9] = np.nan
    wrong = agreement(recorded, ours, heard(recorded, other))
    assert (wrong.agreed, wrong.differing, wrong.given_back, wrong.equal) == (False, 1, 1, 48)
    assert wrong.largest_at is not None
    assert wrong.largest_at.time_s == pytest.approx(0.035)

    strange = heard(recorded, ours.torque_nm)
    moved = dataclasses.replace(strange[0].requested, stamp_ns=strange[0].requested.stamp_ns + 1)
    # The last of them may answer an observation that came when the recording had ended.
    assert agreement(recorded, ours, [dataclasses.replace(strange[0], requested=moved)]).strays == 49


def test_only_answers_within_the_recording_count_and_its_last_may_be_cut_off(policy: Path, tmp_path: Path) -> None:
    recorded = made(tmp_path, in_command(swaying(100)))
    ours = ask("policy", Policy(policy), recorded)
    # The answers begin before the first state of the recording, as topics start one by one.
    early = agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(1, None), slice(3, None)))
    assert (early.agreed, early.recorded, early.answered, early.equal) == (True, 97, 97, 97)
    other = ours.torque_nm.copy()
    other[1] += 0.5
    assert not agreement(recorded, ours, heard(recorded, other, slice(1, None), slice(3, None))).agreed

    cut = agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(None, -1)))
    assert (cut.agreed, cut.recorded, cut.ended, cut.answered) == (True, 100, 1, 99)
    assert cut.reasons() == ["the recording of 1 episode ended before the last answer came"]
    twice = agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(None, -2)))
    assert not twice.agreed
    inside = agreement(recorded, ours, heard(recorded, ours.torque_nm, np.arange(100) != 50))
    assert (inside.agreed, inside.ended) == (False, 0)


def test_a_recording_that_was_stopped_early_does_not_agree_and_one_without_disarmed_states_does(
    policy: Path, tmp_path: Path
) -> None:
    run = in_command(swaying(100))
    run["modes"] = [topics.TORQUE] * 60 + [topics.DISARMED] * 40
    recorded = made(tmp_path, run)
    ours = ask("policy", Policy(policy), recorded)

    def stopped_after(count: int) -> Any:
        return agreement(recorded, ours, heard(recorded, ours.torque_nm, slice(count), slice(count)))

    whole, part = stopped_after(60), stopped_after(30)
    assert (whole.agreed, whole.lacking) == (True, 0)
    assert "40 while the robot was not armed" in whole.reasons()[0]
    assert (part.agreed, part.lacking, part.armed) == (False, 30, 60)
    assert "70 of 100 states are not in the recording" in part.reasons()[0]
    assert "30 of the 60 while it was armed (it was stopped early" in part.reasons()[0]


def test_answers_that_count_x_from_the_next_observation_are_told_apart(policy: Path, tmp_path: Path) -> None:
    run = swaying(100)
    run["modes"] = [topics.BALANCE] * 40 + [topics.TORQUE] * 60
    recorded = made(tmp_path, run)
    ours = ask("policy", Policy(policy), recorded)
    later = dataclasses.replace(recorded, engaged=np.arange(100) >= 41)
    theirs = ask("policy", Policy(policy), later).torque_nm
    found = agreement(recorded, ours, heard(recorded, theirs))
    assert (found.agreed, found.differing) == (True, 0)
    assert 0 < found.takeover == 100 - found.equal
    assert any("a moment earlier or later than the recorder" in reason for reason in found.reasons())

    # One time in command has one takeover: half of it counted from elsewhere is no answer of this policy's node.
    mixed = np.where(np.arange(100) < 70, theirs, ours.torque_nm)
    wrong = agreement(recorded, ours, heard(recorded, mixed))
    assert not wrong.agreed
    assert wrong.differing > 20


def test_answers_that_a_node_would_refuse_are_gaps_with_a_reason(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = swaying(20)
    run["states"][5, 3] = np.nan
    bag = make_bag(tmp_path / "bag", [run], Interface())
    refusals = replay(bag, tmp_path / "out", "--policy", policy)["refusals"]
    assert [(r["policy"], r["steps"]) for r in refusals] == [("policy.onnx", 1)]
    assert refusals[0]["first"].startswith("observation is not finite")
    assert "gives no torque at 1 states" in " ".join(capsys.readouterr().out.split())
    with np.load(tmp_path / "out" / "replay.npz") as content:
        assert np.flatnonzero(np.isnan(content["torque_nm"][0])).tolist() == [5]


def test_a_result_of_other_inputs_is_never_replaced(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [make_bag(tmp_path / day / "bag", [swaying(n)], Interface()) for day, n in (("mon", 30), ("tue", 40))]
    for bag in (*bags, bags[0]):
        assert replay_bag.command([str(bag), "--policy", str(policy)]) == 0
    held = {
        folder.name: json.loads((folder / "replay.json").read_text())["states"]
        for folder in tmp_path.glob("policy-replay-bag*")
    }
    assert held == {"policy-replay-bag": 30, "policy-replay-bag-2": 40}
    first = tmp_path / "policy-replay-bag"
    before = (first / "replay.json").read_bytes()
    with pytest.raises(UserError, match=r"other inputs \(bag\)"):
        replay(bags[1], first, "--policy", policy)
    with pytest.raises(UserError, match=r"other inputs \(twin\)"):
        replay(bags[0], first, "--policy", policy, "--twin", "worn")
    linear_policy(policy, [0.5 * g for g in GAIN])
    with pytest.raises(UserError, match=r"other inputs \(policies\)"):
        replay(bags[0], first, "--policy", policy)
    assert (first / "replay.json").read_bytes() == before
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "report.html").write_text("of evaluate")
    with pytest.raises(UserError, match=r"holds report\.html of something else"):
        replay(bags[0], tmp_path / "judged", "--policy", policy)


def test_a_damaged_bag_is_said_to_be_one_wherever_results_are_shown(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = make_bag(tmp_path / "bag", [swaying(4000)], Interface())
    (file,) = bag.glob("*.mcap")
    whole = read_bag(bag)
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 0xFF
    file.write_bytes(data)
    damaged = read_bag(bag)
    assert damaged.damaged == ("bag_0.mcap",)
    assert whole.damaged == ()
    content = replay(bag, tmp_path / "out", "--policy", policy)
    assert 0 < content["states"] < 4000
    assert content["damaged"].startswith("bag_0.mcap is cut off (was its recorder killed?) or damaged: used up to")
    assert content["damaged"] in " ".join(capsys.readouterr().out.split())
    assert "bag_0.mcap is cut off" in (tmp_path / "out" / "report.html").read_text()
    write_bag_report(tmp_path / "page.html", bag, TASKS["stand"], "A page")
    assert "bag_0.mcap is cut off" in (tmp_path / "page.html").read_text()
    assert damaged_files(build_dataset([bag], TASKS["stand"])) == ["bag_0.mcap"]


def test_names_that_look_like_markup_are_shown_as_they_are(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bag = make_bag(tmp_path / "bag[b]", [swaying(30)], Interface())
    named = policy.rename(policy.with_name("half[i].onnx"))
    replay(bag, tmp_path / "o [" / "x]", "--policy", named)
    out = capsys.readouterr().out
    assert f"report: {tmp_path}/o [/x]/report.html" in out
    assert "half[i].onnx" in out
    assert "bag[b]" in out


def test_what_cannot_be_replayed_is_refused(policy: Path, tmp_path: Path) -> None:
    other = make_bag(tmp_path / "other", [swaying(20)], Interface(wheel_radius_m=0.1))
    with pytest.raises(ContractError, match=r"wheel_radius_m: policy 0.065, bag other 0.1"):
        replay_bag.command([str(other), "--policy", str(policy)])
    run = swaying(20)
    run["modes"] = [topics.DISARMED] * 20
    idle = make_bag(tmp_path / "idle", [run], Interface())
    with pytest.raises(DataError, match="nobody balanced"):
        replay_bag.command([str(idle), "--policy", str(policy)])
    with pytest.raises(UserError, match="given twice"):
        replay_bag.command([str(idle), "--policy", str(policy), "--policy", str(policy)])
    balanced = make_bag(tmp_path / "balanced", [swaying(20)], Interface())
    with pytest.raises(DataError, match="no messages on /wheel_torque"):
        replay_bag.command([str(balanced), "--policy", str(policy), "--against", str(balanced)])
