# SPDX-License-Identifier: Apache-2.0
"""Closed-form dynamics of the sagittal plane (docs/robot.md), written once for numpy and torch.

    [ I_b + M_b l² + arm      M_b l cosθ − arm/r           ] [θ̈]   [ M_b g l sinθ − τ                            ]
    [ M_b l cosθ − arm/r      M_b + M_w + (I_w + arm)/r²   ] [ẍ] = [ M_b l sinθ θ̇² + τ/r − c·N/r tanh(20 v/r) − b v ]
    τ = 2 u − β (v/r − θ̇) − τ_c tanh(20 (v/r − θ̇)),  N = (M_b + M_w) g

u is the torque that each wheel's motor produces. With the centre of mass f ahead of the axle and h above it,
l cosθ stands for h cosθ − f sinθ, l sinθ for h sinθ + f cosθ. Rolling resistance is a moment against the wheels' turn
over the floor, v/r: it does no work on the body's pitch, so it stands in the row of x alone.

The same function linearised gives the driver's LQR; batched in torch it is the closed-form twin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from h2o_control.contract import FloatArray
from wheel_leg_driver.robot import Body

GRAVITY_MPS2 = 9.81
#: Coulomb and rolling friction are smoothed to tanh(20 · rad/s): full from 0.1 rad/s on.
FRICTION_SHARPNESS_S = 20.0


@dataclass(frozen=True)
class Parameters:
    """Numbers of the equations of motion; each one a float, or an array or tensor [N] with one value a robot.

    Attributes:
        body_mass_kg, body_inertia_kgm2: M_b, and I_b about the centre of mass; whatever the robot carries included.
        com_height_m, com_forward_m: h and f, the centre of mass from the axle at zero pitch.
        wheels_mass_kg, wheels_inertia_kgm2, armature_kgm2: M_w, I_w and arm, both wheels together.
        wheel_radius_m: r.
        viscous_nms, coulomb_nm: β and τ_c.
        rolling_friction_m: c, moment over normal force.
        rolling_drag_nspm: b, force over speed.
    """

    body_mass_kg: Any
    body_inertia_kgm2: Any
    com_height_m: Any
    com_forward_m: Any
    wheels_mass_kg: Any
    wheels_inertia_kgm2: Any
    armature_kgm2: Any
    wheel_radius_m: float
    viscous_nms: Any = 0.0
    coulomb_nm: Any = 0.0
    rolling_friction_m: Any = 0.0
    rolling_drag_nspm: Any = 0.0

    @classmethod
    def of(cls, body: Body, wheel_radius_m: float) -> Parameters:
        """Return those of a robot as described."""
        return cls.from_values({f"body.{name}": value for name, value in vars(body).items()}, wheel_radius_m)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], wheel_radius_m: float) -> Parameters:
        """Return those of a robot with effects.

        Args:
            values: fields of Body with "body." before the name; friction, payload and shift of the centre of mass under
                their names in h2o_training.effects.Effects, none where missing. Floats, arrays or tensors [N].
            wheel_radius_m: r.
        """
        mass, height = values["body.body_mass_kg"], values["body.com_height_m"]
        inertia, forward = values["body.body_inertia_kgm2"], values.get("com_forward_m", 0.0)
        payload = values.get("payload_kg", 0.0)
        if given(payload):
            # A point mass on the body: moments add, and the parallel axes of both about their common centre.
            ahead, above = values["payload_forward_m"] - forward, values["payload_height_m"] - height
            share = payload / (mass + payload)
            inertia = inertia + mass * share * (ahead**2 + above**2)
            mass, forward, height = mass + payload, forward + share * ahead, height + share * above
        return cls(
            body_mass_kg=mass,
            body_inertia_kgm2=inertia,
            com_height_m=height,
            com_forward_m=forward,
            wheels_mass_kg=values["body.wheels_mass_kg"],
            wheels_inertia_kgm2=values["body.wheels_inertia_kgm2"],
            armature_kgm2=values["body.armature_kgm2"],
            wheel_radius_m=wheel_radius_m,
            viscous_nms=values["body.viscous_nms"] + values.get("viscous_nms", 0.0),
            coulomb_nm=values["body.coulomb_nm"] + values.get("coulomb_nm", 0.0),
            rolling_friction_m=values.get("rolling_friction_m", 0.0),
            rolling_drag_nspm=values.get("rolling_drag_nspm", 0.0),
        )

    @cached_property
    def height_moment_kgm(self) -> Any:
        """M_b h."""
        return self.body_mass_kg * self.com_height_m

    @cached_property
    def forward_moment_kgm(self) -> Any:
        """M_b f."""
        return self.body_mass_kg * self.com_forward_m

    @cached_property
    def pitch_inertia_kgm2(self) -> Any:
        """The matrix's first element."""
        square = self.com_height_m**2 + self.com_forward_m**2
        return self.body_inertia_kgm2 + self.body_mass_kg * square + self.armature_kgm2

    @cached_property
    def rotor_coupling_kgm(self) -> Any:
        """Rotor inertia over radius, arm / r."""
        return self.armature_kgm2 / self.wheel_radius_m

    @cached_property
    def rolling_mass_kg(self) -> Any:
        """The matrix's last element."""
        spinning = (self.wheels_inertia_kgm2 + self.armature_kgm2) / self.wheel_radius_m**2
        return self.body_mass_kg + self.wheels_mass_kg + spinning

    @cached_property
    def rolling_moment_nm(self) -> Any:
        """Rolling friction of the floor as a moment on the wheels, c·N."""
        return self.rolling_friction_m * (self.body_mass_kg + self.wheels_mass_kg) * GRAVITY_MPS2


