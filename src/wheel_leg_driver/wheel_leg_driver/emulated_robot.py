# SPDX-License-Identifier: Apache-2.0
"""The whole emulated robot without any I/O: firmware and plant, the cable before them, hands on them, and a black box.

    driver ◀─ wire faults ─▶ firmware ◀─ faulty sensors ◀─ hands, stand and wiring ◀─▶ plant

It takes and returns bytes as `Firmware` does, so that it can stand in for one in lock-step.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from wheel_leg_driver.black_box import TRACE_ROWS, BlackBox, TraceRow
from wheel_leg_driver.fault_kinds import HAND, KINDS, SENSOR, WIRE
from wheel_leg_driver.faults import Injection, InjectionError
from wheel_leg_driver.firmware import SUBSTEP_US, Firmware
from wheel_leg_driver.hands import HandledPlant
from wheel_leg_driver.plant import Plant, make_plant
from wheel_leg_driver.protocol import Fault
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sensor_faults import FaultySensors
from wheel_leg_driver.wire_faults import WireFaults

_LATCHED = {"motor_fault": Fault.MOTOR, "imu_fault": Fault.IMU}
#: What a person does to a body or wheels that the motors do not move.
_BY_PERSON = ("tilt", "push_wheels", "shake")
#: Of these, a new one takes the place of the old.
_ONE_AT_A_TIME = ("tilt", "shake", "stand", "miswire")


@dataclasses.dataclass
class Scheduled:
    """An injection in this robot's time (`elapsed_us`); ends_us is infinite for one that lasts until cleared."""

    injection: Injection
    begins_us: float
    ends_us: float
    begun: bool = False


