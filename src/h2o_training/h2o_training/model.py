# SPDX-License-Identifier: Apache-2.0
"""The 3-D MuJoCo model of a robot, built in memory from its description.

Two legs of thigh and shin with a driven wheel at each end carry the torso. The torso's mass, centre of mass and
inertia are whatever is left when the links are taken from the lumped values of `Body`, so in standing posture the
model and the closed form describe the same machine.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from h2o_control.contract import FloatArray, pitch_rad, state_array
from h2o_control.errors import ConfigError
from h2o_training.effects import Effects
from wheel_leg_driver.robot import Body, Robot

THIGH_MASS_KG = 0.4
SHIN_MASS_KG = 0.3
#: Leg servos: stiff enough that the legs do not sag by a milliradian under the robot's weight.
SERVO_KP_NM_RAD = 30000.0
SERVO_KV_NMS_RAD = 250.0
SERVO_LIMIT_NM = 40.0
#: How fast dry friction stops a wheel; no quicker than two physics steps.
FRICTION_TIME_S = 0.003
PHYSICS_STEP_S = 0.001


def leg_points(body: Body) -> tuple[FloatArray, FloatArray]:
    """Return hip and knee (x, z) in m from the axle, in standing posture."""
    shin_abs = body.thigh_rad + body.shin_rad
    knee = body.shin_length_m * np.array([np.sin(shin_abs), np.cos(shin_abs)])
    hip = knee + body.thigh_length_m * np.array([np.sin(body.thigh_rad), np.cos(body.thigh_rad)])
    return hip, knee


def torso_inertial(body: Body) -> tuple[float, FloatArray, float]:
    """Return the torso's mass (kg), centre of mass (x, z in m from the axle) and pitch inertia (kg m²).

    Raises:
        ConfigError: the lumped mass or inertia is less than that of the legs alone.
    """
    hip, knee = leg_points(body)
    links = [
        (2 * THIGH_MASS_KG, (hip + knee) / 2, 2 * THIGH_MASS_KG * body.thigh_length_m**2 / 12),
        (2 * SHIN_MASS_KG, knee / 2, 2 * SHIN_MASS_KG * body.shin_length_m**2 / 12),
    ]
    com = np.array([0.0, body.com_height_m])
    mass = body.body_mass_kg - sum(m for m, _, _ in links)
    if mass <= 0:
        raise ConfigError(f"body_mass_kg {body.body_mass_kg} leaves no mass for the torso: the legs alone weigh 1.4 kg")
    position = (body.body_mass_kg * com - sum(m * p for m, p, _ in links)) / mass
    inertia = body.body_inertia_kgm2 - sum(i + m * float((p - com) @ (p - com)) for m, p, i in links)
    inertia -= mass * float((position - com) @ (position - com))
    if inertia <= 0:
        raise ConfigError(
            f"body_inertia_kgm2 {body.body_inertia_kgm2} is less than the legs alone have about that centre"
        )
    return float(mass), position, float(inertia)


def build_spec(robot: Robot, *, legs_locked: bool = False, effects: Effects | None = None) -> Any:
    """Return the robot's `mujoco.MjSpec`.

    Args:
        robot: description; friction of the wheel joints comes from its body.
        legs_locked: leave the leg joints out, so that the model is the closed form in 3-D (used as twin).
        effects: those that belong into a model are built in (friction, floor, payload, centre of mass); delays,
            losses, rolling resistance and sensors are the caller's.
    """
    effects = effects or Effects()
    body, radius = robot.body, robot.interface.wheel_radius_m
    mass, com, inertia = torso_inertial(body)
    hip, knee = leg_points(body)
    # The torso moves so far that the centre of mass of all that the axle carries moves by com_forward_m.
    shift = effects.com_forward_m * body.body_mass_kg / mass
    spec = mujoco.MjSpec()
    spec.modelname = robot.name
    spec.option.timestep = PHYSICS_STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    contact = {
        "friction": [effects.sliding_friction, 0.005, 0.0],
        "solref": [effects.floor_time_constant_s, effects.floor_damping_ratio],
    }
    for key, value in contact.items():
        setattr(floor, key, value)
    torso = spec.worldbody.add_body(name="torso", pos=[0, 0, radius])
    torso.add_freejoint(name="root")
    torso.mass, torso.ipos, torso.explicitinertial = mass, [com[0] + shift, 0, com[1]], True
    torso.inertia = [inertia * 1.2, inertia, inertia * 0.8]
    torso.add_geom(
        name="shell",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.08, 0.12, 0.09],
        pos=[hip[0], 0, hip[1] + 0.05],
        contype=2,
        conaffinity=1,
        mass=0,
    )
    torso.add_site(name="imu", pos=[hip[0], 0, hip[1]])
    if effects.payload_kg > 0:
        carried = torso.add_body(name="payload", pos=[effects.payload_forward_m, 0, effects.payload_height_m])
        carried.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.03, 0, 0], mass=effects.payload_kg, contype=0, conaffinity=0
        )
    for side, y in (("left", body.track_width_m / 2), ("right", -body.track_width_m / 2)):
        _add_leg(spec, torso, side, y, robot, legs_locked, hip, knee, contact, effects)
    spec.add_sensor(
        name="accel", type=mujoco.mjtSensor.mjSENS_ACCELEROMETER, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="imu"
    )
    spec.add_sensor(name="gyro", type=mujoco.mjtSensor.mjSENS_GYRO, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="imu")
    return spec


def _add_leg(
    spec: Any,
    torso: Any,
    side: str,
    y_m: float,
    robot: Robot,
    locked: bool,
    hip: FloatArray,
    knee: FloatArray,
    contact: dict[str, Any],
    effects: Effects,
) -> None:
    body, radius = robot.body, robot.interface.wheel_radius_m
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    # Link frames keep the torso's orientation in standing posture, joint angle zero, so that locking is leaving out.
    thigh = torso.add_body(name=f"{side}_thigh", pos=[hip[0], y_m, hip[1]])
    thigh_tip, shin_tip = knee - hip, -knee
    _add_link(thigh, thigh_tip, THIGH_MASS_KG, body.thigh_length_m)
    shin = thigh.add_body(name=f"{side}_shin", pos=[thigh_tip[0], 0, thigh_tip[1]])
    _add_link(shin, shin_tip, SHIN_MASS_KG, body.shin_length_m)
    if not locked:
        for link, name in ((thigh, "thigh"), (shin, "shin")):
            joint = link.add_joint(name=f"{side}_{name}", type=hinge, axis=[0, 1, 0])
            joint.armature = 0.01
            servo = spec.add_actuator(
                name=f"{side}_{name}", trntype=mujoco.mjtTrn.mjTRN_JOINT, target=f"{side}_{name}", ctrllimited=False
            )
            servo.set_to_position(kp=SERVO_KP_NM_RAD, kv=SERVO_KV_NMS_RAD)
            servo.forcelimited, servo.forcerange = True, [-SERVO_LIMIT_NM, SERVO_LIMIT_NM]
    wheel = shin.add_body(name=f"{side}_wheel", pos=[shin_tip[0], 0, shin_tip[1]])
    spin = body.wheels_inertia_kgm2 / 2
    wheel.mass, wheel.explicitinertial = body.wheels_mass_kg / 2, True
    wheel.ipos = [0.0, 0.0, 0.0]
    wheel.inertia = [spin * 0.6, spin, spin * 0.6]
    geom = wheel.add_geom(
        name=f"{side}_tyre",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[radius, 0.015, 0],
        quat=[np.sqrt(0.5), np.sqrt(0.5), 0, 0],
        contype=2,
        conaffinity=1,
        mass=0,
    )
    for key, value in contact.items():
        setattr(geom, key, value)
    joint = wheel.add_joint(name=f"{side}_wheel", type=hinge, axis=[0, 1, 0])
    joint.armature = body.armature_kgm2 / 2
    joint.damping = [(body.viscous_nms + effects.viscous_nms) / 2, 0.0, 0.0]
    joint.frictionloss = (body.coulomb_nm + effects.coulomb_nm) / 2
    # MuJoCo's default lets dry friction creep like a viscous one up to some tenths of a radian a second.
    joint.solref_friction = [FRICTION_TIME_S, 1.0]
    motor = spec.add_actuator(name=f"{side}_wheel", trntype=mujoco.mjtTrn.mjTRN_JOINT, target=f"{side}_wheel")
    motor.set_to_motor()


def _add_link(link: Any, tip: FloatArray, mass_kg: float, length_m: float) -> None:
    link.mass, link.explicitinertial = mass_kg, True
    link.ipos = [tip[0] / 2, 0, tip[1] / 2]
    across = mass_kg * length_m**2 / 12
    # A slender rod's thin axis is left out: the pitch axis is exact, the others need not be.
    link.inertia = [across, across, across]
    link.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[0, 0, 0, tip[0], 0, tip[1]],
        size=[0.015, 0, 0],
        contype=0,
        conaffinity=0,
        mass=0,
    )


def build_model(robot: Robot, **options: Any) -> Any:
    """Compile `build_spec(robot, **options)` to a `mujoco.MjModel`."""
    return build_spec(robot, **options).compile()


def set_state(model: Any, data: Any, state: FloatArray) -> None:
    """Put the robot on its wheels at `state` [4] (order STATE), heading along x, wheels rolling without slip."""
    x, v, theta, theta_dot = (float(value) for value in state)
    radius = float(model.geom("left_tyre").size[0])
    mujoco.mj_resetData(model, data)
    data.qpos[:3] = [x, 0.0, radius]
    data.qpos[3:7] = [np.cos(theta / 2), 0.0, np.sin(theta / 2), 0.0]
    data.qvel[:6] = [v, 0.0, 0.0, 0.0, theta_dot, 0.0]
    for side in ("left", "right"):
        joint = model.joint(f"{side}_wheel")
        data.qpos[joint.qposadr] = x / radius - theta
        data.qvel[joint.dofadr] = v / radius - theta_dot
    mujoco.mj_forward(model, data)


def get_state(data: Any) -> FloatArray:
    """Return x, v, theta, theta_dot [4] of a robot that heads along x; the torso's origin is the axle's middle."""
    theta = pitch_rad(*(float(value) for value in data.qpos[3:7]))
    return state_array(float(data.qpos[0]), float(data.qvel[0]), theta, float(data.qvel[4]))
