# SPDX-License-Identifier: Apache-2.0
"""The MuJoCo twin: the robot's 3-D model with its legs locked, rolled out in batches by MuJoCo's own thread pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from torch import Tensor

from h2o_control.contract import FloatArray
from h2o_training.effects import with_values
from h2o_training.model import FRICTION_TIME_S, PHYSICS_STEP_S, build_spec
from h2o_training.twin_batch import BatchTwin
from h2o_training.twin_effects import SENSOR_EFFECTS
from wheel_leg_driver.sagittal import GRAVITY_MPS2

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS
#: What is no part of the model: motors and sensors are simulated around it.
_OUTSIDE = {*SENSOR_EFFECTS, "torque_factor", "dead_zone_nm", "actuation_delay_s", "torque_lag_s"}
#: How deep the wheels stand in the floor at first, so that rounding does not leave them in the air for a step.
_TOUCH_M = 1e-9


class MujocoTwin(BatchTwin):
    """N robots (see Twin); simulates on the CPU, tensors come from and go to the generator's device.

    Robots that differ in what belongs into a model have one each. The wheels roll along x: both motors pull alike.
    """

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance."""
        step_s = self.models[0].opt.timestep
        return {**super().describe(), "mujoco": mujoco.__version__, "timestep_s": step_s}

    def _configure(self, mask: Tensor | None) -> None:
        names = sorted(({*self._given} | {*self._drawn}) - _OUTSIDE)
        if mask is not None and not names:
            return
        if mask is None:
            count = self.num_envs if names else 1
            self.models = [self._model(names, index) for index in range(count)]
            self._prepare(self.models[0])
        else:
            for index in torch.nonzero(mask).flatten().tolist():
                self.models[index] = self._model(names, index)

    def _model(self, names: list[str], index: int) -> Any:
        values = {name: float(self.values[name][index]) for name in names}
        robot, effects = with_values(self._robot, self.effects, values)
        spec = build_spec(robot, legs_locked=True, effects=effects)
        # The same motion to 1e-12 in two thirds of the time: locked links are one body with the torso, nothing that
        # does not collide is carried along, and damping in joints is all that there is to treat implicitly.
        spec.compiler.fusestatic = spec.compiler.discardvisual = True
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR | mujoco.mjtDisableBit.mjDSBL_ISLAND
        # The physics step must divide the control step; the nearest one that does is at most a third off.
        spec.option.timestep = self._interface.dt_s / max(round(self._interface.dt_s / PHYSICS_STEP_S), 1)
        model = spec.compile()
        # The torso's origin is the middle of the axle, so that what resists its motion is the rolling resistance.
        model.dof_damping[:2] = effects.rolling_drag_nspm
        weight_n = GRAVITY_MPS2 * (robot.body.body_mass_kg + robot.body.wheels_mass_kg + effects.payload_kg)
        model.dof_frictionloss[:2] = effects.rolling_friction_m * weight_n / self._interface.wheel_radius_m
        model.dof_solref[:2] = [FRICTION_TIME_S, 1.0]
        return model

    def _prepare(self, model: Any) -> None:
        # Full physics: time, then qpos, then qvel.
        size = mujoco.mj_stateSize(model, _FULL)
        joints = [model.joint(f"{side}_wheel") for side in ("left", "right")]
        self._wheel_angles = [1 + int(joint.qposadr[0]) for joint in joints]
        self._rates = 1 + model.nq
        self._wheel_rates = [self._rates + int(joint.dofadr[0]) for joint in joints]
        substeps = round(self._interface.dt_s / model.opt.timestep)
        self._full: FloatArray = np.zeros((self.num_envs, size))
        self._path: FloatArray = np.zeros((self.num_envs, substeps, size))
        self._sensordata: FloatArray = np.zeros((self.num_envs, substeps, model.nsensordata))
        self._control: FloatArray = np.zeros((self.num_envs, substeps, model.nu))
        self._motors = [model.actuator(f"{side}_wheel").id for side in ("left", "right")]
        threads = self._config.threads
        # Without a pool the calling thread does the work: quicker than waking one thread.
        self._rollout = Rollout(nthread=threads if threads > 1 else 0)
        self._datas = [mujoco.MjData(model) for _ in range(threads)]

    def _truth(self) -> Tensor:
        return self._state

    def _take(self, full: FloatArray) -> None:
        rates = self._rates
        w, x, y, z = full[:, 4:8].T
        theta = np.arctan2(2 * (w * y - x * z), 1 - 2 * (x * x + y * y))
        rows = np.stack((full[:, 1], full[:, rates], theta, full[:, rates + 4]), axis=1)
        self._full, self._state = full, torch.from_numpy(rows).to(self._zeros)

    def _set_truth(self, mask: Tensor | None, state: Tensor) -> None:
        x, v, theta, theta_dot = state.cpu().numpy().astype(np.float64).T
        radius = self._interface.wheel_radius_m
        full = np.zeros_like(self._full)
        full[:, 1], full[:, 3] = x, radius - _TOUCH_M
        full[:, 4], full[:, 6] = np.cos(theta / 2), np.sin(theta / 2)
        full[:, self._rates], full[:, self._rates + 4] = v, theta_dot
        full[:, self._wheel_angles] = (x / radius - theta)[:, None]
        full[:, self._wheel_rates] = (v / radius - theta_dot)[:, None]
        self._take(full if mask is None else np.where(mask.cpu().numpy()[:, None], full, self._full))

    def _advance(self, produced_nm: Tensor) -> None:
        self._control[:, :, self._motors] = produced_nm.cpu().numpy().astype(np.float64)[:, None, None]
        self._rollout.rollout(
            self.models,
            self._datas,
            self._full,
            self._control,
            nstep=self._control.shape[1],
            state=self._path,
            sensordata=self._sensordata,
        )
        self._take(self._path[:, -1].copy())

    def _physics_state(self) -> dict[str, Tensor]:
        return {"full": torch.from_numpy(self._full.copy())}

    def _load_physics_state(self, state: Mapping[str, Tensor]) -> None:
        self._take(state["full"].cpu().numpy().copy())
