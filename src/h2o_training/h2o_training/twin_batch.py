# SPDX-License-Identifier: Apache-2.0
"""What all twins share: parameters of each robot, drawn or given, and motors and sensors around the physics."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from h2o_control.config import to_mapping
from h2o_control.errors import ConfigError
from h2o_training.effects import effects_from, parameter, value_of
from h2o_training.twin import ONLY_MUJOCO, TwinConfig, require_possible
from h2o_training.twin_effects import Actuators, Sensors
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sagittal import Parameters, accelerations


class BatchTwin(abc.ABC):
    """N robots (see Twin, and make_twin for the arguments); a simulator adds the physics.

    A subclass keeps the true states, and builds what it derives from `self.values` in `_configure`.
    """

    def __init__(
        self,
        config: TwinConfig,
        robot: Robot,
        generator: torch.Generator,
        parameters: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_envs = config.num_envs
        self._config, self._robot, self._interface, self._generator = config, robot, robot.interface, generator
        self._zeros = torch.zeros(self.num_envs, dtype=dtype, device=generator.device)
        effects_from(robot.twin, f"robot {robot.name!r}: twin")  # complains about the file that is wrong
        self.effects = effects_from({**robot.twin, **config.effects}, "twin.effects")
        parameters = parameters or {}
        self._given = {name: self._column(name, value) for name, value in parameters.items()}
        self._drawn = {
            name: (distribution, parameter(name, robot), value_of(name, robot, self.effects))
            for name, distribution in config.randomise.items()
            if name not in parameters
        }
        for name, (distribution, limits, nominal) in self._drawn.items():
            distribution.require_within(f"twin.randomise: {name}", nominal, limits.low, limits.high)
        try:
            require_possible(config.kind, self.effects, config.randomise)
        except ConfigError as error:
            raise ConfigError(f"twin of robot {robot.name!r}: {error}") from error
        #: Every parameter by name: a float for all robots, or a tensor [N].
        self.values: dict[str, Any] = {f"body.{name}": value for name, value in vars(robot.body).items()}
        self.values |= {**vars(self.effects), **self._given}
        self.values |= dict.fromkeys(self._drawn, self._zeros)
        self._draw(None)
        dt_s, radius = self._interface.dt_s, self._interface.wheel_radius_m
        self._actuators = Actuators(self.values, dt_s, self._zeros, self._highest("actuation_delay_s"))
        longest = self._highest("observation_delay_s")
        self._sensors = Sensors(self.values, radius, dt_s, generator, self._zeros, longest)
        self._observed = self._zeros[:, None].expand(-1, 4)
        self._parameters = self._equations()
        self._configure(None)
        self.reset()

    @property
    def state(self) -> Tensor:
        """Estimates [N, 4]; see Twin.state."""
        return self._observed.clone()

    @property
    def truth(self) -> Tensor:
        """True states [N, 4]; see Twin.truth."""
        return self._truth().clone()

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes; see Twin.reset."""
        if self._drawn and (mask is None or bool(mask.any())):
            self._draw(mask)
            self._reconfigure(mask)
        fresh = self._config.initial.sample(self.num_envs, self._generator).to(self._zeros.dtype)
        self._put(mask, fresh)
        return self.state

    def set_state(self, state: Tensor) -> None:
        """Put the robots into these true states [N, 4]; see Twin.set_state."""
        self._put(None, state.to(self._zeros))

    @torch.no_grad()
    def set_observed(self, observed: Tensor, past_torque_nm: Tensor) -> None:
        """Put the robots into the true states that would now be estimated so; see Twin.set_observed."""
        observed, past = observed.to(self._zeros), self._limited(past_torque_nm)
        late = self._sensors.delay_steps
        longest, alike = int(late.max()), late.dim() == 0
        if past.shape[1] < max(longest, 1):
            raise ValueError(
                f"an observation {longest} steps late needs {max(longest, 1)} torques, got {past.shape[1]}"
            )
        # An observation that is late is of a state some steps ago, from which the robot has gone on since.
        produced = self._actuators.run(past[:, : max(past.shape[1] - longest, 1)])
        for ago in range(longest, -1, -1):
            if not alike or ago == longest:
                self._put_observed(None if alike else late == ago, observed, produced)
            if ago:
                produced = self._advance_once(past[:, -ago])
        self._observed = observed.clone()

    @torch.no_grad()
    def step(self, torque_nm: Tensor) -> Tensor:
        """Advance one control step; see Twin.step."""
        self._advance_once(self._limited(torque_nm))
        return self.state

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step follows from, the generator apart."""
        return {
            **self._physics_state(),
            "observed": self._observed.clone(),
            **{f"values.{name}": self.values[name].clone() for name in self._drawn},
            **{f"actuators.{name}": value for name, value in self._actuators.state_dict().items()},
            **{f"sensors.{name}": value for name, value in self._sensors.state_dict().items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        groups: dict[str, dict[str, Tensor]] = {"values": {}, "actuators": {}, "sensors": {}}
        for key, value in state.items():
            group, _, name = key.partition(".")
            if group in groups:
                groups[group][name] = value
        if self._drawn:
            self.values |= {name: value.to(self._zeros) for name, value in groups["values"].items()}
            self._reconfigure(None)
        self._actuators.load_state_dict(groups["actuators"])
        self._sensors.load_state_dict(groups["sensors"])
        self._load_physics_state(state)
        self._observed = state["observed"].to(self._zeros).clone()

    def describe(self) -> dict[str, Any]:
        """What this twin is, for provenance."""
        return {
            **to_mapping(self._config),
            "effects": self.effects.changed,
            "given": sorted(self._given),
            "body": to_mapping(self._robot.body),
        }

    @abc.abstractmethod
    def _configure(self, mask: Tensor | None) -> None:
        """Take up parameters that changed where mask [N] is true, everywhere without one."""

    @abc.abstractmethod
    def _truth(self) -> Tensor:
        """True states [N, 4], not to be written to."""

    @abc.abstractmethod
    def _set_truth(self, mask: Tensor | None, state: Tensor) -> None:
        """Put the robots into these true states [N, 4] where mask [N] is true, everywhere without one."""

    @abc.abstractmethod
    def _advance(self, produced_nm: Tensor) -> None:
        """Hold produced torques [N] of one wheel for one control step."""

    @abc.abstractmethod
    def _physics_state(self) -> dict[str, Tensor]:
        """A copy of what the physics goes on from, under names without a dot."""

    @abc.abstractmethod
    def _load_physics_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up `_physics_state`."""

    def _limited(self, torque_nm: Tensor) -> Tensor:
        limit = self._interface.torque_limit_nm
        return torque_nm.detach().to(self._zeros).clamp(-limit, limit)

    def _advance_once(self, torque_nm: Tensor) -> Tensor:
        produced = self._actuators.step(torque_nm)
        before = self._truth()
        self._advance(produced)
        self._observed = self._sensors.step(before, self._truth())
        return produced

    def _put(self, mask: Tensor | None, state: Tensor) -> None:
        self._set_truth(mask, state)
        self._actuators.reset(mask)
        seen = self._sensors.reset(mask, self._truth())
        self._observed = seen if mask is None else torch.where(mask[:, None], seen, self._observed)

    def _put_observed(self, mask: Tensor | None, observed: Tensor, produced_nm: Tensor) -> None:
        self._set_truth(mask, self._sensors.settle(mask, observed, produced_nm, self._accelerations))

    def _accelerations(self, v: Tensor, theta: Tensor, theta_dot: Tensor, torque_nm: Tensor) -> tuple[Tensor, Tensor]:
        return accelerations(self._parameters, v, theta, theta_dot, torque_nm, xp=torch)

    def _equations(self) -> Parameters:
        return Parameters.from_values(self.values, self._interface.wheel_radius_m)

    def _reconfigure(self, mask: Tensor | None) -> None:
        self._actuators.configure(self.values)
        self._sensors.configure(self.values)
        self._parameters = self._equations()
        self._configure(mask)

    def _draw(self, mask: Tensor | None) -> None:
        # One seed from the twin's generator for all that is drawn, so that a resumed run draws the same.
        if not self._drawn:
            return
        device = self._generator.device
        seed = int(torch.randint(2**62, (1,), generator=self._generator, device=device))
        rng = np.random.default_rng(seed)
        chosen = slice(None) if mask is None else mask
        count = self.num_envs if mask is None else int(mask.sum())
        for name, (distribution, limits, nominal) in self._drawn.items():
            values = self.values[name].clone()
            drawn = distribution.sample(rng, count, nominal, limits.low, limits.high)
            values[chosen] = torch.as_tensor(drawn).to(self._zeros)
            self.values[name] = values

    def _column(self, name: str, value: Tensor) -> Tensor:
        parameter(name, self._robot)  # raises where there is none of this name
        if self._config.kind == "closed_form" and name in ONLY_MUJOCO:
            raise ConfigError(f"the closed form has no {name}: use kind: mujoco")
        if value.shape != (self.num_envs,):
            raise ValueError(f"parameter {name} must have shape [{self.num_envs}], got {list(value.shape)}")
        return value.to(self._zeros)

    def _highest(self, name: str) -> float:
        if name in self._drawn:
            return self._drawn[name][1].high
        return float(torch.as_tensor(self.values[name]).max())
