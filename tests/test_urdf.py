# SPDX-License-Identifier: Apache-2.0
"""URDF and MJCF against the model that plays the robot, loaded by MuJoCo and by a URDF parser that is not ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yourdfpy

from h2o_control import cli
from h2o_control.topics import LEGS, WHEELS
from h2o_training.mjcf import to_mjcf
from h2o_training.model import build_model, set_state
from h2o_training.urdf import to_urdf
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import Robot, load_robot

CARRIED = ("torso", "left_thigh", "left_shin", "right_thigh", "right_shin")
LINKS = (*CARRIED, *WHEELS)


def tall() -> Robot:
    """A robot that shares no length, angle or friction with the shipped ones."""
    robot = load_robot("ideal")
    body = dataclasses.replace(
        robot.body, thigh_length_m=0.2, shin_length_m=0.3, thigh_rad=0.7, shin_rad=-1.3, track_width_m=0.5,
        com_height_m=0.35, body_inertia_kgm2=0.3, viscous_nms=0.02, coulomb_nm=0.1,
    )  # fmt: skip
    interface = dataclasses.replace(robot.interface, wheel_radius_m=0.08)
    return dataclasses.replace(robot, name="tall", body=body, interface=interface)


@pytest.fixture(params=["ideal", "tall"])
def robot(request: pytest.FixtureRequest) -> Robot:
    return tall() if request.param == "tall" else load_robot(request.param)


def own_angles(robot: Robot) -> dict[str, float]:
    """Joint angles at which the URDF stands."""
    return dict(zip(LEGS, [robot.body.thigh_rad, robot.body.shin_rad] * 2, strict=True))


def standing_urdf(robot: Robot) -> tuple[Any, Any]:
    """The URDF in MuJoCo, free in space as the robot is, torso where our model has it, legs in standing posture."""
    spec = mujoco.MjSpec.from_string(to_urdf(robot))
    spec.body("base_link").add_freejoint()
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:7] = [0.0, 0.0, robot.interface.wheel_radius_m, 1.0, 0.0, 0.0, 0.0]
    for name, angle in own_angles(robot).items():
        data.joint(name).qpos = angle
    mujoco.mj_forward(model, data)
    return model, data


def standing_model(robot: Robot) -> tuple[Any, Any]:
    model = build_model(robot)
    data = mujoco.MjData(model)
    set_state(model, data, np.zeros(4))
    return model, data


def parsed(robot: Robot, folder: Path) -> Any:
    file = folder / "robot.urdf"
    file.write_text(to_urdf(robot))
    urdf = yourdfpy.URDF.load(str(file))
    assert urdf.validate(), urdf.errors
    return urdf


def pitch_inertia(model: Any, data: Any, names: tuple[str, ...]) -> float:
    """About the common centre of mass, kg m²."""
    com = sum(model.body(n).mass[0] * data.body(n).xipos for n in names) / sum(model.body(n).mass[0] for n in names)
    total = 0.0
    for name in names:
        axes = data.body(name).ximat.reshape(3, 3)
        offset = data.body(name).xipos - com
        own = float((axes @ np.diag(model.body(name).inertia) @ axes.T)[1, 1])
        total += own + float(model.body(name).mass[0] * (offset[0] ** 2 + offset[2] ** 2))
    return total


def test_urdf_in_mujoco_has_the_masses_places_and_inertias_of_the_model(robot: Robot) -> None:
    (urdf, stands), (model, ours) = standing_urdf(robot), standing_model(robot)
    assert urdf.body_mass.sum() == pytest.approx(robot.body.body_mass_kg + robot.body.wheels_mass_kg, abs=1e-9)
    for name in LINKS:
        assert urdf.body(name).mass[0] == pytest.approx(model.body(name).mass[0], abs=1e-9)
        assert stands.body(name).xpos == pytest.approx(ours.body(name).xpos, abs=1e-9)
        assert stands.body(name).xipos == pytest.approx(ours.body(name).xipos, abs=1e-9)
    com = sum(urdf.body(n).mass[0] * stands.body(n).xipos for n in CARRIED) / robot.body.body_mass_kg
    expected = [0.0, 0.0, robot.interface.wheel_radius_m + robot.body.com_height_m]
    assert com == pytest.approx(expected, abs=1e-9)
    assert pitch_inertia(urdf, stands, CARRIED) == pytest.approx(robot.body.body_inertia_kgm2, abs=1e-9)


def test_urdf_in_mujoco_has_the_mass_matrix_of_the_model_in_every_posture(robot: Robot) -> None:
    # Rotor inertia stands in no URDF.
    bare = dataclasses.replace(robot, body=dataclasses.replace(robot.body, armature_kgm2=0.0))
    (urdf, a), (model, b) = standing_urdf(bare), standing_model(bare)
    model.dof_armature[:] = 0.0
    rng = np.random.default_rng(0)
    for _ in range(5):
        turn = rng.normal(size=4)
        a.qpos[3:7] = b.qpos[3:7] = turn / np.linalg.norm(turn)
        for name, standing in own_angles(bare).items():
            angle = float(rng.uniform(-1.0, 1.0))
            a.joint(name).qpos, b.joint(name).qpos = standing + angle, angle
        full = []
        for m, d in ((urdf, a), (model, b)):
            mujoco.mj_forward(m, d)
            matrix = np.zeros((m.nv, m.nv))
            mujoco.mj_fullM(m, d, matrix)
            order = [int(m.joint(name).dofadr[0]) for name in (*LEGS, *WHEELS)]
            order = [*range(6), *order]
            full.append(matrix[np.ix_(order, order)])
        assert full[0] == pytest.approx(full[1], abs=1e-9)


def test_wheels_weigh_and_spin_as_described(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    inertials = [urdf.link_map[name].inertial for name in WHEELS]
    assert sum(i.mass for i in inertials) == pytest.approx(robot.body.wheels_mass_kg)
    assert sum(i.inertia[1, 1] for i in inertials) == pytest.approx(robot.body.wheels_inertia_kgm2)
    assert all(
        urdf.link_map[n].collisions[0].geometry.cylinder.radius == robot.interface.wheel_radius_m for n in WHEELS
    )


def test_another_parser_finds_hips_knees_and_wheels_where_the_model_has_them(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    _, ours = standing_model(robot)
    urdf.update_cfg(own_angles(robot))
    lift = np.array([0.0, 0.0, robot.interface.wheel_radius_m])
    for name in LINKS:
        assert urdf.get_transform(name)[:3, 3] + lift == pytest.approx(ours.body(name).xpos, abs=1e-9)
    assert urdf.get_transform("imu_link")[:3, 3] + lift == pytest.approx(ours.site("imu").xpos, abs=1e-9)


def test_at_zero_the_legs_hang_straight_down(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    urdf.update_cfg(dict.fromkeys(LEGS, 0.0))
    body = robot.body
    for side in ("left", "right"):
        hip, knee, wheel = (urdf.get_transform(f"{side}_{name}")[:3, 3] for name in ("thigh", "shin", "wheel"))
        assert knee - hip == pytest.approx([0.0, 0.0, -body.thigh_length_m], abs=1e-9)
        assert wheel - knee == pytest.approx([0.0, 0.0, -body.shin_length_m], abs=1e-9)


def test_joints_turn_about_left_and_know_their_limits(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    assert set(urdf.actuated_joint_names) == {*LEGS, *WHEELS}
    for name in WHEELS:
        joint = urdf.joint_map[name]
        assert (joint.type, list(joint.axis)) == ("continuous", [0.0, 1.0, 0.0])
        assert joint.limit.effort == robot.interface.torque_limit_nm
        assert float(joint.dynamics.damping) == pytest.approx(robot.body.viscous_nms / 2)
        assert float(joint.dynamics.friction) == pytest.approx(robot.body.coulomb_nm / 2)
    for name, standing in own_angles(robot).items():
        joint = urdf.joint_map[name]
        assert (joint.type, list(joint.axis)) == ("revolute", [0.0, 1.0, 0.0])
        assert joint.limit.lower < standing < joint.limit.upper
        assert joint.limit.effort > 0 and joint.limit.velocity > 0
    assert urdf.base_link == "base_link"


def test_every_link_can_be_seen_and_touched(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    for name in LINKS:
        link = urdf.link_map[name]
        assert len(link.visuals) == len(link.collisions) == 1
        inertia = link.inertial.inertia
        assert inertia == pytest.approx(inertia.T)
        moments = np.linalg.eigvalsh(inertia)
        assert moments[0] > 0 and moments[0] + moments[1] >= moments[2], "a body that could exist"


def test_model_goes_through_mjcf_text_unchanged(robot: Robot) -> None:
    gain = lqr_gain(robot)
    paths = []
    for model in (build_model(robot), mujoco.MjModel.from_xml_string(to_mjcf(robot))):
        data = mujoco.MjData(model)
        set_state(model, data, np.array([0.0, 0.1, 0.05, 0.2]))
        wheels = [model.actuator(name).id for name in WHEELS]
        path = []
        for _ in range(1000):
            state = np.array([data.qpos[0], data.qvel[0], 2 * np.arcsin(data.qpos[5]), data.qvel[4]])
            data.ctrl[wheels] = np.clip(-gain @ state, -3.0, 3.0)
            mujoco.mj_step(model, data)
            path.append(np.concatenate([data.qpos, data.qvel]))
        paths.append(np.array(path))
    assert abs(paths[0][-1][5]) < 0.1, "it balances"
    assert np.array_equal(*paths)


def test_what_is_seen_of_a_leg_reaches_from_joint_to_joint(robot: Robot, tmp_path: Path) -> None:
    urdf = parsed(robot, tmp_path)
    for name, length in (("thigh", robot.body.thigh_length_m), ("shin", robot.body.shin_length_m)):
        visual = urdf.link_map[f"left_{name}"].visuals[0]
        half = visual.origin[:3, 2] * visual.geometry.cylinder.length / 2
        ends = sorted([visual.origin[:3, 3] - half, visual.origin[:3, 3] + half], key=lambda point: float(point[2]))
        assert ends[1] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
        assert ends[0] == pytest.approx([0.0, 0.0, -length], abs=1e-9)
    for name in WHEELS:
        assert urdf.link_map[name].visuals[0].origin[:3, 2] == pytest.approx([0.0, -1.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("kind", ["urdf", "mjcf"])
def test_command_writes_a_file_that_mujoco_loads(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"robot.{kind}"
    assert cli.main(["robot", kind, "ideal:worn:0.5", "-o", str(file)]) == 0
    model = mujoco.MjModel.from_xml_path(str(file))
    assert model.body_mass.sum() == pytest.approx(12.0)
