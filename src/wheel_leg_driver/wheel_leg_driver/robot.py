# SPDX-License-Identifier: Apache-2.0
"""One robot's description: interface, body, balance and, for an emulated robot, the plant that plays it.

Read from config/robots/*.yaml. The driver needs interface, body and balance; only the emulator reads `plant`.
A robot may also be given as a point on the line between two others (blend.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2o_control.config import find_config, from_mapping, load_yaml
from h2o_control.contract import Interface
from h2o_control.errors import ConfigError


@dataclass(frozen=True)
class Body:
    """Masses and lengths of the sagittal plane; wheel quantities are for both wheels together, as in docs/robot.md.

    Attributes:
        body_mass_kg: everything carried by the axle (torso and legs), M_b.
        body_inertia_kgm2: pitch inertia of that about its centre of mass, I_b.
        com_height_m: from the axle to that centre of mass, l.
        wheels_mass_kg, wheels_inertia_kgm2: M_w and I_w (spin).
        armature_kgm2: rotor inertia reflected to the wheels.
        viscous_nms, coulomb_nm: friction between wheel and body, β and τ_c.
        track_width_m: between the wheels' contact points.
        thigh_length_m, shin_length_m: leg links.
        thigh_rad, shin_rad: standing posture (hip and knee angle) held by the leg servos.
        crouch_share: lowest height of the hips above the axle, as a share of the standing one; 1 keeps it standing.
    """

    body_mass_kg: float
    body_inertia_kgm2: float
    com_height_m: float
    wheels_mass_kg: float
    wheels_inertia_kgm2: float
    armature_kgm2: float = 0.0
    viscous_nms: float = 0.0
    coulomb_nm: float = 0.0
    track_width_m: float = 0.38
    thigh_length_m: float = 0.12
    shin_length_m: float = 0.234
    thigh_rad: float = 1.062
    shin_rad: float = -1.527
    crouch_share: float = 0.65

    def __post_init__(self) -> None:
        for name in (
            "body_mass_kg",
            "body_inertia_kgm2",
            "com_height_m",
            "wheels_mass_kg",
            "wheels_inertia_kgm2",
            "track_width_m",
            "thigh_length_m",
            "shin_length_m",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("armature_kgm2", "viscous_nms", "coulomb_nm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0.3 <= self.crouch_share <= 1.0:
            raise ValueError(f"crouch_share must lie between 0.3 and 1, got {self.crouch_share}")


@dataclass(frozen=True)
class Balance:
    """What the operator found out about this robot on the stand; the driver's LQR compensates it.

    Attributes:
        dead_zone_nm: torque a wheel that produces nothing; added smoothly around zero.
        dead_zone_width_nm: scale of that smoothing.
        torque_factor: produced over commanded torque.
        pitch_trim_rad: measured pitch at which the robot is in balance.
        q_x, q_v, q_theta, q_theta_dot, r_tau: LQR weights (1/m², s²/m², 1/rad², s²/rad², 1/Nm²).
        trim_time_s: time constant of the integrator that finds the remaining pitch bias.
        exploration_nm, exploration_time_s: random torque added while data are collected, so that they tell more than
            balance alone would: standard deviation, and how long it stays alike.
        exploration_tail: how much rarer and larger its peaks are than those of normal noise (0: normal), as a robot
            that people push and catch has them: z + tail · z³ of normal noise z, at the same standard deviation.
    """

    dead_zone_nm: float = 0.0
    dead_zone_width_nm: float = 0.1
    torque_factor: float = 1.0
    pitch_trim_rad: float = 0.0
    q_x: float = 2.0
    q_v: float = 2.0
    q_theta: float = 20.0
    q_theta_dot: float = 0.5
    r_tau: float = 0.5
    trim_time_s: float = 6.0
    exploration_nm: float = 0.9
    exploration_time_s: float = 0.08
    exploration_tail: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dead_zone_width_nm", "torque_factor", "q_theta", "r_tau", "trim_time_s", "exploration_time_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("dead_zone_nm", "q_x", "q_v", "q_theta_dot", "exploration_nm", "exploration_tail"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class PlantSpec:
    """The class that plays this robot in the emulator, and its options.

    Attributes:
        path: "module:Class", or "file.py:Class" with a file relative to the robot's own.
        options: what the class takes beside robot and seed.
    """

    path: str = "h2o_training.plant:MujocoPlant"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Robot:
    """A robot as its file describes it.

    Attributes:
        twin: what identification found that the body's numbers cannot say (fields of h2o_training.effects.Effects);
            twins of this robot have it.
        plant: what plays this robot in the emulator; None for real hardware.
        provenance: how a program came to this description (blend, draw, fit); for people, nothing is computed from it.
    """

    name: str
    description: str
    interface: Interface
    body: Body
    balance: Balance = Balance()
    twin: dict[str, Any] = field(default_factory=dict)
    plant: PlantSpec | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or ":" in self.name:
            raise ValueError(f"name {self.name!r} must not be empty or hold a slash or colon: files are named after it")


def load_robot(name_or_path: str) -> Robot:
    """Load a robot by the name of a file in config/robots, by path, or as a blend FROM:TO:GAP, e.g. ideal:worn:0.25.

    A file holds a description, or `blend: {from: ideal, to: worn, gap: 0.25}`, with a name and a description where the
    ones made up from that will not do.

    Raises:
        ConfigError: names the file, the key and what is valid.
    """
    return _load(name_or_path, ())


def _load(name_or_path: str, seen: tuple[Path, ...]) -> Robot:
    if ":" in name_or_path and not Path(name_or_path).is_file():
        return _blend_from_text(name_or_path, seen)
    path = find_config("robots", name_or_path)
    if path.resolve() in seen:
        raise ConfigError(f"{path}: this blend leads back to itself")
    data = load_yaml(path)
    if isinstance(data, Mapping) and "blend" in data:
        return _blend_from_file(path, data, (*seen, path.resolve()))
    return _located(from_mapping(Robot, data, str(path)), path)


def _blend_from_text(text: str, seen: tuple[Path, ...]) -> Robot:
    try:
        first, second, given = text.split(":")
        gap = float(given)
    except ValueError:
        raise ConfigError(f"robot {text!r} is no blend: write FROM:TO:GAP, e.g. ideal:worn:0.25") from None
    return _blend(first, second, gap, seen)


@dataclass(frozen=True)
class _BlendFile:
    blend: dict[str, Any]
    name: str | None = None
    description: str | None = None


def _blend_from_file(path: Path, data: Mapping[str, Any], seen: tuple[Path, ...]) -> Robot:
    file = from_mapping(_BlendFile, data, str(path))
    if sorted(file.blend) != ["from", "gap", "to"]:
        raise ConfigError(f"{path}: blend must read {{from: ROBOT, to: ROBOT, gap: 0 to 1}}, got {file.blend!r}")
    gap = file.blend["gap"]
    if isinstance(gap, bool) or not isinstance(gap, int | float):
        raise ConfigError(f"{path}: blend: gap must be a number, got {gap!r}")
    robot = _blend(_beside(path, file.blend["from"]), _beside(path, file.blend["to"]), float(gap), seen)
    try:
        return dataclasses.replace(
            robot,
            name=robot.name if file.name is None else file.name,
            description=robot.description if file.description is None else file.description,
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _blend(first: str, second: str, gap: float, seen: tuple[Path, ...]) -> Robot:
    # Only blends need it, and it needs this module.
    from wheel_leg_driver.blend import blend_robots

    return blend_robots(_load(first, seen), _load(second, seen), gap)


def _beside(path: Path, name: Any) -> str:
    # A file that names files must read the same from everywhere.
    text = str(name)
    return str(path.parent / text) if text.endswith((".yaml", ".yml")) else text


def _located(robot: Robot, path: Path) -> Robot:
    """Let a plant given as file.py:Class be found from everywhere: it is relative to the robot's own file."""
    plant = robot.plant
    if plant is None or ".py:" not in plant.path:
        return robot
    return dataclasses.replace(robot, plant=dataclasses.replace(plant, path=str(path.parent / plant.path)))
