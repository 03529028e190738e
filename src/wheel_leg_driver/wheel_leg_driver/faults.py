# SPDX-License-Identifier: Apache-2.0
"""The text that says what to do to an emulated robot: `unplug at=5 for=0.5; tilt pitch=0.2`.

Injections are separated by semicolons, each `kind key=value …`; fault_kinds.py has the kinds and their keys. Two keys
belong to all: `at`, seconds of device time from the emulator's start (from now, where it already runs), and `for`, how
long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from h2o_control.errors import UserError, nearest
from wheel_leg_driver.fault_kinds import BROWN_OUT_V, KINDS, LONGEST_S, Key


class InjectionError(UserError):
    """A text that is no injection; the message names the nearest thing that is."""


@dataclass(frozen=True, eq=False)
class Injection:
    """One thing to do to the robot; the same text twice is two injections.

    Attributes:
        kind: a key of KINDS.
        at_s: when, in device time.
        for_s: how long; 0 once, EVER until cleared.
        values: every key of the kind, defaults filled in.
        text: as it was written.
    """

    kind: str
    at_s: float
    for_s: float
    text: str
    values: Mapping[str, float | str] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """Return a value as a number, switches and signs too."""
        return float(self.values[name])

    @property
    def switches_off(self) -> bool:
        """Whether the microcontroller is off while it lasts."""
        return (self.kind == "reset" and self.for_s > 0) or (
            self.kind == "brown_out" and self.number("v") < BROWN_OUT_V
        )

    @property
    def stops_time(self) -> bool:
        """Whether a client in lock-step, who waits for every answer, could wait for ever."""
        return KINDS[self.kind].stops_time or self.switches_off

    def acts_on(self, direction: str) -> bool:
        """Whether it disturbs frames in this direction, "telemetry" or "command"."""
        return self.values.get("direction", "telemetry") in (direction, "both")


def parse(text: str) -> list[Injection]:
    """Read injections; an empty text holds none.

    Raises:
        InjectionError: unknown kind or key (names the nearest valid one), or a value out of its range.
    """
    return [_parse_one(part.strip()) for part in text.split(";") if part.strip()]


def _parse_one(text: str) -> Injection:
    name, *pairs = text.split()
    kind = KINDS.get(name)
    if kind is None:
        raise InjectionError(f"{text!r}: no injection is called {name!r}.{nearest(name, KINDS)}")
    keys = {
        "at": Key("at", "s", 0.0, LONGEST_S, 0.0),
        "for": Key("for", "s", 0.0, LONGEST_S, kind.for_s),
        **{key.name: key for key in kind.keys},
    }
    values = {key.name: key.default for key in keys.values()}
    given: set[str] = set()
    for pair in pairs:
        key_name, sep, value = pair.partition("=")
        if not sep:
            raise InjectionError(f"{text!r}: {pair!r} is no key=value; {name} takes {_usage(keys)}")
        if key_name not in keys:
            raise InjectionError(f"{text!r}: {name} has no key {key_name!r}.{nearest(key_name, keys)}")
        if key_name in given:
            raise InjectionError(f"{text!r}: {key_name} is given twice")
        given.add(key_name)
        values[key_name] = _value(keys[key_name], value, text)
    at_s, for_s = float(values.pop("at")), float(values.pop("for"))
    return Injection(name, at_s, for_s, text, values)


def _value(key: Key, text: str, where: str) -> float | str:
    if key.choices:
        if text not in key.choices:
            raise InjectionError(f"{where!r}: {key.name} must be one of {key.range}, got {text!r}")
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not key.low <= number <= key.high:
        raise InjectionError(f"{where!r}: {key.name} must be a number from {key.range}, got {text!r}")
    return number


def _usage(keys: Mapping[str, Key]) -> str:
    return ", ".join(f"{key.name}= ({key.range})" for key in keys.values())
