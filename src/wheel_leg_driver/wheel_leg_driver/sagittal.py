# SPDX-License-Identifier: Apache-2.0
"""Closed-form dynamics of the sagittal plane (docs/robot.md), written once for numpy and torch.

    [ I_b + M_b l² + arm      M_b l cosθ − arm/r           ] [θ̈]   [ M_b g l sinθ − τ      ]
    [ M_b l cosθ − arm/r      M_b + M_w + (I_w + arm)/r²   ] [ẍ] = [ M_b l sinθ θ̇² + τ / r ]
    τ = 2 k_t deadzone(u) − β (v/r − θ̇) − τ_c tanh(20 (v/r − θ̇))

The same function linearised gives the driver's LQR; batched in torch it is the closed-form twin.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from h2o_control.contract import FloatArray
from wheel_leg_driver.robot import Body

GRAVITY_MPS2 = 9.81


def accelerations(
    body: Body,
    wheel_radius_m: float,
    v: Any,
    theta: Any,
    theta_dot: Any,
    torque_nm: Any,
    xp: Any = np,
    torque_factor: float = 1.0,
    dead_zone_nm: float = 0.0,
) -> tuple[Any, Any]:
    """Return (v̇, θ̈) in m/s² and rad/s².

    Args:
        body: masses, lengths and friction.
        wheel_radius_m: r.
        v: m/s, array of any shape (all state arguments alike).
        theta: rad.
        theta_dot: rad/s.
        torque_nm: commanded torque u of one wheel, both alike.
        xp: the array module, numpy or torch.
        torque_factor: k_t, produced over commanded torque.
        dead_zone_nm: d, commanded torque that produces nothing.
    """
    r = wheel_radius_m
    slip_rate = v / r - theta_dot
    produced = torque_nm
    if dead_zone_nm > 0.0:
        produced = xp.sign(torque_nm) * xp.clip(xp.abs(torque_nm) - dead_zone_nm, 0.0, None)
    tau = 2.0 * torque_factor * produced
    if body.viscous_nms > 0.0:
        tau = tau - body.viscous_nms * slip_rate
    if body.coulomb_nm > 0.0:
        tau = tau - body.coulomb_nm * xp.tanh(20.0 * slip_rate)
    mass, length = body.body_mass_kg, body.com_height_m
    sin, cos = xp.sin(theta), xp.cos(theta)
    m11 = body.body_inertia_kgm2 + mass * length**2 + body.armature_kgm2
    m12 = mass * length * cos - body.armature_kgm2 / r
    m22 = mass + body.wheels_mass_kg + (body.wheels_inertia_kgm2 + body.armature_kgm2) / r**2
    f1 = mass * GRAVITY_MPS2 * length * sin - tau
    f2 = mass * length * sin * theta_dot**2 + tau / r
    det = m11 * m22 - m12 * m12
    return (m11 * f2 - m12 * f1) / det, (m22 * f1 - m12 * f2) / det


def linearise(body: Body, wheel_radius_m: float = 0.065, torque_factor: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Return continuous A [4, 4] and B [4, 1] at rest upright, state order STATE, input the torque of one wheel in Nm.

    Coulomb friction is left out: its slope at rest is a property of the smoothing, not of the robot.
    """
    smooth = dataclasses.replace(body, coulomb_nm=0.0)
    a = np.zeros((4, 4))
    b = np.zeros((4, 1))
    a[0, 1] = 1.0
    a[2, 3] = 1.0
    step = 1e-6
    for column in range(1, 4):
        delta = np.zeros(4)
        delta[column] = step
        high = accelerations(smooth, wheel_radius_m, delta[1], delta[2], delta[3], 0.0, torque_factor=torque_factor)
        low = accelerations(smooth, wheel_radius_m, -delta[1], -delta[2], -delta[3], 0.0, torque_factor=torque_factor)
        a[[1, 3], column] = (np.array(high) - np.array(low)) / (2.0 * step)
    high = accelerations(smooth, wheel_radius_m, 0.0, 0.0, 0.0, step, torque_factor=torque_factor)
    low = accelerations(smooth, wheel_radius_m, 0.0, 0.0, 0.0, -step, torque_factor=torque_factor)
    b[[1, 3], 0] = (np.array(high) - np.array(low)) / (2.0 * step)
    return a, b
