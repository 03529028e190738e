# SPDX-License-Identifier: Apache-2.0
"""Configurations that come with the project: all load, say where their numbers are from, and are what was measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from h2o_control import cli
from h2o_control.config import to_mapping
from h2o_control.contract import TASKS
from h2o_control.errors import ConfigError
from h2o_training import algorithm_config, train_config
from h2o_training.algorithms import make_agent
from h2o_training.algorithms_cli import meanings, presets, rows
from h2o_training.catalogue import CATALOGUE
from h2o_training.layered_yaml import load_layered
from h2o_training.replay import Replay
from h2o_training.train_config import learned_task, load_train_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "config" / "training"
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
FILES = sorted(p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.yaml"))
#: Files that others are based on; none is a configuration by itself.
PARTS = [name for name in FILES if name.startswith("presets/")]
NAMES = [name for name in FILES if name not in PARTS]
PAPER = [name for name in NAMES if name.startswith("paper/")]


@pytest.fixture(autouse=True)
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2O_CONFIG_DIR", str(ROOT / "config"))


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def resolved(name: str, *overrides: str) -> dict[str, Any]:
    """All that a configuration resolves to, by the keys of the command line."""
    return dict(leaves(to_mapping(load_train_config(name, overrides))))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_loads_and_is_called_after_its_algorithm(name: str) -> None:
    assert load_train_config(name, ()).algorithm == Path(name).name
    assert name in presets(Path(name).name)


@pytest.mark.parametrize("algorithm", CATALOGUE)
def test_every_algorithm_has_a_shipped_and_a_paper_preset(algorithm: str) -> None:
    assert presets(algorithm) == [algorithm, f"paper/{algorithm}"]


def test_every_part_is_the_base_of_something() -> None:
    bases = set()
    for name in FILES:
        path = FOLDER / f"{name}.yaml"
        named = yaml.safe_load(path.read_text(encoding="utf-8")).get("base", [])
        bases |= {(path.parent / base).resolve() for base in ([named] if isinstance(named, str) else named)}
    assert {FOLDER / part for part in PARTS} <= bases


SHIPPED = {
    **{"learning_rate": 1e-3, "discount": 0.995, "polyak": 0.03, "policy_average": 0.999, "reward_scale": 0.02},
    **{"policy_layers": [64, 64], "critic_layers": [64, 64], "normalise": True, "optimistic": True},
    **{"policy_learning_rate": None, "policy_decay": False, "robot": "ideal", "seed": 0, "device": "cpu"},
    **{"exploration.kind": "entropy", "exploration.target_entropy": None},
    **{"twin.kind": "closed_form", "twin.num_envs": 32, "twin.effects": {}, "twin.randomise": {}},
    **{"collect.steps": 10, "collect.updates": 100, "collect.episode_s": 5.0, "collect.replay_capacity": 100_000},
    **{"log.every": 500, "log.evaluate_every": 10_000, "log.evaluate_s": 10.0, "log.checkpoint_every": 10_000},
}
H2O_PLUS = {
    **SHIPPED,
    **{"algorithm": "h2o_plus", "updates": 45_000, "batch_real": 128, "batch_simulated": 128},
    **{"value.backbone": "iql", "value.expectile": 0.9, "value.layers": [64, 64], "value.layer_norm": False},
    **{"h2o_plus.lambda_v": 0.1, "ratio.layers": [64, 64], "ratio.batch": 128, "ratio.every": 2},
    **{"ratio.noise_std": 1.0, "ratio.relative": True, "ratio.logit_bound": 4.0},
    **{"ratio.clip_min": 0.1, "ratio.clip_max": 1.0},
}
SAC = {**SHIPPED, "algorithm": "sac", "task": "stand", "updates": 30_000, "batch_real": 0, "batch_simulated": 256}
PUBLISHED = {
    **{"algorithm": "h2o_plus", "updates": 60_000, "batch_real": 16, "batch_simulated": 16, "learning_rate": 3e-4},
    **{"policy_layers": [32, 32], "critic_layers": [32, 32], "value.layers": [32, 32], "discount": 0.99},
    **{"polyak": 0.005, "exploration.target_entropy": -1.0, "policy_average": 0.0, "normalise": False},
    **{"optimistic": False, "reward_scale": 1.0, "shaping": {}, "policy_decay": False, "policy_learning_rate": None},
    **{"h2o_plus.lambda_v": 0.1, "value.backbone": "iql", "value.expectile": 0.9, "value.layer_norm": False},
    **{"ratio.layers": [256, 256], "ratio.batch": 256, "ratio.every": 1, "ratio.noise_std": 0.1},
    **{"ratio.relative": False, "ratio.logit_bound": 4.0, "ratio.clip_min": 1e-5, "ratio.clip_max": 1.0},
    **{"twin.kind": "closed_form", "twin.num_envs": 1, "collect.steps": 1000, "collect.updates": 1000},
    **{"collect.episode_s": 5.0, "collect.replay_capacity": 1_000_000},
}


@pytest.mark.parametrize(("name", "measured"), [("h2o_plus", H2O_PLUS), ("sac", SAC), ("paper/h2o_plus", PUBLISHED)])
def test_presets_are_what_was_measured_before_there_was_a_family(name: str, measured: dict[str, Any]) -> None:
    # The values of h2o_plus.yaml, h2o_plus_move.yaml, sac.yaml and h2o_plus_paper.yaml of commit f43f5f4.
    found = resolved(name)
    assert {key: found[key] for key in measured} == measured


STAND = {"bonus": 10.0, "x": 10.0, "v": 3.0, "theta": 3.0, "theta_dot": 0.3, "tau": 0.3}
MOVE = {"bonus": 10.0, "x": 0.0, "v": 10.0, "theta": 1.0, "theta_dot": 0.1, "tau": 0.03}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAPER])
@pytest.mark.parametrize(
    ("task", "reward", "smoothness", "x_limit_m", "v_limit_mps"),
    [("stand", STAND, 0.3, 2.0, 2.0), ("move", MOVE, 0.1, None, 2.0)],
)
def test_shipped_presets_train_for_the_reward_that_was_measured(
    name: str, task: str, reward: dict[str, float], smoothness: float, x_limit_m: float | None, v_limit_mps: float
) -> None:
    config = load_train_config(name, ())
    shaping = config.shaping_of(TASKS[task])
    assert to_mapping(learned_task(config, TASKS[task]).reward) == reward
    assert (shaping.smoothness, shaping.x_limit_m, shaping.v_limit_mps) == (smoothness, x_limit_m, v_limit_mps)


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_keep_the_task_as_it_is(name: str) -> None:
    config = load_train_config(name, ())
    assert all(learned_task(config, task) == task for task in TASKS.values())


def transitions(seed: int) -> Replay:
    generator = torch.Generator().manual_seed(seed)
    replay = Replay(300, 4, 1)
    before, after = (torch.randn(300, 4, generator=generator) for _ in range(2))
    action = 2.0 * torch.rand(300, 1, generator=generator) - 1.0
    replay.add(before, action, torch.randn(300, generator=generator), after, torch.rand(300, generator=generator) < 0.1)
    return replay


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_updates_its_policy_and_stays_finite(name: str) -> None:
    config = load_train_config(name, ())
    entry = CATALOGUE[config.algorithm]
    torch.manual_seed(0)
    agent = make_agent(config, 4, smoothness=config.shaping_of(TASKS["stand"]).smoothness)
    agent.start()
    real = transitions(1) if entry.uses_real else None
    simulated = transitions(2) if entry.uses_simulated else None
    if real is not None:
        agent.fit(real.all())
    before = agent.policy.head.weight.clone()
    for _ in range(3):
        metrics = agent.update(real, simulated, torch.Generator().manual_seed(0))
        assert all(torch.isfinite(value) for value in metrics.values())
    assert not torch.equal(agent.policy.head.weight, before)


def quoted() -> dict[tuple[str, str], Any]:
    """What the page's table says of each paper preset; a row of one preset goes before the row of all."""
    special: dict[tuple[str, str], Any] = {}
    general: dict[tuple[str, str], Any] = {}
    for where, key, value in re.findall(r"^\| (`paper/[^|]*) \| `([\w.]+)` \| ([^|]+) \| \[", PAGE, re.MULTILINE):
        for name in re.findall(r"`(paper/[\w*]+)`", where):
            into, names = (general, PAPER) if name == "paper/*" else (special, [name])
            into |= {(n, key): value for n in names}
    return {**general, **special}


