# SPDX-License-Identifier: Apache-2.0
"""Strict loading of frozen dataclasses from YAML: unknown keys and wrong types are errors that help."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from h2o_control.errors import ConfigError, nearest

T = TypeVar("T")


def load_yaml(path: str | Path) -> Any:
    """Read a YAML file; raise ConfigError with file, line and column where it is not YAML."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


def from_mapping(cls: type[T], data: Any, where: str = "config") -> T:
    """Build a (nested) frozen dataclass from a mapping.

    Args:
        cls: dataclass type; fields may be bool, int, float, str, tuples, dicts, dataclasses or unions with None.
        data: mapping from YAML or the command line.
        where: what the data is called in error messages, e.g. the file's name.

    Raises:
        ConfigError: unknown key (names the nearest valid one), missing key, a value of a wrong type, a number that is
            not finite or an integer beyond 64 bits.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if origin is typing.Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise ConfigError(f"{where} is {value!r}.{nearest(str(value), map(str, options))}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        args = typing.get_args(hint)
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise ConfigError(f"{where} must hold {len(kinds)} values, got {len(value)}")
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a mapping, got {value!r}")
        kind = typing.get_args(hint)[1]
        return {str(k): _convert(kind, v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 3e-4 (no dot) as text.
        try:
            value = float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ConfigError(f"{where} must fit into 64 bits, got {_short(value)}")
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def _finite(value: Any, where: str) -> float:
    # No comparison with NaN is true, so that a range check written the other way round would let it pass.
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{where} must be a finite number, got {_short(value)}")
    return number


def _short(value: Any) -> str:
    # Python refuses to write out integers of thousands of digits.
    return repr(value) if isinstance(value, float) or value.bit_length() < 128 else f"one of {value.bit_length()} bits"


def to_mapping(value: Any) -> Any:
    """Turn a (nested) dataclass into plain YAML- and JSON-ready dicts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): to_mapping(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_mapping(v) for v in value]
    return value


def apply_overrides(data: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides (values are YAML) to a nested mapping and return a new one."""
    result: dict[str, Any] = dict(data or {})
    for override in overrides:
        key, sep, text = override.partition("=")
        if not sep or not key:
            raise ConfigError(f"{override!r} is not an override; write key=value, e.g. seed=1 or h2o_plus.lambda_v=0.1")
        node = result
        *parents, leaf = key.split(".")
        for parent in parents:
            child = node.get(parent) or {}
            if not isinstance(child, Mapping):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a group of keys")
            node[parent] = dict(child)
            node = node[parent]
        try:
            node[leaf] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not valid YAML") from error
    return result


def config_dir() -> Path:
    """Return the folder of shipped configuration files.

    It is `H2O_CONFIG_DIR` where that is set, else `config/` in or above the current folder, else the copy that
    the installation put beside the package (share/h2o_control/config).
    """
    override = os.environ.get("H2O_CONFIG_DIR")
    if override:
        return Path(override)
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        for candidate in (folder / "config", folder / "share" / "h2o_control" / "config"):
            if (candidate / "robots").is_dir():
                return candidate
    raise ConfigError(
        "no config/ folder found: run inside a clone of the project, or set H2O_CONFIG_DIR to its config/"
    )


def find_config(kind: str, name: str) -> Path:
    """Resolve `name` to a file: a path as it is, else `<config_dir>/<kind>/<name>.yaml`."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no such file: {name}")
        return path
    folder = config_dir() / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = (str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
        raise ConfigError(f"no {kind} file named {name!r}.{nearest(name, known)}")
    return path
