# SPDX-License-Identifier: Apache-2.0
"""What imperfect robots do in the twins: each effect by hand, all of them against the emulated robot."""

from __future__ import annotations

import dataclasses
import itertools
import math

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h2o_training import model
from h2o_training.effects import Effects
from h2o_training.twin import TwinConfig, make_twin
from h2o_training.twin_effects import Actuators, Sensors
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.estimator import Estimator
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.protocol import Fault, Status, Telemetry
from wheel_leg_driver.robot import PlantSpec, load_robot
from wheel_leg_driver.sagittal import GRAVITY_MPS2, Parameters, accelerations

ROBOT = load_robot("ideal")
RADIUS, DT = 0.065, 0.005
KINDS = ("closed_form", "mujoco")
MOTORS = {"torque_factor": 0.7, "dead_zone_nm": 0.2, "actuation_delay_s": 0.007, "torque_lag_s": 0.01}
BODY = {
    **{"coulomb_nm": 0.1, "viscous_nms": 0.02, "rolling_drag_nspm": 10.0, "com_forward_m": 0.012},
    **{"payload_kg": 1.0, "payload_forward_m": 0.05, "payload_height_m": 0.3},
}
SENSORS = {
    **{"pitch_bias_rad": 0.01, "pitch_lag_s": 0.01, "gyro_scale": 0.9, "gyro_bias_radps": 0.02, "gyro_lag_s": 0.008},
    **{"velocity_lag_s": 0.01, "odometry_scale": 0.97, "odometry_pitch": 0.3, "observation_delay_s": 0.01},
}


def twin(kind="closed_form", effects=None, num_envs=1, seed=0, dtype=torch.float64, parameters=None, **options):
    config = TwinConfig(kind, num_envs, effects=effects or {}, **options)
    return make_twin(config, ROBOT, torch.Generator().manual_seed(seed), parameters, dtype)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def motors(count=1, **effects):
    return Actuators({**vars(Effects()), **effects}, DT, torch.zeros(count, dtype=torch.float64), 0.1)


def sensors(count=1, **effects):
    values = {**vars(Effects()), **effects}
    generator = torch.Generator().manual_seed(0)
    return Sensors(values, RADIUS, DT, generator, torch.zeros(count, dtype=torch.float64), 0.1)


def test_a_delay_of_7_ms_splits_a_step_of_5_ms():
    actuators = motors(actuation_delay_s=0.007)
    produced = [actuators.step(rows(u)).item() for u in (1.0, -2.0, 3.0, 0.5)]
    # A command acts from 7 to 12 ms after it was given: the last 3 ms of the next step, 2 ms of the one after.
    assert produced == pytest.approx([0.0, 0.6 * 1.0, 0.6 * -2.0 + 0.4 * 1.0, 0.6 * 3.0 + 0.4 * -2.0])


def test_dead_zone_is_taken_off_before_the_factor():
    actuators = motors(3, torque_factor=0.5, dead_zone_nm=0.4)
    assert actuators.step(rows(2.4, -0.3, -1.4)).tolist() == pytest.approx([1.0, 0.0, -0.5])


def test_each_wheel_has_a_dead_zone_of_its_own():
    actuators = motors(2, torque_factor=0.5, dead_zone_nm=0.4)
    # Steering against the common torque leaves one wheel in its dead zone: 0.5 · (1.0 + 0.0) / 2.
    assert actuators.step(rows([1.4, -0.2], [0.6, 0.6])).tolist() == pytest.approx([0.25, 0.1])
    both, alike = twin(effects={"dead_zone_nm": 0.2}), twin(effects={"dead_zone_nm": 0.2})
    past = rows([0.5, 0.1, 0.9])
    both.set_observed(torch.zeros(1, 4), past[..., None].expand(-1, -1, 2))
    alike.set_observed(torch.zeros(1, 4), past)
    assert torch.equal(both.step(rows([0.7, 0.7])), alike.step(rows(0.7)))


