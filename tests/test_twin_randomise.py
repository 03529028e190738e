# SPDX-License-Identifier: Apache-2.0
"""Domain randomisation of the twins: a distribution over any parameter, a new value with each episode."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from h2o_control.config import from_mapping, to_mapping
from h2o_control.errors import ConfigError
from h2o_training.train_config import load_train_config
from h2o_training.twin import TwinConfig, make_twin
from wheel_leg_driver.robot import load_robot

ROBOT = load_robot("ideal")
KINDS = ("closed_form", "mujoco")
DRAWN = {
    "dead_zone_nm": {"uniform": [0.0, 0.3]},
    "torque_factor": {"normal": [0.8, 0.05]},
    "actuation_delay_s": {"uniform": [0.0, 0.012]},
    "torque_lag_s": {"log_uniform": [0.001, 0.02]},
    "payload_kg": {"uniform": [0.0, 2.0]},
    "body.com_height_m": {"normal": [1.0, 0.05], "relative": True},
    "pitch_lag_s": {"uniform": [0.0, 0.01]},
    "pitch_noise_rad": {"uniform": [0.0, 0.01]},
    "encoder_step_rad": {"uniform": [0.0, 0.01]},
    "observation_delay_s": {"uniform": [0.0, 0.015]},
}


def twin(kind="closed_form", num_envs=6, seed=0, randomise=DRAWN, robot=ROBOT, parameters=None, **options):
    config = from_mapping(TwinConfig, {"kind": kind, "num_envs": num_envs, "randomise": randomise, **options})
    return make_twin(config, robot, torch.Generator().manual_seed(seed), parameters)


def test_draws_fill_their_range_and_stay_in_the_parameter_s_own():
    values = twin(num_envs=4000, randomise={**DRAWN, "com_forward_m": {"normal": [0.0, 10.0]}}).values
    assert (values["dead_zone_nm"] >= 0).all() and (values["dead_zone_nm"] <= 0.3).all()
    assert values["dead_zone_nm"].min() < 0.01 and values["dead_zone_nm"].max() > 0.29
    assert values["torque_factor"].mean().item() == pytest.approx(0.8, abs=0.005)
    assert values["torque_factor"].std().item() == pytest.approx(0.05, rel=0.1)
    assert values["torque_lag_s"].median().item() == pytest.approx((0.001 * 0.02) ** 0.5, rel=0.1)
    height = values["body.com_height_m"]
    assert height.mean().item() == pytest.approx(ROBOT.body.com_height_m, rel=0.01)
    assert values["com_forward_m"].abs().max().item() == pytest.approx(0.1), "clipped to what makes sense"
    assert values["coulomb_nm"] == 0.0, "what is not drawn stays one number"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_episode_draws_anew_and_leaves_the_others_as_they_are(kind):
    made = twin(kind)
    for _ in range(3):
        made.step(torch.ones(6))
    mask = torch.tensor([True, False, False, True, False, False])

    def of_others():
        state = made.state_dict()
        physics = state["state" if kind == "closed_form" else "full"]
        by_robot = [physics, state["observed"], state["actuators.torque"], *(made.values[name] for name in DRAWN)]
        by_row = [state[key] for key in ("sensors.filtered", "sensors.history", "actuators.past")]
        return [value[~mask] for value in by_robot] + [value[:, ~mask] for value in by_row]

    values, others = {name: made.values[name] for name in DRAWN}, of_others()
    made.reset(mask)
    for name, old in values.items():
        assert torch.equal(made.values[name] != old, mask), name
    made.reset(torch.zeros(6, dtype=torch.bool))
    for old, new in zip(others, of_others(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_twin_goes_on_bit_by_bit(kind):
    first, second = twin(kind, seed=1), twin(kind, seed=2)
    mask = torch.tensor([False, True] * 3)
    for _ in range(4):
        first.step(torch.ones(6))
    first.reset(mask)
    first.step(torch.ones(6))
    second.load_state_dict(first.state_dict())
    second._generator.set_state(first._generator.get_state())
    assert torch.equal(first.state, second.state)
    for step in range(6):
        torque = torch.linspace(-1, 1, 6) * step
        assert torch.equal(first.step(torque), second.step(torque))
        if step == 3:
            assert torch.equal(first.reset(mask), second.reset(mask))
    assert torch.equal(first.truth, second.truth)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_draws_the_same_robots(kind):
    assert torch.equal(twin(kind, seed=3).values["payload_kg"], twin(kind, seed=3).values["payload_kg"])
    assert not torch.equal(twin(kind, seed=3).values["payload_kg"], twin(kind, seed=4).values["payload_kg"])


def test_randomised_friction_of_the_floor_makes_a_model_a_robot():
    made = twin("mujoco", 3, randomise={"sliding_friction": {"uniform": [0.4, 1.2]}})
    frictions = [float(model.geom("floor").friction[0]) for model in made.models]
    assert frictions == pytest.approx(made.values["sliding_friction"].tolist())
    assert len(set(frictions)) == 3


def test_effects_come_from_the_robot_s_file_and_the_configuration_s_win():
    robot = dataclasses.replace(ROBOT, twin={"torque_factor": 0.5, "coulomb_nm": 0.2})
    made = twin(robot=robot, randomise={}, effects={"torque_factor": 0.7})
    assert made.values["torque_factor"] == 0.7
    assert made.values["coulomb_nm"] == 0.2
    assert made.describe()["effects"] == {"torque_factor": 0.7, "coulomb_nm": 0.2}


def test_given_parameters_are_neither_drawn_nor_changed_by_a_reset():
    given = torch.linspace(0.1, 0.6, 6)
    made = twin(parameters={"dead_zone_nm": given})
    made.reset()
    assert torch.equal(made.values["dead_zone_nm"], given)


def test_randomised_run_can_be_described_in_json():
    described = twin().describe()
    assert described["randomise"]["dead_zone_nm"]["uniform"] == [0.0, 0.3]
    assert from_mapping(TwinConfig, {"randomise": described["randomise"]}).randomise == twin()._config.randomise
    assert to_mapping(described) == described


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("twin.effects.dead_zon_nm=0.1", "twin: effects: unknown key 'dead_zon_nm'. Did you mean 'dead_zone_nm'"),
        ("twin.effects.torque_factor=0", r"twin: effects: torque_factor must lie in \[0.05, 5.0\], got 0"),
        ("twin.effects.sliding_friction=0.7", "closed form has no sliding_friction: use kind: mujoco"),
        ("twin.randomise={floor_time_constant_s: {uniform: [0.01, 0.02]}}", "use kind: mujoco"),
        ("twin.randomise={body.com_heigth_m: {uniform: [0.2, 0.3]}}", "Did you mean 'body.com_height_m'"),
        ("twin.randomise={dead_zone_nm: {uniform: [0.3, 0.2]}}", "lowest 0.3 is above highest 0.2"),
        ("twin.randomise={dead_zone_nm: {unifrom: [0.2, 0.3]}}", "Did you mean 'uniform'"),
        ("twin.threads=0", "must be at least 1"),
    ],
)
def test_wrong_effects_and_distributions_are_refused_with_help(override, message):
    with pytest.raises(ConfigError, match=message):
        load_train_config("h2o_plus", [override])


def test_effects_in_the_robot_s_file_that_cannot_be_are_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"robot 'ideal': twin: unknown key 'dead_zon_nm'"):
        twin(robot=dataclasses.replace(ROBOT, twin={"dead_zon_nm": 0.1}))
    with pytest.raises(ConfigError, match=r"robot 'ideal': the closed form has no sliding_friction"):
        twin(robot=dataclasses.replace(ROBOT, twin={"sliding_friction": 0.5}))


def test_given_parameters_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'dead_zone_nm'"):
        twin(parameters={"dead_zon_nm": torch.zeros(6)})
    with pytest.raises(ConfigError, match="use kind: mujoco"):
        twin(parameters={"sliding_friction": torch.ones(6)})
    with pytest.raises(ValueError, match=r"dead_zone_nm must have shape \[6\], got \[5\]"):
        twin(parameters={"dead_zone_nm": torch.zeros(5)})
    with pytest.raises(ConfigError, match="coulomb_nm"):
        twin(randomise={"body.coulomb_nm": {"uniform": [0, 1]}})
