# SPDX-License-Identifier: Apache-2.0
"""The robot as URDF, read off the same MuJoCo model that plays it, so that the two cannot drift apart.

Joint angles of the URDF are the robot's own, as on the wire and in /joint_states: zero is the straight leg below the
hip, positive turns about y (left). The MuJoCo model counts its leg joints from the standing posture instead.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
import yourdfpy

from h2o_control.contract import FloatArray
from h2o_control.topics import WHEELS
from h2o_training.model import SERVO_LIMIT_NM, build_model
from wheel_leg_driver.robot import Robot

#: URDF wants a speed limit of every joint, and the description has none; the emulated robot has none either.
WHEEL_SPEED_RADPS = 50.0
LEG_SPEED_RADPS = 10.0
#: And limits of the legs' angles: the description knows no stops, so half a turn either way.
LEG_RANGE_RAD = float(np.pi)
#: Frames of /odom and /imu.
BASE_LINK, IMU_LINK = "base_link", "imu_link"


def to_urdf(robot: Robot) -> str:
    """Return the robot's URDF: base_link (empty, fixed to the torso), torso, thighs, shins, wheels, imu_link.

    Masses, inertias, geometry and friction are those of `build_model(robot)`. What URDF cannot say is left out: rotor
    inertia (armature) and the servos' gains.

    Raises:
        ConfigError: the description makes no model.
    """
    model = build_model(robot)
    # Links turn with their joints' own angles, which are not zero when the model stands.
    thigh, shin = robot.body.thigh_rad, robot.body.thigh_rad + robot.body.shin_rad
    angles = {"torso": 0.0}
    for side in ("left", "right"):
        angles |= {f"{side}_thigh": thigh, f"{side}_shin": shin, f"{side}_wheel": shin}
    base = yourdfpy.Link(name=BASE_LINK)
    imu = yourdfpy.Link(name=IMU_LINK)
    links = [base, *(_link(model, name, angle) for name, angle in angles.items()), imu]
    joints = [_fixed("torso_mount", BASE_LINK, "torso", np.zeros(3))]
    joints += [_joint(model, robot, name, angles) for name in angles if name != "torso"]
    joints.append(_fixed("imu_mount", "torso", IMU_LINK, model.site("imu").pos))
    description = yourdfpy.Robot(name=robot.name, links=links, joints=joints)
    root = ElementTree.fromstring(yourdfpy.URDF(description, build_scene_graph=False).write_xml_string())
    # MuJoCo would merge the torso into the world and throw the visuals away; other readers pass over this.
    hint = {"fusestatic": "false", "discardvisual": "false"}
    ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler", hint)
    ElementTree.indent(root)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _link(model: Any, name: str, angle_rad: float) -> Any:
    body = model.body(name)
    turn = _turn(-angle_rad)
    axes = turn @ _matrix(body.iquat)
    inertial = yourdfpy.Inertial(
        origin=_pose(turn @ body.ipos), mass=float(body.mass[0]), inertia=_exact(axes @ np.diag(body.inertia) @ axes.T)
    )
    link = yourdfpy.Link(name=name, inertial=inertial)
    for number, index in enumerate(i for i in range(model.ngeom) if model.geom_bodyid[i] == body.id):
        origin = _pose(turn @ model.geom_pos[index], turn @ _matrix(model.geom_quat[index]))
        shape = _shape(model, index)
        link.visuals.append(yourdfpy.Visual(name=f"{name}_visual_{number}", origin=origin, geometry=shape))
        link.collisions.append(yourdfpy.Collision(name=f"{name}_collision_{number}", origin=origin, geometry=shape))
    return link


def _shape(model: Any, index: int) -> Any:
    size = model.geom_size[index]
    if model.geom_type[index] == mujoco.mjtGeom.mjGEOM_BOX:
        return yourdfpy.Geometry(box=yourdfpy.Box(size=2 * size))
    # URDF has no capsules: a leg's link is a cylinder from joint to joint.
    return yourdfpy.Geometry(cylinder=yourdfpy.Cylinder(radius=float(size[0]), length=float(2 * size[1])))


def _joint(model: Any, robot: Robot, name: str, angles: dict[str, float]) -> Any:
    body, joint = model.body(name), model.joint(name)
    parent = str(model.body(int(body.parentid[0])).name)
    dof = int(joint.dofadr[0])
    if name in WHEELS:
        kind = "continuous"
        limit = yourdfpy.Limit(effort=robot.interface.torque_limit_nm, velocity=WHEEL_SPEED_RADPS)
    else:
        kind = "revolute"
        limit = yourdfpy.Limit(
            effort=SERVO_LIMIT_NM, velocity=LEG_SPEED_RADPS, lower=-LEG_RANGE_RAD, upper=LEG_RANGE_RAD
        )
    return yourdfpy.Joint(
        name=name,
        type=kind,
        parent=parent,
        child=name,
        origin=_pose(_turn(-angles[parent]) @ body.pos),
        axis=joint.axis,
        dynamics=yourdfpy.Dynamics(
            damping=float(np.ravel(model.dof_damping[dof])[0]), friction=float(model.dof_frictionloss[dof])
        ),
        limit=limit,
    )


def _fixed(name: str, parent: str, child: str, position_m: FloatArray) -> Any:
    return yourdfpy.Joint(name=name, type="fixed", parent=parent, child=child, origin=_pose(position_m))


def _turn(angle_rad: float) -> FloatArray:
    sin, cos = np.sin(angle_rad), np.cos(angle_rad)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def _matrix(quaternion_wxyz: FloatArray) -> FloatArray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion_wxyz)
    return matrix.reshape(3, 3)


def _pose(position_m: FloatArray, rotation: FloatArray | None = None) -> FloatArray:
    pose = np.eye(4)
    pose[:3, 3] = position_m
    if rotation is not None:
        pose[:3, :3] = rotation
    return _exact(pose)


def _exact(values: FloatArray) -> FloatArray:
    # Sines of right angles are zero to sixteen digits; people read these files. Adding zero turns -0 into 0.
    rounded: FloatArray = np.round(values, 12) + 0.0
    return rounded
