# SPDX-License-Identifier: Apache-2.0
"""A distribution over one parameter of a robot, as written in YAML: for populations and for domain randomisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from h2o_control.contract import FloatArray
from h2o_control.errors import ConfigError


@dataclass(frozen=True)
class Distribution:
    """Exactly one of uniform, normal and log_uniform is given, and at most one of relative and offset.

    Attributes:
        uniform: lowest and highest value.
        normal: mean and standard deviation.
        log_uniform: lowest and highest value, both positive; as many draws below their geometric mean as above.
        relative: the numbers are factors on the parameter's nominal value.
        offset: the numbers are added to the parameter's nominal value.
    """

    uniform: tuple[float, float] | None = None
    normal: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    relative: bool = False
    offset: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("uniform", "normal", "log_uniform") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of uniform, normal and log_uniform, got {given or 'none'}")
        if self.relative and self.offset:
            raise ValueError("relative and offset exclude each other")
        first, second = getattr(self, given[0])
        if given[0] == "normal" and second < 0:
            raise ValueError(f"the standard deviation must not be negative, got {second}")
        if given[0] != "normal" and first > second:
            raise ValueError(f"{given[0]}: lowest {first} is above highest {second}")
        if given[0] == "log_uniform" and first <= 0:
            raise ValueError(f"log_uniform: values must be positive, got {first}")

    def require_within(self, name: str, nominal: float, low: float, high: float) -> None:
        """Raise ConfigError where no value that could be drawn lies within [low, high]."""
        ends = self.uniform or self.log_uniform
        if ends is None:
            assert self.normal is not None
            ends = (self.normal[0], self.normal[0])
        lowest, highest = (self._place(end, nominal) for end in sorted(ends))
        if min(lowest, highest) > high or max(lowest, highest) < low:
            raise ConfigError(f"{name}: {lowest:g} to {highest:g} lies outside of what it can be, {low:g} to {high:g}")

    def sample(self, rng: np.random.Generator, count: int, nominal: float, low: float, high: float) -> FloatArray:
        """Draw values [count], clipped to [low, high]."""
        if self.uniform is not None:
            values = rng.uniform(self.uniform[0], self.uniform[1], count)
        elif self.normal is not None:
            values = rng.normal(self.normal[0], self.normal[1], count)
        else:
            assert self.log_uniform is not None
            values = np.exp(rng.uniform(np.log(self.log_uniform[0]), np.log(self.log_uniform[1]), count))
        clipped: FloatArray = np.clip(self._place(values, nominal), low, high)
        return clipped

    def _place(self, drawn: Any, nominal: float) -> Any:
        if self.relative:
            return nominal * drawn
        return nominal + drawn if self.offset else drawn
