# SPDX-License-Identifier: Apache-2.0
"""Datasets in D4RL's HDF5, Minari and Parquet: converted back they are the same, and D4RL's own files load."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from disk_tools import fill, small_disk
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ContractError, DataError, UserError
from h2o_training.dataset import Dataset
from h2o_training.dataset_cli import command
from h2o_training.dataset_d4rl import load_d4rl, save_d4rl
from h2o_training.dataset_files import read_dataset, write_dataset
from h2o_training.dataset_generic import GenericDataset, to_generic, to_robot
from h2o_training.dataset_minari import load_minari, minari_id

SUFFIX = {"d4rl": "data.hdf5", "parquet": "data.parquet", "minari": "data-v0"}


def robot_dataset(n: int = 12, seed: int = 0, task: str = "stand") -> Dataset:
    """Runs of made-up numbers: a fall after row 4, a time-out after row 8, the end of the recording."""
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(n + 3, 4))
    # Row k of a run leads to row k + 1; between runs a row of the path is passed over.
    index = np.array([k + (k > 4) + (k > 8) for k in range(n)])
    rows = np.arange(n)
    return Dataset.from_states(
        path[index],
        path[index + 1],
        rng.uniform(-4, 4, (n, 2)),
        rows == 4,
        (rows == 8) | (rows == n - 1),
        Interface(rate_hz=100.0),
        TASKS[task],
        {"kind": "driven in lock-step", "seed": 7, "note": "ü"},
    )


def assert_same(a: GenericDataset, b: GenericDataset) -> None:
    assert list(a.rows()) == list(b.rows())
    for key, array in a.rows().items():
        np.testing.assert_array_equal(array, b.rows()[key], err_msg=key)
        assert array.dtype == b.rows()[key].dtype, key
    assert dict(a.attributes) == dict(b.attributes)


@st.composite
def generic_datasets(draw: st.DrawFn) -> GenericDataset:
    """Runs whose next observation is the following row's, each ended by a terminal or a time-out."""
    kind = draw(st.sampled_from([np.float32, np.float64]))
    n_obs, n_act = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    n = sum(lengths)
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    ends = np.cumsum(lengths) - 1
    fell = np.array(draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends))))
    terminals, timeouts = np.zeros((2, n), dtype=np.bool_)
    terminals[ends], timeouts[ends] = fell, ~fell
    chains = [draw(arrays(kind, (length + 1, n_obs), elements=finite)) for length in lengths]
    return GenericDataset(
        observations=np.concatenate([c[:-1] for c in chains]),
        actions=draw(arrays(kind, (n, n_act), elements=finite)),
        rewards=draw(arrays(kind, n, elements=finite)),
        next_observations=np.concatenate([c[1:] for c in chains]),
        terminals=terminals,
        timeouts=timeouts,
        infos={"goal": draw(arrays(np.float32, (n, 2), elements=finite)), "step": np.arange(n, dtype=np.int32)},
        attributes={"algorithm": draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"))), "rate": 0.1},
    )


@pytest.mark.parametrize("kind", ["d4rl", "parquet", "minari"])
@settings(max_examples=12)
@given(data=generic_datasets())
def test_whatever_is_written_is_read_back_the_same(
    kind: str, data: GenericDataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp(kind) / SUFFIX[kind]
    assert write_dataset(data, path, kind) == []
    assert_same(data, read_dataset(path))


@pytest.mark.parametrize("task", ["stand", "move"])
def test_a_robots_dataset_goes_round_all_formats_by_command(
    tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original = robot_dataset(task=task)
    original.save(tmp_path / "a.h5")
    chain = ["a.h5", "b.parquet", "c-v0", "d.hdf5"]
    for source, target in itertools.pairwise(chain):
        assert command(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
        assert (
            "12 transitions, 3 episodes, 1 of them ended by a terminal; with the contracts" in capsys.readouterr().out
        )
    for name in chain:
        found = to_robot(read_dataset(tmp_path / name), name)
        assert_same(to_generic(found), to_generic(original))
        assert found.interface == original.interface and found.task == original.task
        assert found.provenance == original.provenance
    assert_same(to_generic(Dataset.load(tmp_path / "d.hdf5")), to_generic(original))


def test_minari_itself_loads_episodes_spaces_seed_and_contracts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = importlib.import_module("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    d = robot_dataset()
    write_dataset(to_generic(d), tmp_path / "h2o" / "walk-v3", "minari")
    loaded = minari.load_dataset("h2o/walk-v3")
    assert (loaded.id, loaded.total_episodes, loaded.total_steps) == ("h2o/walk-v3", 3, 12)
    assert list(minari.list_local_datasets()) == ["h2o/walk-v3"]
    assert loaded.observation_space.shape == (4,)
    assert (loaded.action_space.low, loaded.action_space.high) == (-1.0, 1.0)
    first, second, third = loaded.iterate_episodes()
    np.testing.assert_array_equal(first.observations, np.append(d.observations[:5], d.next_observations[4:5], axis=0))
    assert first.terminations.tolist() == [False] * 4 + [True] and not first.truncations.any()
    assert second.truncations.tolist() == [False] * 3 + [True] and not second.terminations.any()
    assert third.truncations[-1]
    np.testing.assert_array_equal(second.infos["wheel_torques_nm"], d.wheel_torques[5:9])
    assert [m.get("seed") for m in loaded.storage.get_episode_metadata(range(3))] == [7, None, None]
    about = loaded.storage.metadata["h2o"]
    assert (about["interface_hash"], about["task_hash"]) == (d.interface.hash, d.task.hash)
    assert not [p.name for p in (tmp_path / "h2o").iterdir() if p.name.startswith(".")]


@pytest.mark.filterwarnings("ignore:.*None:UserWarning:minari")
def test_a_minari_dataset_of_others_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = importlib.import_module("minari")
    box = importlib.import_module("gymnasium").spaces.Box
    buffer = importlib.import_module("minari.data_collector.episode_buffer").EpisodeBuffer
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = [
        buffer(
            observations=np.arange(3 * 2, dtype=np.float64).reshape(3, 2) + 10 * k,
            actions=np.zeros((2, 1), dtype=np.float32),
            rewards=[1.0, 2.0],
            terminations=[False, k == 0],
            truncations=[False, False],
            infos={"goal": np.arange(3) + 10 * k, "state": {"q": np.ones((2, 3))}, "words": ["a", "b", "c"]},
        )
        for k in range(2)
    ]
    minari.create_dataset_from_buffers(
        "theirs-v0",
        episodes,
        observation_space=box(-100, 100, (2,), np.float64),
        action_space=box(-1, 1, (1,)),
        algorithm_name="PPO",
        author="them",
        author_email="them@example.org",
        code_permalink="https://example.org",
        description="made by minari",
    )
    d = load_minari(tmp_path / "theirs-v0")
    assert d.observations.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    assert d.next_observations.tolist() == [[2, 3], [4, 5], [12, 13], [14, 15]]
    assert d.terminals.tolist() == [False, True, False, False]
    assert d.timeouts.tolist() == [False, False, False, True]  # nobody flagged the end of the second
    assert d.infos["goal"].tolist() == [1, 2, 11, 12]  # the first belongs to the reset
    assert sorted(d.infos) == ["goal", "state/q"]
    assert d.attributes["algorithm_name"] == "PPO"
    with pytest.raises(ContractError, match="says nothing about a robot"):
        to_robot(d, "theirs")


def test_parquet_columns_have_names_units_and_contracts_for_any_reader(tmp_path: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    d = robot_dataset(task="move")
    write_dataset(to_generic(d), tmp_path / "d.parquet", "parquet")
    table = parquet.read_table(tmp_path / "d.parquet")
    units = {f.name: f.metadata.get(b"unit", b"").decode() for f in table.schema}
    assert units["observations.theta_dot"] == "rad/s"
    assert units["infos/states.x"] == "m"
    assert units["infos/wheel_torques_nm.right"] == "Nm"
    assert units["rewards"] == ""
    np.testing.assert_array_equal(table["infos/next_states.theta"].to_numpy(), d.next_states[:, 2])
    assert d.interface.hash in table.schema.metadata[b"h2o"].decode()


# --- D4RL's own files -------------------------------------------------------------------------------------------------


def d4rl_file(path: Path, arrays: dict[str, Any], scalars: dict[str, Any] | None = None) -> Path:
    """As D4RL's generation scripts write: gzip, flags as booleans, texts as fixed-length bytes."""
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression="gzip")
        for key, value in (scalars or {}).items():
            file[key] = value
    return path


def gym_mujoco(n: int = 6) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and types of hopper-medium-v2.hdf5 (scripts/generation/mujoco/collect_data.py of D4RL)."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n + 1, 11)).astype(np.float32)
    rows = np.arange(n)
    arrays = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": rows == 2,
        "timeouts": rows == 4,
        "infos/action_log_probs": rng.normal(size=n).astype(np.float32),
        "infos/qpos": rng.normal(size=(n, 6)).astype(np.float32),
        "infos/qvel": rng.normal(size=(n, 6)).astype(np.float32),
        "metadata/policy/fc0/weight": rng.normal(size=(4, 11)).astype(np.float32),
        "metadata/policy/fc0/bias": np.zeros(4, dtype=np.float32),
    }
    scalars = {
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": np.int32(1000),
        "metadata/policy/nonlinearity": np.bytes_("relu"),
        "metadata/policy/output_distribution": np.bytes_("tanh_gaussian"),
    }
    return arrays, scalars


def test_d4rls_gym_mujoco_files_load(tmp_path: Path) -> None:
    arrays, scalars = gym_mujoco()
    d = load_d4rl(d4rl_file(tmp_path / "hopper_medium-v2.hdf5", arrays, scalars))
    assert d.observations.shape == (6, 11) and d.actions.shape == (6, 3)
    np.testing.assert_array_equal(d.next_observations, arrays["next_observations"])
    assert d.terminals.tolist() == [False, False, True, False, False, False]
    assert d.timeouts.tolist() == [False, False, False, False, True, True]  # the file ends within an episode
    assert sorted(d.infos) == ["action_log_probs", "qpos", "qvel"]
    assert d.attributes["metadata/algorithm"] == "SAC" and d.attributes["metadata/iteration"] == 1000
    assert sorted(d.extras) == ["metadata/policy/fc0/bias", "metadata/policy/fc0/weight"]
    save_d4rl(d, tmp_path / "again.hdf5")
    again = load_d4rl(tmp_path / "again.hdf5")
    assert_same(d, again)
    np.testing.assert_array_equal(again.extras["metadata/policy/fc0/weight"], arrays["metadata/policy/fc0/weight"])


def test_d4rls_antmaze_files_get_next_observations_by_shift(tmp_path: Path) -> None:
    n = 7
    arrays = {
        "observations": np.arange(n * 2, dtype=np.float32).reshape(n, 2),
        "actions": np.zeros((n, 8), dtype=np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": np.arange(n) == 2,
        "timeouts": np.arange(n) == 5,
        "infos/goal": np.arange(n * 2, dtype=np.float32).reshape(n, 2),
        "infos/qpos": np.zeros((n, 15), dtype=np.float32),
        "infos/qvel": np.zeros((n, 14), dtype=np.float32),
    }
    d = load_d4rl(d4rl_file(tmp_path / "antmaze.hdf5", arrays))
    # Row 5 timed out and row 6 is the last: what came after them was not recorded.
    assert d.rewards.tolist() == [0, 1, 2, 3, 4]
    assert d.next_observations.tolist() == [[2, 3], [4, 5], [4, 5], [8, 9], [10, 11]]
    assert d.terminals.tolist() == [False, False, True, False, False]
    assert d.timeouts.tolist() == [False, False, False, False, True]
    assert d.infos["next_known"].tolist() == [True, True, False, True, True]
    assert d.infos["goal"][:, 0].tolist() == [0, 2, 4, 6, 8]


def test_d4rls_oldest_files_need_the_length_of_an_episode(tmp_path: Path) -> None:
    n = 9
    arrays = {
        "observations": np.arange(n, dtype=np.float64)[:, None],
        "actions": np.zeros((n, 1)),
        "rewards": np.arange(n, dtype=np.float64)[:, None],
        "terminals": (np.arange(n) == 4).astype(np.float64)[:, None],
    }
    path = d4rl_file(tmp_path / "old.hdf5", arrays)
    with pytest.raises(DataError, match="--episode-steps"):
        load_d4rl(path)
    d = load_d4rl(path, episode_steps=3)
    # Episodes 0-2, 3-4 (terminal), 5-7, 8; the last row of each but the terminal one leads nowhere.
    assert d.rewards.tolist() == [0, 1, 3, 4, 5, 6]
    assert d.timeouts.tolist() == [False, True, False, False, False, True]
    assert d.terminals.tolist() == [False, False, False, True, False, False]
    assert load_d4rl(path, episode_steps=0).rewards.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_jumps_tell_the_ends_where_timeouts_are_absent(tmp_path: Path) -> None:
    arrays, _ = gym_mujoco()
    del arrays["timeouts"]
    arrays["observations"] = arrays["observations"].copy()
    arrays["observations"][1] += 1.0
    d = load_d4rl(d4rl_file(tmp_path / "d.hdf5", arrays))
    assert np.flatnonzero(d.timeouts).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": None}, "lacks terminals"),
        ({"terminals": np.full(6, 2)}, "terminals is 2 in row 0, expected 0 or 1"),
        ({"actions": np.zeros((5, 3))}, "actions has 5 rows, rewards has 6"),
        ({"observations": np.full((6, 11), np.nan)}, "observations is not finite in row 0"),
    ],
)
def test_damaged_d4rl_files_are_refused_with_key_and_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays, scalars = gym_mujoco()
    arrays = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        load_d4rl(d4rl_file(tmp_path / "d.hdf5", arrays, scalars))


def test_a_dataset_without_a_robot_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    path = d4rl_file(tmp_path / "hopper.hdf5", *gym_mujoco())
    with pytest.raises(ContractError, match="says nothing about a robot"):
        Dataset.load(path)
    with pytest.raises(ContractError, match="no interface and no task"):
        to_robot(load_d4rl(path), "hopper.hdf5")


def test_what_has_no_place_in_a_format_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = d4rl_file(tmp_path / "hopper.hdf5", *gym_mujoco())
    assert command(["convert", str(path), str(tmp_path / "hopper.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "without the contracts of a robot" in printed
    assert "left out, since parquet holds rows only: metadata/policy/fc0/bias, metadata/policy/fc0/weight" in printed


def test_conversions_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    robot_dataset().save(tmp_path / "a.h5")
    source = str(tmp_path / "a.h5")
    with pytest.raises(DataError, match="never overwritten"):
        command(["convert", source, source, "--force"])
    (tmp_path / "there.h5").write_text("mine")
    with pytest.raises(DataError, match="--force"):
        command(["convert", source, str(tmp_path / "there.h5")])
    assert command(["convert", source, str(tmp_path / "there.h5"), "--force"]) == 0
    with pytest.raises(DataError, match=r"suffix \.csv names no format"):
        command(["convert", source, str(tmp_path / "b.csv")])
    with pytest.raises(DataError, match="walk-v0"):
        command(["convert", source, str(tmp_path / "walk")])
    with pytest.raises(DataError, match="must not be negative"):
        command(["convert", source, str(tmp_path / "b.h5"), "--episode-steps", "-1"])
    with pytest.raises(DataError, match="No such file"):
        command(["convert", str(tmp_path / "absent.h5"), str(tmp_path / "b.h5")])
    (tmp_path / "text.parquet").write_text("1,2,3")
    with pytest.raises(DataError, match="neither HDF5 nor Parquet"):
        command(["convert", str(tmp_path / "text.parquet"), str(tmp_path / "b.h5")])
    (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:2000])
    with pytest.raises(DataError, match="not an HDF5 file that can be read"):
        command(["convert", str(tmp_path / "cut.h5"), str(tmp_path / "b.h5")])
    d = to_generic(robot_dataset())
    broken = GenericDataset(**{**vars(d), "timeouts": np.zeros(12, dtype=np.bool_)})
    with pytest.raises(DataError, match="row 8: the next observation is not that of the following row"):
        write_dataset(broken, tmp_path / "w-v0", "minari")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "cut.h5", "text.parquet", "there.h5"]


@pytest.mark.parametrize("kind", ["d4rl", "parquet", "minari"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, kind: str) -> None:
    data = to_generic(robot_dataset(n=20_000))
    importlib.import_module("minari")
    with small_disk(tmp_path / "disk", mib=2) as disk:
        fill(disk, leave_mib=0.5)
        with pytest.raises(DataError, match=r"cannot write .*(No space left|MB free)"):
            write_dataset(data, disk / SUFFIX[kind], kind)
        assert [p.name for p in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("package", ["minari", "pyarrow"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    target = tmp_path / SUFFIX["minari" if package == "minari" else "parquet"]
    with pytest.raises(UserError, match=rf"needs {package}, .*h2o_training\[formats\]"):
        write_dataset(to_generic(robot_dataset()), target, "minari" if package == "minari" else "parquet")
    assert not target.exists()


@pytest.mark.parametrize("target", ["w-v0", "./w-v0", "m/w-v0"])
def test_a_minari_folder_may_be_given_relative(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    robot_dataset().save("a.h5")
    assert command(["convert", "a.h5", target]) == 0
    assert command(["convert", target, "b.h5"]) == 0
    assert len(Dataset.load("b.h5")) == len(robot_dataset())


def test_minari_ids_are_paths_below_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    assert minari_id(tmp_path / "root" / "h2o" / "walk-v1") == "h2o/walk-v1"
    assert minari_id(tmp_path / "walk-v1") == "walk-v1"
