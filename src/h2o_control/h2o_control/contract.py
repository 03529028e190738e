# SPDX-License-Identifier: Apache-2.0
"""The two contracts: the interface belongs to the robot, the task to what is learned on it. Both are hashed.

The interface travels in driver and bag, the task in dataset, checkpoint and ONNX file. An artefact made for
another interface is refused before anything moves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from h2o_control.config import from_mapping, to_mapping
from h2o_control.errors import ConfigError, ContractError, nearest

#: Order of the robot's state wherever it is an array: m, m/s, rad, rad/s. Pitch is positive leaning forward.
STATE = ("x", "v", "theta", "theta_dot")

FloatArray = NDArray[np.floating[Any]]


def canonical_json(value: Any) -> str:
    """Serialise so that equal contracts give equal text: sorted keys, no spaces, no NaN."""
    return json.dumps(to_mapping(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Interface:
    """What is observed and commanded on one robot, with units and conventions; two robots with equal hash interchange.

    Attributes:
        rate_hz: control and telemetry rate.
        torque_limit_nm: largest torque of one wheel; the normalised action is torque / torque_limit_nm.
        wheel_radius_m: rolling radius that turns wheel angle into displacement.
        state, units, action, conventions: fixed by this version, written out so that a file explains itself.
        version: of this list.
    """

    rate_hz: float = 200.0
    torque_limit_nm: float = 3.0
    wheel_radius_m: float = 0.065
    state: tuple[str, ...] = STATE
    units: tuple[str, ...] = ("m", "m/s", "rad", "rad/s")
    action: str = "common wheel torque in Nm a wheel, the same for both; positive drives forward"
    conventions: str = "x forward, y left, z up (REP 103); theta is the body's pitch, positive leaning forward"
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("rate_hz", "torque_limit_nm", "wheel_radius_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value}")

    @property
    def dt_s(self) -> float:
        """Control step in seconds."""
        return 1.0 / self.rate_hz

    @cached_property
    def hash(self) -> str:
        """Hash that driver, bag, dataset and policy must share."""
        return digest(self)

    def differences(self, other: Interface, mine: str, others: str) -> str:
        """Name the fields that differ, each with the value here (`mine`) and there (`others`)."""
        rows = [
            f"{f.name}: {mine} {getattr(self, f.name)!r}, {others} {getattr(other, f.name)!r}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]
        return "; ".join(rows)

    def to_json(self) -> str:
        """Canonical JSON, as published on /interface and stored in bags."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, text: str, where: str = "interface") -> Interface:
        """Parse what `to_json` wrote; raises ContractError where it is not an interface this version knows."""
        try:
            return from_mapping(cls, json.loads(text), where)
        except (ValueError, ConfigError) as error:
            raise ContractError(f"{where}: not an interface description: {error}") from error


@dataclass(frozen=True)
class Reward:
    """r = bonus − Σ weight·(state − target)² − tau·τ², on the next state and the commanded torque τ in Nm.

    The papers' rewards (H2O+ V-B): standing 30 − x² − v² − θ² − θ̇² − τ², moving 15 − (v − 0.2)² − τ².
    """

    bonus: float
    x: float = 0.0
    v: float = 0.0
    theta: float = 0.0
    theta_dot: float = 0.0
    tau: float = 1.0


