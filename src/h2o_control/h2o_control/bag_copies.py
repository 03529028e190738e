# SPDX-License-Identifier: Apache-2.0
"""Find recordings that are in two bags: a copy, or a bag and a piece of it."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h2o_control import topics
from h2o_control.bag_source import RawMessage
from h2o_control.errors import DataError

#: Two simulated runs from the same start may share their first messages; copies share nearly all of the shorter one.
_SHARE = 0.5


class Copies:
    """Compares episodes with those before by their messages on /odom, else on all topics; 8 bytes of memory each."""

    def __init__(self) -> None:
        self._before: list[tuple[Path, str, bool, NDArray[np.int64]]] = []

    def begin(self, bag: Path, name: str) -> None:
        """Begin with the next episode."""
        self._bag, self._name = bag, name
        self._odom, self._all = array("q"), array("q")

    def take(self, message: RawMessage) -> None:
        """Take one message of it: the same are those with the same stamp and the same bytes."""
        of_odom = message.topic.name.rpartition("/")[2] == topics.ODOM
        if of_odom or not self._odom:
            key = hash((message.topic.name, message.log_ns, message.data))
            self._all.append(key)
            if of_odom:
                self._odom.append(key)

    def end(self) -> None:
        """Compare the episode with those of other bags.

        Raises:
            DataError: more than half of the shorter one is in both.
        """
        keys = np.unique(np.array(self._odom or self._all, dtype=np.int64))
        of_odom = bool(self._odom)
        for bag, name, other_of_odom, others in self._before:
            if bag == self._bag or of_odom != other_of_odom or not len(keys) or not len(others):
                continue
            shared = len(np.intersect1d(keys, others, assume_unique=True))
            if shared > _SHARE * min(len(keys), len(others)):
                what = f"/{topics.ODOM} messages" if of_odom else "messages"
                raise DataError(
                    f"{self._bag}/{self._name} and {bag}/{name} share {shared} {what}, stamp and bytes: one is a copy "
                    "of the other, or cut, merged or repaired out of it; give one of them"
                )
        self._before.append((self._bag, self._name, of_odom, keys))
