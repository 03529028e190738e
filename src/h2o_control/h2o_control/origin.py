# SPDX-License-Identifier: Apache-2.0
"""From where a policy counts displacement: the place where it was given command. On the robot and in a replay alike."""

from __future__ import annotations


class DisplacementOrigin:
    """Follows the robot while somebody else is in command, and stays while the policy is."""

    def __init__(self) -> None:
        self._x_m: float | None = None

    def update(self, x_m: float, engaged: bool) -> float:
        """Take the next x in m and whether the policy is in command; returns the displacement it is to be fed, in m.

        That is 0 until takeover, then x less the last x before it (the first one, where none came before).
        """
        if not engaged or self._x_m is None:
            self._x_m = x_m
        return x_m - self._x_m
