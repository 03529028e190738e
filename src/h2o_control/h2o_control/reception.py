# SPDX-License-Identifier: Apache-2.0
"""Takes the serialized messages of many topics in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

from h2o_control.node_tools import subscription

#: Longest wait before it is seen that the thread shall end.
WAIT_NS = 100_000_000
#: At most this many messages of one topic before the others are looked at.
BATCH = 100
#: What a middleware gives for a number that it does not know.
UNKNOWN = 0xFFFFFFFFFFFFFFFF

#: Gets name of the topic, message (CDR), its publisher's number for it (None where not known), and which publisher.
Taker = Callable[[str, bytes, "int | None", bytes], None]


class Reception:
    """Serves raw subscriptions beside a node's executor, which would go through all of a node's parts for each message.

    The subscriptions belong to a node that appears in the graph as NAME_reception. `taker` runs in this thread: what it
    shares with the owner's needs a lock. Begin last: a thread that is left behind aborts the process at exit.
    """

    def __init__(self, owner: Node, wanted: Mapping[str, tuple[Any, QoSProfile]], taker: Taker) -> None:
        """Subscribe to the owner's topics; its remappings hold.

        An error in `taker` ends the owner: `exit_code` becomes 70 and `finished` true.

        Args:
            owner: node whose topics these are.
            wanted: message class and QoS by topic.
            taker: gets every message.
        """
        self._owner = owner
        self._taker = taker
        self._node = rclpy.create_node(
            f"{owner.get_name()}_reception",
            namespace=owner.get_namespace(),
            context=owner.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._subscriptions = {
            name: subscription(self._node, kind, owner.resolve_topic_name(name), lambda _: None, qos, raw=True)
            for name, (kind, qos) in wanted.items()
        }
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="reception", daemon=True)

    def start(self) -> None:
        """Begin to take messages; `stop` before the owner is destroyed."""
        self._thread.start()

    def matched(self, name: str) -> bool:
        """Tell whether a publisher of this topic and this subscription have found each other."""
        mine = self._subscriptions[name]
        if hasattr(mine, "get_publisher_count"):
            return bool(mine.get_publisher_count() > 0)
        # ROS 2 Humble cannot say who is matched, only who is there.
        return bool(self._node.count_publishers(mine.topic_name) > 0)

    def stop(self) -> None:
        """End the thread and leave the graph."""
        self._running = False
        self._thread.join()
        self._node.destroy_node()

    def _serve(self) -> None:
        try:
            self._take_all()
        except Exception:
            self._owner.get_logger().fatal(traceback.format_exc())
            self._owner.exit_code, self._owner.finished = 70, True
            raise

    def _take_all(self) -> None:
        lanes = {s.handle.pointer: (name, s.handle, s.msg_type) for name, s in self._subscriptions.items()}
        wait_set = rclpy_implementation.WaitSet(len(lanes), 0, 0, 0, 0, 0, self._owner.context.handle)
        while self._running and self._owner.context.ok():
            wait_set.clear_entities()
            for _, handle, _ in lanes.values():
                wait_set.add_subscription(handle)
            wait_set.wait(WAIT_NS)
            for pointer in wait_set.get_ready_entities("subscription"):
                name, handle, kind = lanes[pointer]
                for _ in range(BATCH):
                    taken = handle.take_message(kind, True)
                    if taken is None:
                        break
                    data, info = taken
                    number = info.get("publication_sequence_number")
                    gid = info.get("publisher_gid")
                    publisher = bytes(gid["data"]) if gid else b""
                    self._taker(name, data, None if number in (None, UNKNOWN) else number, publisher)
