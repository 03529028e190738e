# SPDX-License-Identifier: Apache-2.0
"""A model that is not ours behind our protocol: small, the same as its description says, and balanced by our driver."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from h2o_control.contract import FloatArray
from h2o_control.errors import ConfigError
from lockstep import LockStep
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.robot import PlantSpec, load_robot

EXAMPLES = Path(__file__).parents[1] / "examples"
PENDULUM = str(EXAMPLES / "gymnasium_pendulum.yaml")
#: Half the length of the model's rail.
RAIL_M = 1.0
#: The public model's pole is bent: its centre of mass lies 0.5 mm before and 0.3 m above the hinge.
BALANCED_RAD = -0.0005 / 0.3


def states(run: LockStep, seconds: float) -> tuple[FloatArray, FloatArray]:
    """Truth and the driver's estimate [n, 4] after each control step."""
    assert run.tick is not None
    truth, estimate = [], []
    for _ in range(round(seconds * run.robot.interface.rate_hz)):
        truth.append(run.plant.truth())
        run.step()
        estimate.append(run.tick.estimate.state)
    return np.array(truth), np.array(estimate)


def test_the_class_file_is_at_most_60_lines_long() -> None:
    assert len((EXAMPLES / "gymnasium_pendulum.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("pitch_rad", [0.05, -0.15])
def test_the_driver_balances_the_public_pendulum_within_its_rail(pitch_rad: float) -> None:
    run = LockStep(PENDULUM, pitch_rad=pitch_rad)
    run.step()
    run.core.arm()
    truth, estimate = states(run, 15.0)
    assert run.core.mode == "balance", run.core.reason
    assert truth[0, 2] == pytest.approx(pitch_rad, abs=1e-3)
    assert np.abs(truth[:, 0]).max() < 0.5 * RAIL_M
    assert np.abs(truth[:, 2]).max() < 0.2
    # At rest in the middle of the rail.
    np.testing.assert_allclose(truth[-200:, :2], np.zeros((200, 2)), atol=0.01)
    np.testing.assert_allclose(truth[-200:, 2], BALANCED_RAD, atol=2e-4)
    np.testing.assert_allclose(estimate, truth, atol=1e-5)


def test_the_driver_moves_the_public_pendulum_at_a_set_speed() -> None:
    run = LockStep(PENDULUM, pitch_rad=0.0)
    run.balance()
    for _ in range(20):
        run.core.on_speed(0.1, 0.0)
        run.seconds(0.1)
    x, v, _, _ = run.plant.truth()
    assert v == pytest.approx(0.1, abs=0.03)
    assert 0.1 < x < RAIL_M


def test_a_pendulum_that_nobody_balances_falls() -> None:
    plant = make_plant(load_robot(PENDULUM), 0)
    plant.reset(0.05)
    for _ in range(2000):
        plant.step((0.0, 0.0), (0.0, 0.0), 0.001)
    assert plant.truth()[2] > 1.0


def test_torque_on_both_wheels_pushes_the_cart_with_torque_over_radius() -> None:
    robot = load_robot(PENDULUM)
    plant = make_plant(robot, 0)
    plant.reset(BALANCED_RAD)
    plant.step((1.0, 0.5), (0.0, 0.0), 1e-5)
    force = 1.5 / robot.interface.wheel_radius_m
    body = robot.body
    # A rod upright at rest: the cart feels its own mass, and of the rod's what is left when the rod may swing.
    share = (body.body_mass_kg * body.com_height_m) ** 2 / (
        body.body_inertia_kgm2 + body.body_mass_kg * body.com_height_m**2
    )
    mass = body.wheels_mass_kg + body.body_mass_kg - share
    assert plant.truth()[1] == pytest.approx(1e-5 * force / mass, rel=1e-3)


def test_the_description_has_the_public_model_s_masses_and_length() -> None:
    robot = load_robot(PENDULUM)
    module = sys.modules[type(make_plant(robot, 0)).__module__]
    model = mujoco.MjModel.from_xml_path(str(module.MODEL))
    cart, pole = model.body("cart"), model.body("pole")
    assert robot.body.wheels_mass_kg == pytest.approx(cart.mass[0], rel=1e-5)
    assert robot.body.body_mass_kg == pytest.approx(pole.mass[0], rel=1e-5)
    assert robot.body.com_height_m == pytest.approx(pole.ipos[2], rel=1e-5)
    assert robot.body.body_inertia_kgm2 == pytest.approx(pole.inertia[1], rel=1e-5)
    assert robot.body.viscous_nms == pytest.approx(model.dof_damping[0] * robot.interface.wheel_radius_m**2)
    assert model.jnt_range[0].tolist() == [-RAIL_M, RAIL_M]


def test_a_plant_s_file_is_found_beside_its_description_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_plant(load_robot(PENDULUM), 0)
    relative = os.path.relpath(PENDULUM, tmp_path)
    make_plant(load_robot(relative), 0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.py:Robot", "No such file"),
        ("broken.py:Robot", "no_such_module"),
        ("empty.py:Robot", "no attribute 'Robot'"),
        ("empty.py", "must read module:Class or file.py:Class"),
    ],
)
def test_a_plant_that_cannot_be_loaded_from_its_file_says_why(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "empty.py").write_text("")
    robot = dataclasses.replace(load_robot("ideal"), plant=PlantSpec(str(tmp_path / path)))
    with pytest.raises(ConfigError, match=message):
        make_plant(robot, 0)


def test_the_public_pendulum_is_emulated_by_name_of_its_file(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    arguments = ["emulate", "--robot", "examples/gymnasium_pendulum.yaml", "--link", str(link)]
    program = Path(sys.executable).with_name("h2o-robot")
    process = subprocess.Popen([program, *arguments], cwd=EXAMPLES.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "gymnasium_pendulum" in process.stdout.readline()
        assert link.is_symlink()
        process.terminate()
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "stopped after" in out
