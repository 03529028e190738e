# SPDX-License-Identifier: Apache-2.0
"""Whoever hands something to the disk goes on; what the disk refuses is heard of later."""

from __future__ import annotations

import threading

import pytest

from h2o_control.disk import Disk


def test_jobs_are_done_in_order_while_their_owner_goes_on() -> None:
    disk = Disk(background=True)
    stuck, done = threading.Event(), []
    disk.do(lambda: done.append(stuck.wait(10.0)), 1000)
    for k in range(5):
        disk.do(lambda k=k: done.append(k), 10)  # type: ignore[misc]
    assert (done, disk.waiting_bytes) == ([], 1050)
    stuck.set()
    disk.wait()
    assert done == [True, 0, 1, 2, 3, 4]
    disk.close()
    assert disk.waiting_bytes == 0


def test_without_a_thread_a_job_is_done_at_once() -> None:
    done: list[int] = []
    disk = Disk(background=False)
    disk.do(lambda: done.append(1))
    assert done == [1]
    disk.close()


def test_what_goes_wrong_in_the_thread_is_raised_by_the_owner() -> None:
    disk = Disk(background=True)
    disk.do(lambda: {}["nothing"])  # type: ignore[typeddict-item]
    with pytest.raises(KeyError):
        disk.wait()
    disk.close()
