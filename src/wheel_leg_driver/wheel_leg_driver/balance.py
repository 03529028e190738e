# SPDX-License-Identifier: Apache-2.0
"""The driver's own balance: LQR from the robot's parameters, dead-zone compensation and a trim that finds the bias."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from h2o_control.contract import FloatArray
from wheel_leg_driver.estimator import Estimate
from wheel_leg_driver.robot import Robot
from wheel_leg_driver.sagittal import linearise

#: How fast a commanded speed is taken up, m/s².
ACCELERATION_MPS2 = 0.8
#: Largest pitch the trim may ask for.
TRIM_LIMIT_RAD = 0.15
#: How far the robot may lag behind the moving set point before the set point waits, m.
LEASH_M = 0.3
YAW_GAIN_NM_S = 0.8
YAW_LIMIT_NM = 0.5


def lqr_gain(robot: Robot) -> FloatArray:
    """Return K [4] (order STATE) of u = −K·(state − target), u the ideal torque of one wheel in Nm.

    Solves the discrete algebraic Riccati equation at the control rate for the weights in `robot.balance`.
    """
    b = robot.balance
    a_c, b_c = linearise(robot.body, robot.interface.wheel_radius_m)
    block = np.zeros((5, 5))
    block[:4, :4], block[:4, 4:] = a_c, b_c
    step = scipy.linalg.expm(block * robot.interface.dt_s)
    a_d, b_d = step[:4, :4], step[:4, 4:]
    q = np.diag([b.q_x, b.q_v, b.q_theta, b.q_theta_dot])
    r = np.array([[b.r_tau]])
    p = scipy.linalg.solve_discrete_are(a_d, b_d, q, r)
    gain: FloatArray = np.linalg.solve(r + b_d.T @ p @ b_d, b_d.T @ p @ a_d)[0]
    return gain


class Balancer:
    """Follows a commanded speed while balancing; at zero speed it returns to where it was told to stop."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._gain = lqr_gain(robot)
        self._x_ref = 0.0
        self._v_ref = 0.0
        self.trim_rad = robot.balance.pitch_trim_rad

    def start(self, estimate: Estimate) -> None:
        """Begin anew, with the trim of the robot's file: what was found on a stand, or held in hand, is no balance."""
        self.trim_rad = self._robot.balance.pitch_trim_rad
        self.take_over(estimate)

    def take_over(self, estimate: Estimate) -> None:
        """Start from the robot's present place and speed, so that taking command does not jerk; keeps the trim."""
        self._x_ref, self._v_ref = estimate.x_m, estimate.v_mps

    def torque(self, estimate: Estimate, v_command_mps: float) -> float:
        """Return the torque of one wheel in Nm (both alike), before limits; call once a control step."""
        dt = self._robot.interface.dt_s
        change = ACCELERATION_MPS2 * dt
        self._v_ref += max(-change, min(change, v_command_mps - self._v_ref))
        self._x_ref += self._v_ref * dt
        lag = max(-LEASH_M, min(LEASH_M, estimate.x_m - self._x_ref))
        self._x_ref = estimate.x_m - lag
        # In balance at another pitch than the trim, K_x lag = -K_theta (theta - trim): move the trim until lag is 0.
        share = self._gain[0] / self._gain[2] / self._robot.balance.trim_time_s
        self.trim_rad -= share * lag * dt
        self.trim_rad = max(-TRIM_LIMIT_RAD, min(TRIM_LIMIT_RAD, self.trim_rad))
        error = np.array(
            [lag, estimate.v_mps - self._v_ref, estimate.theta_rad - self.trim_rad, estimate.theta_dot_radps]
        )
        return self.compensate(-float(self._gain @ error))

    def compensate(self, ideal_nm: float) -> float:
        """Turn the torque that should be produced into the one to command: u / k_t + d tanh(u / w)."""
        b = self._robot.balance
        return ideal_nm / b.torque_factor + b.dead_zone_nm * math.tanh(ideal_nm / b.dead_zone_width_nm)


def yaw_torque(estimate: Estimate, yaw_rate_command_radps: float) -> float:
    """Return the torque in Nm to add to the right wheel and take from the left: steers and damps yaw."""
    wanted = YAW_GAIN_NM_S * (yaw_rate_command_radps - estimate.yaw_rate_radps)
    return max(-YAW_LIMIT_NM, min(YAW_LIMIT_NM, wanted))


def wheel_torques(common_nm: float, yaw_nm: float, limit_nm: float) -> tuple[float, float]:
    """Return left and right torque in Nm within the limit; steering gives way where balance needs all there is."""
    common = max(-limit_nm, min(limit_nm, common_nm))
    room = limit_nm - abs(common)
    yaw = max(-room, min(room, yaw_nm))
    return common - yaw, common + yaw
