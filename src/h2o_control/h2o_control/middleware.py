# SPDX-License-Identifier: Apache-2.0
"""Settings of the middleware that the project wants wherever the user has not chosen otherwise."""

from __future__ import annotations

import os

DEFAULTS = {
    # Two labs on one network must not drive each other's robots.
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    # Fast DDS's shared memory: a process killed while it starts leaves a half-made port behind, and whoever starts
    # next waits for it for ever. Over UDP on the loopback the control loop is as fast.
    "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
}


def apply_defaults() -> None:
    """Set DEFAULTS in this process's environment where nothing is set; call before rclpy.init."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
