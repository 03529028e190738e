# SPDX-License-Identifier: Apache-2.0
"""The interface behind which any simulator can play the robot for the firmware emulator."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from h2o_control.errors import ConfigError
from wheel_leg_driver.robot import Robot


@dataclass(frozen=True)
class SensorReadings:
    """What the robot's sensors report at one instant, as the microcontroller would read them.

    Attributes:
        accel_mps2: accelerometer [3], body frame (x forward, y left, z up), gravity included (+9.81 on z at rest).
        gyro_radps: gyroscope [3], body frame; pitch rate is element 1, positive leaning forward.
        quaternion_wxyz: attitude from the IMU's own filter, world from body.
        wheel_pos_rad, wheel_vel_radps: left and right wheel relative to the leg, positive rolls forward.
        leg_pos_rad, leg_vel_radps: left thigh, left shin, right thigh, right shin.
        battery_v: bus voltage.
        temperatures_c: left motor, right motor, board.
    """

    accel_mps2: tuple[float, float, float]
    gyro_radps: tuple[float, float, float]
    quaternion_wxyz: tuple[float, float, float, float]
    wheel_pos_rad: tuple[float, float]
    wheel_vel_radps: tuple[float, float]
    leg_pos_rad: tuple[float, float, float, float]
    leg_vel_radps: tuple[float, float, float, float]
    battery_v: float
    temperatures_c: tuple[float, float, float]


@runtime_checkable
class Plant(Protocol):
    """A simulated robot. Built as `Class(robot: Robot, seed: int, **options)`, options from the robot's file.

    The firmware emulator calls reset once, then step (about once a millisecond of device time) and sense. While a
    person holds the robot up, step is not called and sense must still answer.
    """

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        """Stand the robot at the origin, legs in standing posture, with this pitch and pitch rate."""

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        """Advance by dt_s with these wheel torques (left, right) and leg servo targets (thigh, shin)."""

    def sense(self) -> SensorReadings:
        """Read the sensors, with the noise and bias this robot's sensors have."""

    def truth(self) -> tuple[float, float, float, float]:
        """True x (m), v (m/s), theta (rad), theta_dot (rad/s): for the judge only, never on the wire."""


def make_plant(robot: Robot, seed: int) -> Plant:
    """Build the plant that the robot's file names.

    Raises:
        ConfigError: no plant in the file, an import path that leads nowhere, or a class that is not a Plant.
    """
    if robot.plant is None:
        raise ConfigError(
            f"robot {robot.name!r} has no plant to play it: it is real hardware, which only a driver takes (port:=…), "
            "or was identified; h2o-robot sysid --emulated writes a robot that can be emulated"
        )
    try:
        factory = load_named(robot.plant.path)
    except ConfigError as error:
        raise ConfigError(f"robot {robot.name!r}: {error}") from error
    try:
        plant = factory(robot, seed, **robot.plant.options)
    except TypeError as error:
        raise ConfigError(f"robot {robot.name!r}: plant {robot.plant.path!r}: {error}") from error
    if not isinstance(plant, Plant):
        raise ConfigError(f"plant {robot.plant.path!r} lacks methods of the interface in wheel_leg_driver/plant.py")
    return plant


def load_named(path: str, what: str = "plant") -> Callable[..., Any]:
    """Return what "module:Name" or "file.py:Name" names, a plant's class for one; errors call it `what`.

    Raises:
        ConfigError: it cannot be loaded.
    """
    source, sep, name = path.rpartition(":")
    if not sep:
        raise ConfigError(f"{what} path {path!r} must read module:Class or file.py:Class")
    try:
        module = _module_of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
        found: Callable[..., Any] = getattr(module, name)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise ConfigError(f"cannot load {what} {path!r}: {error}") from error
    return found


def _module_of_file(path: Path) -> ModuleType:
    """Run a file as a module of its own; raises OSError where it cannot be read, ImportError as its imports do."""
    spec = importlib.util.spec_from_file_location(f"plant_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
