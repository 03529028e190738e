# SPDX-License-Identifier: Apache-2.0
"""The straight line between two robots: gap 0 is the first, gap 1 the second."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from h2o_control.config import from_mapping, to_mapping
from h2o_control.errors import ConfigError
from wheel_leg_driver.plant import load_named
from wheel_leg_driver.robot import PlantSpec, Robot

#: Blends the fields of `Robot.twin`. Named, not imported: only robots that say what their twin has need it.
TWIN_BLENDER = "h2o_training.robots:blend_effects"


def blend_robots(first: Robot, second: Robot, gap: float) -> Robot:
    """Return the robot that lies `gap` of the way from `first` to `second`, named after the three.

    Numbers of body, balance, twin and plant are (1 − gap)·first + gap·second. A plant class that declares a function
    `blend_options(first, second, gap)` says itself what lies between its options; of another, both robots must give
    the same options.

    Raises:
        ConfigError: gap outside [0, 1], another interface, another plant, options with nothing in between.
    """
    between = f"between robots {first.name!r} and {second.name!r}"
    if not 0.0 <= gap <= 1.0:
        raise ConfigError(f"the gap {between} must lie in [0, 1], got {gap}")
    _require_same_interface(first, second)
    given = f"{gap:.12g}"
    labels: dict[str, Any] = {
        "name": f"{first.name}-{second.name}-{given}",
        "description": f"{given} of the way from {first.name} to {second.name}",
        "provenance": {"blend": {"from": first.name, "to": second.name, "gap": gap}},
    }
    if gap in (0.0, 1.0):
        return dataclasses.replace(second if gap else first, **labels)
    data = {
        **labels,
        "interface": to_mapping(first.interface),
        "body": blend_numbers(to_mapping(first.body), to_mapping(second.body), gap, between),
        "balance": blend_numbers(to_mapping(first.balance), to_mapping(second.balance), gap, between),
        "twin": first.twin,
        "plant": to_mapping(_blend_plants(first.plant, second.plant, gap, between)),
    }
    if first.twin != second.twin:
        data["twin"] = load_named(TWIN_BLENDER)(first.twin, second.twin, gap)
    return from_mapping(Robot, data, between)


def blend_numbers(first: Mapping[str, Any], second: Mapping[str, Any], gap: float, where: str) -> dict[str, Any]:
    """Blend two flat mappings with the same keys; raises ConfigError where one lacks a key or two texts differ."""
    values: dict[str, Any] = {}
    for key in sorted({*first, *second}):
        if key not in first or key not in second:
            raise ConfigError(f"{where}: {key} is given for one of them only, so nothing lies in between")
        a, b = first[key], second[key]
        if a == b:
            values[key] = a
        elif _is_number(a) and _is_number(b):
            values[key] = (1.0 - gap) * a + gap * b
        else:
            raise ConfigError(f"{where}: nothing lies between {key} {a!r} and {b!r}")
    return values


def _require_same_interface(first: Robot, second: Robot) -> None:
    differing = [
        f"{field.name} {getattr(first.interface, field.name)} and {getattr(second.interface, field.name)}"
        for field in dataclasses.fields(first.interface)
        if getattr(first.interface, field.name) != getattr(second.interface, field.name)
    ]
    if differing:
        raise ConfigError(
            f"robots {first.name!r} and {second.name!r} have different interfaces, nothing lies in between: "
            + "; ".join(differing)
        )


def _blend_plants(first: PlantSpec | None, second: PlantSpec | None, gap: float, where: str) -> PlantSpec | None:
    if first == second:
        return first
    if first is None or second is None:
        raise ConfigError(f"{where}: one has no plant, so there is no emulated robot in between")
    if first.path != second.path:
        raise ConfigError(f"{where}: nothing lies between plants {first.path} and {second.path}")
    blender = getattr(load_named(first.path), "blend_options", None)
    if blender is not None:
        return PlantSpec(first.path, blender(first.options, second.options, gap))
    return PlantSpec(first.path, blend_numbers(first.options, second.options, gap, f"{where}: plant options"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
