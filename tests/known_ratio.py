# SPDX-License-Identifier: Apache-2.0
"""Transitions of two systems whose ratio P(s'|s,a) / P̂(s'|s,a) is known in closed form, and classifiers fitted to them.

Both systems answer (s, a) with a Gaussian, so the log ratio is a difference of two quadratics. The classifiers learn on
inputs with Gaussian noise; where (s, a) is Gaussian too and s' linear in it, all that they see is Gaussian, noise
included, and what they can learn is known as well: `blurred_log_ratio`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from h2o_training.algorithm_config import RatioConfig
from h2o_training.effects import effects_from
from h2o_training.noise import Noise
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch, Replay, join
from h2o_training.twin import ONLY_MUJOCO, TwinConfig, make_twin
from wheel_leg_driver.robot import Robot, load_robot


class System(Protocol):
    """Something that answers s' ~ N(mean(s, a), covariance), started at (s, a) of its own choice."""

    @property
    def covariance(self) -> Tensor:
        """Of s' given (s, a), [n_obs, n_obs], float64."""

    def mean(self, observation: Tensor, action: Tensor) -> Tensor:
        """Mean of s' given s [B, n_obs] and a [B, n_act], [B, n_obs], float64."""

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Draw transitions."""


@dataclass(frozen=True)
class Pair:
    """A real system and its simulator."""

    real: System
    simulated: System

    def log_ratio(self, batch: Batch) -> Tensor:
        """log P/P̂ [B], float64."""
        after = batch.next_observation.double()
        return self._density(self.real, batch).log_prob(after) - self._density(self.simulated, batch).log_prob(after)

    def divergence(self, batch: Batch) -> Tensor:
        """KL(P̂ ‖ P) at the (s, a) of the batch [B]: what H2O's u stands for (H2O paper, above Eq. 7)."""
        return kl_divergence(self._density(self.simulated, batch), self._density(self.real, batch))

    def held_out(self, count: int, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """Draw as many real as simulated transitions; returns them with 1 for the real ones [2·count]."""
        real, simulated = self.real.draw(count, generator), self.simulated.draw(count, generator)
        return join(real, simulated), torch.cat((torch.ones(count), torch.zeros(count)))

    @staticmethod
    def _density(system: System, batch: Batch) -> MultivariateNormal:
        return MultivariateNormal(system.mean(batch.observation, batch.action), system.covariance)


@dataclass(frozen=True)
class LinearGaussian:
    """(s, a) ~ N(centre, spread²), s' = gain (s, a) + offset + N(0, noise²).

    Attributes:
        centre, spread: of (s, a), [n_obs + 1]; where the data lie.
        gain: [n_obs, n_obs + 1].
        offset, noise: [n_obs].
    """

    centre: Tensor
    spread: Tensor
    gain: Tensor
    offset: Tensor
    noise: Tensor

    @property
    def covariance(self) -> Tensor:
        """See System."""
        return torch.diag(self.noise.double().square())

    def mean(self, observation: Tensor, action: Tensor) -> Tensor:
        """See System."""
        return torch.cat((observation, action), 1).double() @ self.gain.double().T + self.offset.double()

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """See System."""
        given = self.centre + self.spread * torch.randn(count, len(self.centre), generator=generator)
        observation, action = given[:, :-1], given[:, -1:]
        noise = self.noise * torch.randn(count, len(self.offset), generator=generator)
        return _transitions(observation, action, self.mean(observation, action).float() + noise)

    def joint(self, relative: bool) -> tuple[Tensor, Tensor]:
        """Mean and covariance of (s, a, s'), or of (s, a, s' − s), float64."""
        n, width = self.gain.shape
        gain = self.gain.double() - (torch.eye(n, width) if relative else 0.0)
        whole = torch.cat((torch.eye(width, dtype=torch.float64), gain))
        centre = whole @ self.centre.double()
        centre[width:] += self.offset.double()
        covariance = whole @ torch.diag(self.spread.double().square()) @ whole.T
        covariance[width:, width:] += self.covariance
        return centre, covariance


def blurred_log_ratio(pair: Pair, batch: Batch, config: RatioConfig, scale: Tensor) -> Tensor:
    """The log ratio [B] that classifiers learn whose inputs have Gaussian noise, asked without noise; float64.

    Noise adds its variance to that of each input. The noisy inputs of either system are Gaussian, so the conditional
    densities q(s'|s, a) of noisy inputs, whose ratio the heads' difference estimates, are as well: the joint Gaussian
    over the marginal one. Noise on s and a too lets a part of where the data lie into the ratio.

    Args:
        pair: of linear Gaussian systems.
        batch: transitions without noise.
        config: of the classifiers.
        scale: by which they divide their inputs [2·n_obs + 1].
    """
    assert isinstance(pair.real, LinearGaussian) and isinstance(pair.simulated, LinearGaussian)
    last = batch.next_observation - batch.observation if config.relative else batch.next_observation
    given = torch.cat((batch.observation, batch.action), 1).double()
    inputs = torch.cat((given, last.double()), 1)
    width = given.shape[1]

    def conditional(system: LinearGaussian) -> Tensor:
        centre, covariance = system.joint(config.relative)
        covariance = covariance + torch.diag((config.noise_std * scale.double()).square())
        joint = MultivariateNormal(centre, covariance)
        marginal = MultivariateNormal(centre[:width], covariance[:width, :width])
        return joint.log_prob(inputs) - marginal.log_prob(given)

    return conditional(pair.real) - conditional(pair.simulated)


def gap_of(log_ratio: Callable[[Batch], Tensor], batch: Batch, noise: Tensor, std: Tensor) -> Tensor:
    """H2O's u [B] of any log ratio: the mean of log P̂/P over s' + std·noise; noise [draws, B, n_obs], std [n_obs]."""
    around = (dataclasses.replace(batch, next_observation=batch.next_observation + std * one) for one in noise)
    return -torch.stack([log_ratio(b) for b in around]).mean(0)


def shifted(n: int) -> Pair:
    """In n dimensions, s' of the real system lies 1.2 standard deviations from the simulated one."""
    return _pair(n, shift=1.2 * 0.5 / n**0.5, real_noise=0.5)


def wider(n: int) -> Pair:
    """In n dimensions, s' of the real system spreads 1.5 times as wide as the simulated one."""
    return _pair(n, shift=0.0, real_noise=0.75)


def same_dynamics(n: int) -> Pair:
    """Only where the data lie differs: the ratio is 1."""
    return _pair(n, shift=0.0, real_noise=0.5)


def far_apart() -> Pair:
    """s' of the two systems lies six standard deviations apart: beyond what bounded logits can say."""
    return _pair(1, shift=6.0 * 0.5, real_noise=0.5)


def pitch() -> Pair:
    """(v, θ), v of order 1 and θ of 0.05; only θ' differs, by one of its standard deviations."""
    gain = torch.tensor([[0.9, 0.0, 0.5], [0.0, 0.9, 0.02]])
    noise = torch.tensor([0.5, 0.05])
    return Pair(
        LinearGaussian(torch.tensor([0.3, 0.01, 0.1]), torch.tensor([0.8, 0.05, 0.5]), gain, _column(0, 0.025), noise),
        LinearGaussian(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 0.06, 0.6]), gain, _column(0, -0.025), noise),
    )


