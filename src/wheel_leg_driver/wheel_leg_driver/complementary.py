# SPDX-License-Identifier: Apache-2.0
"""Attitude from rates and acceleration, for IMUs that report none: a complementary filter on the direction of up.

The direction of up in the body's axes, u, turns with the body, and the accelerometer pulls it slowly, less what the
wheels say about driving:

    du/dt = u × ω + ((a − dv/dt) / g − u) / T

(R. Mahony, T. Hamel, J.-M. Pflimlin, "Nonlinear complementary filters on the special orthogonal group", IEEE TAC
53(5), 2008, there for the whole rotation). Above 1/T the gyro counts, without latency; below it, gravity. A constant
bias b of the gyro tilts u by b T. Without dv/dt, driving would look like tilt: 0.8 m/s² for a second is 30 mrad at
T = 2 s.
"""

from __future__ import annotations

import math

GRAVITY_MPS2 = 9.81
#: The accelerometer counts where its length is within this share of gravity: in a bump or a fall it says nothing.
GATE = 0.15
#: No robot on the floor accelerates faster: what the wheels say beyond it is spin.
DRIVING_LIMIT_MPS2 = 3.0

Vector = tuple[float, float, float]


class Complementary:
    """Roll, pitch and yaw; yaw is integrated from the gyro alone and drifts with its bias."""

    def __init__(self, time_constant_s: float) -> None:
        """Start anew with the first update; time_constant_s is T above, s."""
        self._time_constant_s = time_constant_s
        self._up: Vector = (0.0, 0.0, 1.0)
        self._rates: Vector = (0.0, 0.0, 0.0)
        self._speed_mps = 0.0
        self._yaw_rad = 0.0
        self._known = False

    def settle(self, accel_mps2: Vector) -> None:
        """Take this mean acceleration at rest for the direction of up."""
        length = math.sqrt(sum(a * a for a in accel_mps2))
        if math.isfinite(length) and length > 0.0:
            x, y, z = accel_mps2
            self._up = (x / length, y / length, z / length)
            self._known = True

    def update(self, rates_radps: Vector, accel_mps2: Vector, speed_mps: float, step_s: float) -> Vector:
        """Advance by one frame.

        Args:
            rates_radps: gyro [3], body axes, bias taken out.
            accel_mps2: accelerometer [3], body axes.
            speed_mps: forward speed by the wheels.
            step_s: since the last frame; negative starts anew from gravity.

        Returns:
            roll, pitch and yaw in rad. Input that is not finite gives not-a-number and leaves the filter as it was.
        """
        p, q, r = rates_radps
        ax, ay, az = accel_mps2
        if not math.isfinite(p + q + r + ax + ay + az + speed_mps):
            return math.nan, math.nan, math.nan
        if step_s < 0.0 or not self._known:
            self.settle(accel_mps2)
        elif step_s > 0.0:
            p0, q0, r0 = self._rates
            # Rates at the middle of the step.
            self._turn(0.5 * (p + p0), 0.5 * (q + q0), 0.5 * (r + r0), step_s)
            self._pull(accel_mps2, (speed_mps - self._speed_mps) / step_s, step_s)
        self._rates, self._speed_mps = rates_radps, speed_mps
        x, y, z = self._up
        return math.atan2(y, math.hypot(x, z)), math.atan2(-x, z), self._yaw_rad

    def _turn(self, p: float, q: float, r: float, step_s: float) -> None:
        x, y, z = self._up
        across = y * y + z * z
        if across > 1e-3:
            # Rate of the heading; lying on its face or back the robot has none.
            yaw = self._yaw_rad + step_s * (y * q + z * r) / across
            self._yaw_rad = math.remainder(yaw, 2 * math.pi)
        # Half a step, then a whole one with what came out: second order, so that fast turns lose no angle.
        h = 0.5 * step_s
        mx, my, mz = x + h * (y * r - z * q), y + h * (z * p - x * r), z + h * (x * q - y * p)
        self._up = (x + step_s * (my * r - mz * q), y + step_s * (mz * p - mx * r), z + step_s * (mx * q - my * p))

    def _pull(self, accel_mps2: Vector, driving_mps2: float, step_s: float) -> None:
        x, y, z = self._up
        ax, ay, az = accel_mps2
        length = math.sqrt(ax * ax + ay * ay + az * az)
        if abs(length - GRAVITY_MPS2) <= GATE * GRAVITY_MPS2:
            driving = max(-DRIVING_LIMIT_MPS2, min(DRIVING_LIMIT_MPS2, driving_mps2))
            # Forward along the floor, in the body's axes: (cos pitch, 0, sin pitch), with pitch from u.
            ax, az = ax - driving * z, az + driving * x
            pull = step_s / (self._time_constant_s + step_s) / GRAVITY_MPS2
            keep = 1.0 - pull * GRAVITY_MPS2
            x, y, z = keep * x + pull * ax, keep * y + pull * ay, keep * z + pull * az
        norm = math.sqrt(x * x + y * y + z * z)
        self._up = (x / norm, y / norm, z / norm)
