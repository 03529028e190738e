# SPDX-License-Identifier: Apache-2.0
"""What every algorithm keeps to, one behaviour a test; test_algorithm_equations.py has their losses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

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
from h2o_training.algorithms import make_agent
from h2o_training.catalogue import CATALOGUE
from h2o_training.noise import Noise
from h2o_training.replay import Drawn, Replay
from h2o_training.train_config import TrainConfig

PARTS = {
    "value": ValueConfig(expectile=0.8, layers=(8,)),
    "ratio": RatioConfig(layers=(8,), batch=4),
    "extraction": ExtractionConfig(),
    "cql": CqlConfig(draws=2),
    "h2o": H2oConfig(draws=2),
    "h2o_plus": H2oPlusConfig(lambda_v=0.3),
    "darc": DarcConfig(),
}
WITH_TEMPERATURE = ["sac", "cql", "darc", "darc_plus", "h2o", "h2o_plus"]
BATCHES = {"real": 5, "simulated": 6}


def config(algorithm, **changes):
    entry = CATALOGUE[algorithm]
    parts = {name: PARTS[name] for name in (*entry.groups, *entry.optional)}
    if algorithm in ("sql", "eql", "xql"):
        parts["value"] = dataclasses.replace(parts["value"], backbone=algorithm)
    settings = {
        "policy_layers": (8,),
        "critic_layers": (8,),
        "discount": 0.9,
        "learning_rate": 1e-2,
        **{f"batch_{kind}": BATCHES[kind] if kind in entry.batches else 0 for kind in BATCHES},
        **parts,
    }
    return TrainConfig(algorithm=algorithm, **{**settings, **changes})


def agent(made, seed=0, smoothness=0.0):
    torch.manual_seed(seed)
    learner = make_agent(made, 4, smoothness=smoothness)
    learner.start()
    return learner


def replay(seed, n=50, terminal=None):
    g = torch.Generator().manual_seed(seed)
    buffer = Replay(n, 4, 1)
    ends = torch.rand(n, generator=g) < 0.3 if terminal is None else torch.full((n,), terminal)
    draw = [torch.randn(n, 4, generator=g) for _ in range(2)]
    action = torch.rand(n, 1, generator=g) * 2 - 1
    buffer.add(draw[0], action, torch.randn(n, generator=g), draw[1], ends)
    return buffer


def losses(learner, real, simulated, seed=0):
    """Losses on batches that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return learner.losses(learner.draw(real, simulated, generator), Noise(generator))[0]


def update(learner, times=1, real=None, simulated=None):
    """Update with what the algorithm learns from, and nothing else."""
    real = replay(1) if real is None and learner.uses_real else real
    simulated = replay(2) if simulated is None and learner.uses_simulated else simulated
    generator = torch.Generator().manual_seed(0)
    return [learner.update(real, simulated, generator) for _ in range(times)]


