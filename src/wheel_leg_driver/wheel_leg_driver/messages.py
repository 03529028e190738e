# SPDX-License-Identifier: Apache-2.0
"""Telemetry, estimate and commands as standard ROS messages; message objects are made once and refilled."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from sensor_msgs.msg import BatteryState, Imu, JointState, TimeReference

from h2o_control.topics import LEGS, WHEELS
from wheel_leg_driver.estimator import Estimate
from wheel_leg_driver.protocol import Telemetry


class Messages:
    """Fills one message of each kind; publishing copies, so the objects are reused."""

    def __init__(self) -> None:
        self.odom = Odometry()
        self.odom.header.frame_id = "odom"
        self.odom.child_frame_id = "base_link"
        self.imu = Imu()
        self.imu.header.frame_id = "imu_link"
        self.joints = JointState(name=[*WHEELS, *LEGS])
        self.command = JointState(name=list(WHEELS))
        self.time = TimeReference()
        self.battery = BatteryState(
            current=math.nan,
            charge=math.nan,
            capacity=math.nan,
            design_capacity=math.nan,
            percentage=math.nan,
            temperature=math.nan,
            present=True,
        )

    def fill(self, stamp: Time, raw: Telemetry, telemetry: Telemetry, estimate: Estimate) -> None:
        """Fill odometry, IMU, joint states, device time and battery from one frame, as it came and as corrected."""
        s = telemetry.sensors
        odom = self.odom
        odom.header.stamp = stamp
        half_pitch, half_yaw = estimate.theta_rad / 2, estimate.yaw_rad / 2
        cp, sp, cy, sy = math.cos(half_pitch), math.sin(half_pitch), math.cos(half_yaw), math.sin(half_yaw)
        pose, twist = odom.pose.pose, odom.twist.twist
        pose.position.x = estimate.x_m
        # Yaw, then pitch; roll is left to /imu.
        q = pose.orientation
        q.w, q.x, q.y, q.z = cy * cp, -sy * sp, cy * sp, sy * cp
        twist.linear.x = estimate.v_mps
        twist.angular.y = estimate.theta_dot_radps
        twist.angular.z = estimate.yaw_rate_radps
        imu = self.imu
        imu.header.stamp = stamp
        # As measured, in the sensor's own axes.
        w, x, y, z = raw.sensors.quaternion_wxyz
        imu.orientation.w, imu.orientation.x, imu.orientation.y, imu.orientation.z = w, x, y, z
        rate, acceleration = imu.angular_velocity, imu.linear_acceleration
        rate.x, rate.y, rate.z = raw.sensors.gyro_radps
        acceleration.x, acceleration.y, acceleration.z = raw.sensors.accel_mps2
        self.joints.header.stamp = stamp
        self.joints.position = [*s.wheel_pos_rad, *s.leg_pos_rad]
        self.joints.velocity = [*s.wheel_vel_radps, *s.leg_vel_radps]
        # Leg servos hold position and report no torque.
        self.joints.effort = [*telemetry.executed_nm, math.nan, math.nan, math.nan, math.nan]
        time = self.time
        time.header.stamp = stamp
        time.time_ref.sec, microseconds = divmod(raw.device_time_us, 1_000_000)
        time.time_ref.nanosec = microseconds * 1000
        time.source = f"{raw.sequence:010d}"
        self.battery.header.stamp = stamp
        self.battery.voltage = s.battery_v

    def fill_command(self, stamp: Time, torques_nm: tuple[float, float], mode: str) -> JointState:
        """Fill what was sent, left and right as on the robot: stamp of the observation it answers, mode as frame_id."""
        self.command.header.stamp = stamp
        self.command.header.frame_id = mode
        self.command.effort = [*torques_nm]
        return self.command
