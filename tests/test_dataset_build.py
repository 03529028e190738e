# SPDX-License-Identifier: Apache-2.0
"""A transition is one control step that happened: with its executed torque, in one mode, and never across a gap."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from bag_tools import START_NS, STEP_NS, device_time, joint_torques, make_bag, odometry, swaying, text, write_episode
from disk_tools import small_files
from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import Episode, Torques, read_bag
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ContractError, DataError
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset, episode_transitions
from h2o_training.dataset_cli import command

STAND = TASKS["stand"]


def build(tmp_path: Path, *episodes: dict[str, Any], task: str = "stand") -> Dataset:
    bag = make_bag(tmp_path / "bag", episodes, Interface())
    return build_dataset([bag], TASKS[task])


def test_states_and_torque_of_each_step_are_what_was_recorded(tmp_path: Path) -> None:
    run = swaying(100)
    dataset = build(tmp_path, run)
    assert len(dataset) == 99
    np.testing.assert_allclose(dataset.states, run["states"][:-1], atol=1e-7)
    np.testing.assert_allclose(dataset.next_states, run["states"][1:], atol=1e-7)
    # Executed over the step that ends at k + 1, mean of the wheels (0.05 Nm apart each way), over the 3 Nm limit.
    np.testing.assert_allclose(dataset.actions[:, 0], run["executed"][1:] / 3.0, atol=1e-7)
    np.testing.assert_array_equal(dataset.observations, dataset.states[:, [2, 3, 0, 1]])
    assert not dataset.terminals.any()
    assert np.flatnonzero(dataset.timeouts).tolist() == [98]


def test_the_reward_is_the_tasks_on_next_state_and_executed_torque(tmp_path: Path) -> None:
    run = swaying(3)
    run["states"] = np.array([[0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]], dtype=float)
    run["executed"] = np.array([0.0, 2.0, 0.0])
    stand, move = build(tmp_path, run), build_dataset([tmp_path / "bag"], TASKS["move"])
    assert stand.rewards[0] == pytest.approx(30 - 0.01 - 0.04 - 0.09 - 0.16 - 4.0)
    assert move.rewards[0] == pytest.approx(15 - 0.0 - 4.0)
    assert move.observations.shape == (2, 3)


def test_a_missing_observation_breaks_the_run(tmp_path: Path) -> None:
    run = swaying(100)
    for name in ("stamps_ns", "modes"):
        del run[name][50]
    run["states"], run["executed"] = np.delete(run["states"], 50, axis=0), np.delete(run["executed"], 50)
    dataset = build(tmp_path, run)
    assert len(dataset) == 97
    assert np.flatnonzero(dataset.timeouts).tolist() == [48, 96]
    assert dataset.episode_count == 2


def test_only_armed_modes_count_and_no_change_of_mode(tmp_path: Path) -> None:
    run = swaying(150)
    modes = {topics.DISARMED: 20, topics.BALANCE: 30, topics.TORQUE: 60, topics.HOLD: 20, topics.FAULT: 20}
    run["modes"] = [mode for mode, steps in modes.items() for _ in range(steps)]
    dataset = build(tmp_path, run)
    assert len(dataset) == 29 + 59 + 19
    assert np.flatnonzero(dataset.timeouts).tolist() == [28, 87, 106]
    assert dataset.provenance["bags"][0]["transitions_by_mode"] == {"balance": 29, "torque": 59, "hold": 19}


def test_a_fall_is_terminal_though_it_disarms_and_nothing_follows_it(tmp_path: Path) -> None:
    run = swaying(100)
    run["states"][60:, 2] = -0.51
    run["modes"] = [topics.TORQUE] * 60 + [topics.FAULT] * 40
    dataset = build(tmp_path, run)
    assert len(dataset) == 60
    assert np.flatnonzero(dataset.terminals).tolist() == [59]
    assert not dataset.timeouts.any()


def test_episodes_are_not_joined_although_their_stamps_would_fit(tmp_path: Path) -> None:
    dataset = build(tmp_path, swaying(50), swaying(50, start_ns=START_NS + 50 * STEP_NS))
    assert len(dataset) == 98
    assert np.flatnonzero(dataset.timeouts).tolist() == [48, 97]


def test_a_namespace_before_the_topics_changes_nothing(tmp_path: Path) -> None:
    plain = make_bag(tmp_path / "plain", [swaying(20)], Interface())
    spaced = make_bag(tmp_path / "spaced", [swaying(20)], Interface(), prefix="/lab/robot7/")
    a, b = build_dataset([plain], STAND), build_dataset([spaced], STAND)
    np.testing.assert_array_equal(a.states, b.states)
    np.testing.assert_array_equal(a.actions, b.actions)


@given(
    gaps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 3]), min_size=1, max_size=60),
    jitter=st.lists(st.floats(-0.4, 0.4), min_size=61, max_size=61),
    modes=st.lists(st.sampled_from(["balance", "balance", "torque", "disarmed"]), min_size=61, max_size=61),
    lost=st.sets(st.integers(0, 60), max_size=10),
)
@settings(max_examples=100, deadline=None)
def test_no_transition_spans_a_gap_whatever_was_lost(
    gaps: list[int], jitter: list[float], modes: list[str], lost: set[int]
) -> None:
    n = len(gaps) + 1
    ticks = np.concatenate([[0], np.cumsum(gaps)])
    stamps = START_NS + ticks * STEP_NS + (np.array(jitter[:n]) * STEP_NS).astype(np.int64)
    stamps = np.maximum.accumulate(stamps) + np.arange(n)
    kept = np.array([k for k in range(n) if k not in lost], dtype=np.int64)
    torque = np.stack([ticks, ticks], axis=1) * 0.001
    executed = Torques(stamps[kept], torque[kept], np.full(len(kept), "", dtype="<U8"))
    command = Torques(stamps, torque, np.array(modes[:n]))
    states = np.stack([ticks * 1e-3, np.zeros(n), np.zeros(n), np.zeros(n)], axis=1)
    episode = Episode("e", "", stamps, states, executed, command, command, (), False)
    t = episode_transitions(episode, Interface(), STAND)
    steps = np.diff(stamps)[t.rows]
    assert (np.abs(steps - STEP_NS) <= 0.2 * STEP_NS).all()
    for row, executed_nm in zip(t.rows, t.torque_nm, strict=True):
        assert modes[row] == modes[row + 1] != "disarmed"
        nearest = np.abs(executed.stamp_ns - stamps[row + 1]).argmin()
        assert abs(executed.stamp_ns[nearest] - stamps[row + 1]) <= 0.2 * STEP_NS
        assert (executed_nm == executed.torque_nm[nearest]).all()
    # Within a run, the next transition begins where the last one ended.
    for index in np.flatnonzero(~t.timeouts & ~t.terminals):
        assert t.rows[index + 1] == t.rows[index] + 1


ARMED_OR_NOT = st.sampled_from([topics.BALANCE, topics.BALANCE, topics.TORQUE, topics.HOLD, topics.DISARMED])


@st.composite
def lossy_recordings(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, bytes, int]], bool]:
    """Modes in truth by frame, and messages (topic, content, when recorded) as an unlucky recorder may have them.

    State k has x = k mm, the torque over the step to k is k mNm, so that content tells what belongs together.
    """
    modes = [
        m
        for m, n in draw(st.lists(st.tuples(ARMED_OR_NOT, st.integers(1, 25)), min_size=1, max_size=4))
        for _ in range(n)
    ]
    n = len(modes)
    timed = draw(st.booleans())
    first = draw(st.sampled_from([0, 2**32 - 7]))
    # With the device's own time, the host's stamps may stray; without it they are all there is.
    stray = 0.45 if timed else 0.04
    stamps = [START_NS + int(STEP_NS * (k + draw(st.floats(-stray, stray)))) for k in range(n)]
    lost = draw(st.sets(st.integers(0, n - 1), max_size=4))
    sent = []
    for k, mode in enumerate(modes):
        if k == 0 or mode != modes[k - 1]:
            sent.append((k, "/mode", text(f"{mode}: test")))
        messages = [("/odom", odometry(stamps[k], (k * 1e-3, 0.0, 0.0, 0.0)))]
        messages.append(("/joint_states", joint_torques(stamps[k], (k * 1e-3, k * 1e-3))))
        messages.append(("/wheel_command", joint_torques(stamps[k], (0.0, 0.0), mode)))
        if timed:
            messages.append(("/device_time", device_time(stamps[k], 10**6 + 5000 * k, (first + k) % 2**32)))
        sent += [(k, topic, data) for topic, data in messages if k not in lost]
    times = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0, 2]), min_size=len(sent), max_size=len(sent)))
    delays = draw(st.lists(st.integers(0, 2 * STEP_NS), min_size=len(sent), max_size=len(sent)))
    recorded = []
    for (k, topic, data), count, delay in zip(sent, times, delays, strict=True):
        # What is latched is never lost, and comes once.
        recorded += [(topic, data, START_NS + k * STEP_NS + delay)] * (1 if topic == "/mode" else count)
    return modes, sorted(recorded, key=lambda row: row[2]), timed


@given(lossy_recordings())
@settings(max_examples=40)
def test_every_transition_of_a_lossy_bag_is_a_step_that_happened(
    recording: tuple[list[str], list[tuple[str, bytes, int]], bool],
) -> None:
    modes, messages, timed = recording
    names = ("odom", "joint_states", "wheel_command", "device_time", "mode")
    with tempfile.TemporaryDirectory() as folder:
        writer = BagWriter(Path(folder) / "b", {f"/{name}": topics.TYPES[name] for name in names})
        writer.start_episode()
        for topic, data, recorded_ns in messages:
            writer.write(topic, data, recorded_ns)
        writer.close()
        (episode,) = read_bag(Path(folder) / "b", require=()).episodes
    t = episode_transitions(episode, Interface(), STAND)
    true = np.rint(episode.states[:, 0] * 1e3).astype(int)
    for row, torque_nm, ends in zip(t.rows, t.torque_nm, t.timeouts, strict=True):
        k = true[row]
        assert true[row + 1] == k + 1
        np.testing.assert_allclose(torque_nm, (k + 1) * 1e-3)
        assert modes[k] == modes[k + 1] != topics.DISARMED
        assert ends or row + 1 in t.rows
    if timed:
        assert (episode.sequence[t.rows] >= 0).all()


def timed_run(n: int, sequences: np.ndarray, device_us: np.ndarray, path: Path, jitter_ns: int = 0) -> Dataset:
    """A bag with /device_time, stamps off by up to `jitter_ns`, built."""
    run = swaying(n)
    stray = np.random.default_rng(0).integers(-jitter_ns, jitter_ns + 1, n)
    run["stamps_ns"] = [int(stamp + s) for stamp, s in zip(run["stamps_ns"], stray, strict=True)]
    writer = BagWriter(path, {f"/{name}": kind for name, kind in topics.TYPES.items()}, Interface())
    write_episode(writer, interface=Interface(), end=False, **run)
    for stamp, us, number in zip(run["stamps_ns"], device_us, sequences, strict=True):
        writer.write("/device_time", device_time(stamp, int(us), int(number)), stamp)
    writer.close()
    return build_dataset([path], STAND)


def test_with_device_time_frames_are_told_by_number_and_stamps_may_stray(tmp_path: Path) -> None:
    k = np.arange(100)
    assert len(timed_run(100, k, 5000 * k, tmp_path / "a", jitter_ns=2_000_000)) == 99
    assert len(timed_run(100, k, 5000 * k + 49 * (k % 2), tmp_path / "b")) == 99
    # A frame that is missing in the count, though the stamps look right; a step of the device's that is 2 % too long.
    assert len(timed_run(100, k + (k >= 50), 5000 * k, tmp_path / "c")) == 98
    assert len(timed_run(100, k, 5000 * k + 100 * (k >= 50), tmp_path / "d")) == 98
    # The microcontroller began anew.
    assert len(timed_run(100, k % 50, 5000 * (k % 50), tmp_path / "e")) == 98


def test_a_robot_armed_anew_between_two_frames_breaks_the_run(tmp_path: Path) -> None:
    run = swaying(100)
    writer = BagWriter(tmp_path / "b", {f"/{name}": kind for name, kind in topics.TYPES.items()}, Interface())
    write_episode(writer, interface=Interface(), end=False, **run)
    at = run["stamps_ns"][50] + 1_000_000
    writer.write("/mode", text("disarmed: by request"), at)
    writer.write("/mode", text("balance: armed"), at + 1_000_000)
    writer.close()
    (episode,) = read_bag(tmp_path / "b").episodes
    t = episode_transitions(episode, Interface(), STAND)
    assert not {50} & set(t.rows.tolist())
    assert t.timeouts.sum() == 2 and len(t.rows) > 85


def test_a_bag_whose_content_was_seen_before_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    run = swaying(40)
    one = make_bag(tmp_path / "one", [run, swaying(40, 1, START_NS + 10**9)], Interface())
    shutil.copytree(one, tmp_path / "copy")
    with pytest.raises(DataError, match=r"bag .*copy is given twice: .* holds the same bytes as .*one_0.mcap"):
        build_dataset([one, tmp_path / "copy"], STAND)
    part = {name: values[10:] for name, values in run.items()}
    cut = make_bag(tmp_path / "cut", [part], Interface())
    with pytest.raises(DataError, match=r"cut: cut_0.mcap holds 30 of the states of .*one: one_0.mcap"):
        build_dataset([one, cut], STAND)


def test_a_bag_in_sqlite_gives_the_same_dataset(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", [swaying(40)], Interface())
    with (
        AnyReader([bag]) as reader,
        Writer(tmp_path / "lite", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        to = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=TYPESTORE) for c in reader.connections}
        for connection, stamp_ns, data in reader.messages():
            writer.write(to[connection.id], stamp_ns, data)
    one, other = build_dataset([bag], STAND), build_dataset([tmp_path / "lite"], STAND)
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_array_equal(one.wheel_torques, other.wheel_torques)


def test_another_interface_is_refused_naming_the_field_and_both_values(tmp_path: Path) -> None:
    one = make_bag(tmp_path / "one", [swaying(20)], Interface())
    other = make_bag(tmp_path / "other", [swaying(20)], Interface(torque_limit_nm=2.0, rate_hz=100.0))
    with pytest.raises(ContractError, match=r"rate_hz: .*one 200.0, .*other 100.0; torque_limit_nm: .*one 3.0, .*2.0"):
        build_dataset([one, other], STAND)


def test_a_dataset_says_which_robot_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = swaying(40)
    writer = BagWriter(tmp_path / "b", {f"/{name}": kind for name, kind in topics.TYPES.items()}, Interface())
    write_episode(writer, interface=Interface(), end=False, **run)
    writer.write("/configuration", text(json.dumps({"robot": {"name": "carpet"}})), run["stamps_ns"][0])
    writer.close()
    assert command(["build", str(tmp_path / "b"), "--task", "stand", "-o", str(tmp_path / "d.h5")]) == 0
    assert Dataset.load(tmp_path / "d.h5").provenance["robots"] == ["carpet"]
    assert "robot 'carpet'" in capsys.readouterr().out


def test_saving_and_loading_gives_the_same_dataset(tmp_path: Path) -> None:
    dataset = build(tmp_path, swaying(50), task="move")
    dataset.save(tmp_path / "d.h5")
    again = Dataset.load(tmp_path / "d.h5")
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts", "states"):
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
        assert getattr(again, name).dtype == getattr(dataset, name).dtype
    assert (again.interface, again.task, again.provenance) == (dataset.interface, dataset.task, dataset.provenance)
    assert list(tmp_path.glob(".*")) == []


def test_the_file_has_d4rls_keys_in_float32(tmp_path: Path) -> None:
    build(tmp_path, swaying(50)).save(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as file:
        for key in ("observations", "actions", "rewards", "next_observations", "infos/states"):
            assert file[key].dtype == np.float32
        assert file["terminals"].dtype == file["timeouts"].dtype == np.bool_
        assert json.loads(file.attrs["task"])["name"] == "stand"


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["something"] = np.zeros(3)
    build(tmp_path, swaying(5)).save(tmp_path / "half.h5")
    with h5py.File(tmp_path / "half.h5", "a") as file:
        del file["rewards"]
    for name, message in [
        ("absent.h5", "no such dataset"),
        ("text.h5", "not a dataset"),
        ("other.h5", "format None"),
        ("half.h5", "lacks rewards"),
    ]:
        with pytest.raises(DataError, match=message):
            Dataset.load(tmp_path / name)


def test_a_value_that_is_not_finite_never_gets_into_a_dataset(tmp_path: Path) -> None:
    run = swaying(50)
    run["states"][20, 1] = np.nan
    assert len(build(tmp_path, run)) == 47  # the two steps at the bad state are left out
    with pytest.raises(DataError, match="states is not finite in row 1"):
        Dataset.from_states(
            np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]]),
            np.zeros((2, 4)),
            np.zeros(2),
            np.zeros(2, bool),
            np.zeros(2, bool),
            Interface(),
            TASKS["move"],
            {},
        )


def test_bags_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = make_bag(tmp_path / "one", [swaying(20)], Interface())
    other = make_bag(tmp_path / "other", [swaying(20)], Interface(torque_limit_nm=2.0))
    with pytest.raises(ContractError, match="interface"):
        build_dataset([one, other], STAND)
    nameless = make_bag(tmp_path / "nameless", [swaying(20)])
    with pytest.raises(DataError, match="no message on /interface"):
        build_dataset([nameless], STAND)
    run = swaying(20)
    run["modes"] = [topics.DISARMED] * 20
    idle = make_bag(tmp_path / "idle", [run], Interface())
    with pytest.raises(DataError, match="no transitions in"):
        build_dataset([idle], STAND)


def test_a_bag_without_the_topics_names_what_is_missing_and_what_is_there(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "b", {"/mode": "std_msgs/msg/String"})
    writer.start_episode()
    writer.write("/mode", text("balance"), START_NS)
    writer.close()
    with pytest.raises(DataError, match=r"no messages on /odom, /joint_states, /wheel_command; topics in it: /mode"):
        read_bag(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is not a bag"):
        read_bag(tmp_path / "empty")
    with pytest.raises(DataError, match="no such bag"):
        read_bag(tmp_path / "nowhere")


def test_the_command_builds_a_file_and_prints_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = [make_bag(tmp_path / str(seed), [swaying(201, seed)], Interface()) for seed in range(2)]
    output = tmp_path / "out" / "real.h5"
    assert command(["build", *map(str, bags), "--task", "stand", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "400 transitions, 2.0 s, 2 episodes, 0 falls" in printed.replace("\n", "")
    assert "theta_dot" in printed
    assert len(Dataset.load(output)) == 400


def test_the_command_takes_a_bag_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("one", "two")):
        make_bag(tmp_path / name, [swaying(20, seed)], Interface())
    monkeypatch.chdir(tmp_path)
    assert command(["build", "one/", "./two", "--task", "stand", "-o", "real.h5"]) == 0
    assert len(Dataset.load("real.h5")) == 38


def test_the_command_never_overwrites_an_input_and_a_dataset_only_if_asked_to(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "one", [swaying(50)], Interface())
    (file,) = bag.glob("*.mcap")
    content = file.read_bytes()
    link = tmp_path / "link.h5"
    link.symlink_to(file)
    build_it = ["build", str(bag), "--task", "stand", "-o"]
    for output in (file, bag / "new.h5", link, bag, tmp_path):
        with pytest.raises(DataError, match=r"left as it is|never overwritten"):
            command([*build_it, str(output), "--force"])
    assert file.read_bytes() == content and not (bag / "new.h5").exists()
    target = tmp_path / "d.h5"
    target.write_text("mine")
    with pytest.raises(DataError, match="exists already: give another name, or --force"):
        command([*build_it, str(target)])
    assert target.read_text() == "mine"
    assert command([*build_it, str(target), "--force"]) == 0
    assert len(Dataset.load(target)) == 49


def test_a_bag_given_twice_is_refused(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "one", [swaying(20)], Interface())
    (tmp_path / "again").symlink_to(bag)
    with pytest.raises(DataError, match=r"bag .*again is given twice"):
        build_dataset([bag, tmp_path / "again"], STAND)


def test_a_dataset_that_does_not_fit_on_the_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    dataset = build(tmp_path, swaying(50))
    folder = tmp_path / "out"
    with small_files(1000), pytest.raises(DataError, match=r"cannot write dataset .*d\.h5: File too large"):
        dataset.save(folder / "d.h5")
    assert list(folder.iterdir()) == []
