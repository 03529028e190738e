# SPDX-License-Identifier: Apache-2.0
"""A subscription in a thread of its own: served while its owner is busy, and ended with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.node import Node
from std_msgs.msg import String

from h2o_control.hot_lane import HotLane
from h2o_control.node_tools import STREAM_QOS

pytestmark = pytest.mark.ros


@pytest.fixture
def owner() -> Iterator[Node]:
    rclpy.init(args=["--ros-args", "-r", "__ns:=/lab", "-r", "__node:=driver", "-r", "torque:=wanted"])
    node = rclpy.create_node("x")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_messages_come_though_nobody_spins_the_owner_and_remappings_hold(owner: Node) -> None:
    heard: list[tuple[str, str, bool]] = []
    lane = HotLane(
        owner,
        String,
        "torque",
        lambda m, info: heard.append((m.data, threading.current_thread().name, "source_timestamp" in info)),
        STREAM_QOS,
    )
    try:
        sender = owner.create_publisher(String, "/lab/wanted", STREAM_QOS)
        wait(lambda: sender.get_subscription_count() == 1, "the lane listening")
        for n in range(5):
            sender.publish(String(data=str(n)))
        wait(lambda: len(heard) == 5, f"five messages, got {heard}")
        assert heard == [(str(n), "hot_lane", True) for n in range(5)]
        names = [info.node_name for info in owner.get_subscriptions_info_by_topic("/lab/wanted")]
        assert names == ["driver_loop"]
    finally:
        lane.stop()
    wait(lambda: sender.get_subscription_count() == 0, "the lane gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_error_in_the_callback_ends_the_owner(owner: Node) -> None:
    def fail(_message: Any, _info: Any) -> None:
        raise ZeroDivisionError("as a test")

    owner.finished, owner.exit_code = False, 0  # type: ignore[attr-defined]
    lane = HotLane(owner, String, "torque", fail, STREAM_QOS)
    try:
        sender = owner.create_publisher(String, "torque", STREAM_QOS)
        wait(lambda: sender.get_subscription_count() == 1, "the lane listening")
        sender.publish(String(data="x"))
        wait(lambda: owner.finished, "the end of the owner")  # type: ignore[attr-defined]
        assert owner.exit_code == 70  # type: ignore[attr-defined]
    finally:
        lane.stop()
