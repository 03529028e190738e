# SPDX-License-Identifier: Apache-2.0
"""The twins: integration against scipy, closed form against MuJoCo, episodes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import torch

from h2o_control.config import from_mapping
from h2o_control.contract import Reward, get_task
from h2o_control.errors import ConfigError
from h2o_training.collector import Collector, Scaling
from h2o_training.nets import Policy
from h2o_training.noise import Noise
from h2o_training.replay import Replay
from h2o_training.train_config import Shaping, TrainConfig, learned_task
from h2o_training.twin import InitialStates, TwinConfig, make_twin
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot
from wheel_leg_driver.sagittal import Parameters, accelerations

ROBOT = load_robot("ideal")
KINDS = ("closed_form", "mujoco")


def twin(kind="closed_form", num_envs=8, seed=0, **options):
    return make_twin(TwinConfig(kind, num_envs, **options), ROBOT, torch.Generator().manual_seed(seed))


def test_closed_form_step_solves_the_equations_of_motion():
    t = twin()
    before, torque = t.state.numpy().astype(float), np.linspace(-3, 3, 8)
    after = t.step(torch.tensor(torque, dtype=torch.float32)).numpy()
    for row, u, found in zip(before, torque, after, strict=True):

        def slope(_, s, u=u):
            v_dot, theta_ddot = accelerations(Parameters.of(ROBOT.body, 0.065), s[1], s[2], s[3], u)
            return [s[1], v_dot, s[3], theta_ddot]

        wanted = scipy.integrate.solve_ivp(slope, (0, 0.005), row, rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_mujoco_twin_agrees_with_the_closed_form_while_an_lqr_balances():
    closed, mujoco = twin("closed_form"), twin("mujoco")
    mujoco.set_state(closed.state)
    gain = torch.tensor(lqr_gain(ROBOT), dtype=torch.float32)
    worst = torch.zeros(4)
    for _ in range(200):
        a, b = closed.step(-closed.state @ gain), mujoco.step(-mujoco.state @ gain)
        worst = torch.maximum(worst, (a - b).abs().amax(0))
    assert (closed.state[:, 2].abs() < 0.05).all()
    assert worst[0] < 2e-3  # m
    assert worst[1] < 6e-3  # m/s
    assert worst[2] < 3e-3  # rad
    assert worst[3] < 2e-2  # rad/s


@pytest.mark.parametrize("kind", KINDS)
def test_reset_touches_only_the_masked_robots(kind):
    t = twin(kind)
    before = t.state
    mask = torch.tensor([True, False] * 4)
    after = t.reset(mask)
    np.testing.assert_allclose(after[~mask], before[~mask], atol=1e-6)
    assert (after[mask] != before[mask]).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_motion(kind):
    a, b = twin(kind, seed=5), twin(kind, seed=5)
    for _ in range(3):
        torch.testing.assert_close(a.step(torch.ones(8)), b.step(torch.ones(8)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_torque_is_limited_as_by_the_firmware(kind):
    a, b = twin(kind), twin(kind)
    torch.testing.assert_close(a.step(torch.full((8,), 3.0)), b.step(torch.full((8,), 50.0)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dead_zone_and_torque_factor_change_what_is_produced(kind):
    weak, strong = twin(kind, effects={"torque_factor": 0.5, "dead_zone_nm": 0.4}), twin(kind)
    torch.testing.assert_close(weak.step(torch.full((8,), 2.4)), strong.step(torch.full((8,), 1.0)))
    torch.testing.assert_close(weak.step(torch.full((8,), 0.3)), strong.step(torch.zeros(8)))


def test_initial_states_fill_their_range():
    states = InitialStates(0.1, 0.2, 0.3, 0.4).sample(2000, torch.Generator().manual_seed(0))
    limits = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert (states.abs() <= limits).all()
    assert (states.amax(0) > 0.98 * limits).all()
    assert (states.amin(0) < -0.98 * limits).all()


def test_wrong_twin_options_are_refused():
    with pytest.raises(ConfigError, match="num_envs"):
        from_mapping(TwinConfig, {"num_envs": 0})
    with pytest.raises(ConfigError, match="closed_form"):
        from_mapping(TwinConfig, {"kind": "closed-form"})


def collector(task, episode_s, generator):
    scaling = Scaling(len(task.observation))
    return Collector(twin(num_envs=4), task, ROBOT.interface, task, 1.0, scaling, episode_s, Noise(generator))


def test_falls_are_terminal_and_timeouts_are_not():
    task, generator = get_task("stand"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    policy, replay = Policy(4, 1, (8,)), Replay(4000, 4, 1)
    brief = collector(task, 0.05, generator)  # ten steps: nobody falls that fast
    brief.collect(policy, replay, 50)
    assert len(replay) == 200
    assert (replay.all().proceeds == 1).all()
    count_before = len(replay)
    long = collector(task, 60.0, generator)
    long.collect(policy, replay, 400)
    batch = replay.all()
    theta, _, x, v = batch.next_observation[count_before:].abs().T
    fallen = theta > task.fall_pitch_rad
    assert fallen.sum() >= 4
    assert torch.equal(batch.proceeds[count_before:] == 0, fallen | (v > task.v_limit_mps) | (x > task.x_limit_m))


def test_training_limits_count_as_failure_in_the_twin():
    task, generator = get_task("stand"), torch.Generator().manual_seed(0)
    shaping = Shaping(reward=Reward(bonus=1.0, tau=0.0), x_limit_m=0.12)
    config = TrainConfig(algorithm="sac", batch_real=0, shaping={"stand": shaping})
    learned = learned_task(config, task)
    replay = Replay(2000, 4, 1)
    made = Collector(twin(num_envs=4), task, ROBOT.interface, learned, 0.5, Scaling(4), 60.0, Noise(generator))
    made.collect(Policy(4, 1, (8,)), replay, 400)
    batch = replay.all()
    theta, _, x, v = batch.next_observation.abs().T
    far = (x > 0.12) | (theta > task.fall_pitch_rad) | (v > task.v_limit_mps)
    assert torch.equal(batch.proceeds == 0, far)
    assert far.sum() >= 4
    assert (batch.reward == 0.5).all()
    assert made.finished()[0] > 20  # reported with the task's own reward, about 30 a step


def test_stored_transitions_are_consecutive_states_of_the_twin():
    task, generator = get_task("stand"), torch.Generator().manual_seed(0)
    replay = Replay(100, 4, 1)
    collector(task, 60.0, generator).collect(Policy(4, 1, (8,)), replay, 2)
    batch = replay.all()
    torch.testing.assert_close(batch.next_observation[:4], batch.observation[4:8], rtol=0, atol=0)
    theta, theta_dot, x, v = batch.next_observation[:4].unbind(1)
    wanted = 30 - x**2 - v**2 - theta**2 - theta_dot**2 - (3 * batch.action[:4, 0]) ** 2
    torch.testing.assert_close(batch.reward[:4], wanted)
