# SPDX-License-Identifier: Apache-2.0
"""Defects that show in messages as they lie in a bag's file: out of order, double, and sensors that are stuck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control import topics
from h2o_control.bag_columns import read_groups
from h2o_control.bag_reader import nearest_index
from h2o_control.cdr_columns import Wanted
from h2o_control.contract import Interface
from h2o_control.mcap_batches import StoredFile
from h2o_training.dataset_check_rows import STUCK_MOTION, same_bits
from h2o_training.dataset_check_rules import Tally

#: A torque that is reported with the same bits while the command changes by this much, Nm, is not measured any more.
COMMAND_MOTION_NM = 0.1

_STAMP = ("header.stamp.sec", "header.stamp.nanosec")
_IMU = tuple(f"{group}.{axis}" for group in ("angular_velocity", "linear_acceleration") for axis in "xyz")
WANTED = {
    topics.ODOM: Wanted(topics.TYPES[topics.ODOM], _STAMP),
    topics.JOINT_STATES: Wanted(
        topics.TYPES[topics.JOINT_STATES], (*_STAMP, "position", "velocity", "effort"), ("name",)
    ),
    topics.WHEEL_COMMAND: Wanted(topics.TYPES[topics.WHEEL_COMMAND], (*_STAMP, "effort"), ("name",)),
    topics.DEVICE_TIME: Wanted(topics.TYPES[topics.DEVICE_TIME], _STAMP),
    topics.IMU: Wanted(topics.TYPES[topics.IMU], (*_STAMP, *_IMU)),
}

#: Columns of one topic in file order: "stamp_ns" int64 [n], others float64 [n].
Raw = dict[str, NDArray[Any]]


def read_raw(path: Path) -> dict[str, Raw]:
    """Read the columns that are looked at out of one file of a bag, in file order; topics that are there only."""
    groups: dict[str, list[tuple[NDArray[np.int64], Raw]]] = {}
    for group in read_groups(path, WANTED, StoredFile(path.name)):
        name = group.topic.rpartition("/")[2]
        groups.setdefault(name, []).append((group.rows, _columns(group.columns, group.constants)))
    return {name: _in_order(parts) for name, parts in groups.items()}


def _columns(columns: Mapping[str, NDArray[Any]], constants: Mapping[str, Any]) -> Raw:
    seconds, nanoseconds = (columns[path].astype(np.int64) for path in _STAMP)
    raw: Raw = {"stamp_ns": seconds * 1_000_000_000 + nanoseconds}
    joints = list(constants.get("name", ()))
    for path, values in columns.items():
        if path in _STAMP:
            continue
        if values.ndim == 1:
            raw[path] = values
        for wheel in topics.WHEELS if values.ndim == 2 else ():
            at = joints.index(wheel) if wheel in joints else values.shape[1]
            raw[f"{wheel} {path}"] = values[:, at] if at < values.shape[1] else np.full(len(values), math.nan)
    return raw


def _in_order(parts: list[tuple[NDArray[np.int64], Raw]]) -> Raw:
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return {name: np.concatenate([raw[name] for _, raw in parts])[order] for name in parts[0][1]}


def check_raw(raw: Mapping[str, Raw], interface: Interface, where: str, tally: Tally) -> None:
    """Count stamps that go back or come twice, and sensors that are stuck, in the topics of one file."""
    for name, columns in raw.items():
        stamps = columns["stamp_ns"]
        back = int((np.diff(stamps) < 0).sum())
        tally.add("backwards", back, len(stamps), f"{back} on /{name} in {where}")
        twice = len(stamps) - len(np.unique(stamps))
        tally.add("duplicates", twice, len(stamps), f"{twice} on /{name} in {where}")
    steps = len(raw[topics.ODOM]["stamp_ns"]) if topics.ODOM in raw else 0
    tally.add("stuck", 0, steps)
    for held, column in stuck_sensors(raw, interface):
        seconds = (held.stop - held.start) * interface.dt_s
        tally.add("stuck", held.stop - held.start, 0, f"{column} {seconds:.2f} s in {where}")


def stuck_sensors(raw: Mapping[str, Raw], interface: Interface) -> list[tuple[slice, str]]:
    """Find stretches in which a wheel's or the IMU's column holds the same bits while what belongs to it moves."""
    joints, command, imu = (_sorted(raw.get(name)) for name in (topics.JOINT_STATES, topics.WHEEL_COMMAND, topics.IMU))
    found: list[tuple[slice, str]] = []
    for wheel in topics.WHEELS:
        if joints is not None:
            found += _stuck_encoder(joints, wheel, interface)
        if joints is not None and command is not None:
            found += _stuck_torque(joints, command, wheel, interface)
    return found + (_stuck_imu(imu, interface.dt_s) if imu is not None else [])


def _stuck_encoder(joints: Raw, wheel: str, interface: Interface) -> list[tuple[slice, str]]:
    dt, least_rad = interface.dt_s, STUCK_MOTION["x"] / interface.wheel_radius_m
    position, speed = joints[f"{wheel} position"], joints[f"{wheel} velocity"]
    turned = np.concatenate(([0.0], np.cumsum(speed[:-1]) * dt))
    still = [(run, "position") for run in same_bits(position, dt) if np.ptp(turned[run]) > least_rad]
    still += [(run, "velocity") for run in same_bits(speed, dt) if np.ptp(position[run] - turned[run]) > least_rad]
    return [(run, f"{wheel} {what}") for run, what in still]


def _stuck_torque(joints: Raw, command: Raw, wheel: str, interface: Interface) -> list[tuple[slice, str]]:
    torque = joints[f"{wheel} effort"]
    answer = nearest_index(command["stamp_ns"], joints["stamp_ns"], round(1e9 * interface.dt_s))
    asked = np.append(command[f"{wheel} effort"], math.nan)[answer]
    found = []
    for run in same_bits(torque, interface.dt_s):
        wanted = asked[run][np.isfinite(asked[run])]
        # At the limit it may well stay the same.
        free = abs(torque[run.start]) < 0.99 * interface.torque_limit_nm
        if len(wanted) and free and np.ptp(wanted) > COMMAND_MOTION_NM:
            found.append((run, f"{wheel} effort"))
    return found


def _stuck_imu(imu: Raw, dt_s: float) -> list[tuple[slice, str]]:
    moves = np.array([np.diff(imu[name]) != 0 for name in _IMU])
    found = []
    for number, name in enumerate(_IMU):
        # A column that never varies is not there (a robot of the plane has no yaw); others do not stop alone.
        if moves[number].mean() <= 0.5:
            continue
        others = moves[np.arange(len(_IMU)) != number]
        for run in same_bits(imu[name], dt_s):
            if others[:, run.start : run.stop - 1].mean(axis=1).max() > 0.9:
                found.append((run, f"imu {name}"))
    return found


def _sorted(columns: Raw | None) -> Raw | None:
    """Rows by stamp, each once; None of nothing."""
    if columns is None or len(columns["stamp_ns"]) < 2:
        return None
    _, order = np.unique(columns["stamp_ns"], return_index=True)
    return {name: values[order] for name, values in columns.items()}
