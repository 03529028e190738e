# SPDX-License-Identifier: Apache-2.0
"""Reads ROS 2 launch files in YAML without ROS: the few actions and keys that ours use; every other one is refused.

A file that this module accepts means the same to `ros2 launch` on every distribution since Humble.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from h2o_control.config import load_yaml
from h2o_control.errors import ConfigError, nearest
from h2o_control.launch_substitutions import Scope, condition, expand, expand_words

#: Keys of each action: True where it must be there.
ACTIONS: dict[str, dict[str, bool]] = {
    "arg": {"name": True, "default": False, "description": False},
    "let": {"name": True, "value": True, "if": False, "unless": False},
    "include": {"file": True},
    "node": {
        "pkg": True,
        "exec": True,
        "name": True,
        "args": False,
        "param": False,
        "output": False,
        "if": False,
        "unless": False,
    },
}
_PARAM = {"name": True, "value": True, "type": False}
_PARAM_FILE = {"from": True}
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}

ParameterValue = str | int | float | bool | list[str]


@dataclass(frozen=True)
class Argument:
    """One launch argument as declared; `default` is None where a value must be given, and may hold substitutions."""

    name: str
    default: str | None
    description: str

    def __str__(self) -> str:
        """One line for a listing."""
        default = "required" if self.default is None else f"default {self.default!r}"
        return f"{self.name} ({default}): {self.description}"


@dataclass(frozen=True)
class Node:
    """One node to start: console script `executable` of package `package` with `arguments`, as node `name`.

    What `parameters` says holds against `parameter_files`, and a later one of these against an earlier one.
    """

    package: str
    executable: str
    name: str
    parameters: Mapping[str, ParameterValue]
    arguments: Sequence[str] = ()
    parameter_files: Sequence[Path] = ()


@dataclass(frozen=True)
class _Action:
    kind: str
    values: dict[str, Any]
    path: Path

    def error(self, what: str) -> ConfigError:
        label = self.values.get("name", self.values.get("file", ""))
        return ConfigError(f"{self.path.name}: {self.kind} {label}: {what}")


def _actions(path: Path) -> list[_Action]:
    """Read one file and check the keys of its actions."""
    data = load_yaml(path)
    if not isinstance(data, dict) or set(data) != {"launch"} or not isinstance(data["launch"], list):
        raise ConfigError(f"{path.name} is not a launch file: it must hold one key, launch, with a list of actions")
    actions = []
    for entry in data["launch"]:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigError(f"{path.name}: each action must be one key with its values, got {entry!r}")
        kind, values = next(iter(entry.items()))
        if kind not in ACTIONS:
            raise ConfigError(f"{path.name}: action {kind!r} is not supported.{nearest(str(kind), ACTIONS)}")
        _check(values, ACTIONS[kind], f"{path.name}: {kind}")
        action = _Action(kind, values, path)
        for key, value in values.items():
            if key != "param" and not isinstance(value, str):
                raise action.error(f"{key} must be text, as ROS's launch wants it; put {value!r} in quotes")
        if "if" in values and "unless" in values:
            raise action.error("if and unless cannot stand together")
        actions.append(action)
    return actions


def _check(values: Any, allowed: Mapping[str, bool], where: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold keys and values, got {values!r}")
    for key in values:
        if key not in allowed:
            raise ConfigError(f"{where}: key {key!r} is not supported.{nearest(str(key), allowed)}")
    for key, required in allowed.items():
        if required and key not in values:
            raise ConfigError(f"{where}: key {key!r} is missing")


def _walk(path: Path, scope: Scope) -> Iterator[tuple[_Action, Scope]]:
    """Yield the actions in order, those of included files in their place; variables are shared, as in ROS's launch."""
    for action in _actions(path):
        if action.kind == "include":
            included = Path(expand(action.values["file"], scope))
            yield from _walk(included, Scope(included.resolve(), scope.variables))
        else:
            yield action, scope


def arguments(path: Path) -> list[Argument]:
    """Return the launch arguments of a file and of those it includes, in order of declaration."""
    found: dict[str, Argument] = {}
    for action, _ in _walk(path, Scope(path.resolve())):
        if action.kind == "arg":
            values = action.values
            argument = Argument(values["name"], values.get("default"), values.get("description", ""))
            found.setdefault(argument.name, argument)
    return list(found.values())


