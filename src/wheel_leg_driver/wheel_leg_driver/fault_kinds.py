# SPDX-License-Identifier: Apache-2.0
"""The table of what can be done to an emulated robot: kinds, their keys, ranges and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Where an injection acts: between firmware and driver, on its way to or from the plant, in the microcontroller, or
#: by a person's hands and the way the robot is wired.
WIRE, SENSOR, FIRMWARE, HAND = "wire", "sensors", "firmware", "hands and wiring"
EVER = math.inf
LONGEST_S = 86_400.0
#: Below this the microcontroller has no supply.
BROWN_OUT_V = 12.0


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
