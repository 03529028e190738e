# SPDX-License-Identifier: Apache-2.0
"""Leg postures: heights of the hips above the axle, and the ramp from one to another."""

from __future__ import annotations

import math

from h2o_control.errors import ConfigError
from wheel_leg_driver.robot import Robot

#: How fast the hips rise or sink, m/s; three times as fast the robot still stays up.
SPEED_MPS = 0.1
#: How fast legs that were found elsewhere are brought to the posture they should have, rad/s.
APPROACH_RADPS = 0.5
#: Within this of the standing height the robot counts as standing, m.
STANDING_M = 0.005


class Posture:
    """Keeps the hips above the axle, where they stand, while the legs fold: body height is the only freedom.

    Attributes:
        standing_m, lowest_m: height of the hips above the axle in standing posture, and the lowest taken up.
        height_m: commanded now, on its way to `goal_m`.
    """

    def __init__(self, robot: Robot) -> None:
        """Stand.

        Raises:
            ConfigError: the legs cannot fold as low as `crouch_share` says.
        """
        body = robot.body
        self._thigh_m, self._shin_m = body.thigh_length_m, body.shin_length_m
        shin = body.thigh_rad + body.shin_rad
        self._forward_m = self._thigh_m * math.sin(body.thigh_rad) + self._shin_m * math.sin(shin)
        self.standing_m = self._thigh_m * math.cos(body.thigh_rad) + self._shin_m * math.cos(shin)
        self.lowest_m = body.crouch_share * self.standing_m
        self._knee_sign = math.copysign(1.0, body.shin_rad)
        if body.crouch_share < 1.0 and math.hypot(self._forward_m, self.lowest_m) <= abs(self._thigh_m - self._shin_m):
            raise ConfigError(
                f"robot {robot.name!r}: its legs cannot fold to {self.lowest_m:.3f} m, crouch_share "
                f"{body.crouch_share:g} of the standing height; raise crouch_share"
            )
        self._step_m = SPEED_MPS * robot.interface.dt_s
        self._step_rad = APPROACH_RADPS * robot.interface.dt_s
        self.height_m = self.goal_m = self.standing_m
        self._standing = (body.thigh_rad, body.shin_rad)
        self._off_rad = (0.0, 0.0)

    @property
    def standing(self) -> bool:
        """Whether the legs are in standing posture and shall stay there."""
        off = max(abs(angle) for angle in self._off_rad)
        return max(abs(self.height_m - self.standing_m), abs(self.goal_m - self.standing_m)) < STANDING_M and off < 0.05

    def start_from(self, legs_rad: tuple[float, float, float, float]) -> None:
        """Begin where the legs are (left thigh, left shin, right thigh, right shin); they then go to standing."""
        thigh, shin = (legs_rad[0] + legs_rad[2]) / 2, (legs_rad[1] + legs_rad[3]) / 2
        self.goal_m = self.height_m = self.standing_m
        self._off_rad = (0.0, 0.0)
        if not (math.isfinite(thigh) and math.isfinite(shin)):
            return
        found = self._thigh_m * math.cos(thigh) + self._shin_m * math.cos(thigh + shin)
        self.height_m = max(self.lowest_m, min(self.standing_m, found))
        path = self.angles_rad(self.height_m)
        self._off_rad = (thigh - path[0], shin - path[1])

    def step(self) -> tuple[float, float]:
        """Advance by one control step; returns the thigh and shin targets in rad."""
        self.height_m += max(-self._step_m, min(self._step_m, self.goal_m - self.height_m))
        thigh, shin = self.angles_rad(self.height_m)
        a, b = self._off_rad = (self._shrink(self._off_rad[0]), self._shrink(self._off_rad[1]))
        return thigh + a, shin + b

    def _shrink(self, angle: float) -> float:
        return math.copysign(max(0.0, abs(angle) - self._step_rad), angle)

    def angles_rad(self, height_m: float) -> tuple[float, float]:
        """Thigh and shin angle at which the hips are `height_m` above the axle (two-link inverse kinematics)."""
        if height_m == self.standing_m:
            return self._standing
        reach2 = self._forward_m**2 + height_m**2
        bend = (reach2 - self._thigh_m**2 - self._shin_m**2) / (2 * self._thigh_m * self._shin_m)
        shin = self._knee_sign * math.acos(max(-1.0, min(1.0, bend)))
        along, across = self._thigh_m + self._shin_m * math.cos(shin), self._shin_m * math.sin(shin)
        # hip = (along, across) turned by the thigh's angle; (forward, height) as (sin, cos).
        thigh = math.atan2(self._forward_m, height_m) - math.atan2(across, along)
        return thigh, shin
