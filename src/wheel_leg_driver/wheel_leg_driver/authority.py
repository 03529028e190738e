# SPDX-License-Identifier: Apache-2.0
"""One commander: who answers on /wheel_torque, who is in command, and whose torque is refused."""

from __future__ import annotations

#: The part of a publisher's id, in hexadecimal, that differs between processes: past maker and host (RTPS, 8.2.4).
PROCESS = slice(8, 24)
#: Publishers remembered; more than this at once is nobody's lab.
MOST = 16


class Authority:
    """Keeps the newest offer of each publisher and obeys the one that was there when command was given."""

    def __init__(self, fresh_us: int) -> None:
        """Take the age up to which an offer counts, in µs of device time."""
        self._fresh_us = fresh_us
        self._offers: dict[str, tuple[int, str]] = {}
        self._commander: str | None = None
        self.refused: dict[str, int] = {}

    @property
    def heard(self) -> tuple[str, ...]:
        """Publishers that have offered torque."""
        return tuple(self._offers)

    def offer(self, source: str, problem: str, now_us: int) -> bool:
        """Note a torque message and what is wrong with it; returns whether its sender is the one in command."""
        if source not in self._offers and len(self._offers) >= MOST:
            self._offers.pop(min(self._offers, key=lambda s: self._offers[s][0]))
        self._offers[source] = (now_us, problem)
        if self._commander is None:
            return False
        if source == self._commander:
            return True
        if source in self.refused or len(self.refused) < MOST:
            self.refused[source] = self.refused.get(source, 0) + 1
        return False

    def fresh(self, now_us: int) -> dict[str, str]:
        """Return who answers now, with what is wrong with the answers (nothing, for those that can be obeyed)."""
        return {s: problem for s, (at_us, problem) in self._offers.items() if now_us - at_us <= self._fresh_us}

    def grant(self, source: str) -> None:
        """Obey this publisher, and nobody else, from now on."""
        self._commander = source
        self.refused = {}

    def release(self) -> None:
        """Nobody is in command any more."""
        self._commander = None

    def forget(self) -> None:
        """Drop all offers: the clock that dates them has started anew."""
        self._offers.clear()
