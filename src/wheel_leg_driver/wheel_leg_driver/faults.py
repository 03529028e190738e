# SPDX-License-Identifier: Apache-2.0
"""What can be done to an emulated robot, and the text that says so: `unplug at=5 for=0.5; tilt pitch=0.2`.

Injections are separated by semicolons, each `kind key=value …`. Two keys belong to all: `at`, seconds of device time
from the emulator's start (from now, where it already runs), and `for`, how long. `describe_kinds` prints the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from h2o_control.errors import UserError, nearest

#: Where an injection acts: between firmware and driver, on its way to or from the plant, in the microcontroller, or
#: by a person's hands and the way the robot is wired.
WIRE, SENSOR, FIRMWARE, HAND = "wire", "sensors", "firmware", "hands and wiring"
EVER = math.inf
LONGEST_S = 86_400.0


class InjectionError(UserError):
    """A text that is no injection; the message names the nearest thing that is."""


@dataclass(frozen=True)
class Key:
    """One key of a kind: a number within [low, high] or, where there are choices, one of these words."""

    name: str
    unit: str
    low: float
    high: float
    default: float | str
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """What may be written, in words."""
        if self.choices:
            return "|".join(self.choices)
        return f"{self.low:g} to {self.high:g}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True)
class Kind:
    """One kind of injection.

    Attributes:
        layer: where it acts.
        for_s: how long unless said otherwise; 0 is an event that happens once, EVER lasts until cleared.
        summary: what it does, in a line.
        stops_time: telemetry may stay away, for which a client in lock-step would wait for ever.
    """

    name: str
    layer: str
    for_s: float
    summary: str
    keys: tuple[Key, ...] = ()
    stops_time: bool = False


def _angle(name: str, default: float = 0.0) -> Key:
    return Key(name, "rad", -math.pi, math.pi, default)


def _sign(name: str) -> Key:
    return Key(name, "", -1, 1, "1", ("-1", "1"))


def _switch(name: str, default: str) -> Key:
    return Key(name, "", 0, 1, default, ("0", "1"))


def _share(default: float) -> Key:
    return Key("share", "", 0.0, 1.0, default)


def _direction(default: str) -> Key:
    return Key("direction", "", 0, 0, default, ("telemetry", "command", "both"))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("unplug", WIRE, 0.5, "the port hangs up and disappears, then comes back as a new one", (), True),
        Kind(
            "torn_frames",
            WIRE,
            1.0,
            "frames cut off at a random byte",
            (_share(0.2), _direction("both")),
            stops_time=True,
        ),
        Kind("corrupt_frames", WIRE, 1.0, "random bits of frames flipped", (_share(0.2), _direction("both")), True),
        Kind("byte_noise", WIRE, 1.0, "random bytes put in and replaced", (_share(0.01), _direction("both")), True),
        Kind("drop_telemetry", WIRE, 1.0, "telemetry frames lost", (_share(1.0),), True),
        Kind("delay_telemetry", WIRE, 1.0, "telemetry comes late", (Key("s", "s", 0.001, 1.0, 0.05),), True),
        Kind(
            "wrong_version",
            WIRE,
            0.5,
            "frames say that they are of another protocol version",
            (Key("version", "", 0, 255, 2.0), _direction("telemetry")),
            True,
        ),
        Kind("stuck_imu", SENSOR, 1.0, "attitude, rates and acceleration freeze"),
        Kind("stuck_encoders", SENSOR, 1.0, "wheel positions and velocities freeze"),
        Kind("bias_pitch", SENSOR, EVER, "attitude and accelerometer are off in pitch", (_angle("rad", 0.1),)),
        Kind("bias_gyro", SENSOR, EVER, "the pitch rate is off", (Key("radps", "rad/s", -10.0, 10.0, 0.2),)),
        Kind("nan_imu", SENSOR, 0.1, "attitude, rates and acceleration are not numbers"),
        Kind(
            "overheating",
            SENSOR,
            2.0,
            "both motors' temperature goes to c, at `ramp` (0: at once)",
            (Key("c", "°C", -40.0, 200.0, 95.0), Key("ramp", "°C/s", 0.0, 1000.0, 0.0)),
        ),
        Kind(
            "brown_out",
            FIRMWARE,
            0.2,
            "the bus drops to v; below 12 V the microcontroller is off meanwhile and restarts",
            (Key("v", "V", 0.0, 60.0, 9.0),),
        ),
        Kind("motor_fault", FIRMWARE, 0.0, "the firmware latches a motor fault (all the while, with `for`)"),
        Kind("imu_fault", FIRMWARE, 0.0, "the firmware latches an IMU fault (all the while, with `for`)"),
        Kind("reset", FIRMWARE, 0.0, "the microcontroller restarts, after being off for `for`: disarmed, time from 0"),
        Kind("stall", FIRMWARE, 0.1, "the firmware sends and hears nothing; its watchdog goes on", (), True),
        Kind(
            "tilt",
            HAND,
            EVER,
            "a person holds the disarmed body so, moving there within 0.5 s; arming lets go",
            (_angle("pitch"), _angle("roll"), _angle("yaw")),
        ),
        Kind(
            "push_wheels",
            HAND,
            1.0,
            "a person turns the disarmed wheels by so much, within `for`",
            (Key("left", "rad", -100.0, 100.0, 0.0), Key("right", "rad", -100.0, 100.0, 0.0)),
        ),
        Kind(
            "stand",
            HAND,
            EVER,
            "on=1: on a stand, wheels in the air, body held, armed or not; on=0 puts it on the floor",
            (_switch("on", "1"),),
        ),
        Kind(
            "shake",
            HAND,
            EVER,
            "the person who holds the disarmed body does not hold still; rms rate about each axis",
            (Key("radps", "rad/s", 0.0, 5.0, 0.3),),
        ),
        Kind(
            "miswire",
            HAND,
            EVER,
            "IMU turned against the body, encoder and motor signs inverted, left and right swapped",
            (
                *(_angle(f"imu_{axis}") for axis in ("roll", "pitch", "yaw")),
                *(_sign(name) for name in ("left_encoder", "right_encoder", "left_motor", "right_motor")),
                _switch("swap", "0"),
            ),
        ),
    )
}


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


def describe_kinds() -> str:
    """Return the table of kinds, keys, ranges and defaults for people."""
    lines = ["Every kind takes at= (when, s of device time, default 0) and for= (how long, s)."]
    for layer in (WIRE, SENSOR, FIRMWARE, HAND):
        lines += ["", f"{layer}:"]
        for kind in (k for k in KINDS.values() if k.layer == layer):
            lasting = "once" if kind.for_s == 0 else "until cleared" if kind.for_s == EVER else f"{kind.for_s:g} s"
            lines.append(f"  {kind.name:16} {kind.summary} [{lasting}]")
            for key in kind.keys:
                default = key.default if isinstance(key.default, str) else f"{key.default:g}"
                lines.append(f"      {key.name}={default:8} {key.range}")
    return "\n".join(lines)
