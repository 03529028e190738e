# SPDX-License-Identifier: Apache-2.0
"""The robot's MuJoCo model as text that gives back the same numbers, bit for bit."""

from __future__ import annotations

import ctypes

import mujoco

from h2o_control.errors import ConfigError
from h2o_training.model import build_spec
from wheel_leg_driver.robot import Robot

#: Digits after which a double is itself again.
EXACT_DIGITS = 17


def to_mjcf(robot: Robot) -> str:
    """Return the MJCF of `build_spec(robot)`: floor, robot, wheel motors, leg servos, IMU.

    Raises:
        ConfigError: the description makes no model, or this MuJoCo cannot write exact numbers.
    """
    spec = build_spec(robot)
    # The text is written from the compiled numbers.
    spec.compile()
    # MuJoCo writes six digits, on which an unstable robot goes another way within a second. What sets them has no name
    # in Python.
    library = ctypes.CDLL(mujoco._functions.__file__)
    try:
        digits = library._mjPRIVATE__get_xml_precision()
        library._mjPRIVATE__set_xml_precision(EXACT_DIGITS)
    except AttributeError as error:
        raise ConfigError(f"MuJoCo {mujoco.__version__} cannot write exact numbers; use 4.0") from error
    try:
        text: str = spec.to_xml()
    finally:
        library._mjPRIVATE__set_xml_precision(digits)
    return text
