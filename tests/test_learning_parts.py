# SPDX-License-Identifier: Apache-2.0
"""The trainer's parts, each against values computed by hand or by a plain, slow version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from h2o_training.algorithm_config import ExtractionConfig, RatioConfig, ValueConfig
from h2o_training.nets import Critic, EnsembleMlp, Policy, Value, polyak_update
from h2o_training.noise import Noise
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch, Replay, join
from h2o_training.value import expectile_loss, exponential_loss, regression_weight, sparse_loss, value_loss


def test_expectile_loss_weighs_sides_as_in_the_paper():
    # τ = 0.9: 0.9·2² and 0.1·1² over two samples.
    assert expectile_loss(torch.tensor([2.0, -1.0]), 0.9).item() == pytest.approx((0.9 * 4 + 0.1 * 1) / 2)
    assert expectile_loss(torch.tensor([2.0, -1.0]), 0.5).item() == pytest.approx(0.5 * 5 / 2)


def test_minimum_of_expectile_loss_is_the_expectile():
    values = torch.tensor([0.0, 1.0, 5.0, 10.0])
    grid = torch.linspace(0, 10, 10_001)
    losses = torch.stack([expectile_loss(values - v, 0.9) for v in grid])
    best = grid[losses.argmin()].item()
    # First-order condition: τ Σ (y − v)+ = (1 − τ) Σ (v − y)+
    above, below = (values - best).clamp_min(0).sum(), (best - values).clamp_min(0).sum()
    assert 0.9 * above.item() == pytest.approx(0.1 * below.item(), abs=5e-3)


VALUES = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)


def best_value(loss):
    """Where the mean loss of VALUES − v is least, by bisection of its derivative."""
    low, high = torch.tensor(-20.0, dtype=torch.float64), torch.tensor(20.0, dtype=torch.float64)
    for _ in range(60):
        middle = ((low + high) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(loss(VALUES - middle), middle)
        low, high = (low, middle.detach()) if slope > 0 else (middle.detach(), high)
    return low


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("clip_linear", [True, False])
def test_minimum_of_exponential_loss_is_the_soft_maximum(temperature, clip_linear):
    # XQL and EQL: V = α log E exp(Q/α). A clip that does not bind, and m that moves with V: neither shifts it.
    best = best_value(lambda y: exponential_loss(y, temperature, 50.0, clip_linear))
    assert best.item() == pytest.approx((temperature * torch.log(torch.exp(VALUES / temperature).mean())).item())


def test_exponent_is_clipped_and_its_gradient_bounded():
    far = torch.tensor([1e4, 0.0], dtype=torch.float64, requires_grad=True)
    for clip_linear in (True, False):
        loss = exponential_loss(far, 1.0, 5.0, clip_linear)
        (slope,) = torch.autograd.grad(loss, far)
        assert torch.isfinite(loss)
        assert slope.abs().max() < 1.0
    # At its worst a batch is all far below V: then exp(−m) stops at e.
    below = torch.tensor([-1e4, -1e3], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(exponential_loss(below, 1.0, 5.0, False), below)
    torch.testing.assert_close(slope, torch.full((2,), -0.5 * np.e, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_minimum_of_sparse_loss_has_weights_of_mean_one(temperature):
    # SQL's first-order condition: E max(1 + (Q − V)/2α, 0) = 1; its policy weighs the recorded actions by the same.
    best = best_value(lambda y: sparse_loss(y, temperature))
    value = ValueConfig(backbone="sql", temperature=temperature)
    weight = regression_weight(value, ExtractionConfig(), VALUES - best)
    assert weight.mean().item() == pytest.approx(1.0)
    assert (weight.min().item() == 0.0) is (temperature == 0.5), "the worst action is left out where α is small"


def test_backbones_differ_where_their_papers_do():
    y = torch.tensor([3.0, -1.0])
    losses = {
        name: value_loss(ValueConfig(backbone=name, expectile=0.9, temperature=0.5, exponent_clip=2.0), y).item()
        for name in ("iql", "sql", "eql", "xql")
    }
    e = np.exp
    assert losses["iql"] == pytest.approx((0.9 * 9 + 0.1 * 1) / 2)
    assert losses["sql"] == pytest.approx(((1 + 3) ** 2 - 6 + 0 + 2) / 2)
    assert losses["eql"] == pytest.approx((1 - 6 * e(-2) + e(-4) + 2 * e(-2)) / 2)
    assert losses["xql"] == pytest.approx((1 - 2 * e(-2) + e(-4) + 2 * e(-2)) / 2)


def test_regression_weights_grow_with_the_advantage_up_to_the_cap():
    y = torch.tensor([-3.0, 0.0, 1.0, 100.0])
    extraction = ExtractionConfig(inverse_temperature=3.0, weight_cap=50.0)
    expected = {
        "iql": [np.exp(-9), 1.0, np.exp(3), 50.0],
        "xql": [np.exp(-9), 1.0, np.exp(3), 50.0],
        "sql": [0.25, 1.0, 1.25, 26.0],
        "eql": [np.exp(-1.5), 1.0, np.exp(0.5), 50.0],
    }
    for name, weights in expected.items():
        given = regression_weight(ValueConfig(backbone=name, temperature=2.0), extraction, y)
        torch.testing.assert_close(given, torch.tensor(weights, dtype=torch.float32))


def test_layer_norm_stands_before_each_relu():
    torch.manual_seed(0)
    value = Value(3, (5, 4), layer_norm=True)
    with torch.no_grad():
        for parameter in value.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    net, x = value.net, torch.randn(7, 3)
    h = x
    for i in range(3):
        h = h @ net.weights[i][0] + net.biases[i][0, 0]
        if i < 2:
            centred = h - h.mean(1, keepdim=True)
            h = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
            h = torch.relu(h * net.norm_scales[i][0, 0] + net.norm_shifts[i][0, 0])
    torch.testing.assert_close(value(x), h[:, 0])
    assert len(Value(3, (5, 4)).net.norm_scales) == 0


def test_ensemble_equals_its_members_one_by_one():
    torch.manual_seed(0)
    net = EnsembleMlp(2, 3, (5, 4))
    x = torch.randn(7, 3)
    for member in range(2):
        h = x
        for i in range(3):
            h = h @ net.weights[i][member] + net.biases[i][member, 0]
            h = torch.relu(h) if i < 2 else h
        torch.testing.assert_close(net(x)[member], h[:, 0])


def test_frozen_critic_passes_gradient_to_the_action_only():
    torch.manual_seed(0)
    critic = Critic(4, 1, (8,))
    action = torch.zeros(3, 1, requires_grad=True)
    critic(torch.randn(3, 4), action, frozen=True).sum().backward()
    assert action.grad is not None
    assert action.grad.abs().min() > 0
    assert all(p.grad is None for p in critic.parameters())


def test_policy_log_density_equals_the_transformed_normal():
    torch.manual_seed(0)
    policy = Policy(4, 2, (16,)).double()
    observation = torch.randn(100, 4, dtype=torch.float64)
    mean, log_std = policy(observation)
    noise = torch.randn(mean.shape, dtype=torch.float64)
    action, log_prob = policy.sample(observation, noise)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_policy_draws_several_actions_an_observation():
    torch.manual_seed(0)
    policy = Policy(4, 2, (16,))
    observation, noise = torch.randn(5, 4), torch.randn(3, 5, 2)
    action, log_prob = policy.sample(observation, noise)
    for k in range(3):
        one, density = policy.sample(observation, noise[k])
        torch.testing.assert_close((action[k], log_prob[k]), (one, density))


def test_policy_log_density_stays_finite_where_tanh_saturates():
    policy = Policy(1, 1, ())
    with torch.no_grad():
        policy.head.bias[0] = 30.0
    action, log_prob = policy.sample(torch.zeros(4, 1), torch.randn(4, 1))
    assert (action == 1.0).all()
    assert torch.isfinite(log_prob).all()


def test_density_of_recorded_actions_is_that_of_a_normal_around_the_squashed_mean():
    torch.manual_seed(0)
    policy = Policy(4, 2, (16,))
    observation, action = torch.randn(100, 4), torch.rand(100, 2) * 2 - 1
    action[:5] = 1.0  # at the torque limit too
    mean, log_std = policy(observation)
    reference = Normal(torch.tanh(mean), log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_density(observation, action), reference)


def test_fixed_spread_is_what_was_asked_for():
    policy = Policy(3, 2, (8,), fixed_std=0.25)
    mean, log_std = policy(torch.randn(6, 3))
    assert mean.shape == log_std.shape == (6, 2)
    torch.testing.assert_close(log_std.exp(), torch.full((6, 2), 0.25))


def test_polyak_update_moves_by_the_rate():
    a, b = EnsembleMlp(1, 2, ()), EnsembleMlp(1, 2, ())
    with torch.no_grad():
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            p.fill_(1.0)
            q.fill_(3.0)
    polyak_update(a, b, 0.25)
    assert all((p == 1.5).all() for p in a.parameters())
    assert all((q == 3.0).all() for q in b.parameters())


def row(i):
    value = torch.tensor([float(i)])
    return value[:, None], value[:, None], value, value[:, None], torch.tensor([i % 2 == 1])


def test_full_replay_overwrites_the_oldest():
    replay = Replay(3, 1, 1)
    for i in range(5):
        replay.add(*row(i))
    assert len(replay) == 3
    assert sorted(replay.all().reward.tolist()) == [2.0, 3.0, 4.0]
    drawn = replay.sample(200, torch.Generator().manual_seed(0))
    assert set(drawn.reward.tolist()) == {2.0, 3.0, 4.0}
    assert torch.equal(drawn.proceeds, 1.0 - drawn.reward.remainder(2.0))


def test_restored_replay_goes_on_where_it_stopped():
    a, b = Replay(3, 1, 1), Replay(3, 1, 1)
    for i in range(4):
        a.add(*row(i))
    b.load_state_dict(a.state_dict())
    for replay in (a, b):
        replay.add(*row(9))
    assert torch.equal(a.all().reward, b.all().reward)


def test_joined_batches_keep_rows_and_order():
    a, b = Replay(4, 1, 1), Replay(4, 1, 1)
    for i in range(3):
        a.add(*row(i))
    for i in range(5, 7):
        b.add(*row(i))
    joined = join(a.all(), b.all())
    assert len(joined) == 5
    for column in (joined.observation[:, 0], joined.action[:, 0], joined.reward, joined.next_observation[:, 0]):
        assert column.tolist() == [0.0, 1.0, 2.0, 5.0, 6.0]
    assert joined.proceeds.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_noise_is_standard_and_follows_its_generator():
    a, b = (Noise(torch.Generator().manual_seed(0)) for _ in range(2))
    normal, uniform = a.normal(200, 100), a.uniform(200, 100)
    assert torch.equal(normal, b.normal(200, 100)) and torch.equal(uniform, b.uniform(200, 100))
    assert normal.mean().abs() < 0.05 and (normal.std() - 1.0).abs() < 0.05
    assert 0.0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1.0
    assert (uniform.mean() - 0.5).abs() < 0.02


def gaussian_batches(n, generator, real):
    """s and a differ between the sources too: only the dynamics, s' ~ N(s + a ± 0.3, 0.5), may enter the ratio."""
    shift = 0.5 if real else 0.0
    s = torch.randn(n, 1, generator=generator) + shift
    a = (torch.rand(n, 1, generator=generator) * 2 - 1) * 0.5
    mean = s + a + (0.3 if real else -0.3)
    after = mean + 0.5 * torch.randn(n, 1, generator=generator)
    return Batch(s, a, torch.zeros(n), after, torch.ones(n))


