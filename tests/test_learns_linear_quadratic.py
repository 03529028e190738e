# SPDX-License-Identifier: Apache-2.0
"""Each algorithm of the catalogue learns a task whose optimum is computed (linear_quadratic.py)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from h2o_training.agent import Agent
from h2o_training.algorithm_config import (
    CqlConfig,
    DarcConfig,
    ExplorationConfig,
    ExtractionConfig,
    H2oConfig,
    H2oPlusConfig,
    RatioConfig,
    ValueConfig,
)
from h2o_training.catalogue import CATALOGUE
from h2o_training.replay import Batch
from h2o_training.train_config import TrainConfig
from linear_quadratic import (
    BEHAVIOUR_GAIN,
    DISCOUNT,
    N_ACT,
    NOISE_STD,
    REAL,
    TWIN,
    best_gain,
    darc_gain,
    exact_log_ratio,
    exact_returns,
    linear,
    roll_out,
    score,
    starts,
    train,
)

torch.set_num_threads(1)

COMMON: dict[str, Any] = {
    "policy_layers": (32, 32),
    "critic_layers": (32, 32),
    "learning_rate": 3e-3,
    "discount": DISCOUNT,
    "polyak": 0.02,
    "policy_average": 0.995,
    "updates": 3000,
}
# DARC adds the log ratio to its rewards and suffers most where it is compressed: a wide bound, and a step each update.
RATIO = RatioConfig(layers=(32, 32), every=1, noise_std=0.05, logit_bound=10.0)
NOVELTY = ExplorationConfig("novelty", weight=0.1, noise_std=0.1, layers=(32,))
TWIN_ONLY = {**COMMON, "batch_real": 0, "batch_simulated": 128}
DATA_ONLY = {**COMMON, "batch_real": 128, "batch_simulated": 0}
HYBRID = {**COMMON, "batch_real": 64, "batch_simulated": 64}


def value(backbone: Any) -> ValueConfig:
    """A backbone whose temperature suits advantages of about 5, as they are here."""
    norm = backbone in ("eql", "xql")
    return ValueConfig(backbone, expectile=0.8, temperature=2.0, layers=(32, 32), layer_norm=norm)


def in_sample(backbone: Any) -> TrainConfig:
    return TrainConfig(backbone, value=value(backbone), extraction=ExtractionConfig(1.0), **DATA_ONLY)


def h2o_plus(backbone: Any, ratio: RatioConfig | None = RATIO) -> TrainConfig:
    return TrainConfig("h2o_plus", value=value(backbone), h2o_plus=H2oPlusConfig(0.1), ratio=ratio, **HYBRID)


SAC = TrainConfig("sac", **TWIN_ONLY)
BC = TrainConfig("bc", **DATA_ONLY)
FROM_DATA = {
    "cql": TrainConfig("cql", cql=CqlConfig(alpha=1.0, draws=4), **DATA_ONLY),
    **{backbone: in_sample(backbone) for backbone in ("iql", "sql", "eql", "xql")},
}
HYBRIDS = {
    "darc": TrainConfig("darc", ratio=RATIO, darc=DarcConfig(), **TWIN_ONLY),
    "darc_plus": TrainConfig("darc_plus", ratio=RATIO, darc=DarcConfig(), **HYBRID),
    "h2o": TrainConfig("h2o", ratio=RATIO, h2o=H2oConfig(), **HYBRID),
    **{f"h2o_plus-{backbone}": h2o_plus(backbone) for backbone in ("iql", "sql", "eql", "xql")},
    "h2o_plus-novelty": dataclasses.replace(h2o_plus("iql"), exploration=NOVELTY),
}
CASES = {"sac": SAC, "bc": BC, **FROM_DATA, **HYBRIDS, "h2o_plus-without_ratio": h2o_plus("iql", None)}

# Bounds on the score: 0 is the operator, 1 the optimum. Beside each, the worst that the seeds 0 to 4 gave.
SAC_IN_THE_TWIN = 0.6  # 0.72
SAC_ON_THE_REAL_CART = -2.0  # -3.8 was its best
CLONING = 0.6  # 0.37: the return hangs on the gain, which 5000 noisy actions tell to a few per cent
LEAST = {
    "cql": 0.5,  # 0.72
    "iql": 0.75,  # 0.92
    "sql": 0.75,  # 0.96
    "eql": 0.75,  # 0.92
    "xql": 0.75,  # 0.89
    "darc": 0.55,  # 0.76, and 0.87 is what its objective allows
    "darc_plus": 0.4,  # 0.63
    "h2o": 0.5,  # 0.70
    "h2o_plus-iql": 0.65,  # 0.85
    "h2o_plus-sql": 0.65,  # 0.81
    "h2o_plus-eql": 0.65,  # 0.80
    "h2o_plus-xql": 0.65,  # 0.84
    "h2o_plus-novelty": 0.65,  # 0.86
}


@functools.cache
def trained(name: str) -> Agent:
    return train(CASES[name])


def test_every_algorithm_is_here():
    assert {config.algorithm for config in CASES.values()} == set(CATALOGUE)


@pytest.mark.parametrize("cart", [REAL, TWIN])
def test_no_other_gain_is_better_than_the_computed_one(cart):
    first = starts(500, torch.Generator().manual_seed(0)).double().numpy()
    best = best_gain(cart)
    highest = exact_returns(cart, best, first)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = best + 0.05 * rng.standard_normal((2, 2))
        assert (exact_returns(cart, other, first) < highest).all()


@pytest.mark.parametrize("cart", [REAL, TWIN])
def test_simulated_optimum_returns_what_is_computed_and_neither_saturates_nor_fails(cart):
    count = 2000
    done = roll_out(cart, linear(best_gain(cart)), count)
    first = starts(count, torch.Generator().manual_seed(12345)).double().numpy()
    wanted = exact_returns(cart, best_gain(cart), first)
    error = done.returns.double().numpy() - wanted
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(count)
    assert error.std() < 0.05 * wanted.mean(), "the starts, not luck, tell returns apart"
    assert done.largest_action < 1.0
    assert done.failures == 0.0


def test_twin_s_optimum_is_worse_than_the_operator_on_the_real_cart_and_darc_s_is_nearly_the_best():
    assert score(REAL, linear(best_gain(TWIN))) < -1.0
    assert score(REAL, linear(darc_gain(REAL, TWIN))) > 0.8


def test_sac_finds_the_twin_s_optimum_which_fails_on_the_real_cart():
    policy = trained("sac").averaged_policy
    assert score(TWIN, policy.act) > SAC_IN_THE_TWIN
    assert score(REAL, policy.act) < SAC_ON_THE_REAL_CART


def test_cloning_is_as_good_as_the_operator_s_mean_policy():
    policy = trained("bc").averaged_policy
    assert abs(score(REAL, policy.act)) < CLONING
    states = starts(500, torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = policy.act(states) - linear(BEHAVIOUR_GAIN)(states)
    assert error.square().mean().sqrt() < 0.04  # 0.022


@pytest.mark.parametrize("name", FROM_DATA)
def test_learning_from_data_improves_on_the_operator(name):
    assert score(REAL, trained(name).averaged_policy.act) > LEAST[name]


@pytest.mark.parametrize("name", HYBRIDS)
def test_data_and_twin_together_beat_sac_in_the_twin_on_the_real_cart(name):
    assert score(REAL, trained(name).averaged_policy.act) > LEAST[name]


def test_without_the_ratio_h2o_plus_leaves_more_to_the_motor_that_only_the_twin_has():
    states = starts(500, torch.Generator().manual_seed(0))

    def use(name: str) -> float:
        policy = trained(name).averaged_policy
        with torch.no_grad():
            return policy.act(states)[:, 1].square().mean().sqrt().item()

    # 1.4 to 3.4 times as much with the seeds 0 to 4.
    assert use("h2o_plus-without_ratio") > 1.2 * use("h2o_plus-iql")


def twin_transitions(second_action: float, count: int = 2000) -> Batch:
    """Steps of the twin from where starts are, with any u1 and a given u2."""
    generator = torch.Generator().manual_seed(7)
    state = starts(count, generator)
    action = torch.rand(count, N_ACT, generator=generator) - 0.5
    action[:, 1] = second_action
    return Batch(state, action, torch.zeros(count), TWIN.step(state, action, generator), torch.ones(count))


@pytest.mark.parametrize("name", ["h2o", "h2o_plus-iql", "darc"])
def test_ratio_weighs_samples_of_the_twin_down_where_its_dynamics_are_wrong_and_only_there(name):
    ratio = trained(name).ratio
    same, different = twin_transitions(0.0), twin_transitions(0.4)
    assert exact_log_ratio(same).abs().max() < 1e-3
    assert exact_log_ratio(different).mean().item() == pytest.approx(-0.5 * (0.8 * 0.4 / NOISE_STD) ** 2, rel=0.1)
    assert ratio.weights(same).mean() > 0.7
    assert ratio.weights(different).mean() < 0.25
