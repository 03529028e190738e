# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_control.histogram import EDGES_S, Histogram, merged

durations = st.lists(st.floats(0, 100, allow_nan=False), max_size=200)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def test_bins_are_ten_percent_wide_from_a_microsecond_to_ten_seconds() -> None:
    assert (EDGES_S[0], EDGES_S[-1]) == (pytest.approx(1e-6), pytest.approx(10.0))
    assert np.diff(np.log(EDGES_S)) == pytest.approx(math.log(1.1007), rel=1e-3)


def test_percentiles_by_hand() -> None:
    histogram = filled([0.001] * 98 + [0.005, 0.2])
    assert histogram.count == 100
    assert histogram.percentile(50) == pytest.approx(0.001, rel=0.1)
    assert histogram.percentile(99) == pytest.approx(0.005, rel=0.1)
    assert histogram.percentile(100) == histogram.max_s == 0.2


@given(durations.filter(bool), st.floats(0, 100))
def test_percentiles_are_those_of_the_values_within_a_bin(values: list[float], percent: float) -> None:
    found = filled(values).percentile(percent)
    true = float(np.percentile(values, percent, method="inverted_cdf"))
    assert true / 1.101 - 1.01e-6 <= found <= true * 1.101 + 1.01e-6 or (true >= 10 and found > 10 / 1.101)


def test_nothing_counted_has_no_percentile() -> None:
    assert math.isnan(Histogram().percentile(50))
    assert Histogram().to_text() == "empty"


def test_values_beyond_the_bins_are_counted_at_their_ends() -> None:
    histogram = filled([-1.0, 0.0, 1e-9, 1e3, math.inf])
    assert histogram.to_text() == "max inf, 0:3, 1e+04:2"


def test_not_a_number_counts_as_longest() -> None:
    assert filled([math.nan]).to_text() == "max 0, 1e+04:1"


def test_text_form_is_readable_milliseconds() -> None:
    assert filled([0.00034, 0.00034, 0.0042]).to_text() == "max 4.2, 0.3162:2, 3.831:1"


@given(durations)
def test_text_form_returns_what_was_counted(values: list[float]) -> None:
    histogram = filled(values)
    again = Histogram.from_text(histogram.to_text())
    assert again.to_text() == histogram.to_text()
    assert again.count == len(values)
    assert again.max_s == pytest.approx(histogram.max_s, rel=1e-5)


@pytest.mark.parametrize("text", ["", "max", "max 1", "min 1, 0:3", "max 1, 0.5:3", "max 1, 0:x", "max x, 0:1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no histogram"):
        Histogram.from_text(text)


@given(durations, durations)
def test_merged_and_taken_apart_again(first: list[float], second: list[float]) -> None:
    earlier, both = filled(first), merged([filled(first), filled(second)])
    assert both.to_text() == filled(first + second).to_text()
    rest = both.since(earlier)
    assert rest.count == len(second)
    assert rest.max_s >= max(second, default=0.0) * (1 - 1e-9) or max(second) > 10
    assert rest.max_s <= max(*first, *second, 0.0, 0.0)


def test_since_a_histogram_that_was_begun_anew_is_refused() -> None:
    with pytest.raises(ValueError, match="begun anew"):
        filled([0.1]).since(filled([0.1, 0.1]))


def test_cumulative_shares_rise_to_one() -> None:
    points = filled([0.001, 0.001, 0.1, 50.0]).cumulative()
    shares = [share for _, share in points]
    assert shares == sorted(shares)
    assert points[-1] == (50.0, 1.0)
    assert [share for edge, share in points if 0.002 < edge < 0.05] == pytest.approx([0.5] * 33, abs=1e-9)


def test_adding_costs_no_more_than_a_few_calls() -> None:
    histogram = Histogram()
    reference = min(timeit.repeat(lambda: math.log(0.00137), number=20_000, repeat=5))
    assert min(timeit.repeat(lambda: histogram.add(0.00137), number=20_000, repeat=5)) < 20 * reference
