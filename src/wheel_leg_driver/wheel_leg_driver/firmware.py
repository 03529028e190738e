# SPDX-License-Identifier: Apache-2.0
"""The microcontroller's program, emulated: what a robot's firmware must do for this driver, without any I/O.

Real time and lock-step run this same code; only who calls `substep` differs (see emulator.py and docs/protocol.md).
"""

from __future__ import annotations

import math

from h2o_control.errors import ConfigError
from wheel_leg_driver.plant import Plant
from wheel_leg_driver.protocol import (
    Command,
    CommandFlag,
    Fault,
    FrameReader,
    Status,
    Telemetry,
    encode_telemetry,
)
from wheel_leg_driver.robot import Robot

#: No command for this long, in device time, means zero torque, latched.
WATCHDOG_US = 30_000
#: The motor loop's period; commands take effect at its next tick.
SUBSTEP_US = 1_000
UNDERVOLTAGE_V = 18.0
OVERTEMPERATURE_C = 90.0
#: A fallen, disarmed robot is picked up and held upright again after this long.
PICK_UP_US = 1_000_000


class Firmware:
    """Arming, watchdog, torque limit and telemetry around a plant, in device time.

    While disarmed and upright the robot is held by a person: the plant does not move. Arming lets go of it. A robot
    that lost its torque falls; once disarmed for a second, it is picked up and held again.
    """

    def __init__(self, robot: Robot, plant: Plant, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Stand the plant at this pitch and pitch rate (perturbed starts), held, disarmed."""
        self._robot, self._plant = robot, plant
        self._period_us = round(1e6 / robot.interface.rate_hz)
        if self._period_us < SUBSTEP_US or self._period_us % SUBSTEP_US:
            raise ConfigError(
                f"robot {robot.name!r}: rate_hz {robot.interface.rate_hz:g} is a step of {self._period_us} µs, but the "
                f"emulated motor loop runs every {SUBSTEP_US} µs; use 1000, 500, 250, 200, 125 or 100"
            )
        # The servos hold what they were told last, through a restart too.
        self._posture = (robot.body.thigh_rad, robot.body.shin_rad)
        self._held = True
        plant.reset(pitch_rad, pitch_rate_radps)
        self.restart()

    def restart(self) -> None:
        """Power up: disarmed, nothing latched, device time and sequences from zero."""
        self._reader = FrameReader()
        self.device_time_us = 0
        self._sequence = 0
        self._command_sequence = 0
        self._torque = (0.0, 0.0)
        self._executed = [0.0, 0.0]
        self._substeps = 0
        self._last_command_us = 0
        self._disarmed_us = 0
        self._armed = False
        self._faults = Fault(0)

    @property
    def armed(self) -> bool:
        """Whether torque reaches the motors."""
        return self._armed and not self._faults

    @property
    def faults(self) -> Fault:
        """Latched faults."""
        return self._faults

    @property
    def torque_nm(self) -> tuple[float, float]:
        """Setpoint in effect at the motors."""
        return self._torque

    @property
    def posture_rad(self) -> tuple[float, float]:
        """Targets of the leg servos, thigh and shin."""
        return self._posture

    @property
    def held(self) -> bool:
        """Whether a person holds the robot upright: it is disarmed and does not move."""
        return self._held

    def receive(self, data: bytes) -> int:
        """Take bytes from the wire; return the number of whole commands among them."""
        commands = [m for m in self._reader.feed(data) if isinstance(m, Command)]
        if self._reader.other_version is not None:
            self._reader.other_version = None
            self.trip(Fault.PROTOCOL_VERSION)
        for command in commands:
            self._obey(command)
        return len(commands)

    def _obey(self, command: Command) -> None:
        self._command_sequence = command.sequence
        self._last_command_us = self.device_time_us
        if command.flags & CommandFlag.DISARM:
            if self._armed:
                self._disarmed_us = self.device_time_us
            self._armed = False
            self._faults = Fault(0)
            self._torque = (0.0, 0.0)
            return
        if command.flags & CommandFlag.ARM and not self._armed and not self._faults:
            self._armed = True
            self._held = False
        if all(math.isfinite(angle) for angle in command.posture_rad):
            self._posture = command.posture_rad
        if command.flags & CommandFlag.HEARTBEAT:
            return
        limit = self._robot.interface.torque_limit_nm
        left, right = command.torque_nm
        if not (math.isfinite(left) and math.isfinite(right)):
            return
        if self.armed:
            self._torque = (max(-limit, min(limit, left)), max(-limit, min(limit, right)))

    def trip(self, fault: Fault) -> None:
        """Latch a fault: zero torque until disarmed."""
        self._faults |= fault
        self._torque = (0.0, 0.0)

    def substep(self) -> bytes | None:
        """Advance device time by one motor-loop period; return a telemetry frame when a control tick ends."""
        if self._armed and self.device_time_us - self._last_command_us >= WATCHDOG_US:
            self.trip(Fault.WATCHDOG)
        if not self._held:
            self._plant.step(self._torque, self._posture, SUBSTEP_US * 1e-6)
        self._executed[0] += self._torque[0]
        self._executed[1] += self._torque[1]
        self._substeps += 1
        self.device_time_us += SUBSTEP_US
        if not self._armed and not self._held and self.device_time_us - self._disarmed_us >= PICK_UP_US:
            self.pick_up()
        if self.device_time_us % self._period_us:
            return None
        return self.telemetry()

    def pick_up(self) -> None:
        """A person stands the robot up and holds it until it is armed."""
        self._plant.reset()
        self._held = True

    def telemetry(self) -> bytes:
        """Sense and return the telemetry frame of this instant; starts a new averaging step."""
        sensors = self._plant.sense()
        if sensors.battery_v < UNDERVOLTAGE_V:
            self.trip(Fault.UNDERVOLTAGE)
        if max(sensors.temperatures_c) > OVERTEMPERATURE_C:
            self.trip(Fault.OVERTEMPERATURE)
        n = max(1, self._substeps)
        executed = (self._executed[0] / n, self._executed[1] / n)
        self._executed, self._substeps = [0.0, 0.0], 0
        status = Status(0)
        if self._armed:
            status |= Status.ARMED
        if self._faults:
            status |= Status.LATCHED
        frame = encode_telemetry(
            Telemetry(
                self._sequence, self.device_time_us, self._command_sequence, sensors, executed, status, self._faults
            )
        )
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return frame

    def step(self, data: bytes = b"") -> bytes:
        """Lock-step: take a client's bytes, advance one control step, return its telemetry frame."""
        self.receive(data)
        while (frame := self.substep()) is None:
            pass
        return frame
