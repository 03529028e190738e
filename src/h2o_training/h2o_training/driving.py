# SPDX-License-Identifier: Apache-2.0
"""An operator drives an emulated robot in lock-step: the data that `collect` would record, without ROS and at once.

Driver core, firmware, plant and operator are those of the real-time graph; only the clock is not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from h2o_control.contract import FloatArray, Task
from h2o_control.errors import DataError
from h2o_control.operator_script import ScriptedOperator
from h2o_control.provenance import now_utc, software
from h2o_control.topics import BALANCE, DISARMED
from h2o_training.dataset import Dataset
from wheel_leg_driver.core import DriverCore, Exploration
from wheel_leg_driver.firmware import PICK_UP_US, Firmware
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import FrameReader, Telemetry, encode_command
from wheel_leg_driver.robot import Robot

#: How often the operator moves the stick.
STICK_S = 0.05
#: A robot that falls again before it has stood this long cannot be driven by its driver's balance.
SHORTEST_S = 2.0


class UndrivableError(DataError):
    """The driver's balance cannot hold this robot."""


def drive(
    robot: Robot,
    task: Task,
    seconds: float,
    seed: int,
    on_progress: Callable[[float], object] | None = None,
) -> Dataset:
    """Drive as `collect` does, for so many seconds of data; a fallen robot is picked up and armed again.

    Args:
        robot: one with a plant.
        task: what the dataset is for.
        seconds: of balancing, falls and pick-ups apart.
        seed: of plant, operator and exploration.
        on_progress: called about once a second of data with the seconds so far.

    Raises:
        ConfigError: the robot has no plant, or one that cannot be loaded.
        UndrivableError: the driver's balance cannot hold this robot.
    """
    plant_seed, operator_seed, noise_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    firmware = Firmware(robot, make_plant(robot, plant_seed), 0.02)
    core, operator, reader = (
        DriverCore(robot, None, Exploration(1.0, noise_seed)),
        ScriptedOperator(operator_seed),
        FrameReader(),
    )
    rate = robot.interface.rate_hz
    wanted, stick = round(seconds * rate), max(1, round(STICK_S * rate))
    frame = firmware.step(encode_command(core.zero()))
    states: list[FloatArray] = []
    after: list[FloatArray] = []
    torques: list[tuple[float, float]] = []
    falls: list[bool] = []
    breaks: list[bool] = []
    last: FloatArray | None = None
    length, short, n = 0, 0, 0
    while len(states) < wanted:
        (telemetry,) = reader.feed(frame)
        assert isinstance(telemetry, Telemetry)
        tick = core.on_telemetry(telemetry)
        state = tick.estimate.state
        fallen = bool(task.fallen(state))
        if last is not None:
            states.append(last)
            after.append(state)
            torques.append(telemetry.executed_nm)
            falls.append(fallen)
            length += 1
            over = fallen or tick.mode != BALANCE
            breaks.append(over or len(states) == wanted)
            if on_progress and len(states) % round(rate) == 0:
                on_progress(len(states) / rate)
            if over:
                short = short + 1 if length < SHORTEST_S * rate else 0
                length = 0
                if short >= 5:
                    raise UndrivableError(
                        f"robot {robot.name!r} falls within {SHORTEST_S} s again and again: correct its balance "
                        "(dead zone, torque factor, pitch trim, weights), or lower exploration_nm."
                    )
                last = None
                core.disarm()
        if tick.mode == BALANCE and not fallen:
            last = state
        elif tick.mode == DISARMED and firmware.device_time_us > PICK_UP_US and not firmware.armed:
            swing = abs(tick.estimate.theta_dot_radps)
            if abs(tick.estimate.theta_rad) < core.limits.arm_rad and swing < core.limits.arm_rate_radps:
                core.arm()
        elif tick.mode not in (BALANCE, DISARMED):
            core.disarm()
        if n % stick == 0:
            core.on_speed(*operator.command(n / rate, tick.estimate.x_m))
        n += 1
        command = core.zero() if tick.command is None or core.mode != tick.mode else tick.command
        frame = firmware.step(encode_command(command))
    terminals = np.array(falls)
    provenance = {
        "kind": "driven in lock-step",
        "robot": robot.name,
        "seed": seed,
        "created": now_utc(),
        "software": software(),
    }
    return Dataset.from_states(
        np.array(states),
        np.array(after),
        np.array(torques),
        terminals,
        np.array(breaks) & ~terminals,
        robot.interface,
        task,
        provenance,
    )