@pytest.mark.parametrize("name", PAPER)
def test_page_quotes_the_paper_presets_as_they_are(name: str) -> None:
    found = resolved(name)
    said = {key: value for (preset, key), value in quoted().items() if preset == name}
    # A number is read as one ("3e-4" is text in YAML 1.1).
    read = {key: type(found[key])(yaml.safe_load(value)) for key, value in said.items()}
    assert read == {key: found[key] for key in said}
    assert len(said) > 10


#: Not a published number: what the method is, and how our twin is run.
UNQUOTED = {"algorithm", "task", "twin.kind", "twin.num_envs"}


@pytest.mark.parametrize("name", PAPER)
def test_page_gives_the_source_of_every_number_in_a_paper_preset(name: str) -> None:
    given = dict(leaves(load_layered(FOLDER / f"{name}.yaml")))
    identity = {"value.backbone"} if name != "paper/h2o_plus" else set()
    absent = {key for key in ("batch_real", "batch_simulated") if given[key] == 0}
    assert set(given) - UNQUOTED - identity - absent == {key for preset, key in quoted() if preset == name}


def commands() -> list[list[str]]:
    written = re.findall(r"h2o-robot train ([^`\n]+)", PAGE)
    return [line.split() for line in written if "NAME" not in line]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_page_are_possible(words: list[str]) -> None:
    load_train_config(words[0], words[1:])


