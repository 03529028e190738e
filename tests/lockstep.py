# SPDX-License-Identifier: Apache-2.0
"""Driver core against firmware and plant, frame by frame, in device time."""

from __future__ import annotations

from collections.abc import Callable

from wheel_leg_driver.core import DriverCore, Exploration, Limits, Tick
from wheel_leg_driver.firmware import Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import load_robot


class LockStep:
    """A robot under the driver core; `answer` plays the commander on /wheel_torque."""

    def __init__(
        self,
        robot: str = "worn",
        *,
        seed: int = 0,
        pitch_rad: float = 0.05,
        limits: Limits | None = None,
        explore: Exploration | None = None,
    ) -> None:
        self.robot = load_robot(robot)
        self.plant = make_plant(self.robot, seed)
        self.firmware = Firmware(self.robot, self.plant, pitch_rad)
        self.core = DriverCore(self.robot, limits, explore)
        self.reader = FrameReader()
        self.tick: Tick | None = None
        self.telemetry: Telemetry | None = None
        self.answer: Callable[[Telemetry, Tick], float | None] = lambda _t, _k: None
        self._frame = self.firmware.step(encode_command(self.core.zero()))

    def step(self, steps: int = 1) -> None:
        """Run control steps; where nobody answers, nothing goes over the wire."""
        for _ in range(steps):
            (message,) = self.reader.feed(self._frame)
            assert isinstance(message, Telemetry)
            self.telemetry = message
            self.tick = tick = self.core.on_telemetry(message)
            command = tick.command
            torque = self.answer(message, tick)
            if torque is not None:
                answered = self.core.on_torque(torque, message.device_time_us, self.robot.interface.hash)
                command = command or answered
            self._frame = self.firmware.step(encode_command(command) if command else b"")

    def seconds(self, seconds: float) -> None:
        self.step(round(seconds * self.robot.interface.rate_hz))

    def balance(self) -> None:
        """Arm and let the driver's balance settle."""
        self.step()
        self.core.arm()
        self.seconds(2.0)
        assert self.core.mode == "balance", self.core.reason
