# SPDX-License-Identifier: Apache-2.0
"""A policy against the emulator's own firmware and plant, step by step: as fast as it computes, same numbers each time.

There is no driver's balance behind it: what falls here has fallen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from h2o_control.contract import STATE, FloatArray, Task
from wheel_leg_driver.balance import wheel_torques, yaw_torque
from wheel_leg_driver.estimator import Estimator
from wheel_leg_driver.firmware import Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import Command, CommandFlag, FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Robot

#: Perturbed starts: uniform within these, a robot that is let go not quite upright and not quite at rest.
START_PITCH_RAD = 0.05
START_PITCH_RATE_RADPS = 0.3
#: How an episode ended; a robot that tips over while it runs away ends by what came first.
Outcome = Literal["stood", "fell", "ran away"]


class Commander(Protocol):
    """Anything that answers a state [4] with a common torque in Nm a wheel."""

    def torque_nm(self, state: FloatArray) -> float:
        """Answer one estimated state."""


@dataclass(frozen=True)
class Run:
    """One episode as it really was (the plant's truth) and as the policy saw it.

    Attributes:
        time_s: float [n + 1], from letting go.
        truth, estimate: float [n + 1, 4] in the order of contract.STATE.
        asked_nm, executed_nm: float [n], common torque over each step: the policy's answer and the firmware's.
        outcome: how it ended, on the truth.
        start_pitch_rad, start_pitch_rate_radps: how it was let go.
    """

    time_s: FloatArray
    truth: FloatArray
    estimate: FloatArray
    asked_nm: FloatArray
    executed_nm: FloatArray
    outcome: Outcome
    start_pitch_rad: float
    start_pitch_rate_radps: float

    @property
    def failed(self) -> bool:
        """Whether it ended before its time."""
        return self.outcome != "stood"


def outcome(task: Task, state: FloatArray) -> Outcome:
    """Say what has become of a robot in this true state [4]."""
    if task.fallen(state):
        return "fell"
    return "ran away" if task.ran_away(state) else "stood"


def run_episode(commander: Commander, robot: Robot, task: Task, seconds: float, seed: int) -> Run:
    """Let go of the robot at a random pitch and pitch rate and let the commander answer every telemetry frame.

    The episode ends when the robot has fallen or run away (Task.failed of the plant's truth), at the latest after
    `seconds`.

    Steering is the driver's (yaw damping at zero yaw rate); a torque that is not finite counts as zero.

    Raises:
        ConfigError: the robot has no plant, or one that cannot be loaded.
    """
    rng = np.random.default_rng(seed)
    pitch = float(rng.uniform(-START_PITCH_RAD, START_PITCH_RAD))
    rate = float(rng.uniform(-START_PITCH_RATE_RADPS, START_PITCH_RATE_RADPS))
    plant = make_plant(robot, int(rng.integers(2**31)))
    firmware = Firmware(robot, plant, pitch, rate)
    reader, estimator = FrameReader(), Estimator(robot.interface.wheel_radius_m)
    telemetry = _decode(reader, firmware.step())
    estimator.update(telemetry)
    estimator.set_origin()
    steps = round(seconds * robot.interface.rate_hz)
    truth, estimates = np.empty((steps + 1, len(STATE))), np.empty((steps + 1, len(STATE)))
    asked, executed = np.empty(steps), np.empty(steps)
    limit = robot.interface.torque_limit_nm
    posture = (robot.body.thigh_rad, robot.body.shin_rad)
    ended: Outcome = "stood"
    n = 0
    for n in range(steps + 1):
        estimate = estimator.update(telemetry)
        truth[n], estimates[n] = plant.truth(), estimate.state
        ended = outcome(task, truth[n])
        if ended != "stood" or n == steps:
            break
        torque = commander.torque_nm(estimates[n])
        torque = min(limit, max(-limit, torque)) if np.isfinite(torque) else 0.0
        torques = wheel_torques(torque, yaw_torque(estimate, 0.0), limit)
        command = Command(n + 1, torques, posture, CommandFlag.ARM)
        telemetry = _decode(reader, firmware.step(encode_command(command)))
        asked[n], executed[n] = torque, sum(telemetry.executed_nm) / 2
    time_s = np.arange(n + 1) * robot.interface.dt_s
    return Run(time_s, truth[: n + 1], estimates[: n + 1], asked[:n], executed[:n], ended, pitch, rate)


def _decode(reader: FrameReader, frame: bytes) -> Telemetry:
    (message,) = reader.feed(frame)
    assert isinstance(message, Telemetry)
    return message
