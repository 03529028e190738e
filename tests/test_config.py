# SPDX-License-Identifier: Apache-2.0
"""Configuration: which values are refused, and by what words."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from h2o_control.config import from_mapping
from h2o_control.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    gains: tuple[float, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    number: float = 0.0
    limit: float | None = None
    count: int = 0
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "nan", "-inf", "1e999", 10**400])
@pytest.mark.parametrize(
    ("place", "key"),
    [
        (lambda value: {"number": value}, "number"),
        (lambda value: {"limit": value}, "limit"),
        (lambda value: {"inner": {"gains": [1.0, value]}}, r"gains\[1\]"),
        (lambda value: {"inner": {"factors": {"a": value}}}, "factors.a"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(place, key, value):
    with pytest.raises(ConfigError, match=f"here: .*{key} must be a finite number, got "):
        from_mapping(Outer, place(value), "here")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**5000], ids=["above", "below", "far above"])
def test_integers_beyond_64_bits_are_refused(value):
    with pytest.raises(ConfigError, match="here: count must fit into 64 bits"):
        from_mapping(Outer, {"count": value}, "here")


def test_the_largest_numbers_that_fit_are_taken():
    loaded = from_mapping(Outer, {"count": 2**63 - 1, "number": 1.7e308, "limit": "3e-4"}, "here")
    assert loaded == Outer(count=2**63 - 1, number=1.7e308, limit=3e-4)
