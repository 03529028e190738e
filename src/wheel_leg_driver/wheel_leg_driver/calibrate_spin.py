# SPDX-License-Identifier: Apache-2.0
"""The one step of calibration with torque: turn one wheel in the air, a little, and stop at anything odd."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wheel_leg_driver.backend import Backend, PortError
from wheel_leg_driver.calibrate import NotSeenError
from wheel_leg_driver.estimator import angle_between
from wheel_leg_driver.protocol import NO_FLAGS, Command, CommandFlag, Fault, Status, Telemetry

#: Torque grows from zero for this long, then the try is over.
RAMP_S = 1.0
#: A wheel has begun to turn, and has turned enough to tell its direction.
BEGUN_RAD, TURNED_RAD = 0.05, 0.3
#: Faster is a wheel that runs away, slower is one at rest.
SPEED_LIMIT_RADPS, REST_RADPS = 15.0, 0.5
#: Gravity may move by this much in the body before it counts as a robot that is on no stand.
TILT_RAD = 0.15
#: Within this the firmware must arm, disarm, and say something at all.
ANSWER_S, SILENCE_S = 0.5, 0.1


@dataclass(frozen=True)
class Spin:
    """What one try did: turn of both channels in rad, as on the wire, and the torque at which the wheel began to."""

    turns_rad: tuple[float, float]
    begun_nm: float | None


class Spinner:
    """Arms the firmware, turns the wheel of one channel and disarms, whatever happens."""

    def __init__(self, link: Backend, receive: Callable[[], list[Telemetry]]) -> None:
        """Speak over `link`; `receive` returns its newest telemetry and lets others see it."""
        self._link, self._receive = link, receive
        # Telemetry names the command it heard last: not one of an earlier program must pass for ours.
        self._sequence = int(time.monotonic() * 1000) & 0xFFFFFFFF

    def spin(self, channel: int, largest_nm: float) -> Spin:
        """Let the torque of one channel grow from 0 to largest_nm within a second, until its wheel turns.

        Raises:
            NotSeenError: it was stopped, and why.
            PortError: the link is gone; the firmware's watchdog ends the torque.
        """
        try:
            start = self._arm()
            return self._ramp(start, channel, largest_nm)
        finally:
            self.disarm()

    def _arm(self) -> Telemetry:
        telemetry = self._newest()
        if not max(map(abs, telemetry.sensors.wheel_vel_radps)) <= REST_RADPS:
            raise NotSeenError("a wheel still turns: stop it by hand")
        deadline = time.monotonic() + ANSWER_S
        while not telemetry.status & Status.ARMED or telemetry.faults:
            if time.monotonic() > deadline:
                raise NotSeenError(f"the firmware did not arm within {ANSWER_S} s; it reports {_faults(telemetry)}")
            self._send((0.0, 0.0), CommandFlag.ARM)
            telemetry = self._newest()
        return telemetry

    def _ramp(self, start: Telemetry, channel: int, largest_nm: float) -> Spin:
        begun_nm, torque_nm = None, 0.0
        while True:
            telemetry = self._newest()
            turns = _difference(telemetry, start)
            self._check(telemetry, start, turns, channel)
            if begun_nm is None and abs(turns[channel]) >= BEGUN_RAD:
                begun_nm = torque_nm
            elapsed_s = (telemetry.device_time_us - start.device_time_us) * 1e-6
            if abs(turns[channel]) >= TURNED_RAD or elapsed_s >= RAMP_S:
                return Spin(turns, begun_nm)
            torque_nm = largest_nm * max(0.0, elapsed_s) / RAMP_S
            self._send((torque_nm, 0.0) if channel == 0 else (0.0, torque_nm), NO_FLAGS)

    def _check(self, telemetry: Telemetry, start: Telemetry, turns: tuple[float, float], channel: int) -> None:
        s = telemetry.sensors
        tilt = angle_between(np.array(s.accel_mps2), np.array(start.sensors.accel_mps2))
        if telemetry.faults or not telemetry.status & Status.ARMED:
            raise NotSeenError(f"stopped: the firmware disarmed; it reports {_faults(telemetry)}")
        if not tilt <= TILT_RAD:
            raise NotSeenError(f"stopped: the body tilted by {tilt:.2f} rad. Put it on a stand that holds it")
        if not max(map(abs, s.wheel_vel_radps)) <= SPEED_LIMIT_RADPS:
            raise NotSeenError(f"stopped: a wheel turns faster than {SPEED_LIMIT_RADPS} rad/s")
        if not abs(turns[1 - channel]) < TURNED_RAD:
            raise NotSeenError(
                f"stopped: torque for channel {channel} turned the wheel that counts on channel {1 - channel}. "
                "Motors and encoders are crossed: swap the two motors, or the two encoders, in wiring or firmware"
            )

    def disarm(self) -> None:
        """Zero torque; returns once the firmware says that it is disarmed, and raises PortError where it does not."""
        deadline = time.monotonic() + ANSWER_S
        first = self._sequence + 1
        while time.monotonic() < deadline:
            self._send((0.0, 0.0), CommandFlag.DISARM)
            with contextlib.suppress(NotSeenError):
                telemetry = self._newest()
                heard = (telemetry.command_sequence - first) & 0xFFFFFFFF <= self._sequence - first
                if heard and not telemetry.status & Status.ARMED:
                    return
        raise PortError(
            f"the firmware does not say that it is disarmed within {ANSWER_S} s: switch the robot off. "
            "Its watchdog should have stopped the motors by now"
        )

    def _newest(self) -> Telemetry:
        deadline = time.monotonic() + SILENCE_S
        while not (frames := self._receive()):
            if time.monotonic() > deadline:
                raise NotSeenError(f"stopped: no telemetry for {SILENCE_S} s")
        return frames[-1]

    def _send(self, torque_nm: tuple[float, float], flags: CommandFlag) -> None:
        self._sequence += 1
        self._link.send(Command(self._sequence, torque_nm, flags=flags))


def _difference(now: Telemetry, then: Telemetry) -> tuple[float, float]:
    (a, b), (c, d) = now.sensors.wheel_pos_rad, then.sensors.wheel_pos_rad
    return a - c, b - d


def _faults(telemetry: Telemetry) -> str:
    names = [f.name.lower().replace("_", " ") for f in Fault if f in telemetry.faults and f.name]
    return ", ".join(names) or "no fault"