class EmulatedRobot:
    """A robot to which things can be done, in device time."""

    def __init__(
        self, robot: Robot, seed: int = 0, injections: Sequence[Injection] = (), plant: Plant | None = None
    ) -> None:
        """Build the robot's own plant from its file and the seed, unless one is given."""
        self.robot = robot
        self._hands = HandledPlant(make_plant(robot, seed) if plant is None else plant, robot, seed)
        self._sensors = FaultySensors(self._hands)
        self._firmware = Firmware(robot, self._sensors)
        self._wire = WireFaults(seed)
        self._schedule: list[Scheduled] = []
        self._steps = round(1e6 / robot.interface.rate_hz) // SUBSTEP_US
        self._off = False
        self._black_box = BlackBox()
        self.elapsed_us = 0
        self.inject(injections)

    @property
    def device_time_us(self) -> int:
        """The microcontroller's clock."""
        return self._firmware.device_time_us

    @property
    def armed(self) -> bool:
        """Whether torque reaches the motors."""
        return self._firmware.armed and not self._off

    @property
    def faults(self) -> Fault:
        """Latched faults."""
        return self._firmware.faults

    @property
    def torque_nm(self) -> tuple[float, float]:
        """Setpoint in effect at the motors."""
        return (0.0, 0.0) if self._off else self._firmware.torque_nm

    @property
    def held(self) -> bool:
        """Whether a person holds the robot upright, or a stand does."""
        return self._firmware.held or self._hands.on_stand

    @property
    def unplugged(self) -> bool:
        """Whether there is no cable to the driver at present."""
        return self._wire.unplugged

    @property
    def scheduled(self) -> Sequence[Scheduled]:
        """Injections that act now or will."""
        return self._schedule

    def truth(self) -> tuple[float, float, float, float]:
        """True x (m), v (m/s), theta (rad) and theta_dot (rad/s)."""
        return self._hands.truth()

    def inject(self, injections: Sequence[Injection]) -> list[Scheduled]:
        """Plan injections, `at` counted from now; those that begin now have begun when this returns.

        Raises:
            InjectionError: a person would have to hold a robot that drives.
        """
        for injection in injections:
            if injection.at_s == 0 and injection.kind in _BY_PERSON and self._by_motors():
                raise InjectionError(
                    f"{injection.text!r}: the robot is armed, and nobody holds one that drives; disarm it first, "
                    "or put it on a stand"
                )
        planned = []
        for injection in injections:
            begins = self.elapsed_us + round(injection.at_s * 1e6)
            # What happens once is over after a step.
            ends = begins + max(SUBSTEP_US, injection.for_s * 1e6)
            planned.append(Scheduled(injection, begins, ends))
        self._schedule += planned
        self._follow_schedule()
        return planned

    def clear(self) -> None:
        """End every injection and cancel those to come; what the firmware latched stays until disarmed."""
        for planned in self._schedule:
            if planned.begun:
                self._end(planned.injection)
        self._schedule.clear()

    def _by_motors(self) -> bool:
        return self.armed and not self._hands.on_stand

    def _follow_schedule(self) -> None:
        for planned in self._schedule[:]:
            if planned.begun and planned.ends_us <= self.elapsed_us:
                self._schedule.remove(planned)
                self._end(planned.injection)
        for planned in self._schedule[:]:
            late_us = self.elapsed_us - planned.begins_us
            if planned.begun or late_us < 0 or (planned.injection.kind in _BY_PERSON and self._by_motors()):
                # A person waits until the robot does not drive any more.
                continue
            planned.begins_us += late_us
            planned.ends_us += late_us
            planned.begun = True
            self._begin(planned)

    def _trip_faults(self) -> None:
        for planned in self._schedule:
            fault = _LATCHED.get(planned.injection.kind)
            if fault is not None and planned.begun:
                self._firmware.trip(fault)

    def _begin(self, planned: Scheduled) -> None:
        injection = planned.injection
        kind, layer = injection.kind, KINDS[injection.kind].layer
        if layer == HAND:
            self._begin_hand(planned)
        elif layer == WIRE or kind == "stall":
            self._wire.begin(injection)
        elif kind == "reset" or injection.switches_off:
            self._firmware.restart()
            self._off = injection.switches_off
        elif layer == SENSOR or kind == "brown_out":
            self._sensors.begin(injection)

    def _begin_hand(self, planned: Scheduled) -> None:
        kind = planned.injection.kind
        if kind in _ONE_AT_A_TIME:
            self._schedule = [
                other for other in self._schedule if other is planned or not other.begun or other.injection.kind != kind
            ]
        if kind in _BY_PERSON and not self.held:
            self._firmware.pick_up()
        self._hands.begin(planned.injection)
        self._hold_off_stand(kind)
        if kind == "stand" and planned.injection.number("on") == 0:
            self._schedule.remove(planned)

    def _hold_off_stand(self, kind: str) -> None:
        """Whoever takes a disarmed robot from the stand holds it."""
        if kind == "stand" and not self._hands.on_stand and not self.armed:
            self._firmware.pick_up()

    def _end(self, injection: Injection) -> None:
        kind, layer = injection.kind, KINDS[injection.kind].layer
        if layer == HAND:
            self._hands.end(injection)
            self._hold_off_stand(kind)
        elif layer == WIRE or kind == "stall":
            self._wire.end(injection)
        elif layer == SENSOR or kind == "brown_out":
            self._sensors.end(injection)
        if injection.switches_off:
            self._off = False

    def receive(self, data: bytes) -> int:
        """Take bytes that the driver sent; return the number of whole commands that the firmware heard."""
        arrived = self._wire.command(data)
        return self._firmware.receive(arrived) if arrived and not self._off else 0

    def substep(self) -> bytes:
        """Advance by one motor-loop period; return what the driver gets to read."""
        if self._schedule:
            self._trip_faults()
        dt_s = SUBSTEP_US * 1e-6
        firmware, hands = self._firmware, self._hands
        if hands.in_hands and not self.held:
            hands.let_go()
            self._schedule = [p for p in self._schedule if not (p.begun and p.injection.kind in ("tilt", "shake"))]
        hands.advance(dt_s, firmware.held)
        self._sensors.advance(dt_s)
        frame = None
        if not self._off:
            frame = firmware.substep()
        elif not firmware.held:
            hands.step((0.0, 0.0), firmware.posture_rad, dt_s)
        self.elapsed_us += SUBSTEP_US
        self._record()
        arrived = self._wire.telemetry(frame or b"", self.elapsed_us)
        if self._schedule:
            self._follow_schedule()
        return arrived

    def step(self, data: bytes = b"") -> bytes:
        """Lock-step: take a client's bytes, advance one control step, return what the driver gets to read."""
        self.receive(data)
        return b"".join([self.substep() for _ in range(self._steps)])

    def _record(self) -> None:
        x, _, theta, _ = self._hands.truth()
        left, right = self.torque_nm
        self._black_box.add(
            TraceRow(
                self.elapsed_us, self.device_time_us, time.monotonic(), left, right, theta, x, self.armed, self.faults
            )
        )

    def trace(self, since_us: float, rows: int = TRACE_ROWS) -> list[TraceRow]:
        """Return rows of the black box, see BlackBox.since."""
        return self._black_box.since(since_us, rows)