def test_page_names_every_algorithm_of_the_catalogue() -> None:
    table = PAGE[: PAGE.index("## Parts")]
    cells = re.findall(r"^\| [A-Z][^|]*\| ([^|]+) \|", table, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(CATALOGUE)


CONFIGS = [
    value
    for module in (train_config, algorithm_config)
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_every_key_is_explained_and_nothing_else_is(cls: type) -> None:
    assert set(meanings(cls)) == {field.name for field in dataclasses.fields(cls)}
    assert all(meanings(cls).values())


def test_every_row_of_a_preset_has_a_meaning() -> None:
    for name in NAMES:
        unexplained = [key for key, _, meaning in rows(load_train_config(name, ())) if not meaning]
        assert not unexplained


def test_groups_of_other_algorithms_are_not_shown() -> None:
    shown = {key for key, _, _ in rows(load_train_config("cql", ()))}
    assert "cql.alpha" in shown
    assert not shown & {"h2o", "darc", "ratio", "value"}
    without = {key: value for key, value, _ in rows(load_train_config("h2o_plus", ["ratio=null"]))}
    assert without["ratio"] == "null"


def test_shown_values_can_be_given_back_on_the_command_line() -> None:
    for name in NAMES:
        config = load_train_config(name, ())
        again = [f"{key}={value}" for key, value, _ in rows(config) if value]
        assert load_train_config(name, again) == config


def test_command_lists_every_algorithm_with_its_parts_presets_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algorithms"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    for entry in CATALOGUE.values():
        parts = ", ".join([*entry.groups, *(f"{group} (may be null)" for group in entry.optional)]) or "those of all"
        said = f"{entry.name} {entry.title}: {entry.summary} learns from {entry.learns_from}; parts: {parts}"
        assert f"{said} presets: {entry.name}, paper/{entry.name} {entry.source}" in listed


def test_command_explains_a_preset_with_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["algorithms", "paper/h2o", "h2o.draws=7"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"h2o\.draws +7 +of s' for the gap", out)
    assert re.search(r"ratio\.layers +\[256, 256\] +hidden layers", out)


def test_command_names_the_nearest_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algorithms", "paper/h2o_plsu"]) == 2
    error = capsys.readouterr().err
    assert "Did you mean 'paper/h2o_plus'?" in error
    assert error.count("\n") == 1


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def test_later_bases_win_mappings_merge_and_null_removes(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", one="a: {x: 1, y: 1}\nb: 1\nc: {z: 1}\n")
    path = write(tmp_path, top="base: [below/one, two]\nb: 3\nc: null\n", two="a: {y: 2}\nb: 2\n")
    assert load_layered(path) == {"a": {"x": 1, "y": 2}, "b": 3, "c": None}


WRONG_BASES = {
    "a circle": ({"one": "base: two\n", "two": "base: one\n"}, "one.yaml -> two.yaml -> one.yaml"),
    "itself": ({"one": "base: one\n"}, "one.yaml -> one.yaml"),
    "missing": ({"one": "base: tow\n", "two": "a: 1\n"}, "Did you mean 'two'?"),
    "no name": ({"one": "base: 3\n"}, "a name or a list of names, got 3"),
    "no mapping": ({"one": "base: two\n", "two": "- a\n"}, "two.yaml: expected a mapping"),
}


@pytest.mark.parametrize("case", WRONG_BASES)
def test_wrong_base_is_one_line(case: str, tmp_path: Path) -> None:
    files, word = WRONG_BASES[case]
    with pytest.raises(ConfigError) as caught:
        load_train_config(str(write(tmp_path, **files)), ())
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_two_others_share_is_no_circle(tmp_path: Path) -> None:
    sides = {"left": "base: one\n", "right": "base: one\nb: 2\n"}
    path = write(tmp_path, top="base: [left, right]\n", **sides, one="a: 1\nb: 1\n")
    assert load_layered(path) == {"a": 1, "b": 2}
