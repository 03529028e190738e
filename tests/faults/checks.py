# SPDX-License-Identifier: Apache-2.0
"""What can be required of a run: each requirement in words, and the test of it. Times are ms of device time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from faults.evidence import KEPT, OWN, UNSAFE, ZERO, Evidence
from wheel_leg_driver.limits import Limits

#: A robot that leans further than this is not upright any more, rad.
UPRIGHT_RAD = 0.3
#: Torque after a fall may last so long, ms: estimate, tick and motor loop.
FALL_MS = 50.0
#: A robot that moves on by no more than this over so many rows of a millisecond stands.
STANDING_MPS, STANDING_ROWS = 0.1, 500
#: Commands that were under way to the harness when the driver was killed.
UNHEARD = 2


@dataclass(frozen=True)
class Check:
    """A requirement: what it says, and a function that returns what is wrong, or nothing."""

    says: str
    problem: Callable[[Evidence], str]


def always() -> list[Check]:
    """Return what holds in every cell."""
    return [settled(), nothing_strange(), fall_stops(), no_arming()]


def settled() -> Check:
    """At the end there is no torque, or somebody in command of an upright robot."""

    def problem(e: Evidence) -> str:
        if e.end == UNSAFE:
            return f"not safe at the end: mode {e.mode}, torque at the motors"
        lean = abs(e.column("theta_rad")[-1])
        return f"driven while it lies at {lean:.2f} rad" if e.end != ZERO and lean > Limits().fall_rad else ""

    return Check("safe at the end", problem)


def nothing_strange() -> Check:
    """No torque at a motor that the driver has not sent."""

    def problem(e: Evidence) -> str:
        strange = e.strange_torques()
        return f"torques that the driver never sent: {strange[:3]}" if len(strange) > UNHEARD else ""

    return Check("no torque at the motors that the driver did not send", problem)


def fall_stops() -> Check:
    """A fallen robot is not driven."""

    def problem(e: Evidence) -> str:
        fallen = np.flatnonzero((np.abs(e.column("theta_rad")) > Limits().fall_rad) & e.after)
        if not len(fallen):
            return ""
        turning = np.flatnonzero(e.turning)
        late_ms = float(turning[-1] - fallen[0]) if len(turning) else 0.0
        return f"torque until {late_ms:.0f} ms after the fall" if late_ms > FALL_MS else ""

    return Check(f"no torque later than {FALL_MS:.0f} ms after a fall", problem)


def no_arming() -> Check:
    """Once torque is off, it stays off until somebody arms."""

    def problem(e: Evidence) -> str:
        armed = e.column("armed")[e.after]
        off = np.flatnonzero(armed == 0)
        return "armed by itself" if len(off) and armed[off[0] :].any() else ""

    return Check("nothing arms by itself", problem)


def no_torque() -> Check:
    """Nothing at the motors over the whole span."""

    def problem(e: Evidence) -> str:
        turning = np.flatnonzero(e.turning)
        return f"torque at {e.ms(e.column('elapsed_us')[turning[0]]):.0f} ms" if len(turning) else ""

    return Check("no torque ever", problem)


def mode_is(*modes: str) -> Check:
    """The driver ends in one of these modes."""
    return Check(
        f"mode {' or '.join(modes)}", lambda e: "" if e.mode in modes else f"mode {e.mode} at the end ({e.reason})"
    )


def zero_within(ms: float) -> Check:
    """Zero torque for good."""

    def problem(e: Evidence) -> str:
        if e.end != ZERO:
            return f"no zero torque: {e.end}, mode {e.mode}"
        return f"torque until {e.zero_ms:.0f} ms" if e.zero_ms > ms else ""

    return Check(f"zero torque within {ms:.0f} ms", problem)


def safe_within(ms: float) -> Check:
    """Zero torque or the driver's own balance; a fault that changes nothing is over at once."""
    return Check(
        f"safe within {ms:.0f} ms", lambda e: "" if e.safe_ms <= ms else f"safe after {e.safe_ms:.0f} ms: {e.end}"
    )


def upright() -> Check:
    """The body stays upright, and somebody is in command of it."""

    def problem(e: Evidence) -> str:
        if e.end not in (OWN, KEPT):
            return f"not kept up: {e.end}"
        lean = float(np.abs(e.column("theta_rad")).max())
        return f"leaned {lean:.2f} rad" if lean > UPRIGHT_RAD else ""

    return Check(f"upright throughout, within {UPRIGHT_RAD} rad", problem)


def standing() -> Check:
    """The robot is on the spot at the end, where an imperfect one sways."""

    def problem(e: Evidence) -> str:
        x_m = e.column("x_m")[-STANDING_ROWS:]
        speed_mps = float(x_m[-1] - x_m[0]) / (len(x_m) * 1e-3)
        return f"{speed_mps:+.2f} m/s at the end" if abs(speed_mps) > STANDING_MPS else ""

    return Check(f"mean speed below {STANDING_MPS} m/s over the last {STANDING_ROWS / 1000:g} s", problem)


def own_after_last_answer(ms: float) -> Check:
    """The driver's balance takes over soon after the last observation that the policy answered."""

    def problem(e: Evidence) -> str:
        took_ms = e.own_ms - e.last_answered_ms
        if math.isnan(took_ms):
            return "no hand-over seen"
        return f"own balance {took_ms:.1f} ms after the last answered observation" if took_ms > ms else ""

    return Check(f"own balance within {ms:.0f} ms of the last answered observation", problem)


def found(name: str, says: str, holds: Callable[[object], bool]) -> Check:
    """Something that an action has measured."""

    def problem(e: Evidence) -> str:
        return "" if holds(e.found.get(name)) else f"{name}: {e.found.get(name)}"

    return Check(says, problem)
