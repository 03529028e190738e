# SPDX-License-Identifier: Apache-2.0
"""Transitions as rows of one preallocated tensor: a batch is one gather, a full buffer overwrites its oldest."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """B transitions; `proceeds` is 0 after a true terminal, else 1: a timeout does not cut the bootstrap."""

    observation: Tensor  # [B, n_obs]
    action: Tensor  # [B, n_act], torque over limit
    reward: Tensor  # [B]
    next_observation: Tensor  # [B, n_obs]
    proceeds: Tensor  # [B]

    def __len__(self) -> int:
        return self.reward.shape[0]


def join(first: Batch, second: Batch) -> Batch:
    """Return the transitions of both, `first` first."""
    return Batch(*(torch.cat((getattr(first, f.name), getattr(second, f.name))) for f in fields(Batch)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one update works on; an algorithm that has no use for a batch is given None.

    Attributes:
        real, simulated: for critics and policy.
        classify_real, classify_simulated: for the classifiers of the ratio, in the updates in which they learn.
    """

    real: Batch | None = None
    simulated: Batch | None = None
    classify_real: Batch | None = None
    classify_simulated: Batch | None = None


class Replay:
    """Ring buffer of transitions on one device."""

    def __init__(self, capacity: int, n_obs: int, n_act: int, device: torch.device | str = "cpu") -> None:
        self._widths = (n_obs, n_act, 1, n_obs, 1)
        self._rows = torch.zeros((capacity, sum(self._widths)), device=device)
        self._next = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def add(
        self, observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminal: Tensor
    ) -> None:
        """Append B transitions: [B, n_obs], [B, n_act], [B], [B, n_obs], [B] (bool: true terminals only)."""
        proceeds = 1.0 - terminal.to(reward.dtype)
        rows = torch.cat((observation, action, reward[:, None], next_observation, proceeds[:, None]), dim=1)
        capacity = self._rows.shape[0]
        where = (self._next + torch.arange(rows.shape[0], device=rows.device)) % capacity
        self._rows[where] = rows.to(self._rows)
        self._next = (self._next + rows.shape[0]) % capacity
        self.size = min(self.size + rows.shape[0], capacity)

    def all(self) -> Batch:
        """View everything stored as one batch."""
        return self._unpack(self._rows[: self.size])

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Draw a batch of `count` transitions uniformly, with replacement."""
        where = torch.randint(self.size, (count,), generator=generator, device=self._rows.device)
        return self._unpack(self._rows.index_select(0, where))

    def _unpack(self, rows: Tensor) -> Batch:
        observation, action, reward, next_observation, proceeds = torch.split(rows, list(self._widths), dim=1)
        return Batch(observation, action, reward[:, 0], next_observation, proceeds[:, 0])

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on exactly: filled rows and write position."""
        return {"rows": self._rows[: self.size].clone(), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` left off; the capacity must be the same."""
        rows = state["rows"]
        self.size = rows.shape[0]
        self._rows[: self.size] = rows
        self._next = int(state["next"])
