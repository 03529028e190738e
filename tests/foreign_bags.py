# SPDX-License-Identifier: Apache-2.0
"""Bags as other people's recorders write them, for tests: by rosbags' own writer, in both storages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bag_tools import START_NS, header, message, vector

#: A telemetry message of somebody's own: units and signs are not ours, numbers lie in lists.
TELEMETRY = "their_msgs/msg/Telemetry"
TELEMETRY_MSG = "uint32 tick\nfloat32[4] quaternion\nMotor[2] motors\n"
MOTOR_MSG = "float64 q\nfloat64 dq\nfloat64 current_ma\n"

Row = tuple[str, str, int, Any]


def typestore() -> Typestore:
    store = get_typestore(Stores.ROS2_JAZZY)
    types = get_types_from_msg(MOTOR_MSG, "their_msgs/msg/Motor")
    store.register({**types, **get_types_from_msg(TELEMETRY_MSG, TELEMETRY)})
    return store


def write_bag(
    path: Path,
    rows: Sequence[Row],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    extra: bool = False,
) -> Path:
    """Write (topic, type, receive stamp in ns, message) in the order given; `extra` adds a service event.

    ros2 bag records those with the definition of the service, which is none of a message.
    """
    store = typestore()
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression is not CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        if extra:
            kind, definition = "their_msgs/srv/Add_Event", "int64 a\n---\nint64 sum\n"
            event = writer.add_connection("/add/_service_event", kind, msgdef=definition, rihs01="RIHS01_" + 64 * "0")
            writer.write(event, START_NS, b"\0\1\0\0" + bytes(16))
        connections: dict[str, Any] = {}
        for topic, kind, received_ns, content in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], received_ns, store.serialize_cdr(content, kind))
    return path


def imu(at_ns: int, theta: float, theta_dot: float) -> Any:
    half = theta / 2
    attitude = message("geometry_msgs/msg/Quaternion", x=0.0, y=math.sin(half), z=0.0, w=math.cos(half))
    return message(
        "sensor_msgs/msg/Imu",
        header=header(at_ns, "imu"),
        orientation=attitude,
        orientation_covariance=np.zeros(9),
        angular_velocity=vector(0.0, theta_dot),
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector(),
        linear_acceleration_covariance=np.zeros(9),
    )


def joints(at_ns: int, names: Sequence[str], position: Sequence[float], velocity: Sequence[float]) -> Any:
    return message(
        "sensor_msgs/msg/JointState",
        header=header(at_ns),
        name=list(names),
        position=np.array(position, dtype=np.float64),
        velocity=np.array(velocity, dtype=np.float64),
        effort=np.zeros(0),
    )


def efforts(left: float, right: float) -> Any:
    layout = message("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return message("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array([left, right]))


def ros2_control_rows(n: int, step_ns: int = 5_000_000, late_ns: int = 400_000) -> tuple[list[Row], np.ndarray]:
    """A robot as config/mappings/example.yaml expects it, and its state and torques [n, 6] at each step.

    x is the time since the start, so that a transition tells when it was.
    """
    t = np.arange(n) * step_ns * 1e-9
    truth = np.stack([t, np.cos(t), 0.1 * np.sin(3 * t), 0.3 * np.cos(3 * t), np.sin(7 * t), np.cos(5 * t)], axis=1)
    rows: list[Row] = []
    for k, (x, v, theta, theta_dot, left, right) in enumerate(truth):
        at = START_NS + k * step_ns
        names = ("arm", "right_wheel_joint", "left_wheel_joint")
        # The wheels differ as in a turn; their mean counts.
        position, velocity = (9.0, x / 0.065 - 0.2, x / 0.065 + 0.2), (9.0, v / 0.065 + 1.0, v / 0.065 - 1.0)
        rows.append(("/imu/data", "sensor_msgs/msg/Imu", at + late_ns, imu(at, theta, theta_dot)))
        rows.append(
            ("/joint_states", "sensor_msgs/msg/JointState", at + late_ns, joints(at, names, position, velocity))
        )
        # A command is sent right at the step, and holds until the next.
        rows.append(("/effort_controller/commands", "std_msgs/msg/Float64MultiArray", at, efforts(left, right)))
    return rows, truth


def telemetry(tick: int, theta: float, q: Sequence[float], dq: Sequence[float], current_ma: Sequence[float]) -> Any:
    types = typestore().types
    motors = [types["their_msgs/msg/Motor"](q=a, dq=b, current_ma=c) for a, b, c in zip(q, dq, current_ma, strict=True)]
    quaternion = np.array([math.cos(theta / 2), math.sin(theta / 2), 0.0, 0.0], dtype=np.float32)
    return types[TELEMETRY](tick=tick, quaternion=quaternion, motors=motors)
