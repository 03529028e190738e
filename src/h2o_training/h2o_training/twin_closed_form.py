# SPDX-License-Identifier: Apache-2.0
"""The closed-form twin: sagittal dynamics of docs/robot.md, batched in torch, Runge-Kutta of fourth order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from h2o_training.twin_batch import BatchTwin
from wheel_leg_driver.sagittal import FRICTION_SHARPNESS_S, given

#: Largest step of the method times the fastest decay in the system; at 2.78 it becomes unstable.
LARGEST_STEP = 2.5


class ClosedFormTwin(BatchTwin):
    """N robots in the sagittal plane (see Twin); runs wherever the generator lives, CPU or GPU."""

    _state: Tensor  # [4, N]

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance."""
        return {**super().describe(), "integrator": "rk4", "substeps": self._substeps}

    def _configure(self, mask: Tensor | None) -> None:
        self._substeps = self._needed_substeps()

    def _needed_substeps(self) -> int:
        # Friction is steep around standstill. A moment between wheel and body changes their relative speed by
        # `mobility` times itself; rolling resistance moves the wheel by less than that.
        p, r = self._parameters, self._interface.wheel_radius_m
        slope = FRICTION_SHARPNESS_S * (p.coulomb_nm + p.rolling_moment_nm)
        slope = slope + p.viscous_nms + p.rolling_drag_nspm * r**2
        if not given(slope):
            return 1
        rest = (self._zeros, self._zeros, self._zeros)
        moved, still = (self._accelerations(*rest, torque) for torque in (0.5 + self._zeros, self._zeros))
        mobility = (moved[0] - still[0]) / r - (moved[1] - still[1])
        return max(1, math.ceil(self._interface.dt_s * float((mobility * slope).max()) / LARGEST_STEP))

    def _truth(self) -> Tensor:
        return self._state.T

    def _set_truth(self, mask: Tensor | None, state: Tensor) -> None:
        # Columns side by side in memory: each is worked on as a whole.
        self._state = state.T.contiguous() if mask is None else torch.where(mask, state.T, self._state)

    def _advance(self, produced_nm: Tensor) -> None:
        x, v, theta, theta_dot = self._state.unbind(0)
        h = self._interface.dt_s / self._substeps
        for _ in range(self._substeps):
            a1, b1 = self._accelerations(v, theta, theta_dot, produced_nm)
            v2, w2 = torch.add(v, a1, alpha=h / 2), torch.add(theta_dot, b1, alpha=h / 2)
            a2, b2 = self._accelerations(v2, torch.add(theta, theta_dot, alpha=h / 2), w2, produced_nm)
            v3, w3 = torch.add(v, a2, alpha=h / 2), torch.add(theta_dot, b2, alpha=h / 2)
            a3, b3 = self._accelerations(v3, torch.add(theta, w2, alpha=h / 2), w3, produced_nm)
            v4, w4 = torch.add(v, a3, alpha=h), torch.add(theta_dot, b3, alpha=h)
            a4, b4 = self._accelerations(v4, torch.add(theta, w3, alpha=h), w4, produced_nm)
            x = torch.add(x, v + 2.0 * (v2 + v3) + v4, alpha=h / 6)
            theta = torch.add(theta, theta_dot + 2.0 * (w2 + w3) + w4, alpha=h / 6)
            v = torch.add(v, a1 + 2.0 * (a2 + a3) + a4, alpha=h / 6)
            theta_dot = torch.add(theta_dot, b1 + 2.0 * (b2 + b3) + b4, alpha=h / 6)
        self._state = torch.stack((x, v, theta, theta_dot))

    def _physics_state(self) -> dict[str, Tensor]:
        return {"state": self.truth}

    def _load_physics_state(self, state: Mapping[str, Tensor]) -> None:
        self._set_truth(None, state["state"].to(self._zeros))
