# SPDX-License-Identifier: Apache-2.0
"""Being asked to stop, which must not cost what was learned so far."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: The first asks for a checkpoint and the end, the second changes nothing, this one gives the checkpoint up.
CTRL_C_TO_ABORT = 3


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a callable that answers whether Ctrl-C (or SIGTERM) has come; a third Ctrl-C stops at once.

    A round of updates must not be cut in the middle, or the checkpoint would not be a state of the run. An impatient
    second Ctrl-C, or a supervisor's SIGTERM after it, must not cost the checkpoint either.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}
    seen = False
    interrupts = 0

    def remember(number: int, _frame: object) -> None:
        nonlocal seen, interrupts
        seen = True
        interrupts += number == signal.SIGINT
        if interrupts == CTRL_C_TO_ABORT:
            raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, remember)
    try:
        yield lambda: seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
