# SPDX-License-Identifier: Apache-2.0
"""The walk through a calibration: asks a person to do something, looks whether it happened, goes on or asks again."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from h2o_control.errors import UserError
from wheel_leg_driver.backend import Backend, PortError
from wheel_leg_driver.calibrate import (
    STILL_RATE_RADPS,
    UPRIGHT_RAD,
    NotSeenError,
    Pose,
    check_gyro,
    gyro_bias,
    mounting,
    pitch_zero,
    pose,
    rolled_signs,
    turned_channel,
    wheel_turns,
)
from wheel_leg_driver.calibrate_spin import TURNED_RAD, Spinner
from wheel_leg_driver.calibration import PITCH_ZERO_LIMIT_RAD, Calibration
from wheel_leg_driver.core import describe
from wheel_leg_driver.estimator import Attitude, angle_between
from wheel_leg_driver.protocol import Telemetry
from wheel_leg_driver.robot import Robot

#: The steps in their order, and what each finds.
STEPS = {
    "rest": "gyro bias and noise, robot upright and still",
    "mounting": "how the IMU is turned, from three leans",
    "zero": "pitch zero, at the balance point",
    "wheels": "encoder signs, left and right, rolling radius",
    "torque": "torque signs, on a stand, with torque; needs wheels",
}
#: What a step cannot do without; it is left out where that is not known.
NEEDS = {"torque": "wheels"}
#: What has to be typed before torque.
CONSENT = "wheels in the air"
TORQUE_LIMIT_NM = 1.5
#: More motion than this at the balance point, in pitch and to the side, and it was not held there.
ZERO_STILL_RAD, ZERO_ROLL_RAD = 0.02, 0.15
#: The IMU's own attitude and gravity agree better than this.
ATTITUDE_RAD = math.radians(5)
SILENCE_S = 1.0


class Operator(Protocol):
    """Whoever does what is asked for: a person at a terminal, or a script in front of an emulator."""

    def say(self, text: str) -> None:
        """Show a text that stays."""

    def ask(self, question: str) -> None:
        """Show a question; `answer` will be called until there is one."""

    def answer(self) -> str | None:
        """Return what was typed since, or None; must not wait."""

    def live(self, text: str) -> None:
        """Show a line that the next one replaces."""


class SkipError(Exception):
    """The operator skips this step."""


class StopError(UserError):
    """The operator stops."""


class Walk:
    """One calibration under way; `calibration` is what is known so far."""

    def __init__(
        self,
        link: Backend,
        operator: Operator,
        robot: Robot,
        start: Calibration,
        attitude: Attitude = "imu",
        torque_nm: float = 0.3,
    ) -> None:
        """Begin from `start`; torque_nm is the first try of the torque step."""
        self._link, self._operator, self._robot = link, operator, robot
        self.calibration = start
        self._gravity_only = attitude == "complementary"
        self._torque_nm = torque_nm
        self._frames: deque[Telemetry] = deque(maxlen=round(60 * robot.interface.rate_hz))
        self._newest: Telemetry | None = None
        self._heard_s = time.monotonic()
        self._lost = 0
        self._spinner = Spinner(link, self._receive)

    def run(self, steps: Sequence[str], keep: Callable[[Calibration], None] = lambda _: None) -> Calibration:
        """Walk through these steps; one that is skipped keeps what was known and is marked.

        Args:
            steps: in their order.
            keep: told what is known after each step that others follow, with these as `unfinished`.

        Raises:
            StopError: the operator stops.
            PortError: the robot is gone.
        """
        self._operator.say("At every question: s skips the step, q or Ctrl-C stops. What is finished by then is kept.")
        walks: dict[str, Callable[[], None]] = {name: getattr(self, f"_{name}") for name in STEPS}
        self._hear()
        for number, name in enumerate(steps, 1):
            self._operator.say(f"\nStep {list(STEPS).index(name) + 1} of {len(STEPS)}, {name}: {STEPS[name]}")
            if (need := NEEDS.get(name)) in self.calibration.skipped:
                self._operator.say(f"Left out: without {need} it would find nothing. Later: --steps {need} {name}")
                continue
            try:
                self._until_seen(walks[name])
            except SkipError:
                known = name not in self.calibration.skipped
                self._operator.say(f"Skipped: {name} " + ("stays what it was" if known else "is not known"))
                continue
            self._mark(name, skipped=False)
            if left := tuple(steps[number:]):
                keep(dataclasses.replace(self.calibration, unfinished=left))
        return self.calibration

    def _until_seen(self, walk: Callable[[], None]) -> None:
        while True:
            try:
                return walk()
            except NotSeenError as error:
                self._operator.say(f"Not so: {error}")
                self._choose("Enter to try again")

    def _mark(self, step: str, skipped: bool) -> None:
        marked = {*self.calibration.skipped, step} if skipped else {*self.calibration.skipped} - {step}
        self._know(skipped=tuple(name for name in STEPS if name in marked))

    def _know(self, **values: object) -> None:
        try:
            self.calibration = dataclasses.replace(self.calibration, **values)  # type: ignore[arg-type]
        except ValueError as error:
            raise NotSeenError(str(error)) from error

    # What comes over the link.

    def _receive(self) -> list[Telemetry]:
        frames = self._link.receive(time.monotonic() + 0.05)
        for frame in frames:
            if self._newest is not None:
                missing = (frame.sequence - self._newest.sequence - 1) & 0xFFFFFFFF
                # A larger number is a firmware that was restarted.
                self._lost += missing if missing < 1000 else 0
            self._newest = frame
        self._frames.extend(frames)
        if frames:
            self._heard_s = time.monotonic()
        elif time.monotonic() - self._heard_s > SILENCE_S:
            why = f"; last dropped frame: {self._link.last_error}" if self._link.last_error else ""
            raise PortError(f"no telemetry for {SILENCE_S} s{why}: is the robot on, and is this its port?")
        return frames

    def _record(self, seconds: float) -> list[Telemetry]:
        """Return the frames of the next seconds of device time."""
        frames: list[Telemetry] = []
        while not frames or (frames[-1].device_time_us - frames[0].device_time_us) * 1e-6 < seconds:
            frames += self._receive()
            if frames and frames[-1].device_time_us < frames[0].device_time_us:
                raise NotSeenError("the firmware was restarted meanwhile")
        return frames

    # What is said and answered.

    def _type(self, question: str, live: bool = True) -> str:
        self._operator.ask(question)
        while (answer := self._operator.answer()) is None:
            self._receive()
            if live:
                self._operator.live(self._reading())
        return answer.strip()

    def _choose(self, question: str, live: bool = True) -> str:
        answer = self._type(question, live)
        if answer.lower() == "s":
            raise SkipError
        if answer.lower() == "q":
            raise StopError("stopped")
        return answer

    def _reading(self) -> str:
        if self._newest is None:
            return "no telemetry yet"
        s = self.calibration.correct(self._newest).sensors
        x, y, z = s.accel_mps2
        forward, right = math.degrees(math.atan2(-x, z)), math.degrees(math.atan2(y, math.hypot(x, z)))
        lean = f"leans {'forward' if forward >= 0 else 'back'} {abs(forward):4.1f}°"
        side = f"to its {'right' if right >= 0 else 'left'} {abs(right):4.1f}°"
        return f"{lean}, {side}; wheels left {s.wheel_pos_rad[0]:+7.2f}, right {s.wheel_pos_rad[1]:+7.2f} rad"

    # The steps.

    def _hear(self) -> None:
        """Disarm what may be armed, and say what the robot reports."""
        self._spinner.disarm()
        self._lost = 0
        errors = self._link.frame_errors
        frames = self._record(1.0)
        last, s = frames[-1], frames[-1].sensors
        rate = (len(frames) - 1) / ((last.device_time_us - frames[0].device_time_us) * 1e-6)
        self._operator.say(
            f"Heard: {rate:.0f} Hz (the description says {self._robot.interface.rate_hz:g}), {self._lost} frames lost, "
            f"{self._link.frame_errors - errors} damaged; {s.battery_v:.1f} V; "
            f"{', '.join(f'{t:.0f}' for t in s.temperatures_c)} °C; faults: {describe(last.faults) or 'none'}"
        )
        if abs(rate / self._robot.interface.rate_hz - 1.0) > 0.1:
            raise UserError(
                f"telemetry comes at {rate:.0f} Hz, {self._robot.name!r} has "
                f"{self._robot.interface.rate_hz:g}: is this robot's description the right one?"
            )

    def _rest(self) -> None:
        self._choose("Put the robot upright on the floor, legs standing, and hold it still. Enter when it is")
        seen = pose(self._record(2.0), STILL_RATE_RADPS)
        bias = gyro_bias(seen)
        self._know(gyro_bias_radps=tuple(_readable(rate) for rate in bias))
        noise = float(seen.noise_radps.max())
        self._operator.say(
            f"Seen: gyro bias ({bias[0]:+.4f}, {bias[1]:+.4f}, {bias[2]:+.4f}) rad/s, noise {noise:.4f} rad/s, "
            f"gravity {seen.gravity_mps2:.2f} m/s²"
        )
        if not self._gravity_only and not seen.attitude_error_rad <= ATTITUDE_RAD:
            raise NotSeenError(
                f"the attitude that the IMU reports is {math.degrees(seen.attitude_error_rad):.1f}° away from its own "
                "accelerometer's gravity. If this repeats, mend the firmware, or use --attitude complementary here "
                "and attitude:=complementary for the driver"
            )

    def _pose(self, question: str) -> Pose:
        self._choose(question)
        return pose(self._record(0.7))

    def _mounting(self) -> None:
        upright = self._pose("Hold it upright and still. Enter when it is")
        self._frames.clear()
        forward = self._pose("Lean it forward by about 20° (its front goes down) and hold it there. Enter")
        off = check_gyro(list(self._frames), self.calibration.gyro_bias_radps, upright.up, forward.up)
        again = self._pose("Back upright. Enter")
        left = self._pose("Lean it to its own left by about 20° and hold it there. Enter")
        apart = angle_between(upright.up, again.up)
        if not apart <= UPRIGHT_RAD:
            raise NotSeenError(f"the two upright poses are {math.degrees(apart):.0f}° apart: hold it upright twice")
        mean = upright.up + again.up
        found = mounting(mean / np.linalg.norm(mean), forward.up, left.up)
        roll, pitch, yaw = (_readable(a) for a in (found.roll_rad, found.pitch_rad, found.yaw_rad))
        self._know(imu_roll_rad=roll, imu_pitch_rad=pitch, imu_yaw_rad=yaw, pitch_zero_rad=0.0)
        # The pitch zero of another mounting says nothing about this one.
        self._mark("zero", skipped=True)
        angles = ", ".join(
            f"{name} {math.degrees(angle):+.1f}°" for name, angle in (("roll", roll), ("pitch", pitch), ("yaw", yaw))
        )
        self._operator.say(
            f"Seen: the IMU is turned by {angles}; the leans fit to {math.degrees(found.misfit_rad):.1f}°, "
            f"the gyro to {math.degrees(off):.1f}°"
        )
        if self._choose("Lean it about: does the line below say what you do? Enter if so, n if not"):
            raise NotSeenError("the mounting found is not the robot's: forward means nose down, left is its own left")

    def _zero(self) -> None:
        self._choose("Hold it at the balance point, where it just tips neither way. Enter, and hold it for 2 s")
        frames = self._record(2.0)
        seen = pose(frames)
        if not self._gravity_only and not seen.attitude_error_rad <= ATTITUDE_RAD:
            raise NotSeenError("the IMU's attitude disagrees with gravity; see step rest")
        mean, spread = pitch_zero(frames, dataclasses.replace(self.calibration, pitch_zero_rad=0.0), self._gravity_only)
        roll = math.asin(float(np.clip(self.calibration.to_body(tuple(seen.up))[1], -1.0, 1.0)))
        if not (spread <= ZERO_STILL_RAD and abs(roll) <= ZERO_ROLL_RAD):
            raise NotSeenError(f"its pitch varied by {spread:.3f} rad and it leaned sideways by {roll:+.2f} rad")
        if not abs(mean) <= PITCH_ZERO_LIMIT_RAD:
            raise NotSeenError(f"pitch is {mean:+.2f} rad there, far from upright: do step mounting first")
        self._know(pitch_zero_rad=_readable(mean))
        self._operator.say(f"Seen: in balance at {mean:+.4f} rad ({math.degrees(mean):+.2f}°), ± {spread:.4f}")

    def _wheels(self) -> None:
        before = self._pose("Upright on the floor, motors off. Mark where a wheel stands. Enter")
        after = self._pose("Roll it straight forward by about 0.3 m, and keep it upright. Enter when it stands")
        turns = wheel_turns(before, after)
        signs = rolled_signs(turns)
        text = self._choose("How far did it roll, in m? Measure it, or Enter alone if you did not", live=False)
        channels = []
        for wheel in ("left", "right"):
            start = self._pose(
                f"Now the {wheel} wheel alone. Hold the other; lift the robot if need be. Enter to begin"
            )
            end = self._pose(f"Turn the {wheel} wheel forward by half a turn. Enter when done")
            channels.append(turned_channel(wheel_turns(start, end), signs, wheel))
        if channels[0] == channels[1]:
            raise NotSeenError("both wheels counted on the same channel: turn the left one first, then the right one")
        swapped = channels[0] == 1
        found = (signs[channels[0]], signs[channels[1]])
        if (found, swapped) != (self.calibration.encoder_signs, self.calibration.swapped):
            # Torque signs were told by encoders that were read otherwise.
            self._know(encoder_signs=found, swapped=swapped, torque_signs=(1, 1))
            self._mark("torque", skipped=True)
        order = "swapped" if swapped else "as named"
        self._operator.say(f"Seen: left and right are {order}, encoder signs {found}")
        if text:
            self._operator.say(self._radius(text, float(np.abs(turns).mean())))

    def _radius(self, text: str, turned_rad: float) -> str:
        try:
            distance_m = float(text)
        except ValueError:
            return f"{text!r} is no distance; the rolling radius was not checked"
        implied, described = distance_m / turned_rad, self._robot.interface.wheel_radius_m
        off = implied / described - 1.0
        advice = (
            "fits"
            if abs(off) <= 0.03
            else "if ten turns of the wheel say so too, change interface.wheel_radius_m in the robot's description"
        )
        return f"Rolling radius {implied:.4f} m; the description says {described:.4f} ({off:+.1%}): {advice}"

    def _torque(self) -> None:
        limit = min(TORQUE_LIMIT_NM, self._robot.interface.torque_limit_nm)
        self._operator.say(
            f"The wheels will turn, one at a time, with up to {limit:.1f} Nm. Body fixed on a stand, wheels in "
            "the air, cables and fingers away; a hand on the power switch. Ctrl-C disarms."
        )
        if self._choose(f"Type {CONSENT!r} to go on", live=False) != CONSENT:
            raise NotSeenError(f"{CONSENT!r} was not typed, so no torque")
        signs, begun = [1, 1], []
        for channel in (0, 1):
            if channel:
                self._choose("Stop the wheel by hand. Both still in the air? Enter turns the other one")
            wheel = 1 - channel if self.calibration.swapped else channel
            turn_rad, begun_nm = self._turn(channel, wheel, limit)
            signs[wheel] = 1 if turn_rad > 0 else -1
            begun.append(begun_nm)
        self._know(torque_signs=(signs[0], signs[1]))
        self._operator.say(
            f"Seen: torque signs {self.calibration.torque_signs}; the wheels began to turn at "
            f"{begun[0]:.2f} and {begun[1]:.2f} Nm (no load), a first guess for balance.dead_zone_nm"
        )

    def _turn(self, channel: int, wheel: int, limit_nm: float) -> tuple[float, float]:
        """Turn one wheel with as little torque as does; return its turn forward (rad) and the torque it began at."""
        largest_nm = min(self._torque_nm, limit_nm)
        while True:
            spin = self._spinner.spin(channel, largest_nm)
            turn_rad = self.calibration.wheels(spin.turns_rad, self.calibration.encoder_signs)[wheel]
            if abs(turn_rad) >= TURNED_RAD and spin.begun_nm is not None:
                name = ("left", "right")[wheel]
                self._operator.say(f"The {name} wheel turned {turn_rad:+.2f} rad from {spin.begun_nm:.2f} Nm")
                return turn_rad, spin.begun_nm
            if largest_nm >= limit_nm:
                raise NotSeenError(f"{limit_nm:.2f} Nm does not turn the {('left', 'right')[wheel]} wheel: is it free?")
            largest_nm = min(2 * largest_nm, limit_nm)


def _readable(value: float) -> float:
    # A microradian is nothing to a sensor and a line of digits to a reader; -0.0 would look like a finding.
    return round(value, 6) + 0.0
