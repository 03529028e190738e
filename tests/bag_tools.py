# SPDX-License-Identifier: Apache-2.0
"""Bags for tests: real CDR made by rosbags' typestore, written by the project's own writer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface

STEP_NS = 5_000_000
START_NS = 1_700_000_000_000_000_000
TOPIC_TYPES = {f"/{name}": kind for name, kind in topics.TYPES.items()}


def message(kind: str, **fields: Any) -> Any:
    return TYPESTORE.types[kind](**fields)


def header(stamp_ns: int, frame_id: str = "") -> Any:
    time = message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return message("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def vector(x: float = 0.0, y: float = 0.0, z: float = 0.0, kind: str = "Vector3") -> Any:
    return message(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)


def odometry(stamp_ns: int, state: Sequence[float], yaw: float = 0.0) -> bytes:
    """An Odometry message as the driver publishes it: attitude of heading, then pitch."""
    x, v, theta, theta_dot = map(float, state)
    cy, sy, cp, sp = math.cos(yaw / 2), math.sin(yaw / 2), math.cos(theta / 2), math.sin(theta / 2)
    quaternion = message("geometry_msgs/msg/Quaternion", x=-sy * sp, y=cy * sp, z=sy * cp, w=cy * cp)
    pose = message("geometry_msgs/msg/Pose", position=vector(x, kind="Point"), orientation=quaternion)
    twist = message("geometry_msgs/msg/Twist", linear=vector(v), angular=vector(0.0, theta_dot))
    odom = message(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, "odom"),
        child_frame_id="base_link",
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )
    return bytes(TYPESTORE.serialize_cdr(odom, "nav_msgs/msg/Odometry"))


def joint_torques(
    stamp_ns: int, torque: Sequence[float], frame_id: str = "", names: Sequence[str] = topics.WHEELS
) -> bytes:
    state = message(
        "sensor_msgs/msg/JointState",
        header=header(stamp_ns, frame_id),
        name=list(names),
        position=np.zeros(len(names)),
        velocity=np.zeros(len(names)),
        effort=np.array(torque, dtype=np.float64),
    )
    return bytes(TYPESTORE.serialize_cdr(state, "sensor_msgs/msg/JointState"))


def text(data: str) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(message("std_msgs/msg/String", data=data), "std_msgs/msg/String"))


def device_time(stamp_ns: int, device_us: int, sequence: int) -> bytes:
    seconds, microseconds = divmod(device_us, 1_000_000)
    reference = message(
        "sensor_msgs/msg/TimeReference",
        header=header(stamp_ns),
        time_ref=message("builtin_interfaces/msg/Time", sec=seconds, nanosec=microseconds * 1000),
        source=f"{sequence:010d}",
    )
    return bytes(TYPESTORE.serialize_cdr(reference, "sensor_msgs/msg/TimeReference"))


def write_episode(
    writer: BagWriter,
    stamps_ns: Sequence[int],
    states: np.ndarray,
    executed: np.ndarray,
    modes: Sequence[str],
    prefix: str = "/",
    interface: Interface | None = None,
    label: str = "",
    end: bool = True,
) -> None:
    """Write one episode: state k, command k answering it, and the torque executed over the step that ends at k.

    With `end` false it stays open, for more to be written.
    """
    writer.start_episode(label)
    first = stamps_ns[0] if len(stamps_ns) else START_NS
    if interface is not None:
        writer.write(f"{prefix}interface", text(interface.to_json()), first)
    last_mode = None
    for k, stamp in enumerate(stamps_ns):
        if modes[k] != last_mode:
            writer.write(f"{prefix}mode", text(f"{modes[k]}: test"), stamp)
            last_mode = modes[k]
        writer.write(f"{prefix}odom", odometry(stamp, states[k], yaw=0.3), stamp)
        joints = (*topics.LEGS, *topics.WHEELS)
        efforts = (0.0, 0.0, 0.0, 0.0, executed[k] + 0.05, executed[k] - 0.05)
        writer.write(f"{prefix}joint_states", joint_torques(stamp, efforts, "base_link", joints), stamp)
        following = executed[k + 1] if k + 1 < len(stamps_ns) else 0.0
        writer.write(f"{prefix}wheel_command", joint_torques(stamp, (following, following), modes[k]), stamp)
        if modes[k] == topics.TORQUE:
            writer.write(f"{prefix}wheel_torque", joint_torques(stamp, (following, following), "hash"), stamp)
    if end:
        writer.end_episode()


def make_bag(
    path: Path, episodes: Sequence[Mapping[str, Any]], interface: Interface | None = None, prefix: str = "/"
) -> Path:
    """A finished bag with these episodes (keyword arguments of `write_episode`)."""
    types = {f"{prefix}{name}": kind for name, kind in topics.TYPES.items()}
    writer = BagWriter(path, types, interface)
    for episode in episodes:
        write_episode(writer, interface=interface, prefix=prefix, **episode)
    writer.close()
    return path


def swaying(n: int, seed: int = 0, start_ns: int = START_NS) -> dict[str, Any]:
    """A smooth made-up run of n steps in balance mode."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) * STEP_NS * 1e-9
    phase = rng.uniform(0, 2 * np.pi)
    states = np.stack([0.1 * np.sin(t + phase), 0.1 * np.cos(t + phase), 0.02 * np.sin(3 * t), 0.06 * np.cos(3 * t)], 1)
    return {
        "stamps_ns": [start_ns + k * STEP_NS for k in range(n)],
        "states": states,
        "executed": 0.5 * np.sin(2 * t + phase),
        "modes": [topics.BALANCE] * n,
    }
