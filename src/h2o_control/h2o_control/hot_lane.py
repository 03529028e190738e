# SPDX-License-Identifier: Apache-2.0
"""A subscription that a control loop hangs on, in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

from h2o_control.node_tools import subscription

#: Longest wait before it is seen that the thread shall end.
WAIT_NS = 100_000_000


class HotLane:
    """Serves one subscription beside a node's executor, so that no service, timer or other topic delays it.

    At every wake-up rclpy's executor goes in Python through all that its nodes have, some thirty entities in a driver.
    Here one wait set with one entity is waited for, as in rclpy's own `wait_for_message`. The subscription belongs to a
    node of its own that appears in the graph as NAME_loop. Callbacks run in this thread: what they share with the
    owner's needs a lock. Create it last: a thread that is left behind aborts the process at exit.
    """

    def __init__(
        self, owner: Node, kind: Any, topic: str, callback: Callable[[Any, dict[str, Any]], None], qos: QoSProfile
    ) -> None:
        """Subscribe to the owner's `topic` (its remappings hold) and begin; `stop` before the owner is destroyed.

        The callback gets the message and the middleware's info about it. An error in it ends the owner: `exit_code`
        becomes 70 and `finished` true.
        """
        self._owner = owner
        self._callback = callback
        self._node = rclpy.create_node(
            f"{owner.get_name()}_loop",
            namespace=owner.get_namespace(),
            context=owner.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._subscription = subscription(self._node, kind, owner.resolve_topic_name(topic), callback, qos)
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="hot_lane", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            handle, kind = self._subscription.handle, self._subscription.msg_type
            wait_set = rclpy_implementation.WaitSet(1, 0, 0, 0, 0, 0, self._owner.context.handle)
            while self._running and self._owner.context.ok():
                wait_set.clear_entities()
                wait_set.add_subscription(handle)
                wait_set.wait(WAIT_NS)
                while self._running and (taken := handle.take_message(kind, False)) is not None:
                    self._callback(*taken)
        except Exception:
            self._owner.get_logger().fatal(traceback.format_exc())
            self._owner.exit_code, self._owner.finished = 70, True
            raise

    def stop(self) -> None:
        """End the thread and leave the graph."""
        self._running = False
        self._thread.join()
        self._node.destroy_node()
