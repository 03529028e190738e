# SPDX-License-Identifier: Apache-2.0
"""The kernel's workers that serve serial ports are raised with the driver, where the system allows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wheel_leg_driver import kernel_workers
from wheel_leg_driver.kernel_workers import WORKER, KernelWorkers


def workers() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().startswith(WORKER):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_workers_are_raised_and_lowered_again():
    if not workers():
        pytest.skip("the kernel's workers are not to be seen here, as in a container")
    try:
        # A driver that was killed leaves them raised.
        for pid in workers():
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("the system does not allow it: needs CAP_SYS_NICE")
    made = KernelWorkers(3)
    assert made.keep() is None
    raised = [pid for pid in workers() if os.sched_getparam(pid).sched_priority == 3]
    assert raised
    made.restore()
    assert not [pid for pid in set(raised) & set(workers()) if os.sched_getparam(pid).sched_priority == 3]


def test_a_refusal_says_what_follows_and_how_to_allow_it(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel_workers, "_PROC", Path("/proc"))
    monkeypatch.setattr(kernel_workers, "WORKER", Path("/proc/self/comm").read_text().strip()[:4])
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    said = KernelWorkers(3).keep()
    assert said is not None
    assert "Operation not permitted" in said
    assert "CAP_SYS_NICE" in said


def test_where_there_are_none_to_see_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_workers, "_PROC", tmp_path)
    assert "container" in (KernelWorkers(3).keep() or "")
