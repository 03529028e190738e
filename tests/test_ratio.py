# SPDX-License-Identifier: Apache-2.0
"""The dynamics ratio and H2O's gap, where both are known in closed form (known_ratio.py, docs/ratio.md)."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch.distributions import MultivariateNormal

import known_ratio
from h2o_training.noise import Noise
from h2o_training.ratio import RatioEstimator
from h2o_training.train_config import load_train_config

# As shipped and as published, but for their size: all with one network, many samples in few steps.
QUICK = {"layers": (64, 64), "batch": 512, "every": 1}
SHIPPED = dataclasses.replace(load_train_config("h2o_plus", []).ratio, **QUICK)
PAPER = dataclasses.replace(load_train_config("paper/h2o_plus", []).ratio, **QUICK)
FINE = dataclasses.replace(SHIPPED, noise_std=0.1)
RATE = 2e-3


@functools.cache
def fitted(case, config, steps=700):
    """Classifiers of a case, its held-out transitions, and who of them is real."""
    pair = case()
    ratio, data = known_ratio.fit(pair, config, steps=steps, learning_rate=RATE)
    held_out, real = pair.held_out(5000, torch.Generator().manual_seed(1))
    return pair, ratio, data, held_out, real


def shifted(n):
    return functools.partial(known_ratio.shifted, n)


def wider(n):
    return functools.partial(known_ratio.wider, n)


# functools.cache tells partials apart by identity.
HARD, ITSELF = (functools.partial(known_ratio.ideal_and, name) for name in ("hard", "ideal"))
CASES = {f"{kind.__name__} in {n}": kind(n) for kind in (shifted, wider) for n in (1, 2, 3, 4)}


def slope(estimate, truth):
    """Of the least-squares line through estimates over true log ratios."""
    truth = truth - truth.mean()
    return float((estimate * truth).sum() / truth.square().sum())


@pytest.mark.parametrize("relative", [True, False])
def test_closed_form_with_noise_is_the_density_of_noisy_inputs(relative):
    """q(s'|s,a) of noisy inputs by brute force: the clean density averaged over the noise."""
    pair = known_ratio.shifted(1)
    config = dataclasses.replace(SHIPPED, relative=relative, noise_std=0.5)
    scale = torch.tensor([1.0, 0.5, 0.6])
    generator = torch.Generator().manual_seed(0)
    batch = pair.simulated.draw(6, generator)
    last = batch.next_observation - batch.observation if relative else batch.next_observation
    inputs = torch.cat((batch.observation, batch.action, last), 1).double()
    noise = 0.5 * scale * torch.randn(400_000, 1, 3, generator=generator).double()

    def conditional(system):
        centre, covariance = system.joint(relative)
        joint = MultivariateNormal(centre, covariance)
        marginal = MultivariateNormal(centre[:2], covariance[:2, :2])
        densities = [
            d.log_prob(x).exp().mean(0) for d, x in ((joint, inputs - noise), (marginal, (inputs - noise)[..., :2]))
        ]
        return torch.log(densities[0] / densities[1])

    wanted = conditional(pair.real) - conditional(pair.simulated)
    found = known_ratio.blurred_log_ratio(pair, batch, config, scale)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("relative", [True, False])
def test_closed_form_without_noise_is_the_ratio_of_the_dynamics_alone(relative):
    """Where the data lie cancels, and s' − s serves as well as s'."""
    pair = known_ratio.pitch()
    batch, _ = pair.held_out(100, torch.Generator().manual_seed(0))
    config = dataclasses.replace(SHIPPED, noise_std=0.0, relative=relative)
    found = known_ratio.blurred_log_ratio(pair, batch, config, torch.ones(5))
    torch.testing.assert_close(found, pair.log_ratio(batch))


@pytest.mark.parametrize("case", CASES)
def test_estimate_with_little_noise_is_what_noise_and_bound_leave_of_the_ratio(case):
    pair, ratio, _, held_out, _ = fitted(CASES[case], FINE)
    left = known_ratio.blurred_log_ratio(pair, held_out, FINE, ratio.scale).clamp(-4.0, 4.0)
    error = ratio.log_ratio(held_out) - left
    assert left.std() > 0.6
    assert error.square().mean().sqrt() < 0.35 * left.std()
    assert error.mean().abs() < 0.15
    # So little noise leaves nearly all.
    assert 0.65 < slope(ratio.log_ratio(held_out), pair.log_ratio(held_out)) < 1.15


@pytest.mark.parametrize("case", [name for name in CASES if name[-1] in "14"])
def test_estimate_as_shipped_is_what_the_noise_leaves_of_the_ratio(case):
    pair, ratio, _, held_out, _ = fitted(CASES[case], SHIPPED)
    left = known_ratio.blurred_log_ratio(pair, held_out, SHIPPED, ratio.scale)
    error = ratio.log_ratio(held_out) - left
    assert error.square().mean().sqrt() < 0.12
    assert slope(left, pair.log_ratio(held_out)) < 0.5
    assert spearmanr(ratio.log_ratio(held_out), pair.log_ratio(held_out)).statistic > 0.75


def test_little_relative_noise_leaves_the_ratio_as_it_is_even_on_pitch():
    pair, ratio, _, held_out, _ = fitted(known_ratio.pitch, FINE)
    truth = pair.log_ratio(held_out).clamp(-4.0, 4.0)
    estimate = ratio.log_ratio(held_out)
    assert (estimate - truth).square().mean().sqrt() < 0.3
    assert 0.85 < slope(estimate, truth) < 1.1


def test_raw_inputs_with_noise_of_a_tenth_are_nearly_blind_on_pitch():
    slopes = {}
    for name, config in {"shipped": SHIPPED, "paper": PAPER}.items():
        pair, ratio, _, held_out, _ = fitted(known_ratio.pitch, config)
        truth = pair.log_ratio(held_out)
        left = known_ratio.blurred_log_ratio(pair, held_out, config, ratio.scale)
        slopes[name] = slope(ratio.log_ratio(held_out), truth)
        assert slopes[name] == pytest.approx(slope(left, truth), abs=0.08)
    assert slopes["paper"] < 0.25
    assert slopes["shipped"] > 2.0 * slopes["paper"]


def test_where_the_data_lie_does_not_enter_the_ratio():
    _, ratio, _, held_out, _ = fitted(functools.partial(known_ratio.same_dynamics, 2), FINE)
    found = ratio.classify(held_out)
    assert found[1].std() > 0.5
    assert ratio.log_ratio(held_out).square().mean().sqrt() < 0.2


def test_log_ratio_stays_within_its_bound_where_the_truth_does_not():
    pair, ratio, _, held_out, real = fitted(known_ratio.far_apart, FINE)
    truth, estimate = pair.log_ratio(held_out), ratio.log_ratio(held_out)
    assert truth.abs().median() > 2.0 * SHIPPED.logit_bound
    assert estimate.abs().max() <= SHIPPED.logit_bound
    assert estimate[real == 1].median() > 3.0
    assert estimate[real == 0].median() < -3.0


def test_probabilities_of_the_classifiers_come_true_on_inputs_as_noisy_as_they_learnt_on():
    _, ratio, _, held_out, real = fitted(CASES["shifted in 4"], SHIPPED)
    said = ratio.classify(held_out, Noise(torch.Generator().manual_seed(2))).detach().sigmoid()
    for probability in said:
        for low in torch.arange(0.1, 0.9, 0.1):
            inside = (probability >= low) & (probability < low + 0.1)
            if inside.sum() > 200:
                # Four standard errors of a share, and what the networks may be off.
                allowed = 4 * 0.5 / math.sqrt(int(inside.sum())) + 0.02
                assert float(probability[inside].mean()) == pytest.approx(float(real[inside].mean()), abs=allowed)


def test_gap_of_an_estimate_is_the_mean_over_next_states_drawn_around():
    torch.manual_seed(0)
    ratio = RatioEstimator(2, 1, SHIPPED)
    batch = known_ratio.growing().simulated.draw(7, torch.Generator().manual_seed(0))
    noise, std = torch.randn(5, 7, 2), torch.tensor([0.1, 0.02])
    torch.testing.assert_close(ratio.gap(batch, noise, std), known_ratio.gap_of(ratio.log_ratio, batch, noise, std))


@pytest.mark.parametrize(("config", "least"), [(FINE, 0.45), (SHIPPED, 0.25)], ids=["noise 0.1", "shipped"])
def test_gap_follows_a_planted_gap_that_grows_with_velocity(config, least):
    """Figure 3 of the H2O paper, with the gap known: damping that the simulator does not have."""
    pair, ratio, data, _, _ = fitted(known_ratio.growing, config)
    batch = pair.simulated.draw(3000, torch.Generator().manual_seed(1))
    noise = torch.randn(10, 3000, 2, generator=torch.Generator().manual_seed(2))
    std = (data.next_observation - data.observation).std(0)
    gap = ratio.gap(batch, noise, std)

    def left(b):
        return known_ratio.blurred_log_ratio(pair, b, config, ratio.scale).clamp(-4.0, 4.0)

    exact = known_ratio.gap_of(left, batch, noise, std)
    speed = batch.observation[:, 0].abs()
    assert spearmanr(pair.divergence(batch), speed).statistic > 0.999
    assert spearmanr(gap, exact).statistic > 0.85
    # One s' a sample leaves chance in u, in the exact one as well.
    assert spearmanr(gap, speed).statistic > max(least, spearmanr(exact, speed).statistic - 0.1)
    # The chance goes where samples of like speed are taken together.
    bins = torch.tensor_split(speed.argsort(), 10)
    means = torch.stack([gap[chosen].mean() for chosen in bins])
    assert spearmanr(means, range(10)).statistic > 0.9
    torch.testing.assert_close(means, torch.stack([exact[c].mean() for c in bins]).float(), atol=0.3, rtol=0)


def test_gap_over_the_spread_of_states_says_nothing_on_a_robot():
    """Why `h2o.gap_spread` is "steps" as shipped: a robot against itself has no gap."""
    pair, ratio, data, _, _ = fitted(ITSELF, SHIPPED)
    batch = pair.simulated.draw(3000, torch.Generator().manual_seed(1))
    noise = torch.randn(10, 3000, 3, generator=torch.Generator().manual_seed(2))
    gaps = {
        "steps": ratio.gap(batch, noise, (data.next_observation - data.observation).std(0)),
        "states": ratio.gap(batch, noise, data.next_observation.std(0)),
    }
    assert gaps["steps"].abs().mean() < 0.2
    assert gaps["states"].abs().mean() > 3.0 * gaps["steps"].abs().mean()


def test_noise_of_the_twins_is_as_their_ratio_takes_it():
    system = known_ratio.ideal_and("hard").real
    batch = system.draw(20_000, torch.Generator().manual_seed(0))
    rest = batch.next_observation.double() - system.mean(batch.observation, batch.action)
    wanted = system.covariance
    scale = wanted.diagonal().sqrt()
    torch.testing.assert_close(
        rest.T.cov() / torch.outer(scale, scale), wanted / torch.outer(scale, scale), atol=0.04, rtol=0
    )
    assert (rest.mean(0) / scale).abs().max() < 0.05


def test_gap_between_ideal_and_hard_follows_the_closed_form():
    pair, ratio, data, held_out, _ = fitted(HARD, SHIPPED)
    batch = pair.simulated.draw(3000, torch.Generator().manual_seed(1))
    std = (data.next_observation - data.observation).std(0)
    gap = ratio.gap(batch, torch.randn(10, 3000, 3, generator=torch.Generator().manual_seed(2)), std)
    assert spearmanr(gap, pair.divergence(batch)).statistic > 0.65
    assert spearmanr(ratio.log_ratio(held_out), pair.log_ratio(held_out)).statistic > 0.8


def test_raw_inputs_are_blind_on_a_step_of_the_robot():
    pair, ratio, _, held_out, _ = fitted(HARD, PAPER)
    truth = pair.log_ratio(held_out)
    assert abs(slope(ratio.log_ratio(held_out), truth)) < 0.06
    assert slope(fitted(HARD, SHIPPED)[1].log_ratio(held_out), truth) > 0.1


def test_robot_against_itself_has_ratio_one():
    pair, ratio, _, held_out, _ = fitted(ITSELF, SHIPPED)
    assert pair.log_ratio(held_out).abs().max() < 1e-9
    assert ratio.log_ratio(held_out).square().mean().sqrt() < 0.2
