# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel to let the control loop run on time; where it refuses, say so and go on."""

from __future__ import annotations

import ctypes
import gc
import os

_PR_SET_TIMERSLACK = 29


def prioritise(priority: int) -> str | None:
    """Give all threads of this process SCHED_FIFO at `priority` (0: leave as it is), and the caller 1 µs timer slack.

    In any case, what has been imported and built so far is kept out of garbage collection, which otherwise stops the
    loop for 20 ms now and then; call it once the process is set up.

    All of them, because the middleware's threads carry the messages, and a thread that waits for a processor while
    it holds Python's lock stops the others. Only for processes whose threads all block between ticks: a FIFO thread
    that spins starves the machine.

    Returns:
        None, or a sentence for the log that says what the system refused and how to allow it.
    """
    gc.collect()
    gc.freeze()
    if priority <= 0:
        return None
    try:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return (
            f"no real-time priority {priority} ({error}); the loop runs at normal priority and may be late under load. "
            "Allow it with an rtprio line in /etc/security/limits.conf"
        )
    return None
