# SPDX-License-Identifier: Apache-2.0
"""What nodes do otherwise while a bag is played: lose nothing, and end when it has been played.

No launch file that ROS 2 Humble parses can say "stop all when this node ends"; both `ros2 launch` and `h2o-robot up`
end when every node has ended. So each node ends by itself once whoever published /clock has gone.
"""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.qos import QoSProfile

from h2o_control.errors import UserError
from h2o_control.node_tools import steady_timer, value
from h2o_control.parameter import Parameter

END_WITH_CLOCK = Parameter("end_with_clock", False, "end once whoever published /clock has gone: the bag was played")
#: Of observations that are played, and of the answers: a burst, or a machine that stands still, costs none.
PLAYED_QOS = QoSProfile(depth=1000)
LOOK_S = 0.25
#: Longer than a player waits for those who listen to it.
PATIENCE_S = 60.0


def end_with_clock(node: Node) -> None:
    """Set the node's `finished` when the publishers of /clock have gone; only where its END_WITH_CLOCK is true.

    Nobody who publishes it for PATIENCE_S ends the node with a UserError, raised from a timer.
    """
    if not value(node, END_WITH_CLOCK.name):
        return
    created_s = time.monotonic()
    heard = False

    def look() -> None:
        nonlocal heard
        if node.count_publishers("/clock"):
            heard = True
        elif heard:
            node.finished = True
        elif time.monotonic() - created_s > PATIENCE_S:
            raise UserError(f"nobody has published /clock for {PATIENCE_S:g} s: is the bag player running?")

    steady_timer(node, LOOK_S, look)
