# SPDX-License-Identifier: Apache-2.0
"""The trainer's parts, each against values computed by hand or by a plain, slow version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from h2o_training.nets import Critic, EnsembleMlp, Policy, polyak_update
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch, Replay
from h2o_training.train_config import RatioConfig
from h2o_training.value import expectile_loss


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
    policy = Policy(4, 1, (16,)).double()
    observation = torch.randn(100, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    mean, log_std = policy(observation)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).double()
    # The policy draws in single precision; follow it with the same draw.
    action, log_prob = policy.sample(observation, generator)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1), rtol=1e-6, atol=1e-6)


def test_policy_log_density_stays_finite_where_tanh_saturates():
    policy = Policy(1, 1, ())
    with torch.no_grad():
        policy.head.bias[0] = 30.0
    action, log_prob = policy.sample(torch.zeros(4, 1), torch.Generator().manual_seed(0))
    assert (action == 1.0).all()
    assert torch.isfinite(log_prob).all()


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
        ratio.loss(
            gaussian_batches(256, generator, True), gaussian_batches(256, generator, False), generator
        ).backward()
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
