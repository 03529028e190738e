# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.clock import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from h2o_control.node_tools import STREAM_QOS, publisher, steady_timer, subscription

pytestmark = pytest.mark.ros


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("tools", context=context)
    try:
        yield made
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)


def spin(node: Node, seconds: float) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.02)
    executor.remove_node(node)


def test_a_steady_timer_calls_back_and_does_not_follow_the_wall_clock(node: Node) -> None:
    calls: list[float] = []
    timer = steady_timer(node, 0.05, lambda: calls.append(time.monotonic()))
    assert timer.clock.clock_type == ClockType.STEADY_TIME
    spin(node, 0.6)
    assert 3 <= len(calls) <= 13


def test_quiet_endpoints_carry_messages_and_burden_the_executor_with_nothing_else(node: Node) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    ear = subscription(node, String, "said", lambda message, info: heard.append((message.data, info)), STREAM_QOS)
    mouth = publisher(node, String, "said", STREAM_QOS)
    usual = node.create_publisher(String, "usual", STREAM_QOS)
    assert (len(mouth.event_handlers), len(ear.event_handlers)) == (0, 0)
    assert len(usual.event_handlers) > 0
    deadline = time.monotonic() + 10.0
    while not heard and time.monotonic() < deadline:
        mouth.publish(String(data="hello"))
        spin(node, 0.05)
    assert heard[0][0] == "hello"
    assert "source_timestamp" in heard[0][1]
