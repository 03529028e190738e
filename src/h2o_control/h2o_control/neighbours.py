# SPDX-License-Identifier: Apache-2.0
"""Who else is in the graph, by name."""

from __future__ import annotations

from rclpy.node import Node

#: Part of the name that rclpy gives a node which it has found but whose name has not arrived yet.
_UNKNOWN = "_UNKNOWN_"


def publisher_names(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one for each publisher that is known by name so far.

    A node that has just joined knows few of the others; they are found within a second, nearly always. One that
    was killed is listed until its lease ends, some 20 s.
    """
    found = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    names = sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found)
    return [name for name in names if _UNKNOWN not in name]
