# SPDX-License-Identifier: Apache-2.0
"""One robot's description: interface, body, balance and, for an emulated robot, the plant that plays it.

Read from config/robots/*.yaml. The driver needs interface, body and balance; only the emulator reads `plant`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from h2o_control.config import find_config, from_mapping, load_yaml
from h2o_control.contract import Interface


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

    def __post_init__(self) -> None:
        for name in ("dead_zone_width_nm", "torque_factor", "q_theta", "r_tau", "trim_time_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("dead_zone_nm", "q_x", "q_v", "q_theta_dot"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class PlantSpec:
    """The class that plays this robot in the emulator, by import path "module:Class", and its options."""

    path: str = "h2o_training.plant:MujocoPlant"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Robot:
    """A robot as its file describes it.

    Attributes:
        twin: what identification found that the body's numbers cannot say (fields of h2o_training.effects.Effects);
            twins of this robot have it.
        plant: what plays this robot in the emulator; None for real hardware.
    """

    name: str
    description: str
    interface: Interface
    body: Body
    balance: Balance = Balance()
    twin: dict[str, Any] = field(default_factory=dict)
    plant: PlantSpec | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"name {self.name!r} must not be empty or hold a slash: files are named after it")


def load_robot(name_or_path: str) -> Robot:
    """Load `config/robots/<name>.yaml` or a path; raises ConfigError naming the file, the key and what is valid."""
    path = find_config("robots", name_or_path)
    return from_mapping(Robot, load_yaml(path), str(path))
