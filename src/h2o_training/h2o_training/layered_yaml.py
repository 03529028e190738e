# SPDX-License-Identifier: Apache-2.0
"""YAML files that name others as their `base`, so that a file says only what is its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h2o_control.config import load_yaml
from h2o_control.errors import ConfigError, nearest

BASE = "base"


def load_layered(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a mapping of keys to values, merged over the files that its key `base` names.

    `base` is a name or a list of names, relative to the file's folder and without .yaml; a later one wins over an
    earlier one and the file over all. Mappings are merged key by key; anything else, null included, replaces.

    Args:
        path: the file.
        above: files that led here, for the error about a file that is its own base.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, or a circle of bases.
    """
    path = path.resolve()
    if path in above:
        circle = " -> ".join(p.name for p in (*above[above.index(path) :], path))
        raise ConfigError(f"{path}: is its own base: {circle}")
    data = load_yaml(path)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {data!r}")
    own = {str(key): value for key, value in data.items()}
    names = own.pop(BASE, [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {BASE} must be a name or a list of names, got {names!r}")
    merged: dict[str, Any] = {}
    for name in names:
        under = path.parent / f"{name}.yaml"
        if not under.is_file():
            known = [p.stem for p in under.parent.glob("*.yaml")]
            raise ConfigError(f"{path}: no base {name!r} (looked for {under}).{nearest(under.stem, known)}")
        merged = _merge(merged, load_layered(under, (*above, path)))
    return _merge(merged, own)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
