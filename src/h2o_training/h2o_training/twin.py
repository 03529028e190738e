# SPDX-License-Identifier: Apache-2.0
"""The twin: simulators of the robot behind one vectorised interface.

A twin knows dynamics only, and how they are seen. Rewards, falls and episodes belong to the task
(h2o_control.contract) and to the collector (collector.py), so that every simulator serves every task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from h2o_control.errors import ConfigError, nearest
from h2o_training.distribution import Distribution
from h2o_training.effects import Effects, effects_from
from wheel_leg_driver.robot import Body, Robot

#: Names of everything that may be randomised, as h2o_training.effects.parameter knows them.
PARAMETER_NAMES = [
    *(f.name for f in dataclasses.fields(Effects)),
    *(f"body.{f.name}" for f in dataclasses.fields(Body)),
]
#: What the closed form has no equation for: contact, and the shape of the legs.
ONLY_MUJOCO = {
    *("sliding_friction", "floor_time_constant_s", "floor_damping_ratio"),
    *("body.track_width_m", "body.thigh_length_m", "body.shin_length_m", "body.thigh_rad", "body.shin_rad"),
}


@dataclass(frozen=True)
class InitialStates:
    """Half-widths of the uniform distribution around upright rest from which episodes start."""

    x_m: float = 0.1
    v_mps: float = 0.3
    theta_rad: float = 0.15
    theta_dot_radps: float = 0.5

    def __post_init__(self) -> None:
        if min(self.x_m, self.v_mps, self.theta_rad, self.theta_dot_radps) < 0:
            raise ValueError("initial-state half-widths must not be negative")

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw states [count, 4] in the order of STATE."""
        half = torch.tensor([self.x_m, self.v_mps, self.theta_rad, self.theta_dot_radps], device=generator.device)
        unit = torch.rand((count, 4), generator=generator, device=generator.device)
        return (2.0 * unit - 1.0) * half


@dataclass(frozen=True)
class TwinConfig:
    """Which simulator plays the twin and how.

    Attributes:
        kind: "closed_form" (torch, batched) or "mujoco" (the emulator's 3-D model, legs locked).
        num_envs: robots simulated side by side.
        effects: fields of h2o_training.effects.Effects, over those in the robot's file under `twin`.
        randomise: a distribution over any parameter, an effect by its name or "body." and a name of the description;
            each robot draws a value of its own, and a new one with each episode. On the command line
            'twin.randomise={dead_zone_nm: {uniform: [0, 0.3]}, body.com_height_m: {normal: [0.24, 0.01]}}'.
        initial: where episodes start.
        threads: of the MuJoCo simulator; 1 is fastest for a few dozen robots and leaves the cores to other runs.
    """

    kind: Literal["closed_form", "mujoco"] = "closed_form"
    num_envs: int = 32
    effects: dict[str, Any] = field(default_factory=dict)
    randomise: dict[str, Distribution] = field(default_factory=dict)
    initial: InitialStates = field(default_factory=InitialStates)
    threads: int = 1

    def __post_init__(self) -> None:
        if self.num_envs < 1 or self.threads < 1:
            raise ValueError(f"num_envs and threads must be at least 1, got {self.num_envs} and {self.threads}")
        try:
            effects = effects_from(self.effects, "effects")
            require_possible(self.kind, effects, self.randomise)
        except ConfigError as error:
            # As a ValueError the strict loader puts file and key before it.
            raise ValueError(str(error)) from error


def require_possible(kind: str, effects: Effects, randomise: Mapping[str, Distribution]) -> None:
    """Raise ConfigError where a name to randomise is none, or where this kind of twin cannot have an effect."""
    for name in randomise:
        if name not in PARAMETER_NAMES:
            raise ConfigError(f"randomise: no parameter named {name!r}.{nearest(name, PARAMETER_NAMES)}")
    impossible = sorted(ONLY_MUJOCO & ({*effects.changed} | {*randomise}))
    if kind == "closed_form" and impossible:
        raise ConfigError(f"the closed form has no {', '.join(impossible)}: use kind: mujoco, or leave it out")


class Twin(Protocol):
    """N simulated robots advanced together by one control step (Interface.dt_s)."""

    num_envs: int

    @property
    def state(self) -> Tensor:
        """What the driver would estimate: states [N, 4] in the order of STATE; a copy the caller may keep."""

    @property
    def truth(self) -> Tensor:
        """True states [N, 4] in the order of STATE; a copy the caller may keep."""

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes where mask [N] (bool) is true, everywhere without one; returns estimates [N, 4]."""

    def step(self, torque_nm: Tensor) -> Tensor:
        """Hold the torques (Nm of a wheel) for one control step; returns the next estimates [N, 4].

        Torques are [N], both wheels alike, or [N, 2], left and right, of which a twin, which only goes straight, feels
        what both motors produce on average. They are clipped to the interface's limit, as by the firmware.
        """

    def set_state(self, state: Tensor) -> None:
        """Put the robots into these true states [N, 4], motors cold and filters settled."""

    def set_observed(self, observed: Tensor, past_torque_nm: Tensor) -> None:
        """Put the robots into the true states that would now be estimated so.

        Bias, scale, lag and delay are taken back; noise and resolution cannot be.

        Args:
            observed: estimates [N, 4].
            past_torque_nm: commands [N, K >= 1], or [N, K, 2], of the steps up to now, oldest first; the oldest is
                taken to have been commanded before them too. K must be at least the observation delay in steps; more
                makes the start better, as far as the actuation delay and a few of the motors' time constants reach.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step follows from, the generator apart."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up exactly where `state_dict` left off."""

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance: JSON-ready."""


def make_twin(
    config: TwinConfig,
    robot: Robot,
    generator: torch.Generator,
    parameters: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Twin:
    """Build the twin of `robot` that `config` names.

    Args:
        config: simulator and options.
        robot: its body, interface and twin are the model; its plant is not looked at.
        generator: source of initial states, noise and randomised parameters; its device is the twin's device.
        parameters: values [num_envs] of parameters (names as in config.randomise), fixed: not drawn.
        dtype: of all states.

    Raises:
        ConfigError: effects or parameters that this robot or this kind of twin cannot have.
    """
    if config.kind == "mujoco":
        from h2o_training.twin_mujoco import MujocoTwin

        return MujocoTwin(config, robot, generator, parameters, dtype)
    from h2o_training.twin_closed_form import ClosedFormTwin

    return ClosedFormTwin(config, robot, generator, parameters, dtype)
