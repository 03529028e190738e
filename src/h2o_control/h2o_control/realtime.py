# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel to let the control loop run on time; where it refuses, say so and go on. No ROS import here."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2o_control.errors import ConfigError
from h2o_control.parameter import Parameter

if TYPE_CHECKING:
    from rclpy.node import Node

#: From <sys/prctl.h>, <sys/mman.h> and <linux/capability.h>.
_PR_SET_TIMERSLACK = 29
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14

REALTIME_PARAMETERS = (
    Parameter("priority", 0, "SCHED_FIFO priority, 0 for none", 0, 99),
    # A list that may be empty has no type in rclpy, and launch files turn the text "2" into a number.
    Parameter("cpus", "", "processors to run on, e.g. 2 or 2,3 or 2-3; empty for all", any_type=True),
    Parameter("lock_memory", False, "keep memory that is in use from being paged out"),
    Parameter("timer_slack_us", 1, "how late the kernel may wake a sleeping thread to save power, µs", 1, 1_000_000),
)


@dataclass(frozen=True)
class RealTime:
    """What is asked of the kernel.

    Attributes:
        priority: SCHED_FIFO priority of all threads; 0 leaves the scheduling as it is.
        cpus: processors that all threads may run on; empty leaves them as they are.
        lock_memory: lock pages as they are first used. What is only reserved is not brought in: locking all of a
            driver's address space takes five times its memory, this takes no more.
        timer_slack_us: for the calling thread and those it starts; SCHED_FIFO threads have none.
    """

    priority: int = 0
    cpus: tuple[int, ...] = ()
    lock_memory: bool = False
    timer_slack_us: int = 1


def make_real_time(node: Node) -> list[str]:
    """Apply a node's REALTIME_PARAMETERS to its process; call it once all is set up and before threads are started.

    Returns:
        as `apply`; for the node to log as warnings.

    Raises:
        ConfigError: the parameter `cpus` names no processors.
    """

    def given(name: str) -> Any:
        return node.get_parameter(name).value

    return apply(
        RealTime(given("priority"), parse_cpus(given("cpus")), given("lock_memory"), given("timer_slack_us")),
    )


def parse_cpus(given: Any) -> tuple[int, ...]:
    """Return the processors that a number, a list of numbers or a text such as "0,2-3" names, in ascending order.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(given, str):
        parts = [part.strip() for part in given.split(",")] if given.strip() else []
    elif isinstance(given, int) and not isinstance(given, bool):
        parts = [str(given)]
    else:
        parts = [str(part) for part in given] if isinstance(given, Iterable) else [str(given)]
    found: set[int] = set()
    for part in parts:
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ConfigError(f"cpus: {part!r} is no processor: write numbers, e.g. 2 or 2,3 or 2-3")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def apply(settings: RealTime) -> list[str]:
    """Ask for each setting, for all threads of this process; what is refused does not keep the others back.

    All threads, because the middleware's carry the messages, and a thread that waits for a processor while it holds
    Python's lock stops the others. SCHED_FIFO is only for processes whose threads all block between ticks: one that
    spins starves the machine.

    In any case, what has been imported and built so far is kept out of garbage collection, which otherwise stops the
    loop for 20 ms now and then.

    Returns:
        a sentence for each thing that the system refused, with how to allow it.
    """
    gc.collect()
    gc.freeze()
    steps: list[Callable[[RealTime], str | None]] = [_set_timer_slack, _set_cpus, _lock_memory, _set_priority]
    return [refusal for step in steps if (refusal := step(settings))]


def prioritise(priority: int) -> str | None:
    """Apply just a priority, for programs without parameters; returns the refusal, if any."""
    return "; ".join(apply(RealTime(priority=priority))) or None


def _each_thread(change: Callable[[int], None]) -> None:
    for thread in os.listdir("/proc/self/task"):
        try:
            change(int(thread))
        except ProcessLookupError:
            continue  # it has ended meanwhile


def _set_timer_slack(settings: RealTime) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(settings.timer_slack_us * 1000), 0, 0, 0):
        return f"no timer slack of {settings.timer_slack_us} µs ({os.strerror(ctypes.get_errno())}): waking may be late"
    return None


def _set_cpus(settings: RealTime) -> str | None:
    if not settings.cpus:
        return None
    wanted = ",".join(map(str, settings.cpus))
    advice = f"give some of the {os.cpu_count()} there are, numbered from 0"
    try:
        _each_thread(lambda thread: os.sched_setaffinity(thread, settings.cpus))
    except (OSError, ValueError, OverflowError) as error:
        return f"cannot run on processors {wanted} ({error}); the loop runs where it did. In `cpus`, {advice}"
    got = os.sched_getaffinity(0)
    if got != set(settings.cpus):
        return f"of processors {wanted} only {','.join(map(str, sorted(got)))} may be used. In `cpus`, {advice}"
    return None


def _may_lock_any_amount() -> bool:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _lock_memory(settings: RealTime) -> str | None:
    if not settings.lock_memory:
        return None
    problem = ""
    if not _may_lock_any_amount():
        # With a limit, locking may succeed now and fail any allocation later: a driver that dies is worse than a page.
        problem = f"limit {resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] // 1024} KiB"
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
            problem = os.strerror(ctypes.get_errno())
    if problem:
        return (
            f"memory is not locked ({problem}); the loop may stop for a page while memory is short. "
            "Allow it with 'memlock unlimited' in /etc/security/limits.conf, or LimitMEMLOCK=infinity for a service"
        )
    return None


def _set_priority(settings: RealTime) -> str | None:
    if settings.priority <= 0:
        return None
    try:
        _each_thread(lambda thread: os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(settings.priority)))
    except OSError as error:
        return (
            f"no real-time priority {settings.priority} ({error.strerror}); the loop runs at normal priority and may "
            f"be late under load. Allow it with 'rtprio {settings.priority}' in /etc/security/limits.conf, or "
            f"LimitRTPRIO={settings.priority} for a service"
        )
    return None
