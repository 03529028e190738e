# SPDX-License-Identifier: Apache-2.0
"""SAC and H2O+ against plain versions of the equations, written sample by sample."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from h2o_training.h2o_plus import H2oPlus
from h2o_training.replay import Replay
from h2o_training.sac import SoftActorCritic
from h2o_training.train_config import H2oPlusConfig, RatioConfig, TrainConfig

SMALL = {"policy_layers": (8,), "critic_layers": (8,), "batch_simulated": 6, "discount": 0.9, "learning_rate": 1e-2}
H2O = TrainConfig(
    algorithm="h2o_plus",
    batch_real=5,
    h2o=H2oPlusConfig(lambda_v=0.3, expectile=0.8, value_layers=(8,), ratio=RatioConfig(layers=(8,), batch=4)),
    **SMALL,
)
SAC = TrainConfig(algorithm="sac", batch_real=0, **SMALL)


def replay(seed, n=50):
    g = torch.Generator().manual_seed(seed)
    buffer = Replay(n, 4, 1)
    terminal = torch.rand(n, generator=g) < 0.3
    draw = [torch.randn(n, k, generator=g) for k in (4, 4)]
    action = torch.rand(n, 1, generator=g) * 2 - 1
    buffer.add(draw[0], action, torch.randn(n, generator=g), draw[1], terminal)
    return buffer


def agent(config, seed=0):
    torch.manual_seed(seed)
    made = (H2oPlus if config.algorithm == "h2o_plus" else SoftActorCritic)(config, 4)
    made.start()
    return made


def plain_soft_value(a, next_observation, noise):
    mean, log_std = a.policy(next_observation)
    raw = mean + log_std.exp() * noise
    action = torch.tanh(raw)
    density = torch.exp(-0.5 * noise**2) / (log_std.exp() * math.sqrt(2 * math.pi)) / (1 - action**2)
    q = a.target_critic(next_observation[None], action[None])[:, 0]
    return min(q[0].item(), q[1].item()) - a.log_beta.exp().item() * torch.log(density).item()


def test_h2o_plus_losses_equal_the_paper_s_equations():
    a = agent(H2O)
    real, simulated = replay(1), replay(2)
    generator = torch.Generator().manual_seed(3)
    losses, metrics = a.losses(real, simulated, generator)

    # The same draws again, in the same order: real rows, simulated rows, a' of the target.
    again = torch.Generator().manual_seed(3)
    batches = (real.sample(5, again), simulated.sample(6, again))
    noise = torch.randn((11, 1), generator=again)
    critic, value = [0.0, 0.0], 0.0
    with torch.no_grad():
        for kind, batch in enumerate(batches):
            for i in range(len(batch)):
                soft = plain_soft_value(a, batch.next_observation[i], noise[5 * kind + i])
                v_next = a.value(batch.next_observation[i][None]).item()
                bootstrap = 0.3 * v_next + 0.7 * soft  # Eq. 7
                y = batch.reward[i].item() + 0.9 * batch.proceeds[i].item() * bootstrap
                weight = 1.0
                if kind == 1:
                    raw = torch.cat((batch.observation[i], batch.action[i], batch.next_observation[i]))
                    raw[5:] -= batch.observation[i]
                    logit = 4 * torch.tanh(a.ratio.net(raw[None].expand(2, 1, 9))[0, 0] / 4).item()
                    weight = min(max(math.exp(logit), 1e-5), 1.0)
                q = a.critic(batch.observation[i][None], batch.action[i][None])[:, 0]
                critic[kind] += weight * sum((q[j].item() - y) ** 2 for j in range(2))  # Eq. 8
                if kind == 0:
                    q_hat = a.target_critic(batch.observation[i][None], batch.action[i][None])[:, 0].min().item()
                    advantage = q_hat - a.value(batch.observation[i][None]).item()
                    value += (0.8 if advantage > 0 else 0.2) * advantage**2  # Eq. 4, IQL
    assert losses["critic"].item() == pytest.approx(critic[0] / 5 + critic[1] / 6, rel=1e-4)
    assert losses["value"].item() == pytest.approx(value / 5, rel=1e-4)
    assert 0 < metrics["ratio/weight"].item() <= 1


@pytest.mark.parametrize("lambda_v", [0.0, 1.0])
def test_lambda_goes_from_the_twin_s_q_to_the_real_data_s_v(lambda_v):
    a = agent(dataclasses.replace(H2O, h2o=dataclasses.replace(H2O.h2o, lambda_v=lambda_v)))
    batch = replay(1).all()
    with torch.no_grad():
        target = a.mixed_target(batch, torch.Generator().manual_seed(0))
        soft = a.soft_value(batch.next_observation, torch.Generator().manual_seed(0))
        tail = a.value(batch.next_observation) if lambda_v else soft
    torch.testing.assert_close(target, batch.reward + 0.9 * batch.proceeds * tail)


def test_only_true_terminals_cut_the_bootstrap():
    a = agent(SAC)
    buffer = Replay(2, 4, 1)
    same = torch.ones(2, 4)
    # Two equal transitions; the first failed, the second was cut by the clock and is stored as not terminal.
    buffer.add(same, torch.zeros(2, 1), torch.tensor([1.0, 1.0]), same, torch.tensor([True, False]))
    target = a.target(buffer.all(), torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([1.0, 1.0 + 0.9 * 10.0])


def test_policy_gradient_leaves_the_critic_alone_and_critic_gradient_the_policy():
    a = agent(SAC)
    losses, _ = a.losses(None, replay(2), torch.Generator().manual_seed(0))
    critic = list(a.critic.parameters())
    policy = list(a.policy.parameters())
    from_actor = torch.autograd.grad(losses["policy"], critic, retain_graph=True, allow_unused=True)
    from_critic = torch.autograd.grad(losses["critic"], policy, retain_graph=True, allow_unused=True)
    assert all(g is None for g in (*from_actor, *from_critic))
    assert all(g is not None for g in torch.autograd.grad(losses["policy"], policy))


def test_ratio_gets_no_gradient_from_the_critic_loss():
    a = agent(H2O)
    losses, _ = a.losses(replay(1), replay(2), torch.Generator().manual_seed(0))
    parameters = list(a.ratio.parameters())
    assert all(
        g is None for g in torch.autograd.grad(losses["critic"], parameters, allow_unused=True, retain_graph=True)
    )
    assert any(g is not None for g in torch.autograd.grad(losses["ratio"], parameters, allow_unused=True))


def test_target_critic_follows_by_polyak_and_is_not_learned():
    a = agent(SAC)
    before = [p.clone() for p in a.target_critic.parameters()]
    a.update(None, replay(2), torch.Generator().manual_seed(0))
    for old, new, online in zip(before, a.target_critic.parameters(), a.critic.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.005 * (online - old))
        assert not new.requires_grad


@pytest.mark.parametrize(("entropy", "rises"), [(5.0, True), (-50.0, False)])
def test_temperature_moves_the_entropy_towards_its_target(entropy, rises):
    a = agent(dataclasses.replace(SAC, target_entropy=entropy))
    for _ in range(5):
        a.update(None, replay(2), torch.Generator().manual_seed(0))
    assert (a.log_beta.item() > 0) is rises


def test_values_can_begin_at_what_standing_for_ever_is_worth_and_never_exceed_it():
    a, plain = agent(H2O), agent(H2O)
    a.start_at_bound(100.0)
    observation, action = torch.randn(7, 4), torch.zeros(7, 1)
    for name in ("critic", "target_critic"):
        torch.testing.assert_close(
            getattr(a, name)(observation, action), getattr(plain, name)(observation, action) + 100.0
        )
    torch.testing.assert_close(a.value(observation), plain.value(observation) + 100.0)
    # Nothing can be worth more, whatever an untried action is believed to bring.
    batch = replay(1).all()
    assert a.target(batch, torch.full((50,), 1e6)).max() == 100.0
    assert plain.target(batch, torch.full((50,), 1e6)).max() > 1e5


def test_classifiers_learn_every_nth_update_only():
    a = agent(H2O)  # ratio.every is 2
    changed = []
    for _ in range(4):
        before = [p.clone() for p in a.ratio.parameters()]
        a.update(replay(1), replay(2), torch.Generator().manual_seed(0))
        changed.append(any((p != q).any().item() for p, q in zip(before, a.ratio.parameters(), strict=True)))
    assert changed == [True, False, True, False]


def test_smoothness_is_the_squared_change_of_the_action_except_across_an_end():
    config = dataclasses.replace(SAC, smoothness=0.7)
    a = agent(config)
    buffer = replay(4)
    losses, _ = a.losses(None, buffer, torch.Generator().manual_seed(5))
    batch = buffer.sample(config.batch_simulated, torch.Generator().manual_seed(5))
    assert 0 < batch.proceeds.sum() < len(batch), "some episodes end and some go on"
    by_hand = 0.0
    for i in range(len(batch)):
        now, then = (math.tanh(a.policy(o[i])[0].item()) for o in (batch.observation, batch.next_observation))
        by_hand += 0.7 * batch.proceeds[i].item() * (now - then) ** 2 / len(batch)
    assert losses["smoothness"].item() == pytest.approx(by_hand, rel=1e-4)
    assert "smoothness" not in agent(SAC).losses(None, buffer, torch.Generator().manual_seed(5))[0]
