# SPDX-License-Identifier: Apache-2.0
"""What is answered and what is given back, without ROS: ages, misbehaving policies, comparison with what was sent."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bad_policies import misbehaving_policy
from h2o_control.answering import Answering, ObservationAge
from h2o_control.policy import Policy
from h2o_control.shadow import Comparison
from policy_tools import linear_policy

STEP_NS = 5_000_000
HOUR_NS = 3600 * 10**9


def state(x: float = 0.0, pitch: float = 0.25) -> np.ndarray:
    return np.array([x, 0.0, pitch, 0.0])


def test_age_counts_from_the_quickest_arrival() -> None:
    age = ObservationAge()
    ages = [age.update(k * STEP_NS, 100.0 + 0.005 * k) for k in range(1, 400)]
    assert max(ages) < 1e-6
    assert age.update(400 * STEP_NS, 100.0 + 2.0 + 0.03) == pytest.approx(0.03, abs=1e-6)


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
def test_a_wall_clock_that_jumps_costs_one_observation_at_most(jump_ns: int) -> None:
    age = ObservationAge()
    start_ns = 10 * HOUR_NS
    for k in range(400):
        age.update(start_ns + k * STEP_NS, 0.005 * k)
    ages = [age.update(start_ns + jump_ns + k * STEP_NS, 0.005 * k) for k in range(400, 800)]
    assert all(a < 0.001 for a in ages[1:])


def test_an_observation_that_is_not_newer_has_no_age() -> None:
    age = ObservationAge()
    age.update(STEP_NS, 1.0)
    assert math.isnan(age.update(STEP_NS, 1.005))


def clock(*readings_s: float) -> Iterator[float]:
    yield from readings_s
    while True:
        yield readings_s[-1]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", "the policy answers .* with nan"),
        ("inf", "the policy answers .* with inf"),
        ("shape", r"the policy fails on .*: the answer has shape \(2, 1\)"),
        ("error", "the policy fails on .*: .*out of data bounds"),
        ("slow", r"the answer took \d+ ms: too late"),
    ],
)
def test_a_policy_that_misbehaves_under_way_is_not_sent_and_a_sane_answer_is_again(
    tmp_path: Path, kind: str, reason: str
) -> None:
    answering = Answering(Policy(misbehaving_policy(tmp_path / "p.onnx", kind)), max_age_s=0.05)
    # Displacement counts from takeover, so that x passes through only once the policy is in command.
    answering.answer(state(), 0.0)
    answering.engaged = True
    assert answering.answer(state(0.5), 0.0) == (pytest.approx(-0.25), "")
    torque, said = answering.answer(state(1.5), 0.0)
    assert torque is None
    assert re.match(reason, said), said
    assert answering.answer(state(0.5), 0.0)[0] == pytest.approx(-0.25)


def test_age_and_answer_time_together_decide_whether_an_answer_is_too_late(tmp_path: Path) -> None:
    policy = Policy(linear_policy(tmp_path / "p.onnx", (0.0, 0.0, 1.0, 0.0)))
    readings = clock(10.0, 10.02, 20.0, 20.02)
    answering = Answering(policy, max_age_s=0.05, now_s=lambda: next(readings))
    assert answering.answer(state(), 0.02)[0] == pytest.approx(-0.25)
    assert answering.answer(state(), 0.04) == (None, "the answer took 20 ms: too late to be sent")


@pytest.mark.parametrize("age_s", [0.051, 10.0, math.nan, math.inf])
def test_old_observations_are_given_back_without_asking_the_policy(tmp_path: Path, age_s: float) -> None:
    answering = Answering(Policy(linear_policy(tmp_path / "p.onnx", (0.0, 0.0, 1.0, 0.0))), max_age_s=0.05)
    assert answering.answer(state(), age_s)[0] is None


def test_torque_beyond_the_limit_is_given_back(tmp_path: Path) -> None:
    policy = Policy(linear_policy(tmp_path / "p.onnx", (0.0, 0.0, 20.0, 0.0), limited=False))
    answering = Answering(policy, max_age_s=0.05)
    assert answering.answer(state(), 0.0) == (None, "the policy asks for -5.00 Nm, the limit is 3.0 Nm")


def test_comparison_matches_by_stamp_in_either_order() -> None:
    comparison = Comparison()
    comparison.answered(1, 1.0)
    comparison.sent(1, 0.7)
    comparison.sent(2, 0.5)
    comparison.answered(2, 0.1)
    comparison.answered(3, 9.0)
    summary = comparison.summary()
    assert summary.pairs == 2
    assert summary.rms_nm == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 2))
    assert summary.largest_nm == pytest.approx(0.4)
    assert summary.same_sign == 1.0


def test_share_of_the_same_sign_is_by_torque_so_that_noise_around_zero_says_little() -> None:
    comparison = Comparison()
    assert math.isnan(comparison.summary().same_sign)
    for stamp, (own, sent) in enumerate([(2.0, 1.5), (-1.0, -0.3), (0.1, -0.1), (0.0, 0.1)]):
        comparison.answered(stamp, own)
        comparison.sent(stamp, sent)
    assert comparison.summary().same_sign == pytest.approx((1.5 + 0.3) / (1.5 + 0.3 + 0.1 + 0.1))


def test_comparison_goes_on_where_stamps_go_back() -> None:
    comparison = Comparison(window_s=1.0)
    for stamp in (HOUR_NS, 0, STEP_NS):
        comparison.answered(stamp, 1.0)
        comparison.sent(stamp, 1.0)
    assert comparison.summary().pairs == 2


def test_comparison_forgets_what_is_older_than_its_window_and_what_is_never_matched() -> None:
    comparison = Comparison(window_s=1.0)
    for k in range(1000):
        comparison.answered(k * STEP_NS, 1.0)
    comparison.sent(0, 0.0)
    assert comparison.summary()[0] == 0
    for k in range(1000, 2000):
        comparison.sent(k * STEP_NS, 0.5)
        comparison.answered(k * STEP_NS, 1.0)
    assert comparison.summary() == (201, pytest.approx(0.5), pytest.approx(0.5), 1.0)
