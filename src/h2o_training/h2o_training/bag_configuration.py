# SPDX-License-Identifier: Apache-2.0
"""What a bag says about its robot on /configuration: description and limits that the driver had in use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from h2o_control.bag_reader import Episode
from h2o_control.config import from_mapping
from h2o_control.errors import ConfigError
from wheel_leg_driver.limits import Limits
from wheel_leg_driver.robot import Robot


@dataclass(frozen=True)
class Configuration:
    """Robot as its driver knew it, and the limits it kept."""

    robot: Robot
    limits: Limits


def configuration(episode: Episode) -> Configuration | None:
    """Return what an episode says on /configuration; None where it says nothing.

    Raises:
        ConfigError: it was written by another version, or by something else.
    """
    if not episode.configuration:
        return None
    where = f"{episode.name}: /configuration"
    try:
        data: Any = json.loads(episode.configuration)
        robot, limits = data["robot"], data["limits"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} is not what a driver of this project says: {error!r}") from error
    return Configuration(
        from_mapping(Robot, robot, f"{where}: robot"), from_mapping(Limits, limits, f"{where}: limits")
    )
