# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo twin: the robot's 3-D model with its legs locked, rolled out in batches by MuJoCo's own thread pool."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torch import Tensor

from h2o_control.config import to_mapping
from h2o_training.model import build_model, get_state, set_state
from h2o_training.twin import TwinConfig
from wheel_leg_driver.robot import Robot

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


class MujocoTwin:
    """N copies of one model (see Twin); simulates on the CPU, tensors come from and go to the generator's device."""

    def __init__(self, config: TwinConfig, robot: Robot, generator: torch.Generator) -> None:
        self.num_envs = config.num_envs
        self._config = config
        self._robot = robot
        self._generator = generator
        self._model = build_model(robot, legs_locked=True)
        self._data = mujoco.MjData(self._model)
        self._substeps = round(robot.interface.dt_s / self._model.opt.timestep)
        # The physics step must divide the control step; the nearest one that does is at most a third off.
        self._model.opt.timestep = robot.interface.dt_s / max(self._substeps, 1)
        self._wheels = [self._model.actuator(f"{side}_wheel").id for side in ("left", "right")]
        self._full = np.zeros((self.num_envs, mujoco.mj_stateSize(self._model, _FULL)))
        # One thread: twins of a few dozen robots step faster than a pool wakes up, and runs share cores.
        self._rollout = Rollout(nthread=0)
        self.reset()

    @property
    def state(self) -> Tensor:
        """States [N, 4]; see Twin.state."""
        rows = np.empty((self.num_envs, 4), dtype=np.float32)
        for row, full in zip(rows, self._full, strict=True):
            mujoco.mj_setState(self._model, self._data, full, _FULL)
            row[:] = get_state(self._data)
        return torch.from_numpy(rows).to(self._generator.device)

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes; see Twin.reset."""
        fresh = self._config.initial.sample(self.num_envs, self._generator)
        if mask is None:
            self.set_state(fresh)
        else:
            for index in torch.nonzero(mask).flatten().tolist():
                self._put(index, fresh[index])
        return self.state

    def set_state(self, state: Tensor) -> None:
        """Put the robots into these states [N, 4]."""
        for index in range(self.num_envs):
            self._put(index, state[index])

    def step(self, torque_nm: Tensor) -> Tensor:
        """Advance one control step; see Twin.step."""
        limit = self._robot.interface.torque_limit_nm
        torque = np.clip(torque_nm.detach().cpu().numpy().astype(np.float64), -limit, limit)
        dead = self._config.dead_zone_nm
        produced = self._config.torque_factor * np.sign(torque) * np.maximum(np.abs(torque) - dead, 0.0)
        control = np.zeros((self.num_envs, max(self._substeps, 1), self._model.nu))
        control[:, :, self._wheels] = produced[:, None, None]
        path, _ = self._rollout.rollout(self._model, [self._data], self._full, control)
        self._full = np.ascontiguousarray(path[:, -1])
        return self.state

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step follows from: MuJoCo's full physics state [N, n] in double precision."""
        return {"full": torch.from_numpy(self._full.copy())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self._full = state["full"].cpu().numpy().copy()

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance."""
        return {
            **to_mapping(self._config),
            "mujoco": mujoco.__version__,
            "timestep_s": self._model.opt.timestep,
            "body": to_mapping(self._robot.body),
        }

    def _put(self, index: int, state: Tensor) -> None:
        set_state(self._model, self._data, state.cpu().numpy().astype(np.float64))
        mujoco.mj_getState(self._model, self._data, self._full[index], _FULL)
