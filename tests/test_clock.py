# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_control.clock import ClockMap, Unwrapper, WallStamp, line_under, stamp_ns

RATE_HZ = 200


def mapped(device_s: np.ndarray, host_s: np.ndarray, clock: ClockMap | None = None) -> np.ndarray:
    clock = clock or ClockMap()
    return np.array([clock.to_host(round(d * 1e6), h) for d, h in zip(device_s, host_s, strict=True)])


def device_times(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def usb_delays(n: int, seed: int, spread_s: float, base_s: float = 1e-4) -> np.ndarray:
    """One-sided: mostly short, some late by the whole spread."""
    rng = np.random.default_rng(seed)
    return base_s + np.minimum(rng.exponential(spread_s / 4, n), spread_s)


def test_jitter_of_the_link_does_not_reach_the_stamps() -> None:
    rng = np.random.default_rng(0)
    device = device_times(10)
    stamps = mapped(device, 100.0 + device + rng.exponential(0.002, len(device)))
    assert np.abs(np.diff(stamps) - 0.005).max() <= 0.005 * 0.0501
    assert np.abs(stamps[400:] - (100.0 + device[400:])).max() < 0.001


@settings(max_examples=15)
@given(
    drift_ppm=st.floats(-300, 300),
    spread_s=st.floats(1e-4, 5e-3),
    seed=st.integers(0, 1000),
    start_s=st.floats(0, 1e6),
)
def test_drift_is_recovered_under_jitter_of_a_usb_link(
    drift_ppm: float, spread_s: float, seed: int, start_s: float
) -> None:
    host = device_times(45) / (1 + drift_ppm * 1e-6)
    device = start_s + device_times(45)
    clock, errors = ClockMap(), []
    stamps = []
    for n, (d, h, delay) in enumerate(zip(device, host, usb_delays(len(device), seed, spread_s), strict=True)):
        stamps.append(clock.to_host(round(d * 1e6), h + delay))
        errors.append(abs(clock.drift_ppm - drift_ppm))
        assert clock.offset_s == pytest.approx(stamps[-1] - round(d * 1e6) * 1e-6, abs=1e-9), n
    assert max(errors[10 * RATE_HZ :]) < 20
    assert max(errors[35 * RATE_HZ :]) < 3
    steps = np.diff(stamps)
    assert np.abs(steps * RATE_HZ - 1).max() < 0.05
    # The stamp is that of a frame as fast as the fastest, to a tenth of the jitter, whatever the frame's own delay.
    assert np.abs(np.array(stamps) - host)[4 * RATE_HZ :].max() < 2e-4 + 0.1 * spread_s


@pytest.mark.parametrize("drift_ppm", [5000, -5000])
def test_the_drift_of_a_ceramic_resonator_is_followed(drift_ppm: float) -> None:
    device = device_times(20)
    host = device / (1 + drift_ppm * 1e-6)
    clock = ClockMap()
    stamps = mapped(device, host + usb_delays(len(host), 1, 1e-3), clock)
    assert clock.drift_ppm == pytest.approx(drift_ppm, rel=0.01)
    assert np.abs(np.diff(stamps) * RATE_HZ - 1).max() < 0.055
    # Half a second of that drift, until it is known after four seconds.
    assert np.abs(stamps - host)[: 5 * RATE_HZ].max() < 3e-3
    assert np.abs(stamps - host)[5 * RATE_HZ :].max() < 3e-4


@settings(max_examples=30)
@given(
    frames=st.lists(
        st.tuples(st.floats(0, 20), st.floats(0, 20), st.sampled_from([1, 1, 1, 1, 1000, 100_000, -50_000])),
        min_size=2,
        max_size=300,
    )
)
def test_stamps_never_go_back_whatever_the_device_says(frames: list[tuple[float, float, int]]) -> None:
    clock = ClockMap()
    host, device_us, last = 0.0, 1_000_000, -1.0
    for late_ms, wait_ms, factor in frames:
        host += wait_ms * 1e-3
        device_us = max(0, device_us + 5000 * factor)
        stamp = clock.to_host(device_us, host + late_ms * 1e-3)
        assert stamp >= last - 1e-9
        last = stamp


def test_a_host_that_stalled_gets_even_stamps_and_is_caught_up_with() -> None:
    device = device_times(10)
    host = 10.0 + device + np.where(device > 4.0, 0.03, 0.0)
    stamps = mapped(device, host)
    assert np.diff(stamps).max() <= 0.005 * 1.0501
    later = device > 5.2
    assert np.abs(stamps[later] - host[later]).max() < 0.001


def test_a_backlog_read_at_once_does_not_move_the_stamps() -> None:
    device = device_times(20)
    host = device + 1e-4
    stalled = (device > 10.0) & (device < 10.2)
    arrived = np.where(stalled, 10.2, host)
    assert np.abs(mapped(device, arrived) - host).max() < 1e-5


def test_a_step_between_the_clocks_does_not_spoil_the_drift() -> None:
    device = device_times(60)
    host = device / (1 + 80e-6) + np.where(device > 30.0, 0.05, 0.0) + usb_delays(60 * RATE_HZ, 3, 1e-3)
    clock = ClockMap()
    for d, h in zip(device, host, strict=True):
        clock.to_host(round(d * 1e6), h)
        if d > 20.0:
            assert clock.drift_ppm == pytest.approx(80, abs=40), d


def test_a_host_that_was_suspended_is_caught_up_with_at_once() -> None:
    device = device_times(10)
    host = device + np.where(device > 5.0, 60.0, 0.0)
    stamps = mapped(device, host)
    later = device > 5.6
    assert np.abs(stamps[later] - host[later]).max() < 1e-6


def test_a_device_whose_time_leaps_ahead_does_not_put_stamps_in_the_future() -> None:
    device = device_times(10)
    stamps = mapped(device + np.where(device > 5.0, 1000.0, 0.0), device)
    assert np.abs(stamps - device).max() < 0.01


def test_a_restarted_device_starts_anew() -> None:
    clock = ClockMap()
    clock.to_host(90_000_000, 200.0)
    assert clock.to_host(0, 201.0) == 201.0
    assert clock.offset_s == 201.0
    assert clock.drift_ppm == 0.0


def test_line_under_points_by_hand() -> None:
    # Hull (0, 1), (2, 0), (6, 3); the mean of x is 3, so its second edge counts.
    assert line_under([(0, 1), (1, 4), (2, 0), (6, 3), (6, 9)]) == ((2, 0), 0.75)


@given(st.integers(2, 64), st.lists(st.integers(0, 1 << 80), max_size=50), st.integers(0, 1 << 64))
def test_an_unwrapped_counter_goes_on_where_the_counter_wraps(bits: int, steps: list[int], start: int) -> None:
    size = 1 << bits
    counter = Unwrapper(bits)
    first = counter.unwrap(start % size)
    true = start % size
    for step in (s % (size // 2 + 1) for s in steps):
        true += step
        assert counter.unwrap(true % size) == true
        assert counter.missed == max(0, step - 1)
    assert (first, counter.resets) == (start % size, 0)


def test_microseconds_in_32_bits_go_on_after_71_minutes() -> None:
    counter = Unwrapper(32, largest_step=10_000_000)
    assert counter.unwrap(2**32 - 1000) == 2**32 - 1000
    assert counter.unwrap(4000) == 2**32 + 4000
    assert counter.resets == 0


def test_a_reset_counter_begins_anew_and_is_counted() -> None:
    counter = Unwrapper(32, largest_step=10_000_000)
    counter.unwrap(3_600_000_000)
    assert counter.unwrap(5000) == 5000
    assert (counter.resets, counter.missed) == (1, 0)


def test_lost_sequence_numbers_are_counted_across_the_wrap() -> None:
    counter = Unwrapper(8)
    missed = []
    for number in (254, 255, 0, 3, 3):
        counter.unwrap(number)
        missed.append(counter.missed)
    assert missed == [0, 0, 0, 2, 0]


def test_a_counter_with_too_many_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="256 does not fit: it must lie between 0 and 255"):
        Unwrapper(8).unwrap(256)


def test_wall_stamps_are_wall_time_and_go_on_evenly_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = WallStamp()
    assert abs(wall.now_ns() - time.time_ns()) < 50_000_000
    before = wall.now_ns()
    set_back = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: set_back)
    assert 0 <= wall.now_ns() - before < 1_000_000_000


def test_a_monotonic_reading_becomes_the_stamp_of_that_instant() -> None:
    wall = WallStamp()
    before, reading, after = wall.now_ns(), time.monotonic(), wall.now_ns()
    assert before - 1000 <= wall.from_monotonic(reading) <= after + 1000


def test_a_stamp_in_ns_is_exact_where_a_float_is_not() -> None:
    assert stamp_ns(SimpleNamespace(sec=1_763_655_299, nanosec=999_999_999)) == 1_763_655_299_999_999_999
