# SPDX-License-Identifier: Apache-2.0
"""An emulated robot in lock-step with a client that only sends commands: what tests of faults and hands need."""

from __future__ import annotations

from wheel_leg_driver.emulated_robot import EmulatedRobot
from wheel_leg_driver.faults import parse
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import NO_FLAGS, Command, CommandFlag, FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Robot, load_robot

STEP_S = 0.005


class Bench:
    """Steps a robot and keeps every byte and every message that came back."""

    def __init__(self, robot: str | Robot = "ideal", seed: int = 0, inject: str = "") -> None:
        self.robot = EmulatedRobot(robot if isinstance(robot, Robot) else load_robot(robot), seed, parse(inject))
        self.reader = FrameReader()
        self.wire: list[bytes] = []
        self.messages: list[Telemetry] = []

    def inject(self, text: str) -> None:
        self.robot.inject(parse(text))

    def send(self, flags: CommandFlag = NO_FLAGS, left: float = 0.0, right: float | None = None) -> None:
        """One control step with one command."""
        torque = (left, left if right is None else right)
        self._take(self.robot.step(encode_command(Command(len(self.wire), torque, flags=flags))))

    def steps(self, n: int, left: float = 0.0, right: float | None = None) -> None:
        for _ in range(n):
            self.send(left=left, right=right)

    def silent(self, n: int) -> None:
        """Control steps in which the driver says nothing."""
        for _ in range(n):
            self._take(self.robot.step())

    def seconds(self, seconds: float) -> None:
        self.steps(round(seconds / STEP_S))

    def arm(self) -> None:
        self.send(CommandFlag.ARM)
        assert self.robot.armed

    def disarm(self) -> None:
        self.send(CommandFlag.DISARM)

    def _take(self, data: bytes) -> None:
        self.wire.append(data)
        self.messages += [m for m in self.reader.feed(data) if isinstance(m, Telemetry)]

    @property
    def last(self) -> Telemetry:
        return self.messages[-1]

    @property
    def sensors(self) -> SensorReadings:
        return self.last.sensors
