# SPDX-License-Identifier: Apache-2.0
"""From an observation to a torque that may be sent, or the reason why none is. No ROS and no clock of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from h2o_control.clock import ClockMap
from h2o_control.contract import FloatArray
from h2o_control.origin import DisplacementOrigin
from h2o_control.policy import AnswerError, Policy

#: How far beyond the torque limit an answer may be: single precision rounds.
ROUNDING = 1.001


class ObservationAge:
    """How old observations are when they arrive, from their stamps and the monotonic clock.

    Counted from the arrival of those that travelled fastest, so what all of them need is left out, and a wall clock
    that is set, here or at the driver, changes nothing.
    """

    def __init__(self) -> None:
        self._map = ClockMap()
        self._last_ns = -1

    def update(self, stamp_ns: int, arrived_s: float) -> float:
        """Return the age (s) of an observation that arrived at `arrived_s`; NaN where it is no newer than the last."""
        newer = stamp_ns > self._last_ns
        self._last_ns = stamp_ns
        # A stamp that goes back begins a new mapping: the driver has started again.
        age_s = arrived_s - self._map.to_host(stamp_ns // 1000, arrived_s)
        return max(0.0, age_s) if newer else math.nan


class Answering:
    """A policy in front of observations, behind checks of what goes in, what comes out and when.

    Attributes:
        policy: the one that answers; may be replaced between two answers.
        engaged: whether it is in command; from its takeover displacement is counted.
    """

    def __init__(self, policy: Policy, max_age_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self.engaged = False
        self._max_age_s = max_age_s
        self._now_s = now_s
        self._origin = DisplacementOrigin()

    def answer(self, state: FloatArray, age_s: float) -> tuple[float | None, str]:
        """Answer the robot's state [4], observed `age_s` ago.

        Returns:
            the torque of one wheel in Nm and "", or None and the reason for giving the robot back.
        """
        arrived_s = self._now_s()
        state[0] = self._origin.update(float(state[0]), self.engaged)
        if math.isnan(age_s):
            return None, "the observation is not newer than the one before it"
        if age_s > self._max_age_s:
            return None, f"observation is {age_s * 1e3:.0f} ms old"
        if not np.isfinite(state).all():
            return None, f"observation is not finite: {state}"
        try:
            torque = self.policy.torque_nm(state)
        except AnswerError as error:
            return None, f"the policy fails on {state}: {error}"
        limit = self.policy.contract.interface.torque_limit_nm
        if not math.isfinite(torque):
            return None, f"the policy answers {state} with {torque}"
        if abs(torque) > limit * ROUNDING:
            return None, f"the policy asks for {torque:.2f} Nm, the limit is {limit} Nm"
        took_s = self._now_s() - arrived_s
        if age_s + took_s > self._max_age_s:
            return None, f"the answer took {took_s * 1e3:.0f} ms: too late to be sent"
        return torque, ""
