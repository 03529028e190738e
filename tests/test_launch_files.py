# SPDX-License-Identifier: Apache-2.0
"""The launch files of the project: readable everywhere, and every node they name exists."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from h2o_control import cli, launch_file

LAUNCH = Path(__file__).parents[1] / "launch"
FILES = sorted(LAUNCH.glob("*.yaml"))
NEEDED = {
    "robot": {},
    "collect": {"bag": "bags/x"},
    "deploy": {"bag": "bags/x", "policy": "x.onnx"},
    "replay": {"bag": "bags/x", "policy": "x.onnx"},
    "train": {},
}

#: What launch and launch_ros of Humble, Jazzy and Rolling all parse; a condition may stand on every action.
EVERYWHERE = {
    "arg": {"name", "default", "description", "choice", "if", "unless"},
    "let": {"name", "value", "if", "unless"},
    "include": {"file", "arg", "if", "unless"},
    "node": {"pkg", "exec", "name", "namespace", "args", "param", "remap", "env", "output", "respawn", "if", "unless"},
}


def nodes(name: str, **given: str) -> dict[str, launch_file.Node]:
    arguments = {**NEEDED[name], **given}
    return {node.name: node for node in launch_file.nodes(LAUNCH / f"{name}.launch.yaml", arguments)}


def test_the_launch_files_are_those_of_the_readme() -> None:
    assert {path.name.partition(".")[0] for path in FILES} == set(NEEDED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_keys_and_types_are_those_that_every_distribution_parses(path: Path) -> None:
    for entry in yaml.safe_load(path.read_text())["launch"]:
        ((kind, values),) = entry.items()
        assert set(values) <= EVERYWHERE[kind]
        assert all(isinstance(value, str) for key, value in values.items() if key != "param")
        assert all(set(p) <= {"name", "value", "type"} or set(p) == {"from"} for p in values.get("param", []))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_argument_is_listed_and_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", str(path), "--show-args"]) == 0
    lines = capsys.readouterr().out.splitlines()
    arguments = launch_file.arguments(path)
    assert lines == [str(argument) for argument in arguments]
    assert all(argument.description for argument in arguments)


@pytest.mark.parametrize("name", NEEDED)
def test_every_node_is_an_installed_console_script(name: str) -> None:
    started = nodes(name)
    assert started
    for node in started.values():
        points = metadata.distribution(node.package).entry_points
        assert node.executable in {point.name for point in points if point.group == "console_scripts"}


@pytest.mark.parametrize("name", ["robot", "collect", "deploy"])
def test_the_robot_is_emulated_unless_a_port_is_given(name: str) -> None:
    emulated, real = nodes(name), nodes(name, port="/dev/ttyACM0")
    link = emulated["emulator"].arguments[emulated["emulator"].arguments.index("--link") + 1]
    assert emulated["driver"].parameters["port"] == link
    assert real["driver"].parameters["port"] == "/dev/ttyACM0"
    assert set(emulated) - set(real) == {"emulator"}
    assert all(real[other] == emulated[other] for other in set(real) - {"driver", "teleop"})
    if name != "robot":
        # Nobody picks a real robot up and arms it again but a person.
        falls = [case["teleop"].parameters.pop("max_falls") for case in (emulated, real)]
        assert falls == [20, 0]
        assert emulated["teleop"] == real["teleop"]


def test_emulator_gets_the_robot_and_the_seed_in_one_word_each() -> None:
    arguments = nodes("collect", robot="my robots/red.yaml", seed="3")["emulator"].arguments
    assert arguments[arguments.index("--robot") + 1] == "my robots/red.yaml"
    assert arguments[arguments.index("--seed") + 1] == "3"


def test_collection_without_script_leaves_the_driving_to_a_person() -> None:
    assert set(nodes("collect")) - set(nodes("collect", operator="none")) == {"teleop"}


def test_replay_records_only_where_asked() -> None:
    assert "recorder" not in nodes("replay")
    assert nodes("replay", record="bags/y")["recorder"].parameters["bag"] == "bags/y"


def test_text_stays_text_and_numbers_become_numbers() -> None:
    collect = nodes("collect", bag="123", duration_s="5", seed="7")
    assert collect["recorder"].parameters["bag"] == "123"
    assert collect["teleop"].parameters["duration_s"] == 5.0
    assert isinstance(collect["teleop"].parameters["duration_s"], float)
    assert collect["teleop"].parameters["seed"] == 7


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_ros_launch_itself_finds_the_same_arguments(path: Path) -> None:
    """Runs where ROS's launch is installed; it does not look into included files before it starts."""
    pytest.importorskip("launch_yaml")
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    source: Any = launch.launch_description_sources.AnyLaunchDescriptionSource(str(path))
    description = source.get_launch_description(launch.LaunchContext())
    declared = {argument.name for argument in description.get_launch_arguments()}
    written = {entry["arg"]["name"] for entry in yaml.safe_load(path.read_text())["launch"] if "arg" in entry}
    assert declared == written
    assert declared <= {argument.name for argument in launch_file.arguments(path)}