def test_lagging_torque_is_averaged_over_the_step():
    actuators = motors(torque_lag_s=0.01)
    left = math.exp(-0.5)
    # y = 1 − exp(−t/T) from standstill; its mean over 5 ms is 1 − T/dt (1 − exp(−dt/T)).
    assert actuators.step(rows(1.0)).item() == pytest.approx(1 - 2 * (1 - left))
    assert actuators.step(rows(1.0)).item() == pytest.approx(1 - 2 * left * (1 - left))


@settings(max_examples=30, deadline=None)
@given(
    delay_ms=st.integers(0, 40),
    lag_ms=st.floats(0.0, 50.0),
    commands=st.lists(st.floats(-3, 3), min_size=1, max_size=12),
)
def test_any_delay_and_lag_is_what_millisecond_steps_add_up_to(delay_ms, lag_ms, commands):
    actuators = motors(actuation_delay_s=1e-3 * delay_ms, torque_lag_s=1e-3 * lag_ms)
    inputs = [0.0] * delay_ms + [u for u in commands for _ in range(5)]
    torque, means = 0.0, []
    keep = math.exp(-1 / lag_ms) if lag_ms > 1e-3 else 0.0
    for wanted in inputs[: 5 * len(commands)]:
        after = wanted + (torque - wanted) * keep
        means.append(wanted - lag_ms * (after - torque))
        torque = after
    expected = np.mean(np.reshape(means, (-1, 5)), axis=1)
    found = [actuators.step(rows(u)).item() for u in commands]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_motors_run_through_the_past_are_where_stepping_brings_them():
    past = torch.randn(3, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stepped, run = (motors(3, **MOTORS) for _ in range(2))
    for column in past.unbind(1):
        last = stepped.step(column)
    # 30 steps are 15 time constants: what was before has faded.
    torch.testing.assert_close(run.run(past), last, rtol=0, atol=1e-6)
    torch.testing.assert_close(run.step(past[:, 0]), stepped.step(past[:, 0]), rtol=0, atol=1e-6)


def test_bias_scale_and_resolution_go_through_the_driver_s_odometry():
    made = sensors(
        **{"pitch_bias_rad": 0.01, "gyro_scale": 0.9, "gyro_bias_radps": 0.02, "odometry_scale": 0.97},
        **{"odometry_pitch": 0.3, "encoder_step_rad": 0.05},
    )
    x, v, theta, theta_dot = 0.4, 0.5, 0.1, -0.6
    pitch, rate = 0.11, 0.9 * -0.6 + 0.02
    counted = math.floor((0.97 * (0.4 / RADIUS - 0.1) + (0.3 - 1.0) * pitch) / 0.05) * 0.05
    speed = 0.97 * (0.5 / RADIUS + 0.6) + (0.3 - 1.0) * rate
    expected = [RADIUS * (counted + pitch), RADIUS * (speed + rate), pitch, rate]
    truth = rows(x, v, theta, theta_dot)[None]
    assert made.reset(None, truth)[0].tolist() == pytest.approx(expected)
    assert made.step(truth, truth)[0].tolist() == pytest.approx(expected), "filters are settled"


def test_filters_follow_a_ramp_by_their_time_constant():
    made = sensors(pitch_lag_s=0.02, gyro_lag_s=0.01)
    truth = [rows(0.0, 0.0, 0.5 * DT * k, 2.0 * DT * k)[None] for k in range(61)]
    made.reset(None, truth[0])
    for before, after in itertools.pairwise(truth):
        seen = made.step(before, after)
    assert seen[0, 2].item() == pytest.approx(0.5 * (60 * DT - 0.02), abs=1e-8)
    assert seen[0, 3].item() == pytest.approx(2.0 * (60 * DT - 0.01), abs=1e-8)


def test_observations_come_whole_steps_late():
    made = sensors(2, observation_delay_s=rows(0.0, 0.01))
    truth = [torch.full((2, 4), float(k), dtype=torch.float64) for k in range(5)]
    seen = [made.reset(None, truth[0])] + [made.step(*pair) for pair in itertools.pairwise(truth)]
    assert [row[0, 2].item() for row in seen] == [0, 1, 2, 3, 4]
    assert [row[1, 2].item() for row in seen] == [0, 0, 0, 1, 2]


def test_noise_is_as_strong_as_it_says():
    made = sensors(20_000, pitch_noise_rad=0.01, gyro_noise_radps=0.1, velocity_noise_mps=0.2)
    seen = made.reset(None, torch.zeros(20_000, 4, dtype=torch.float64))
    # The gyro takes part in the speed, the pitch in the displacement.
    expected = [RADIUS * 0.01, math.hypot(0.2, RADIUS * 0.1), 0.01, 0.1]
    np.testing.assert_allclose(seen.std(0), expected, rtol=0.03)


def equations(state, torque, effects):
    """Mass matrix and right side written out for the robot with a payload and its centre of mass forward."""
    _, v, theta, rate = state
    b, e = ROBOT.body, {**dataclasses.asdict(Effects()), **effects}
    parts = [(b.body_mass_kg, e["com_forward_m"], b.com_height_m)]
    parts += [(e["payload_kg"], e["payload_forward_m"], e["payload_height_m"])]
    about_axle = b.body_inertia_kgm2 + sum(m * (f * f + h * h) for m, f, h in parts)
    cos = sum(m * (h * math.cos(theta) - f * math.sin(theta)) for m, f, h in parts)
    sin = sum(m * (h * math.sin(theta) + f * math.cos(theta)) for m, f, h in parts)
    mass = sum(m for m, _, _ in parts)
    slip, arm = v / RADIUS - rate, b.armature_kgm2
    tau = 2 * torque - e["viscous_nms"] * slip - e["coulomb_nm"] * math.tanh(20 * slip)
    rolling = e["rolling_friction_m"] * (mass + b.wheels_mass_kg) * GRAVITY_MPS2 / RADIUS
    force = -rolling * math.tanh(20 * v / RADIUS) - e["rolling_drag_nspm"] * v
    coupling = cos - arm / RADIUS
    whole = mass + b.wheels_mass_kg + (b.wheels_inertia_kgm2 + arm) / RADIUS**2
    matrix = np.array([[about_axle + arm, coupling], [coupling, whole]])
    right = [GRAVITY_MPS2 * sin - tau, sin * rate**2 + tau / RADIUS + force]
    theta_ddot, v_dot = np.linalg.solve(matrix, right)
    return v_dot, theta_ddot


@pytest.mark.parametrize("effects", [{}, BODY, {"rolling_friction_m": 0.004}, {**BODY, "rolling_friction_m": 0.002}])
def test_accelerations_with_friction_payload_and_shifted_mass_by_hand(effects):
    state, torque = (0.0, 0.3, 0.12, -0.7), 0.8
    values = {f"body.{name}": value for name, value in vars(ROBOT.body).items()} | vars(Effects(**effects))
    found = accelerations(Parameters.from_values(values, RADIUS), *state[1:], torque)
    assert found == pytest.approx(equations(state, torque, effects), rel=1e-9)


@pytest.mark.parametrize("effects", [BODY, {"com_forward_m": -0.01}, {"coulomb_nm": 0.3}, {"rolling_drag_nspm": 40.0}])
def test_closed_form_and_mujoco_speed_up_alike(effects):
    start = rows(0.0, 0.4, 0.05, 0.2)[None]
    ends = []
    for kind in KINDS:
        made = twin(kind, effects)
        made.set_state(start)
        for _ in range(4):
            made.step(rows(0.6))
        ends.append((made.truth - start)[0, [1, 3]].numpy())
    np.testing.assert_allclose(*ends, rtol=0.02, atol=1e-3)


def test_strong_friction_takes_as_many_substeps_as_it_needs():
    made = twin("closed_form", {"coulomb_nm": 3.0, "rolling_friction_m": 0.01})
    assert made.describe()["substeps"] > 10
    made.set_state(rows(0.0, 0.0, 0.0, 0.0)[None])
    for _ in range(100):
        made.step(rows(0.2))
    # 0.4 Nm do not overcome 3 Nm: the wheels stay at rest in the body, up to the friction's smoothing.
    assert abs(made.truth[0, 1] / RADIUS - made.truth[0, 3]) < 0.02


def test_energy_of_every_robot_is_kept_without_friction_and_torque():
    count = 5
    height = torch.linspace(0.15, 0.35, count, dtype=torch.float64)
    forward = torch.linspace(-0.02, 0.02, count, dtype=torch.float64)
    # The step's error goes with its fourth power: at 1 ms a term that is wrong has nothing to hide behind.
    robot = dataclasses.replace(ROBOT, interface=dataclasses.replace(ROBOT.interface, rate_hz=1000.0))
    parameters = {"body.com_height_m": height, "com_forward_m": forward}
    made = make_twin(TwinConfig(num_envs=count), robot, torch.Generator(), parameters, torch.float64)
    made.set_state(rows(0.0, 0.1, 0.2, 0.0).expand(count, 4))
    b = ROBOT.body

    def energy():
        _, v, theta, rate = made.truth.unbind(1)
        across = b.body_mass_kg * (height * theta.cos() - forward * theta.sin())
        inertia = b.body_inertia_kgm2 + b.body_mass_kg * (height**2 + forward**2)
        whole = b.body_mass_kg + b.wheels_mass_kg + b.wheels_inertia_kgm2 / RADIUS**2
        spin = 0.5 * b.armature_kgm2 * (v / RADIUS - rate) ** 2
        return 0.5 * inertia * rate**2 + across * rate * v + 0.5 * whole * v**2 + spin + GRAVITY_MPS2 * across

    start = energy()
    for _ in range(500):
        made.step(torch.zeros(count))
    assert (made.truth[:, 2].abs() > 0.5).all(), "they have fallen far"
    torch.testing.assert_close(energy(), start, rtol=1e-6, atol=0)


def test_closed_form_stays_with_mujoco_while_both_balance_for_3_s():
    closed, other = (twin(kind, num_envs=8) for kind in KINDS)
    other.set_state(closed.truth)
    gain = torch.tensor(lqr_gain(ROBOT))
    errors = []
    for _ in range(600):
        a, b = closed.step(-closed.state @ gain), other.step(-other.state @ gain)
        errors.append(a[:, 2] - b[:, 2])
    assert torch.stack(errors).square().mean().sqrt() < 1e-3


@pytest.mark.parametrize("effects", [{}, BODY])
def test_lean_model_moves_as_the_full_one(effects):
    made = twin("mujoco", effects)
    full = model.build_model(ROBOT, legs_locked=True, effects=Effects(**effects))
    full.dof_damping[:2] = effects.get("rolling_drag_nspm", 0.0)
    data = mujoco.MjData(full)
    model.set_state(full, data, np.array([0.0, 0.1, 0.05, 0.2]))
    data.qpos[2] -= 1e-9  # as in the twin: touching the floor for certain
    made.set_state(rows(0.0, 0.1, 0.05, 0.2)[None])
    gain = lqr_gain(ROBOT)
    for _ in range(200):
        torque = float(np.clip(-gain @ model.get_state(data), -3, 3))
        data.ctrl[:] = torque
        mujoco.mj_step(full, data, 5)
        made.step(rows(torque))
        np.testing.assert_allclose(made.truth[0], model.get_state(data), atol=1e-9)


def test_threads_change_nothing_but_the_time():
    made = [twin("mujoco", BODY, num_envs=5, threads=threads) for threads in (1, 2)]
    for _ in range(5):
        one, two = (t.step(torch.linspace(-1, 1, 5)) for t in made)
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("kind", "effects", "bounds"),
    [
        *((kind, MOTORS, (3e-4, 8e-3, 5e-4, 1.5e-2)) for kind in KINDS),
        *((kind, SENSORS, (3e-4, 8e-3, 5e-4, 1.5e-2)) for kind in KINDS),
        ("closed_form", MOTORS | BODY | SENSORS, (3e-3, 3e-2, 1.5e-2, 0.12)),
        ("mujoco", MOTORS | BODY | SENSORS, (1.5e-3, 1e-2, 6e-3, 5e-2)),
    ],
)
def test_estimates_are_the_emulated_robot_s_for_a_quarter_second(kind, effects, bounds, monkeypatch):
    """The motors' random torques stabilise the plant; the twin gets the same ones and is on its own, unstable."""
    # Legs that do not give way: how soft they are is in no twin. (Rolling friction in a contact is soft as well, and
    # has its own test above.)
    for name, value in (("SERVO_KP_NM_RAD", 3e5), ("SERVO_KV_NMS_RAD", 3e3), ("SERVO_LIMIT_NM", 1e5)):
        monkeypatch.setattr(model, name, value, raising=False)
    plant = make_plant(dataclasses.replace(ROBOT, plant=PlantSpec(options=effects)), 0)
    plant.reset(0.02, 0.0)
    made = twin(kind, effects)
    made.set_state(rows(0.0, 0.0, 0.02, 0.0)[None])
    estimator, rng, gain = Estimator(RADIUS), np.random.default_rng(0), lqr_gain(ROBOT)
    posture = (ROBOT.body.thigh_rad, ROBOT.body.shin_rad)

    def seen():
        return estimator.update(Telemetry(0, 0, 0, plant.sense(), (0.0, 0.0), Status(0), Fault(0))).state

    observed, errors = seen(), []
    for _ in range(50):
        torque = float(np.clip(-gain @ observed + rng.normal(0, 0.5), -3, 3))
        plant.step((torque, torque), posture, DT)
        observed = seen()
        errors.append(np.abs(made.step(rows(torque))[0].numpy() - observed))
    assert (np.max(errors, axis=0) < bounds).all(), np.max(errors, axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_robots_side_by_side_move_as_each_would_alone(kind):
    generator = torch.Generator().manual_seed(2)
    effects = MOTORS | BODY | SENSORS
    spread = {name: value * (1 + 0.1 * torch.randn(3, generator=generator).double()) for name, value in effects.items()}
    spread["observation_delay_s"] = rows(0.0, 0.005, 0.015)
    together = twin(kind, num_envs=3, parameters=spread)
    alone = [twin(kind, {name: value[k].item() for name, value in spread.items()}) for k in range(3)]
    start = together.truth
    together.set_state(start)
    for k, single in enumerate(alone):
        single.set_state(start[k : k + 1])
    for _ in range(20):
        torque = torch.randn(3, generator=generator).double()
        seen = together.step(torque)
        for k, single in enumerate(alone):
            torch.testing.assert_close(seen[k : k + 1], single.step(torque[k : k + 1]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delays", [(0.0, 0.0, 0.0), (0.0, 0.005, 0.015)])
def test_true_state_behind_an_observation_is_found(kind, delays):
    generator = torch.Generator().manual_seed(3)
    effects = MOTORS | BODY | SENSORS
    first, second = (twin(kind, effects, 3, parameters={"observation_delay_s": rows(*delays)}) for _ in range(2))
    gain, past = torch.tensor(lqr_gain(ROBOT)), []
    for _ in range(40):
        past.append(-first.state @ gain + 0.3 * torch.randn(3, generator=generator).double())
        observed = first.step(past[-1])
    second.set_observed(observed, torch.stack(past, 1))
    torch.testing.assert_close(second.state, observed)
    error = (second.truth - first.truth).abs().amax(0)
    assert (error < rows(1e-3, 4e-2, 2e-3, 0.15)).all(), error
    for _ in range(10):
        torque = 0.3 * torch.randn(3, generator=generator).double()
        error = (second.step(torque) - first.step(torque)).abs().amax(0)
    assert (error < rows(3e-3, 4e-2, 6e-3, 0.15)).all(), error


def test_observation_without_sensor_lag_or_delay_is_inverted_exactly():
    effects = {name: value for name, value in SENSORS.items() if not name.endswith(("lag_s", "delay_s"))}
    first, second = twin(effects=effects, num_envs=4), twin(effects=effects, num_envs=4, seed=1)
    second.set_observed(first.state, torch.zeros(4, 1))
    torch.testing.assert_close(second.truth, first.truth)


def test_too_few_torques_for_the_delay_are_refused():
    with pytest.raises(ValueError, match="needs 3 torques, got 2"):
        twin(effects={"observation_delay_s": 0.015}).set_observed(torch.zeros(1, 4), torch.zeros(1, 2))