def snapshot(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, module):
    return any((old != new).any().item() for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("algorithm", CATALOGUE)
def test_an_update_needs_no_data_but_the_algorithm_s_own_and_moves_the_policy(algorithm):
    learner = agent(config(algorithm))
    before = snapshot(learner.policy)
    (metrics,) = update(learner)
    assert learner.updates == 1
    assert moved(before, learner.policy)
    assert all(math.isfinite(value.item()) for value in metrics.values())
    assert any(name.startswith("loss/") for name in metrics)


def test_lambda_1_takes_the_target_from_the_real_data_s_value_alone():
    learner = agent(config("h2o_plus", h2o_plus=H2oPlusConfig(1.0), ratio=None))
    real, simulated = replay(1).all(), replay(2).all()
    by_hand = 0.0
    with torch.no_grad():
        for batch in (real, simulated):
            y = batch.reward + 0.9 * batch.proceeds * learner.value(batch.next_observation)
            by_hand += (learner.critic(batch.observation, batch.action) - y).square().mean(1).sum().item()

    def critic_loss():
        noise = Noise(torch.Generator().manual_seed(0))
        return learner.losses(Drawn(real, simulated), noise)[0]["critic"].item()

    assert critic_loss() == pytest.approx(by_hand, rel=1e-5)
    learner.target_critic.net.shift(3.0)
    assert critic_loss() == pytest.approx(by_hand, rel=1e-5)


def test_lambda_0_takes_the_target_from_q_and_entropy_alone():
    learner = agent(config("h2o_plus", h2o_plus=H2oPlusConfig(0.0), ratio=None))
    real, simulated = replay(1).all(), replay(2).all()
    noise = Noise(torch.Generator().manual_seed(0)).normal(len(real) + len(simulated), 1)
    by_hand = 0.0
    with torch.no_grad():
        for batch, drawn in ((real, noise[: len(real)]), (simulated, noise[len(real) :])):
            action, log_density = learner.policy.sample(batch.next_observation, drawn)
            soft = learner.target_critic(batch.next_observation, action).amin(0) - log_density  # β begins at 1
            y = batch.reward + 0.9 * batch.proceeds * soft
            by_hand += (learner.critic(batch.observation, batch.action) - y).square().mean(1).sum().item()

    def critic_loss():
        again = Noise(torch.Generator().manual_seed(0))
        return learner.losses(Drawn(real, simulated), again)[0]["critic"].item()

    assert critic_loss() == pytest.approx(by_hand, rel=1e-5)
    learner.value.net.shift(3.0)
    assert critic_loss() == pytest.approx(by_hand, rel=1e-5)


def test_only_true_terminals_cut_the_bootstrap():
    learner = agent(config("sac"))
    buffer = Replay(2, 4, 1)
    same = torch.ones(2, 4)
    # Two equal transitions; the first failed, the second was cut by the clock and is stored as not terminal.
    buffer.add(same, torch.zeros(2, 1), torch.tensor([1.0, 1.0]), same, torch.tensor([True, False]))
    target = learner.target(buffer.all(), torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([1.0, 1.0 + 0.9 * 10.0])


@pytest.mark.parametrize("algorithm", [name for name in CATALOGUE if name != "bc"])
def test_after_a_terminal_nothing_is_worth_anything_and_after_a_time_out_it_is(algorithm):
    learner = agent(config(algorithm))

    def critic_loss(terminal):
        return losses(learner, replay(1, terminal=terminal), replay(2, terminal=terminal))["critic"].item()

    ended, timed_out = critic_loss(True), critic_loss(False)
    # What the next state is worth: the target critics' answer, and V's.
    learner.target_critic.net.shift(5.0)
    if hasattr(learner, "value"):
        learner.value.net.shift(5.0)
    assert critic_loss(True) == pytest.approx(ended, rel=1e-6)
    assert abs(critic_loss(False) - timed_out) > 0.5


def test_policy_gradient_leaves_the_critic_alone_and_critic_gradient_the_policy():
    learner = agent(config("sac"))
    found = losses(learner, None, replay(2))
    critic, policy = list(learner.critic.parameters()), list(learner.policy.parameters())
    from_actor = torch.autograd.grad(found["policy"], critic, retain_graph=True, allow_unused=True)
    from_critic = torch.autograd.grad(found["critic"], policy, retain_graph=True, allow_unused=True)
    assert all(g is None for g in (*from_actor, *from_critic))
    assert all(g is not None for g in torch.autograd.grad(found["policy"], policy))


@pytest.mark.parametrize("algorithm", ["darc", "darc_plus", "h2o", "h2o_plus"])
def test_ratio_gets_no_gradient_from_the_critic_loss(algorithm):
    learner = agent(config(algorithm))
    found = losses(learner, replay(1), replay(2))
    parameters = list(learner.ratio.parameters())
    from_critic = torch.autograd.grad(found["critic"], parameters, allow_unused=True, retain_graph=True)
    assert all(g is None for g in from_critic)
    assert any(g is not None for g in torch.autograd.grad(found["ratio"], parameters, allow_unused=True))


@pytest.mark.parametrize("algorithm", [name for name in CATALOGUE if name != "bc"])
def test_target_critic_follows_by_polyak_and_is_not_learned(algorithm):
    learner = agent(config(algorithm, polyak=0.05))
    for _ in range(2):
        before = snapshot(learner.target_critic)
        update(learner)
        pairs = zip(before, learner.target_critic.parameters(), learner.critic.parameters(), strict=True)
        for old, new, online in pairs:
            torch.testing.assert_close(new, old + 0.05 * (online - old))
            assert not new.requires_grad
    assert moved(snapshot(agent(config(algorithm)).target_critic), learner.target_critic)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_averaged_policy_follows_the_policy_at_its_own_rate(average):
    learner = agent(config("sac", policy_average=average))
    before = snapshot(learner.averaged_policy)
    update(learner)
    pairs = zip(before, learner.averaged_policy.parameters(), learner.policy.parameters(), strict=True)
    for old, new, online in pairs:
        torch.testing.assert_close(new, average * old + (1.0 - average) * online)


@pytest.mark.parametrize("algorithm", WITH_TEMPERATURE)
@pytest.mark.parametrize(("entropy", "rises"), [(5.0, True), (-50.0, False)])
def test_temperature_moves_the_entropy_towards_its_target(algorithm, entropy, rises):
    # A Gaussian squeezed into (−1, 1) has an entropy between the two.
    learner = agent(config(algorithm, exploration=ExplorationConfig(target_entropy=entropy)))
    update(learner, times=5)
    assert (learner.exploration.log_beta.item() > 0) is rises


def test_tuned_temperature_brings_the_policy_to_the_wanted_entropy():
    torch.manual_seed(0)
    wanted = -0.5
    learner = agent(config("sac", exploration=ExplorationConfig(target_entropy=wanted), batch_simulated=64))
    observation = replay(2).all().observation

    def entropy():
        with torch.no_grad():
            noise = torch.randn(200, len(observation), 1, generator=torch.Generator().manual_seed(1))
            return -learner.policy.sample(observation, noise)[1].mean().item()

    start = entropy()
    update(learner, times=800)
    assert abs(entropy() - wanted) < 0.25 < abs(start - wanted)


def test_novelty_takes_the_place_of_the_entropy():
    exploration = ExplorationConfig(kind="novelty", noise_std=0.3, layers=(8, 4))
    learner = agent(config("sac", exploration=exploration))
    found = losses(learner, None, replay(2))
    assert "novelty" in found and "temperature" not in found
    _, log_std = learner.policy(torch.randn(7, 4))
    torch.testing.assert_close(log_std.exp(), torch.full((7, 1), 0.3))


def test_what_was_done_often_is_no_novelty_any_more():
    learner = agent(config("sac", exploration=ExplorationConfig(kind="novelty", layers=(8, 4)), batch_simulated=32))
    known = replay(2).all()

    def news(observation):
        with torch.no_grad():
            return learner.exploration.term(observation, known.action, torch.zeros(50)).mean().item()

    def contrast():
        return news(known.observation + 6.0) / news(known.observation)

    before = contrast()
    update(learner, times=300)
    assert contrast() > 3.0 * before


def test_values_can_begin_at_what_standing_for_ever_is_worth_and_never_exceed_it():
    learner, plain = agent(config("h2o_plus")), agent(config("h2o_plus"))
    learner.start_at_bound(100.0)
    observation, action = torch.randn(7, 4), torch.zeros(7, 1)
    for name in ("critic", "target_critic"):
        torch.testing.assert_close(
            getattr(learner, name)(observation, action), getattr(plain, name)(observation, action) + 100.0
        )
    torch.testing.assert_close(learner.value(observation), plain.value(observation) + 100.0)
    # Nothing can be worth more, whatever an untried action is believed to bring.
    batch = replay(1).all()
    assert learner.target(batch, torch.full((50,), 1e6)).max() == 100.0
    assert plain.target(batch, torch.full((50,), 1e6)).max() > 1e5


@pytest.mark.parametrize("algorithm", ["darc", "darc_plus", "h2o", "h2o_plus"])
def test_classifiers_learn_every_nth_update_only(algorithm):
    learner = agent(config(algorithm, ratio=dataclasses.replace(PARTS["ratio"], every=3)))
    changed = []
    for _ in range(5):
        before = snapshot(learner.ratio)
        update(learner)
        changed.append(moved(before, learner.ratio))
    assert changed == [True, False, False, True, False]


@pytest.mark.parametrize("algorithm", ["sac", "bc", "iql"])
def test_smoothness_is_the_squared_change_of_the_action_except_across_an_end(algorithm):
    learner = agent(config(algorithm), smoothness=0.7)
    drawn = learner.draw(replay(1), replay(2), torch.Generator().manual_seed(5))
    batch = drawn.simulated if algorithm == "sac" else drawn.real
    assert 0 < batch.proceeds.sum() < len(batch), "some episodes end and some go on"
    by_hand = 0.0
    for i in range(len(batch)):
        now, then = (math.tanh(learner.policy(o[i])[0].item()) for o in (batch.observation, batch.next_observation))
        by_hand += 0.7 * batch.proceeds[i].item() * (now - then) ** 2 / len(batch)
    noise = Noise(torch.Generator().manual_seed(0))
    assert learner.losses(drawn, noise)[0]["smoothness"].item() == pytest.approx(by_hand, rel=1e-4)
    assert "smoothness" not in agent(config(algorithm)).losses(drawn, noise)[0]


def rates(learner):
    """Learning rate of each parameter, by the name of the module that it belongs to."""
    names = {id(p): name.split(".")[0] for name, p in learner.named_parameters()}
    groups = learner.optimiser.param_groups
    return {(names[id(p)], group["lr"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("algorithm", CATALOGUE)
def test_every_learned_parameter_is_in_the_optimiser_once(algorithm):
    learner = agent(config(algorithm))
    optimised = [id(p) for group in learner.optimiser.param_groups for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in learner.parameters() if p.requires_grad}


@pytest.mark.parametrize("algorithm", CATALOGUE)
def test_the_policy_s_learning_rate_is_the_policy_s_alone(algorithm):
    learner = agent(config(algorithm, policy_learning_rate=3e-3))
    before = {name: snapshot(getattr(learner, name)) for name in ("policy", "critic")}
    update(learner)
    assert ("policy", 3e-3) in rates(learner)
    assert {rate for name, rate in rates(learner) if name != "policy"} == {1e-2}
    # Adam's first step is the learning rate, whatever the gradient.
    largest = {
        name: max((p - q).abs().max().item() for p, q in zip(getattr(learner, name).parameters(), olds, strict=True))
        for name, olds in before.items()
    }
    assert largest["policy"] == pytest.approx(3e-3, rel=0.02)
    assert largest["critic"] == (0.0 if algorithm == "bc" else pytest.approx(1e-2, rel=0.02))


def test_the_policy_s_learning_rate_falls_along_a_cosine_and_the_others_stay():
    n = 8
    learner = agent(config("iql", policy_decay=True, policy_learning_rate=4e-3, updates=n))
    for k in range(n):
        update(learner)
        assert dict(rates(learner))["policy"] == pytest.approx(4e-3 * (1 + math.cos(math.pi * k / n)) / 2)
    before = {name: snapshot(getattr(learner, name)) for name in ("policy", "critic", "value")}
    update(learner)  # at its end the policy stands still
    assert not moved(before["policy"], learner.policy)
    assert moved(before["critic"], learner.critic) and moved(before["value"], learner.value)
    assert dict(rates(learner))["critic"] == 1e-2
