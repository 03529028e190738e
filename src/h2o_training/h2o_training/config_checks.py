# SPDX-License-Identifier: Apache-2.0
"""Rules that hyperparameters must keep: a slip of the finger is found here rather than by an allocation that fails."""

from __future__ import annotations

import math

LARGEST_BATCH, WIDEST_LAYER, LONGEST_EPISODE_S = 100_000, 10_000, 3600.0


def require(valid: bool, name: str, rule: str, value: object) -> None:
    """Raise ValueError, which the strict loader turns into a ConfigError with file and key, where `valid` is false."""
    if not valid:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def require_layers(name: str, layers: tuple[int, ...]) -> None:
    """Raise ValueError where these are no widths of hidden layers."""
    valid = len(layers) > 0 and all(1 <= width <= WIDEST_LAYER for width in layers)
    require(valid, name, f"list at least one layer, each of 1 to {WIDEST_LAYER} units", list(layers))


def require_batch(name: str, batch: int) -> None:
    """Raise ValueError where this is no size of a batch."""
    require(1 <= batch <= LARGEST_BATCH, name, f"lie in 1 to {LARGEST_BATCH}", batch)


def require_count(name: str, count: int) -> None:
    """Raise ValueError where fewer than one."""
    require(count >= 1, name, "be at least 1", count)


def require_positive(name: str, value: float) -> None:
    """Raise ValueError where not positive and finite."""
    require(0.0 < value < math.inf, name, "be positive and finite", value)


def require_not_negative(name: str, value: float) -> None:
    """Raise ValueError where negative or not finite."""
    require(0.0 <= value < math.inf, name, "be 0 or more and finite", value)


def require_share(name: str, value: float, closed: bool = False) -> None:
    """Raise ValueError where outside (0, 1), or [0, 1] where `closed`."""
    valid = 0.0 <= value <= 1.0 if closed else 0.0 < value < 1.0
    require(valid, name, "lie in [0, 1]" if closed else "lie in (0, 1)", value)
