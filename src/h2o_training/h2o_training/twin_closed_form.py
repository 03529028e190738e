# SPDX-License-Identifier: Apache-2.0
"""The closed-form twin: sagittal dynamics of docs/robot.md, batched in torch, one Runge-Kutta step a control step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from h2o_control.config import to_mapping
from h2o_training.twin import TwinConfig
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sagittal import accelerations


class ClosedFormTwin:
    """N robots in the sagittal plane (see Twin); runs wherever `generator` lives, CPU or GPU."""

    def __init__(self, config: TwinConfig, robot: Robot, generator: torch.Generator) -> None:
        self.num_envs = config.num_envs
        self._config = config
        self._body = robot.body
        self._interface = robot.interface
        self._generator = generator
        self._state = config.initial.sample(self.num_envs, generator)

    @property
    def state(self) -> Tensor:
        """States [N, 4]; see Twin.state."""
        return self._state.clone()

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes; see Twin.reset."""
        fresh = self._config.initial.sample(self.num_envs, self._generator)
        self._state = fresh if mask is None else torch.where(mask[:, None], fresh, self._state)
        return self.state

    def set_state(self, state: Tensor) -> None:
        """Put the robots into these states [N, 4]."""
        self._state = state.to(self._state).clone()

    @torch.no_grad()
    def step(self, torque_nm: Tensor) -> Tensor:
        """Advance one control step; see Twin.step. Torques are clipped to the interface's limit, as by the firmware."""
        limit = self._interface.torque_limit_nm
        torque = torque_nm.clamp(-limit, limit)
        dt = self._interface.dt_s
        s = self._state
        k1 = self._derivative(s, torque)
        k2 = self._derivative(s + (0.5 * dt) * k1, torque)
        k3 = self._derivative(s + (0.5 * dt) * k2, torque)
        k4 = self._derivative(s + dt * k3, torque)
        self._state = s + (dt / 6.0) * (k1 + 2.0 * (k2 + k3) + k4)
        return self.state

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step follows from."""
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self.set_state(state["state"])

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance."""
        return {**to_mapping(self._config), "integrator": "rk4", "body": to_mapping(self._body)}

    def _derivative(self, state: Tensor, torque_nm: Tensor) -> Tensor:
        _, v, theta, theta_dot = state.unbind(-1)
        v_dot, theta_ddot = accelerations(
            self._body,
            self._interface.wheel_radius_m,
            v,
            theta,
            theta_dot,
            torque_nm,
            xp=torch,
            torque_factor=self._config.torque_factor,
            dead_zone_nm=self._config.dead_zone_nm,
        )
        return torch.stack((v, v_dot, theta_dot, theta_ddot), dim=-1)
