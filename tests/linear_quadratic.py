# SPDX-License-Identifier: Apache-2.0
"""A discounted linear-quadratic task whose optimum is computed: two systems, data, simulation and exact returns.

A cart that runs away from the origin, with two motors; state (x, v), action (u1, u2) in [−1, 1]:

    x' = x + 0.3 v,    v' = v + 0.2 x + 0.8 u1 + b u2 + noise,    reward = 10 (1 − x² − 0.2 v² − 1.5 u1² − 0.5 u2²)

On the REAL cart the second motor is not connected, b = 0: it costs and does nothing. The TWIN believes in it, b = 0.8,
and as it is the cheaper one the twin's optimum leaves most of the work to it. The dynamics agree where u2 = 0 and
differ by 0.8 u2 elsewhere, so the ratio of the two is known in closed form, and so is the linear policy that DARC's
reward leads to. An episode ends by failure where |x| or |v| passes 1.5; no optimum comes near that, or near a
saturated action (tested).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from h2o_training.agent import Agent
from h2o_training.algorithms import make_agent
from h2o_training.noise import Noise
from h2o_training.replay import Batch, Replay
from h2o_training.train_config import TrainConfig

FloatArray = NDArray[np.float64]
#: From states [B, 2] to actions [B, 2].
Actor = Callable[[Tensor], Tensor]

N_OBS = N_ACT = 2
DISCOUNT = 0.9
STATE_COST, ACTION_COST = (1.0, 0.2), (1.5, 0.5)
#: Reward at the origin and of a cost of 1: what the temperatures of the algorithms are to be compared with.
REWARD_SCALE = 10.0
#: The most that any return can be: standing at the origin for ever, unasked.
BOUND = REWARD_SCALE / (1.0 - DISCOUNT)
LIMIT, START_RADIUS = 1.5, 0.7
NOISE_STD = 0.1
#: Episodes are cut (not failed) after this many steps.
EPISODE_STEPS = 20


@dataclass(frozen=True)
class Cart:
    """s' = A s + B u + noise on v, for states [B, 2] and actions [B, 2]."""

    second_motor: float

    @property
    def transition(self) -> FloatArray:
        """A [2, 2]."""
        return np.array([[1.0, 0.3], [0.2, 1.0]])

    @property
    def control(self) -> FloatArray:
        """B [2, 2]."""
        return np.array([[0.0, 0.0], [0.8, self.second_motor]])

    def step(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return the next states [B, 2]."""
        a, b = (torch.as_tensor(matrix, dtype=state.dtype) for matrix in (self.transition, self.control))
        noise = NOISE_STD * torch.randn(len(state), 1, generator=generator, dtype=state.dtype)
        return state @ a.T + action @ b.T + torch.cat((torch.zeros_like(noise), noise), dim=1)


REAL, TWIN = Cart(second_motor=0.0), Cart(second_motor=0.8)


def rewards(state: Tensor, action: Tensor) -> Tensor:
    """Reward [B] of states [B, 2] and actions [B, 2]."""
    cost = state.square() @ state.new_tensor(STATE_COST) + action.square() @ action.new_tensor(ACTION_COST)
    return REWARD_SCALE * (1.0 - cost)


def failed(state: Tensor) -> Tensor:
    """Whether states [B, 2] lie outside the region [B]."""
    return (state.abs() > LIMIT).any(dim=1)


def starts(count: int, generator: torch.Generator) -> Tensor:
    """Draw first states [count, 2], uniform on a disc."""
    radius = START_RADIUS * torch.rand(count, generator=generator).sqrt()
    angle = 2.0 * torch.pi * torch.rand(count, generator=generator)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)


def best_gain(cart: Cart, action_cost: tuple[float, float] = ACTION_COST) -> FloatArray:
    """K [2, 2] of the optimal u = −K s: the Riccati equation with the discount folded in, √γ A and √γ B."""
    root = np.sqrt(DISCOUNT)
    a, b, r = root * cart.transition, root * cart.control, np.diag(action_cost)
    p = scipy.linalg.solve_discrete_are(a, b, np.diag(STATE_COST), r)
    gain: FloatArray = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
    return gain


def darc_gain(cart: Cart, twin: Cart) -> FloatArray:
    """K [2, 2] of the optimum of `twin` under DARC's reward r + log P/P̂, had it the exact ratio.

    The mean of log P/P̂ in the twin is −KL = −(Δb u2)² / 2σ²: once more a quadratic cost of u2.
    """
    extra = (cart.second_motor - twin.second_motor) ** 2 / (2.0 * NOISE_STD**2) / REWARD_SCALE
    return best_gain(twin, (ACTION_COST[0], ACTION_COST[1] + extra))


def exact_returns(cart: Cart, gain: FloatArray, first: FloatArray) -> FloatArray:
    """Discounted return [B] of u = −K s for ever from states [B, 2], without saturation and failures (Lyapunov).

    Raises:
        ValueError: the policy's return is not finite.
    """
    closed = np.sqrt(DISCOUNT) * (cart.transition - cart.control @ gain)
    if np.abs(np.linalg.eigvals(closed)).max() >= 1.0:
        raise ValueError(f"the cost of gain {gain.tolist()} grows faster than the discount")
    p = scipy.linalg.solve_discrete_lyapunov(closed.T, np.diag(STATE_COST) + gain.T @ np.diag(ACTION_COST) @ gain)
    # Each step's noise of variance σ² on v costs σ² P_vv from the next step on.
    noise = DISCOUNT / (1.0 - DISCOUNT) * NOISE_STD**2 * p[1, 1]
    cost: FloatArray = np.einsum("bi,ij,bj->b", first, p, first) + noise
    return REWARD_SCALE * (1.0 / (1.0 - DISCOUNT) - cost)


def linear(gain: FloatArray) -> Actor:
    """Return the policy u = −K s, saturated as the carts' motors are."""
    k = torch.as_tensor(gain, dtype=torch.float32)
    return lambda state: (-state @ k.T).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Rollout:
    """What a policy did: discounted return [B], the largest |u| of any motor, and the share of carts that failed."""

    returns: Tensor
    largest_action: float
    failures: float


@torch.no_grad()
def roll_out(cart: Cart, actor: Actor, count: int = 2000, steps: int = 100) -> Rollout:
    """Drive `count` carts for `steps`, from always the same starts with always the same noise.

    What comes after 100 steps weighs γ^100 = 3e-5.
    """
    generator = torch.Generator().manual_seed(12345)
    state = starts(count, generator)
    total, alive, largest = torch.zeros(count), torch.ones(count), 0.0
    for step in range(steps):
        action = actor(state)
        largest = max(largest, (alive[:, None] * action).abs().max().item())
        total += alive * DISCOUNT**step * rewards(state, action)
        state = cart.step(state, action, generator)
        alive = alive * (1.0 - failed(state).float())
        # What has failed counts no more; keep its numbers small.
        state = state * alive[:, None]
    return Rollout(total, largest, 1.0 - alive.mean().item())


def mean_return(cart: Cart, actor: Actor) -> float:
    """Mean discounted return of `roll_out`."""
    return roll_out(cart, actor).returns.mean().item()


#: A mediocre operator: half the best gain on the motor that works, some on the one that does not.
BEHAVIOUR_GAIN: FloatArray = 0.5 * best_gain(REAL) + np.array([[0.0, 0.0], [0.15, 0.15]])
BEHAVIOUR_STD = 0.4


def behaviour(generator: torch.Generator) -> Actor:
    """Return the operator: its mean policy, with noise."""
    mean = linear(BEHAVIOUR_GAIN)

    def act(state: Tensor) -> Tensor:
        noise = torch.randn(len(state), N_ACT, generator=generator)
        return (mean(state) + BEHAVIOUR_STD * noise).clamp(-1.0, 1.0)

    return act


def score(cart: Cart, actor: Actor) -> float:
    """How much of the way from the operator's mean policy (0) to the optimum (1) `actor` has come on `cart`."""
    low, high = (mean_return(cart, linear(gain)) for gain in (BEHAVIOUR_GAIN, best_gain(cart)))
    return (mean_return(cart, actor) - low) / (high - low)


class Episodes:
    """`count` carts driven side by side; an episode ends by failure (terminal) or is cut after EPISODE_STEPS."""

    def __init__(self, cart: Cart, count: int, generator: torch.Generator) -> None:
        self._cart, self._count, self._generator = cart, count, generator
        self._state = starts(count, generator)
        self._age = torch.arange(count) % EPISODE_STEPS

    @torch.no_grad()
    def drive(self, actor: Actor, replay: Replay, steps: int) -> None:
        """Advance every cart by `steps`, into `replay`."""
        for _ in range(steps):
            action = actor(self._state)
            after = self._cart.step(self._state, action, self._generator)
            fell = failed(after)
            replay.add(self._state, action, rewards(self._state, action), after, fell)
            self._age += 1
            over = fell | (self._age >= EPISODE_STEPS)
            self._state = torch.where(over[:, None], starts(self._count, self._generator), after)
            self._age[over] = 0


def record(cart: Cart, transitions: int, seed: int) -> Replay:
    """Return a dataset of the operator driving `cart`."""
    generator = torch.Generator().manual_seed(1000 + seed)
    data = Replay(transitions, N_OBS, N_ACT)
    carts = 10
    Episodes(cart, carts, generator).drive(behaviour(generator), data, transitions // carts)
    return data


def exact_log_ratio(batch: Batch) -> Tensor:
    """log P(s'|s,a)/P̂(s'|s,a) [B] of REAL over TWIN: both are Gaussian in v' with one variance."""
    errors = []
    for cart in (REAL, TWIN):
        mean = batch.observation @ torch.as_tensor(cart.transition, dtype=torch.float32).T
        mean += batch.action @ torch.as_tensor(cart.control, dtype=torch.float32).T
        errors.append((batch.next_observation - mean)[:, 1] / NOISE_STD)
    return 0.5 * (errors[1].square() - errors[0].square())


def train(config: TrainConfig, transitions: int = 5000, carts: int = 8, every: int = 50) -> Agent:
    """Train an agent: on a dataset of REAL, in TWIN, or on both, as its algorithm has it.

    Args:
        config: hyperparameters; its seed is that of everything random.
        transitions: in the dataset.
        carts: driven in the twin by the agent's own sampled actions,
        every: for ten steps before each so many updates.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        agent = make_agent(config, N_OBS, N_ACT)
    agent.start_at_bound(BOUND)
    agent.start()
    real = record(REAL, transitions, config.seed) if agent.uses_real else None
    if real is not None:
        agent.fit(real.all())
    simulated = Replay(20_000, N_OBS, N_ACT) if agent.uses_simulated else None
    episodes, noise = Episodes(TWIN, carts, generator), Noise(generator)
    while agent.updates < config.updates:
        if simulated is not None and agent.updates % every == 0:
            episodes.drive(lambda state: agent.policy.sample(state, noise.normal(len(state), N_ACT))[0], simulated, 10)
        agent.update(real, simulated, generator)
    return agent