def nodes(path: Path, given: Mapping[str, str]) -> list[Node]:
    """Evaluate a launch file with the given arguments and return the nodes to start.

    Raises:
        ConfigError: an action, key or substitution that is not supported, an argument the file does not declare or
            that has no value.
    """
    declared = arguments(path)
    valid = {argument.name for argument in declared}
    listing = "\n  ".join(map(str, declared))
    for name in given:
        if name not in valid:
            raise ConfigError(f"{path.name} has no argument {name!r}.{nearest(name, valid)}\n  {listing}")
    scope = Scope(path.resolve(), dict(given))
    found: list[Node] = []
    for action, local in _walk(path, scope):
        values = action.values
        if ("if" in values and not condition(values["if"], local)) or (
            "unless" in values and condition(values["unless"], local)
        ):
            continue
        if action.kind == "node":
            found.append(_node(action, local))
        elif action.kind == "let":
            local.variables[values["name"]] = expand(values["value"], local)
        elif values["name"] not in local.variables:
            if "default" not in values:
                raise ConfigError(f"{path.name} needs {values['name']}:=…\n  {listing}")
            local.variables[values["name"]] = expand(values["default"], local)
    names = [node.name for node in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path.name} starts two nodes named {name!r}; give each its own name")
    return found


def _node(action: _Action, scope: Scope) -> Node:
    values = action.values
    parameters: dict[str, ParameterValue] = {}
    files: list[Path] = []
    entries = values.get("param", [])
    if not isinstance(entries, list):
        raise action.error("param must be a list")
    for entry in entries:
        where = f"{action.path.name}: node {values['name']}: param"
        if isinstance(entry, dict) and "from" in entry:
            _check(entry, _PARAM_FILE, where)
            files.append(_parameter_file(action, entry["from"], scope))
            if parameters:
                # Which of the two then holds is not the same on every distribution.
                raise action.error(f"param from {entry['from']} must stand before the params with name and value")
            continue
        _check(entry, _PARAM, where)
        if not isinstance(entry["name"], str):
            raise action.error(f"param {entry['name']}: name must be text; put it in quotes")
        parameters[entry["name"]] = _parameter(action, entry, scope)
    texts = {key: expand(values[key], scope) for key in ("pkg", "exec", "name")}
    words = expand_words(values.get("args", ""), scope)
    return Node(texts["pkg"], texts["exec"], texts["name"], parameters, words, tuple(files))


def _parameter_file(action: _Action, text: Any, scope: Scope) -> Path:
    """Find a file of parameters; ROS's launch would warn of one that is not there, and start the node without."""
    if not isinstance(text, str):
        raise action.error(f"param from must be text, got {text!r}; put it in quotes")
    path = Path(expand(text, scope))
    if not path.is_file():
        raise action.error(f"param from: there is no file {path}")
    return path


def _parameter(action: _Action, entry: Mapping[str, Any], scope: Scope) -> ParameterValue:
    """Give a parameter its value and type: the one that `type` names, else what YAML makes of the text."""
    value, kind = entry["value"], entry.get("type")
    if kind is not None and str(kind) not in _TYPES:
        raise action.error(f"param {entry['name']}: type {kind!r} is not supported.{nearest(str(kind), _TYPES)}")
    if isinstance(value, list) and kind is None:
        words = [expand(word, scope) if isinstance(word, str) else word for word in value]
        if not words or not all(isinstance(word, str) and isinstance(yaml.safe_load(word), str) for word in words):
            raise action.error(f"param {entry['name']}: a list must hold words only, got {words}")
        return words
    if isinstance(value, str):
        text = expand(value, scope)
        if kind == "str":
            return text
        try:
            value = yaml.safe_load(text) if text else text
        except yaml.YAMLError as error:
            raise action.error(f"param {entry['name']}: {text!r} is not YAML; if it is text, add type: str") from error
    if kind == "float" and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, str | int | float | bool) or (kind is not None and type(value) is not _TYPES[kind]):
        raise action.error(f"param {entry['name']}: {value!r} is not {kind or 'text, a number or a truth value'}")
    return value