def given(value: Any) -> bool:
    """Whether a parameter does anything: one value a robot, or a number that is not zero."""
    return not isinstance(value, float | int) or value != 0


def accelerations(
    parameters: Parameters, v: Any, theta: Any, theta_dot: Any, torque_nm: Any, xp: Any = np
) -> tuple[Any, Any]:
    """Return (v̇, θ̈) in m/s² and rad/s².

    Args:
        parameters: of one robot, or of N.
        v: m/s, array of any shape (all state arguments alike; [N] where parameters are).
        theta: rad.
        theta_dot: rad/s.
        torque_nm: u, torque that the motor of one wheel produces, both alike.
        xp: the array module, numpy or torch.
    """
    p, r = parameters, parameters.wheel_radius_m
    tau = 2.0 * torque_nm
    if given(p.viscous_nms) or given(p.coulomb_nm):
        slip_rate = v / r - theta_dot
        if given(p.viscous_nms):
            tau = tau - p.viscous_nms * slip_rate
        if given(p.coulomb_nm):
            tau = tau - p.coulomb_nm * xp.tanh(FRICTION_SHARPNESS_S * slip_rate)
    sin, cos = xp.sin(theta), xp.cos(theta)
    across, lever = p.height_moment_kgm * cos, p.height_moment_kgm * sin
    if given(p.com_forward_m):
        across, lever = across - p.forward_moment_kgm * sin, lever + p.forward_moment_kgm * cos
    m11, m12, m22 = p.pitch_inertia_kgm2, across - p.rotor_coupling_kgm, p.rolling_mass_kg
    f1 = GRAVITY_MPS2 * lever - tau
    f2 = lever * theta_dot * theta_dot + tau / r
    if given(p.rolling_friction_m):
        f2 = f2 - p.rolling_moment_nm / r * xp.tanh(FRICTION_SHARPNESS_S / r * v)
    if given(p.rolling_drag_nspm):
        f2 = f2 - p.rolling_drag_nspm * v
    scale = 1.0 / (m11 * m22 - m12 * m12)
    return (m11 * f2 - m12 * f1) * scale, (m22 * f1 - m12 * f2) * scale


def linearise(body: Body, wheel_radius_m: float = 0.065) -> tuple[FloatArray, FloatArray]:
    """Return continuous A [4, 4] and B [4, 1] at rest upright, state order STATE, input the torque of one wheel in Nm.

    Coulomb friction is left out: its slope at rest is a property of the smoothing, not of the robot.
    """
    smooth = Parameters.of(dataclasses.replace(body, coulomb_nm=0.0), wheel_radius_m)
    a = np.zeros((4, 4))
    b = np.zeros((4, 1))
    a[0, 1] = 1.0
    a[2, 3] = 1.0
    step = 1e-6
    for column in range(1, 4):
        delta = np.zeros(4)
        delta[column] = step
        high = accelerations(smooth, delta[1], delta[2], delta[3], 0.0)
        low = accelerations(smooth, -delta[1], -delta[2], -delta[3], 0.0)
        a[[1, 3], column] = (np.array(high) - np.array(low)) / (2.0 * step)
    high = accelerations(smooth, 0.0, 0.0, 0.0, step)
    low = accelerations(smooth, 0.0, 0.0, 0.0, -step)
    b[[1, 3], 0] = (np.array(high) - np.array(low)) / (2.0 * step)
    return a, b
