# SPDX-License-Identifier: Apache-2.0
"""Nodes meet on the loopback, over UDP and nothing else, unless the user wants it otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graph import graph
from h2o_control import middleware


def test_defaults_leave_what_the_user_chose_alone() -> None:
    for name in middleware.CHOICES:
        assert middleware.defaults({name: "anything"}) == {}
    assert middleware.defaults({"ROS_DOMAIN_ID": "3"})["FASTDDS_DEFAULT_PROFILES_FILE"] == str(middleware.PROFILES)
    assert middleware.PROFILES.is_file()


def test_defaults_know_older_distributions_and_other_middleware() -> None:
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" in middleware.defaults({"ROS_DISTRO": "humble"})
    cyclone = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    assert middleware.defaults(cyclone) == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    assert middleware.defaults({**cyclone, "ROS_DISTRO": "humble"}) == {"ROS_LOCALHOST_ONLY": "1"}


@pytest.mark.ros
def test_no_node_uses_shared_memory_in_which_a_killed_one_could_stop_it(tmp_path: Path) -> None:
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot("ideal")
        probe.wait(lambda: bool(probe.joints), "telemetry")
        for pid in (os.getpid(), nodes.processes[1].pid):
            assert "/dev/shm/fastdds" not in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.ros
def test_a_node_with_the_middlewares_own_settings_is_heard(tmp_path: Path) -> None:
    code = (
        "import rclpy; from std_msgs.msg import String; rclpy.init(); node = rclpy.create_node('foreign');"
        "heard = []; node.create_subscription(String, 'interface', heard.append, "
        "rclpy.qos.QoSProfile(depth=1, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL))\n"
        "while not heard: rclpy.spin_once(node, timeout_sec=0.1)\n"
    )
    with graph(tmp_path) as (nodes, probe):
        nodes.start_robot("ideal")
        probe.wait(lambda: bool(probe.joints), "telemetry")
        plain = {k: v for k, v in os.environ.items() if k not in middleware.CHOICES}
        subprocess.run([sys.executable, "-c", code], env=plain, timeout=30, check=True)