@pytest.mark.parametrize("relative", [True, False])
def test_ratio_of_two_gaussians_is_found(relative):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = RatioConfig(layers=(32, 32), noise_std=0.0, relative=relative, clip_max=1.0)
    ratio = RatioEstimator(1, 1, config)
    ratio.fit_inputs(gaussian_batches(5000, generator, True))
    optimiser = torch.optim.Adam(ratio.parameters(), lr=3e-3)
    for _ in range(1200):
        optimiser.zero_grad()
        batches = (gaussian_batches(256, generator, real) for real in (True, False))
        ratio.loss(*batches, Noise(generator)).backward()
        optimiser.step()
    test = gaussian_batches(2000, generator, False)
    z = (test.next_observation - test.observation - test.action)[:, 0]
    truth = ((z + 0.3) ** 2 - (z - 0.3) ** 2) / (2 * 0.25)  # log N(z; .3, .5) − log N(z; −.3, .5) = 2.4 z
    # The bound 4 on the logits bends the largest ratios; compare where it does not.
    inside = truth.abs() < 2.5
    error = (ratio.log_ratio(test) - truth)[inside]
    assert error.abs().mean() < 0.2
    assert error.mean().abs() < 0.15
    weights = ratio.weights(test)
    assert weights.max() <= 1.0
    torch.testing.assert_close(weights, ratio.log_ratio(test).exp().clamp(1e-5, 1.0))


def test_second_classifier_does_not_see_the_next_state():
    torch.manual_seed(0)
    ratio = RatioEstimator(2, 1, RatioConfig())
    inputs = torch.randn(6, 5)
    changed = inputs.clone()
    changed[:, 3:] += 1.0
    np.testing.assert_array_equal(ratio._logits(inputs)[1].detach(), ratio._logits(changed)[1].detach())
    assert (ratio._logits(inputs)[0] != ratio._logits(changed)[0]).all()