@dataclass(frozen=True)
class Task:
    """What is learned: which observations, which reward, and when an episode ends.

    Attributes:
        observation: names out of STATE in the order the policy sees them.
        v_target_mps: speed that counts as zero in the reward.
        fall_pitch_rad: |theta| beyond this is a fall, a terminal state wherever it happens.
        v_limit_mps, x_limit_m: beyond these the robot has run away (None: no limit). That ends an episode where the
            true state is known, in twins and before the judge, and is no terminal of recorded data: a sensor's noise
            passes the limit in one row while the robot stands on.
    """

    name: str
    observation: tuple[Literal["x", "v", "theta", "theta_dot"], ...]
    reward: Reward
    v_target_mps: float = 0.0
    fall_pitch_rad: float = 0.5
    v_limit_mps: float | None = None
    x_limit_m: float | None = None

    @property
    def hash(self) -> str:
        """Hash that two equal ones share."""
        return digest(self)

    @property
    def indices(self) -> list[int]:
        """Columns of the state (see STATE) that the policy observes, in its order."""
        return [STATE.index(name) for name in self.observation]

    def observe(self, state: Any) -> Any:
        """Pick the observation [..., n_obs] out of the state [..., 4]; numpy array or torch tensor."""
        return state[..., self.indices]

    def rewards(self, next_state: Any, torque_nm: Any) -> Any:
        """Reward [...] of reaching next_state [..., 4] with the commanded torque [...] in Nm; numpy or torch."""
        r = self.reward
        x, v, theta, theta_dot = (next_state[..., i] for i in range(4))
        cost = r.x * x**2 + r.v * (v - self.v_target_mps) ** 2 + r.theta * theta**2 + r.theta_dot * theta_dot**2
        return r.bonus - cost - r.tau * torque_nm**2

    def fallen(self, state: Any) -> Any:
        """Boolean [...] of states [..., 4]: the pitch is beyond what counts as a fall; numpy or torch."""
        return abs(state[..., STATE.index("theta")]) > self.fall_pitch_rad

    def ran_away(self, state: Any) -> Any:
        """Boolean [...] of states [..., 4]: too fast or too far from the start; numpy or torch."""
        v_limit = math.inf if self.v_limit_mps is None else self.v_limit_mps
        x_limit = math.inf if self.x_limit_m is None else self.x_limit_m
        return (abs(state[..., STATE.index("v")]) > v_limit) | (abs(state[..., STATE.index("x")]) > x_limit)

    def failed(self, state: Any) -> Any:
        """Boolean [...] of true states [..., 4]: fallen or run away; numpy or torch."""
        return self.fallen(state) | self.ran_away(state)


TASKS = {
    "stand": Task(
        name="stand",
        observation=("theta", "theta_dot", "x", "v"),
        reward=Reward(bonus=30.0, x=1.0, v=1.0, theta=1.0, theta_dot=1.0),
        v_limit_mps=1.0,
        x_limit_m=2.0,
    ),
    "move": Task(
        name="move",
        observation=("v", "theta", "theta_dot"),
        reward=Reward(bonus=15.0, v=1.0),
        v_target_mps=0.2,
        v_limit_mps=1.0,
        x_limit_m=10.0,
    ),
}


def get_task(name: str) -> Task:
    """Return a task of the papers by name; raises ConfigError naming the nearest valid one."""
    if name not in TASKS:
        raise ConfigError(f"no task named {name!r}.{nearest(name, TASKS)}")
    return TASKS[name]


@dataclass(frozen=True)
class PolicyContract:
    """What an ONNX policy was made for; stored as JSON in the file's metadata under `h2o.contract`."""

    interface: Interface
    task: Task
    version: int = 1

    @property
    def hash(self) -> str:
        """Hash that two equal ones share."""
        return digest(self)

    def require_interface(self, interface: Interface, who: str) -> None:
        """Raise ContractError listing the fields that differ between the policy's interface and `who`'s."""
        if self.interface.hash == interface.hash:
            return
        raise ContractError(
            f"the policy was made for another interface ({self.interface.hash}) than {who} ({interface.hash}): "
            + self.interface.differences(interface, "policy", who)
            + ". Train on a dataset from this robot, or use the robot the policy was made for."
        )


def state_array(x: float, v: float, theta: float, theta_dot: float) -> FloatArray:
    """Pack one state in the order of STATE, float64 [4]."""
    return np.array([x, v, theta, theta_dot], dtype=np.float64)


def pitch_rad(w: float, x: float, y: float, z: float) -> float:
    """Pitch of the body in rad, positive leaning forward, from its attitude quaternion (world from body)."""
    return math.atan2(2 * (w * y - x * z), 1 - 2 * (x * x + y * y))
