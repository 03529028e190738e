# SPDX-License-Identifier: Apache-2.0
"""Between the readings of an IMU and scipy's rotations."""

from __future__ import annotations

from scipy.spatial.transform import Rotation

from h2o_control.contract import FloatArray


def rotation(wxyz: tuple[float, float, float, float]) -> Rotation:
    """Return world from body of an attitude as the IMU reports it."""
    w, x, y, z = wxyz
    return Rotation.from_quat([x, y, z, w])


def quaternion(attitude: Rotation) -> tuple[float, float, float, float]:
    """Return w, x, y, z with w not negative: of the two that say the same, the one near upright."""
    x, y, z, w = (float(value) for value in attitude.as_quat())
    return (w, x, y, z) if w >= 0 else (-w, -x, -y, -z)


def triple(values: FloatArray) -> tuple[float, float, float]:
    """Return an array [3] as readings hold it."""
    a, b, c = (float(value) for value in values)
    return a, b, c


def pair(values: FloatArray) -> tuple[float, float]:
    """Return an array [2] as readings hold it."""
    a, b = (float(value) for value in values)
    return a, b
