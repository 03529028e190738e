# SPDX-License-Identifier: Apache-2.0
"""The twin: simulators of the nominal robot behind one vectorised interface.

A twin knows dynamics only. Rewards, falls and episodes belong to the task (h2o_control.contract) and to the
collector (collector.py), so that every simulator serves every task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from wheel_leg_driver.robot import Robot


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
        kind: "closed_form" (torch, batched) or "mujoco" (the emulator's 3-D model without its imperfections).
        num_envs: robots simulated side by side.
        torque_factor: produced over commanded torque; 1 is the robot as designed.
        dead_zone_nm: commanded torque of one wheel that produces nothing; 0 is the robot as designed.
        initial: where episodes start.
    """

    kind: Literal["closed_form", "mujoco"] = "closed_form"
    num_envs: int = 32
    torque_factor: float = 1.0
    dead_zone_nm: float = 0.0
    initial: InitialStates = field(default_factory=InitialStates)

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {self.num_envs}")
        if self.torque_factor <= 0 or self.dead_zone_nm < 0:
            raise ValueError("torque_factor must be positive and dead_zone_nm not negative")


class Twin(Protocol):
    """N simulated robots advanced together by one control step (Interface.dt_s)."""

    num_envs: int

    @property
    def state(self) -> Tensor:
        """States [N, 4] in the order of STATE, float32; a copy the caller may keep."""

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes where mask [N] (bool) is true, everywhere without one; returns states [N, 4]."""

    def step(self, torque_nm: Tensor) -> Tensor:
        """Hold the torques [N] (Nm of one wheel, both alike) for one control step; returns the next states [N, 4]."""

    def set_state(self, state: Tensor) -> None:
        """Put the robots into these states [N, 4]."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step follows from, the generator apart."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up exactly where `state_dict` left off."""

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance: JSON-ready."""


def make_twin(config: TwinConfig, robot: Robot, generator: torch.Generator) -> Twin:
    """Build the twin of `robot` that `config` names.

    Args:
        config: simulator and options.
        robot: its body and interface are the nominal model; its plant is not looked at.
        generator: source of the initial states; its device is the twin's device.
    """
    if config.kind == "mujoco":
        from h2o_training.twin_mujoco import MujocoTwin

        return MujocoTwin(config, robot, generator)
    from h2o_training.twin_closed_form import ClosedFormTwin

    return ClosedFormTwin(config, robot, generator)