def growing() -> Pair:
    """(v, θ) as in `pitch`; the real system is damped and the simulator is not, so the gap grows with |v|."""
    noise = torch.tensor([0.1, 0.05])
    damped, free = (torch.tensor([[kept, 0.0, 0.1], [0.0, 0.9, 0.02]]) for kept in (0.8, 1.0))
    return Pair(
        LinearGaussian(torch.tensor([0.2, 0.01, 0.1]), torch.tensor([0.8, 0.05, 0.5]), damped, _column(0, 0), noise),
        LinearGaussian(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 0.06, 0.6]), free, _column(0, 0), noise),
    )


#: Noise of speeds that both twins get: with the gyro's alone, speed and pitch rate would err as one.
VELOCITY_NOISE_MPS = 0.02
SENSOR_NOISE = ("velocity_noise_mps", "pitch_noise_rad", "gyro_noise_radps")


@dataclass(frozen=True)
class RobotStep:
    """One control step of a robot in the closed form, as its driver sees it: (v, θ, θ̇), action torque over limit.

    The torque has been held long before, so that what motors and sensors remember follows from (s, a). Sensors add
    Gaussian noise at the end; all else is the mean.

    Attributes:
        robot: whose body and interface.
        effects: of the closed form, by name.
        spread: of (s, a) around upright rest, [4].
    """

    robot: Robot
    effects: Mapping[str, float]
    spread: Tensor

    @property
    def covariance(self) -> Tensor:
        """See System; the driver adds the pitch rate to the wheels' speed, so the gyro's noise is in both."""
        radius = self.robot.interface.wheel_radius_m
        mixing = torch.tensor([[1.0, 0.0, radius], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        noise = torch.tensor([self.effects.get(name, 0.0) for name in SENSOR_NOISE], dtype=torch.float64)
        return mixing @ torch.diag(noise.square()) @ mixing.T

    def mean(self, observation: Tensor, action: Tensor) -> Tensor:
        """See System."""
        exact = {name: value for name, value in self.effects.items() if name not in SENSOR_NOISE}
        return self._step(observation, action, exact, torch.Generator())

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """See System."""
        given = self.spread * torch.randn(count, 4, generator=generator)
        observation, action = given[:, :3], given[:, 3:].clamp(-1.0, 1.0)
        return _transitions(observation, action, self._step(observation, action, self.effects, generator).float())

    def _step(
        self, observation: Tensor, action: Tensor, effects: Mapping[str, Any], generator: torch.Generator
    ) -> Tensor:
        config = TwinConfig(num_envs=len(observation), effects=dict(effects))
        twin = make_twin(config, self.robot, generator, dtype=torch.float64)
        torque_nm = self.robot.interface.torque_limit_nm * action.double()
        state = torch.cat((torch.zeros(len(observation), 1), observation), 1)
        held = round(0.1 / self.robot.interface.dt_s)
        twin.set_observed(state, torque_nm.expand(-1, held))
        return twin.step(torque_nm[:, 0])[:, 1:]


def ideal_and(name: str) -> Pair:
    """The robot `name` in the closed form, and the twin of `ideal` with the sensor noise of `hard`."""
    hard = load_robot("hard")
    assert hard.plant is not None
    effects = effects_from(hard.plant.options, "hard").changed
    effects = {k: v for k, v in effects.items() if k not in ONLY_MUJOCO} | {"velocity_noise_mps": VELOCITY_NOISE_MPS}
    sensors = {k: effects[k] for k in SENSOR_NOISE}
    real = load_robot(name)
    return Pair(
        RobotStep(real, effects if name == "hard" else sensors, torch.tensor([0.3, 0.05, 0.5, 0.1])),
        RobotStep(load_robot("ideal"), sensors, torch.tensor([0.4, 0.06, 0.6, 0.12])),
    )


def fit(
    pair: Pair,
    config: RatioConfig,
    real: int = 14_000,
    simulated: int = 50_000,
    steps: int = 1000,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> tuple[RatioEstimator, Batch]:
    """Fit the classifiers as an agent does, drawing from so many transitions; returns them and the real data."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    noise = Noise(generator)
    stored = [_stored(system.draw(n, generator)) for system, n in ((pair.real, real), (pair.simulated, simulated))]
    data = stored[0].all()
    ratio = RatioEstimator(data.observation.shape[1], data.action.shape[1], config)
    ratio.fit_inputs(data)
    optimiser = torch.optim.Adam(ratio.parameters(), lr=learning_rate, fused=True)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        batches = [replay.sample(config.batch, generator) for replay in stored]
        ratio.loss(batches[0], batches[1], noise).backward()
        optimiser.step()
    return ratio, data


def _pair(n: int, shift: float, real_noise: float) -> Pair:
    gain = torch.cat((0.9 * torch.eye(n), 0.5 * torch.ones(n, 1)), 1)

    def system(centre: float, spread: float, offset: float, noise: float) -> LinearGaussian:
        where = torch.cat((torch.full((n,), centre), torch.tensor([centre / 2])))
        wide = torch.cat((torch.full((n,), spread), torch.tensor([spread / 2])))
        return LinearGaussian(where, wide, gain, torch.full((n,), offset), torch.full((n,), noise))

    return Pair(system(0.3, 0.8, shift / 2, real_noise), system(0.0, 1.0, -shift / 2, 0.5))


def _column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _transitions(observation: Tensor, action: Tensor, after: Tensor) -> Batch:
    return Batch(observation, action, torch.zeros(len(action)), after, torch.ones(len(action)))


def _stored(batch: Batch) -> Replay:
    replay = Replay(len(batch), batch.observation.shape[1], batch.action.shape[1])
    replay.add(batch.observation, batch.action, batch.reward, batch.next_observation, batch.proceeds == 0)
    return replay
