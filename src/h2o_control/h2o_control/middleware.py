# SPDX-License-Identifier: Apache-2.0
"""Settings of the middleware that the project wants wherever the user has not chosen otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Fast DDS over UDP on the loopback. Not its shared memory: a process that is killed there leaves a locked mutex
#: behind, on which every other one waits for ever as soon as it publishes, the driver too. And not the range
#: LOCALHOST: rmw_fastrtps then makes transports of its own, shared memory among them, whatever else is set.
PROFILES = Path(__file__).with_name("fastdds.xml")
#: Who sets one of these has chosen who may hear the robot, and how.
CHOICES = (
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
)


def defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to an environment: two labs on one network must not drive each other's robots."""
    if any(environment.get(name) for name in CHOICES):
        return {}
    distribution = environment.get("ROS_DISTRO")
    if "fastrtps" not in environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"):
        return (
            {"ROS_LOCALHOST_ONLY": "1"} if distribution == "humble" else {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        )
    # ROS up to Jazzy knows the file by its older name, which later ones warn of.
    old = distribution in ("humble", "iron", "jazzy")
    file = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT", file: str(PROFILES)}


def apply_defaults() -> None:
    """Add `defaults` to this process's environment; call before rclpy.init."""
    os.environ.update(defaults(os.environ))
