# SPDX-License-Identifier: Apache-2.0
"""A killed recorder loses little, and nothing of what was finished; `make bench-kill` does it a hundred times."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recorder_kill import kill_once, robot

pytestmark = pytest.mark.ros
#: Twice what is promised: the machine that runs this may be busy.
LOSS_S = 1.0


def test_killed_recorders_lose_little_and_every_reader_opens_their_bags(tmp_path: Path) -> None:
    environment = dict(os.environ)

    def kill(number: int) -> None:
        left = kill_once(tmp_path / f"bag_{number}", environment, random.Random(number), fsync=number % 2 == 1)
        assert not left.loss_s > LOSS_S  # NaN where no episode ran
        assert left.lost == 0
        assert left.gaps == 0
        assert set(left.opened.values()) == {""}, left.opened

    # Side by side: they hear the same robot, and their starts take most of the time.
    with robot(environment), ThreadPoolExecutor(5) as pool:
        list(pool.map(kill, range(5)))
