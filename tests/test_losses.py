# SPDX-License-Identifier: Apache-2.0
"""What was sent and did not arrive is counted, per publisher and per frame of the device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from h2o_control.losses import FrameCounter, LossCounter


def test_gaps_count_from_the_first_message_on_and_each_publisher_for_itself() -> None:
    counter = LossCounter()
    taken = [(b"a", 7), (b"a", 8), (b"b", 1), (b"a", 12), (b"b", 2), (b"b", 4), (b"a", 13)]
    assert [counter.update(*each) for each in taken] == [0, 0, 0, 3, 0, 1, 0]


def test_a_message_that_comes_late_was_not_lost() -> None:
    counter = LossCounter()
    assert [counter.update(b"a", n) for n in (1, 2, 5, 3, 6)] == [0, 0, 2, -1, 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans())))
def test_received_and_lost_make_what_was_sent_between_the_first_and_the_last(sent: list[tuple[int, bool]]) -> None:
    counter = LossCounter()
    numbers, first, last, received, lost = [0] * 3, {}, {}, 0, 0
    for publisher, arrives in sent:
        numbers[publisher] += 1
        if arrives:
            received += 1
            lost += counter.update(bytes([publisher]), numbers[publisher])
            first.setdefault(publisher, numbers[publisher])
            last[publisher] = numbers[publisher]
    assert received + lost == sum(last[p] - first[p] + 1 for p in first)


def test_frames_are_missing_where_the_messages_about_them_are_not() -> None:
    frames = FrameCounter()
    taken = [("0000000007", 0), ("0000000008", 0), ("0000000011", 0), ("0000000014", 2), ("0000000016", 0)]
    assert [frames.update(*each) for each in taken] == [0, 0, 2, 0, 1]


def test_a_device_that_starts_anew_or_wraps_loses_no_frames() -> None:
    frames = FrameCounter()
    numbers = [4294967294, 4294967295, 0, 1, 3, 0, 1]
    assert [frames.update(f"{n:010d}", 0) for n in numbers] == [0, 0, 0, 0, 1, 0, 0]


def test_a_source_that_is_no_number_of_a_frame_counts_nothing() -> None:
    frames = FrameCounter()
    sources = ("gps", "", "99999999999", "0000000001", "0000000003")
    assert [frames.update(source, 0) for source in sources] == [0, 0, 0, 0, 1]
