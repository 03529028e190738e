# SPDX-License-Identifier: Apache-2.0
"""Publishes what a robot publishes, at its rates, from a process of its own: 2000 messages a second unless told else.

Every message of a tick has the tick's stamp, every tick a number (in /device_time), so that a bag tells what it lacks.
It arms and disarms by turns where asked. On SIGTERM it prints how many messages it sent by topic, as JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from typing import Any

import rclpy
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Imu, JointState, TimeReference
from std_msgs.msg import String

from h2o_control import middleware, topics
from h2o_control.contract import Interface
from h2o_control.node_tools import LATCHED_QOS, publisher

#: Topics that get a message at every tick.
STREAMS = {
    topics.ODOM: Odometry,
    topics.IMU: Imu,
    topics.JOINT_STATES: JointState,
    topics.DEVICE_TIME: TimeReference,
    topics.WHEEL_COMMAND: JointState,
    topics.WHEEL_TORQUE: JointState,
    topics.SHADOW_TORQUE: JointState,
    topics.CMD_VEL: TwistStamped,
}
MESSAGES_PER_S = 2000.0


def publish(rate_hz: float, armed_s: float, pause_s: float, seconds: float) -> Counter[str]:
    """Publish until a signal comes or the time is over; returns how many messages each topic got."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    node = rclpy.create_node("robot_rates")
    publishers = {name: publisher(node, kind, name, QoSProfile(depth=100)) for name, kind in STREAMS.items()}
    mode, interface = (publisher(node, String, name, LATCHED_QOS) for name in (topics.MODE, topics.INTERFACE))
    interface.publish(String(data=Interface().to_json()))
    mode.publish(String(data="disarmed: start"))
    messages: dict[str, Any] = {name: kind() for name, kind in STREAMS.items()}
    messages[topics.ODOM].pose.pose.orientation.w = 1.0
    for name, joints in (
        (topics.JOINT_STATES, [*topics.WHEELS, *topics.LEGS]),
        (topics.WHEEL_COMMAND, [*topics.WHEELS]),
        (topics.WHEEL_TORQUE, [*topics.WHEELS]),
        (topics.SHADOW_TORQUE, [*topics.WHEELS]),
    ):
        messages[name].name, messages[name].effort = joints, [0.1] * len(joints)
    sent: Counter[str] = Counter()
    armed, start_s, tick = False, time.monotonic(), 0
    while not stopped and tick < seconds * rate_hz:
        phase_s = (tick / rate_hz) % (armed_s + pause_s)
        if armed != (phase_s < armed_s):
            armed = not armed
            mode.publish(String(data="balance: armed" if armed else "disarmed: by request"))
        stamp_ns = 1_000_000_000_000 + round(tick * 1e9 / rate_hz)
        for name, message in messages.items():
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
            if name == topics.DEVICE_TIME:
                message.source = f"{tick:010d}"
            publishers[name].publish(message)
            sent[name] += 1
        tick += 1
        time.sleep(max(0.0, start_s + tick / rate_hz - time.monotonic()))
    # What was sent last is still on its way.
    time.sleep(0.5)
    node.destroy_node()
    return sent


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=float, default=MESSAGES_PER_S, help="messages a second, all topics together")
    parser.add_argument("--armed", type=float, default=1e9, help="how long the robot stays armed, s")
    parser.add_argument("--pause", type=float, default=0.0, help="and then disarmed, s")
    parser.add_argument("--seconds", type=float, default=1e9, help="how long to publish, s")
    options = parser.parse_args()
    middleware.apply_defaults()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        sent = publish(options.messages / len(STREAMS), options.armed, options.pause, options.seconds)
    finally:
        rclpy.try_shutdown()
    json.dump(sent, sys.stdout)


if __name__ == "__main__":
    main()
