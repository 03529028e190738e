# SPDX-License-Identifier: Apache-2.0
"""A bag as long as wanted, of what the driver publishes and the recorder records by default, at 1 kHz, made up.

Messages are serialized once by rosbags and filled in place, some thousand at a time: written one by one, an hour's
would take an hour.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface

STEP_NS = 1_000_000
START_NS = 1_700_000_000_000_000_000
#: One message of each with every frame.
STREAMS = (topics.ODOM, topics.IMU, topics.JOINT_STATES, topics.DEVICE_TIME, topics.WHEEL_COMMAND)
_BLOCK = 10_000


class Template:
    """A serialized message in which numbers are set at places found by what was put there first."""

    def __init__(self, kind: str, **fields: Any) -> None:
        self._raw = bytes(TYPESTORE.serialize_cdr(_message(kind, **fields), kind))

    def place(self, what: bytes) -> int:
        """Where these bytes lie; they must lie there once."""
        assert self._raw.count(what) == 1
        return self._raw.index(what)

    def filled(self, values: dict[int, np.ndarray]) -> list[bytes]:
        """Copies with the values [n] at these places."""
        count = len(next(iter(values.values())))
        rows = np.tile(np.frombuffer(self._raw, dtype=np.uint8), (count, 1))
        for place, column in values.items():
            size = column.dtype.itemsize
            rows[:, place : place + size] = np.ascontiguousarray(column).view(np.uint8).reshape(count, size)
        return [row.tobytes() for row in rows]


def _message(kind: str, **fields: Any) -> Any:
    return TYPESTORE.types[kind](**fields)


def _header(frame_id: str) -> Any:
    time_ = _message("builtin_interfaces/msg/Time", sec=123456789, nanosec=987654321)
    return _message("std_msgs/msg/Header", stamp=time_, frame_id=frame_id)


_STAMP = struct.pack("<iI", 123456789, 987654321)


def _vector(x: float = 0.0, y: float = 0.0, z: float = 0.0, kind: str = "Vector3") -> Any:
    return _message(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)


def _marks(count: int) -> list[float]:
    """Numbers to find places by."""
    return [1e-300 * (k + 1) for k in range(count)]


def _templates() -> dict[str, tuple[Template, list[int], int]]:
    """Template of each topic, places of its numbers, and of its stamp."""
    found: dict[str, tuple[Template, list[int], int]] = {}

    def add(topic: str, count: int, **fields: Any) -> None:
        template = Template(topics.TYPES[topic], **fields)
        places = [template.place(struct.pack("<d", mark)) for mark in _marks(count)]
        found[topic] = (template, places, template.place(_STAMP))

    m = _marks(16)
    attitude = _message("geometry_msgs/msg/Quaternion", x=0.0, y=m[1], z=0.0, w=m[2])
    pose = _message("geometry_msgs/msg/Pose", position=_vector(m[0], kind="Point"), orientation=attitude)
    twist = _message("geometry_msgs/msg/Twist", linear=_vector(m[3]), angular=_vector(0.0, m[4], m[5]))
    add(
        topics.ODOM,
        6,
        header=_header("odom"),
        child_frame_id="base_link",
        pose=_message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=_message("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )
    add(
        topics.IMU,
        10,
        header=_header("imu_link"),
        orientation=_message("geometry_msgs/msg/Quaternion", x=m[0], y=m[1], z=m[2], w=m[3]),
        orientation_covariance=np.zeros(9),
        angular_velocity=_vector(*m[4:7]),
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=_vector(*m[7:10]),
        linear_acceleration_covariance=np.zeros(9),
    )
    efforts = np.array([*m[12:14], *[np.nan] * 4])
    joints = {"position": np.array(m[:6]), "velocity": np.array(m[6:12]), "effort": efforts}
    add(topics.JOINT_STATES, 14, header=_header(""), name=[*topics.WHEELS, *topics.LEGS], **joints)
    command = {"position": np.zeros(0), "velocity": np.zeros(0), "effort": np.array(m[:2])}
    add(topics.WHEEL_COMMAND, 2, header=_header(topics.BALANCE), name=list(topics.WHEELS), **command)
    time_ = _message("builtin_interfaces/msg/Time", sec=-5, nanosec=77)
    add(topics.DEVICE_TIME, 0, header=_header(""), time_ref=time_, source="0123456789")
    return found


def write_bag(path: Path, samples: int) -> None:
    """Write a bag of one episode at 1 kHz, in balance mode."""
    rng = np.random.default_rng(0)
    templates = _templates()
    interface = Interface(rate_hz=1e9 / STEP_NS)
    writer = BagWriter(path, {f"/{name}": kind for name, kind in topics.TYPES.items()}, interface)
    writer.start_episode()
    for name, text in ((topics.INTERFACE, interface.to_json()), (topics.MODE, "balance: made up")):
        kind = topics.TYPES[name]
        writer.write(f"/{name}", bytes(TYPESTORE.serialize_cdr(_message(kind, data=text), kind)), START_NS)
    for first in track(range(0, samples, _BLOCK), description="writing the bag", transient=True):
        n = min(_BLOCK, samples - first)
        number = first + np.arange(n, dtype=np.int64)
        stamp_ns = START_NS + number * STEP_NS
        stamps = np.stack((stamp_ns // 10**9, stamp_ns % 10**9), axis=1).astype("<u4").view("<u8")[:, 0]
        # Sensor noise: nothing in it repeats, so that compression does not do better than on a robot.
        columns: dict[str, list[bytes]] = {}
        for name, (template, places, stamp_at) in templates.items():
            values: dict[int, np.ndarray] = {stamp_at: stamps}
            wave = 0.05 * np.sin(number * 0.005)
            values.update({place: wave + 1e-3 * rng.standard_normal(n) for place in places})
            if name == topics.DEVICE_TIME:
                device_ns = 77 * 10**9 + number * STEP_NS
                time_at = template.place(struct.pack("<iI", -5, 77))
                values[time_at] = np.stack((device_ns // 10**9, device_ns % 10**9), 1).astype("<u4").view("<u8")[:, 0]
                values[template.place(b"0123456789")] = np.array([b"%010d" % k for k in number])
            columns[name] = template.filled(values)
        streams = [[(f"/{name}", data) for data in columns[name]] for name in STREAMS]
        for stamp, *frame in zip(stamp_ns.tolist(), *streams, strict=True):
            for topic, data in frame:
                writer.write(topic, data, stamp)
    writer.close()
