# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math

import mujoco
import numpy as np
import pytest

from h2o_control.errors import ConfigError
from h2o_training.model import build_model, get_state, set_state
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.estimator import Estimator
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import Fault, Status, Telemetry
from wheel_leg_driver.robot import PlantSpec, Robot, load_robot
from wheel_leg_driver.sagittal import GRAVITY_MPS2, Parameters, accelerations


def with_plant(**options: object) -> Robot:
    return dataclasses.replace(load_robot("ideal"), plant=PlantSpec(options=options))


def test_model_weighs_what_the_description_says() -> None:
    robot = load_robot("ideal")
    model = build_model(robot)
    data = mujoco.MjData(model)
    set_state(model, data, np.zeros(4))
    carried = [i for i in range(1, model.nbody) if "wheel" not in model.body(i).name]
    mass = model.body_mass[carried].sum()
    com = (model.body_mass[carried, None] * data.xipos[carried]).sum(axis=0) / mass
    assert mass == pytest.approx(robot.body.body_mass_kg)
    assert com == pytest.approx([0.0, 0.0, robot.interface.wheel_radius_m + robot.body.com_height_m], abs=1e-9)


def test_state_put_in_is_state_read_out() -> None:
    model = build_model(load_robot("ideal"))
    data = mujoco.MjData(model)
    state = np.array([0.3, -0.2, 0.1, 0.5])
    set_state(model, data, state)
    assert get_state(data) == pytest.approx(state)


def test_closed_form_against_a_pendulum_by_hand() -> None:
    robot = load_robot("ideal")
    body = dataclasses.replace(robot.body, wheels_mass_kg=1e9)
    # An axle that cannot move leaves a pendulum: (I + M l² + arm) θ'' = M g l sin θ, rotor included.
    _, theta_dd = accelerations(Parameters.of(body, robot.interface.wheel_radius_m), 0.0, 0.1, 0.0, 0.0)
    mass, length = body.body_mass_kg, body.com_height_m
    inertia = body.body_inertia_kgm2 + mass * length**2 + body.armature_kgm2
    assert theta_dd == pytest.approx(mass * GRAVITY_MPS2 * length * math.sin(0.1) / inertia, rel=1e-6)


def test_closed_form_agrees_with_mujoco_with_locked_legs_for_3_s() -> None:
    robot = load_robot("ideal")
    gain = lqr_gain(robot)
    model = build_model(robot, legs_locked=True)
    data = mujoco.MjData(model)
    state = np.array([0.0, 0.2, 0.1, 0.3])
    set_state(model, data, state)
    errors = []
    for _ in range(600):
        measured = get_state(data)
        errors.append(measured[2] - state[2])
        data.ctrl[:] = np.clip(-gain @ measured, -3, 3)
        mujoco.mj_step(model, data, 5)
        torque = float(np.clip(-gain @ state, -3, 3))
        for _ in range(50):
            v_dot, theta_dd = accelerations(Parameters.of(robot.body, 0.065), state[1], state[2], state[3], torque)
            state = state + 1e-4 * np.array([state[1], v_dot, state[3], theta_dd])
    assert np.sqrt(np.mean(np.square(errors))) < 1e-3


def test_energy_is_kept_without_friction_and_torque() -> None:
    robot = load_robot("ideal")
    body, radius = robot.body, robot.interface.wheel_radius_m

    def energy(s: np.ndarray) -> float:
        _, v, theta, rate = s
        mass, length, arm = body.body_mass_kg, body.com_height_m, body.armature_kgm2
        kinetic = (
            0.5 * (body.body_inertia_kgm2 + mass * length**2) * rate**2
            + mass * length * math.cos(theta) * rate * v
            + 0.5 * (mass + body.wheels_mass_kg + body.wheels_inertia_kgm2 / radius**2) * v**2
            + 0.5 * arm * (v / radius - rate) ** 2
        )
        return kinetic + mass * GRAVITY_MPS2 * length * math.cos(theta)

    def slope(s: np.ndarray) -> np.ndarray:
        v_dot, theta_dd = accelerations(Parameters.of(body, radius), s[1], s[2], s[3], 0.0)
        return np.array([s[1], v_dot, s[3], theta_dd])

    state, h = np.array([0.0, 0.1, 0.2, 0.0]), 1e-4
    start = energy(state)
    for _ in range(5000):
        k1 = slope(state)
        k2 = slope(state + h / 2 * k1)
        k3 = slope(state + h / 2 * k2)
        k4 = slope(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert energy(state) == pytest.approx(start, rel=1e-8)


def test_dead_zone_and_torque_factor_act_at_the_motor() -> None:
    robot = with_plant(dead_zone_nm=0.5, torque_factor=0.5)
    plant = make_plant(robot, 0)
    posture = (robot.body.thigh_rad, robot.body.shin_rad)
    volts = plant.sense().battery_v
    plant.step((0.4, 0.4), posture, 0.001)
    assert plant.sense().battery_v == volts, "a current flows only where torque is produced"
    plant.step((1.5, 1.5), posture, 0.001)
    assert plant.sense().battery_v < volts


@pytest.mark.parametrize("delay_ms", [0, 5, 12])
def test_actuation_delay_is_as_long_as_it_says(delay_ms: int) -> None:
    robot = with_plant(actuation_delay_s=delay_ms / 1000)
    plant = make_plant(robot, 0)
    posture = (robot.body.thigh_rad, robot.body.shin_rad)
    resting = plant.sense().battery_v
    for _ in range(delay_ms):
        plant.step((2.0, 2.0), posture, 0.001)
        assert plant.sense().battery_v == resting
    plant.step((2.0, 2.0), posture, 0.001)
    assert plant.sense().battery_v < resting


def test_estimator_takes_body_pitch_out_of_the_wheels() -> None:
    plant = make_plant(load_robot("ideal"), 0)
    plant.reset(pitch_rad=0.15, pitch_rate_radps=0.4)
    telemetry = Telemetry(0, 0, 0, plant.sense(), (0.0, 0.0), Status(0), Fault(0))
    estimate = Estimator(0.065).update(telemetry)
    assert estimate.state == pytest.approx(plant.truth(), abs=1e-6)


def test_truth_tells_which_way_a_robot_has_fallen() -> None:
    plant = make_plant(load_robot("ideal"), 0)
    for pitch in (-1.2, 1.2):
        plant.reset(pitch_rad=pitch)
        assert plant.truth()[2] == pytest.approx(pitch)


def test_same_seed_same_noise() -> None:
    readings = [make_plant(load_robot("worn"), seed).sense() for seed in (1, 1, 2)]
    assert readings[0] == readings[1] != readings[2]


def test_plant_option_with_a_typo_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="dead_zone_nm"):
        make_plant(with_plant(dead_zon_nm=1.0), 0)


def test_plant_path_that_leads_nowhere_is_an_error() -> None:
    for path in ("nowhere:Plant", "h2o_training.plant:Nothing", "no_colon", "h2o_training.plant:PHYSICS_STEP_S"):
        robot = dataclasses.replace(load_robot("ideal"), plant=PlantSpec(path=path))
        with pytest.raises(ConfigError):
            make_plant(robot, 0)
