# SPDX-License-Identifier: Apache-2.0
"""Settings are applied in child processes: this one must stay as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import rclpy

from h2o_control.errors import ConfigError
from h2o_control.node_tools import declare, value
from h2o_control.realtime import REALTIME_PARAMETERS, parse_cpus

#: Gives up what lets root do anything, asks for the settings, and tells what the process then has.
CHILD = """
import json, os, resource, sys, threading
from pathlib import Path
from h2o_control.realtime import RealTime, apply
settings, privileged = json.loads(sys.argv[1])
quiet = threading.Event()
threading.Thread(target=quiet.wait, daemon=True).start()
if not privileged:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65534)
refusals = apply(RealTime(**{**settings, "cpus": tuple(settings.get("cpus", ()))}))
locked = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck"))
threads = [int(name) for name in os.listdir("/proc/self/task")]
print(json.dumps({
    "refusals": refusals,
    "schedulers": [os.sched_getscheduler(thread) for thread in threads],
    "priorities": [os.sched_getparam(thread).sched_priority for thread in threads],
    "affinities": [sorted(os.sched_getaffinity(thread)) for thread in threads],
    "locked_kib": int(locked.split()[1]),
    "slack_ns": int(Path("/proc/self/timerslack_ns").read_text()),
}))
"""


def applied(privileged: bool = False, **settings: object) -> dict[str, Any]:
    argument = json.dumps([settings, privileged])
    done = subprocess.run([sys.executable, "-c", CHILD, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert len(found["schedulers"]) == 2
    return found


def may_be_real_time() -> bool:
    # Asked of a child: this process must stay as it is.
    ask = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, check=False).returncode == 0


def test_a_refused_priority_is_a_warning_with_the_remedy() -> None:
    found = applied(priority=20)
    (refusal,) = found["refusals"]
    assert "no real-time priority 20 (Operation not permitted)" in refusal
    assert "rtprio 20" in refusal
    assert found["schedulers"] == [os.SCHED_OTHER] * 2


def test_a_refused_memory_lock_is_a_warning_with_the_remedy() -> None:
    found = applied(lock_memory=True)
    (refusal,) = found["refusals"]
    assert "memory is not locked (limit 0 KiB)" in refusal
    assert "memlock unlimited" in refusal
    assert found["locked_kib"] == 0


def test_a_processor_that_does_not_exist_is_a_warning_and_changes_nothing() -> None:
    found = applied(cpus=[900])
    (refusal,) = found["refusals"]
    assert "cannot run on processors 900" in refusal
    assert found["affinities"] == [sorted(os.sched_getaffinity(0))] * 2


def test_processors_of_which_some_do_not_exist_are_reported() -> None:
    first = min(os.sched_getaffinity(0))
    found = applied(cpus=[first, 900])
    (refusal,) = found["refusals"]
    assert f"only {first} may be used" in refusal
    assert found["affinities"] == [[first]] * 2


def test_what_is_refused_does_not_keep_the_rest_back() -> None:
    first = min(os.sched_getaffinity(0))
    found = applied(priority=20, lock_memory=True, cpus=[first], timer_slack_us=7)
    assert len(found["refusals"]) == 2
    assert found["affinities"] == [[first]] * 2
    assert found["slack_ns"] == 7000


def test_nothing_asked_nothing_changed_but_the_timer_slack() -> None:
    found = applied()
    assert found["refusals"] == []
    assert found["schedulers"] == [os.SCHED_OTHER] * 2
    assert found["slack_ns"] == 1000


@pytest.mark.skipif(not may_be_real_time(), reason="this user may not use real-time priorities")
def test_priority_reaches_every_thread_where_it_is_allowed() -> None:
    found = applied(privileged=True, priority=20)
    assert found["refusals"] == []
    assert found["schedulers"] == [os.SCHED_FIFO] * 2
    assert found["priorities"] == [20] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may surely lock memory")
def test_memory_is_locked_as_it_is_used() -> None:
    found = applied(privileged=True, lock_memory=True)
    assert found["refusals"] == []
    assert found["locked_kib"] > 1000


@pytest.mark.parametrize(
    ("given", "cpus"),
    [("", ()), (2, (2,)), ("2", (2,)), ("3, 2", (2, 3)), ("0,2-4", (0, 2, 3, 4)), ([1, 0], (0, 1)), ([], ())],
)
def test_processors_are_given_as_number_list_or_text(given: object, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(given) == cpus


@pytest.mark.parametrize("given", ["a", "1;2", "-1", -1, True, 1.5, "2-", [1, "b"]])
def test_other_processors_are_refused(given: object) -> None:
    with pytest.raises(ConfigError, match="is no processor: write numbers"):
        parse_cpus(given)


@pytest.mark.ros
@pytest.mark.parametrize(("given", "cpus"), [("2", (2,)), ("[0, 1]", (0, 1)), ("1,3", (1, 3)), ("''", ())])
def test_processors_reach_the_node_as_launch_files_write_them(given: str, cpus: tuple[int, ...]) -> None:
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "-p", f"cpus:={given}"], context=context)
    try:
        node = rclpy.create_node("timely", context=context)
        declare(node, REALTIME_PARAMETERS)
        assert parse_cpus(value(node, "cpus")) == cpus
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
