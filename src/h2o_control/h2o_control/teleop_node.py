# SPDX-License-Identifier: Apache-2.0
"""Operators that need no person: one drives for data collection, the other leaves a policy in command for a time."""

from __future__ import annotations

import sys
import time

from h2o_control import topics
from h2o_control.errors import ConfigError, nearest
from h2o_control.neighbours import publisher_names
from h2o_control.node_tools import Parameter, declare, run, steady_timer, value
from h2o_control.operator_node import TICK_S, OperatorNode
from h2o_control.operator_script import ScriptedOperator

OPERATORS = ("script", "deploy")
PARAMETERS = (
    Parameter("operator", "script", "script drives for data, deploy runs a policy"),
    Parameter("duration_s", 90.0, "how long to drive, or to leave the policy in command, s", 1.0, 36000.0),
    Parameter("seed", 0, "of the script"),
    Parameter("max_falls", 0, "after how many falls and holds the robot is still picked up and armed again", 0, 1000),
    Parameter("settle_s", 2.0, "how long the driver balances before anything else happens, s", 0.2, 60.0),
)
#: How long the operator takes to pick up a fallen robot and hold it upright.
PICK_UP_S = 2.0
#: Without the robot's state for so long, s, it gives up: while it drives, and at the start, where nodes may load.
SILENT_S, START_S = 10.0, 60.0
#: How long a policy may take until the driver gives it command, s.
HAND_OVER_S = 60.0
#: How long the driver may refuse to arm, s: somebody may have to set the robot up first.
ARM_S = 60.0
#: How long the operator looks at a robot that a fault stopped, or that the driver holds and brings to rest.
LOOK_S = {topics.FAULT: 0.5, topics.HOLD: 1.5}


class TeleopNode(OperatorNode):
    """Arms, drives or hands over to the policy for a time, picks the robot up when it falls, disarms at the end."""

    def __init__(self) -> None:
        super().__init__("teleop")
        declare(self, PARAMETERS)
        self.finished = False
        self.exit_code = 0
        self._kind = str(value(self, "operator"))
        if self._kind not in OPERATORS:
            raise ConfigError(
                f"operator is {self._kind!r}.{nearest(self._kind, OPERATORS)} To start no operator, give a launch file "
                "operator:=none"
            )
        self._duration_s = float(value(self, "duration_s"))
        self._settle_s = float(value(self, "settle_s"))
        self._script = ScriptedOperator(int(value(self, "seed")))
        self._max_falls = int(value(self, "max_falls"))
        self._driven_s = 0.0
        self._handed_over = False
        self._warned = False
        steady_timer(self, TICK_S, self._tick)

    def _tick(self) -> None:
        heard = self.odom_at_s > self._created_s
        since_s, limit_s = (self.odom_at_s, SILENT_S) if heard else (self._created_s, START_S)
        if time.monotonic() - since_s > limit_s:
            self.get_logger().error(
                f"the robot's state has not been heard for {limit_s:.0f} s: does the driver still run? Given up after "
                f"{self._driven_s:.0f} s, {self._stops()}"
            )
            self.exit_code, self.finished = 1, True
            return
        if self._kind == "deploy" and self._handed_over:
            # The time that the driver's own balance has to help out counts too.
            self._driven_s += TICK_S
        if self.falls + self.holds > self._max_falls and not self.exit_code:
            self.get_logger().error(
                f"{self._stops()} in {self._driven_s:.0f} s: {self.reason}. Not armed again, max_falls says how often "
                "that is done"
            )
            self.exit_code = 1
        if self._driven_s >= self._duration_s or self.exit_code:
            self._finish()
        elif self.mode == topics.DISARMED:
            if self.in_mode_s > (PICK_UP_S if self.falls + self.holds else 1.0):
                self._arm()
        elif self.mode in LOOK_S:
            if self.in_mode_s > LOOK_S[self.mode]:
                self.call(self.disarm)
        elif self.mode == topics.TORQUE:
            self._handed_over = True
        elif self.mode == topics.BALANCE:
            self._operate()

    def _arm(self) -> None:
        drivers = publisher_names(self, topics.MODE)
        if len(drivers) > 1 and not self._warned:
            self._warned = True
            self.get_logger().warning(
                f"{len(drivers)} drivers are in this domain ({', '.join(drivers)}), all of which hear this operator: "
                "give each robot a ROS_DOMAIN_ID of its own. One that was killed within 20 s counts, too"
            )
        if self.in_mode_s > ARM_S:
            who = " or ".join(sorted(set(drivers))) or "the driver"
            self.get_logger().error(f"{who} did not arm within {ARM_S:.0f} s: {self.refusal or 'no answer'}")
            self.exit_code = 1
        else:
            self.call(self.arm)

    def _operate(self) -> None:
        if self.in_mode_s < self._settle_s:
            self.drive(0.0, 0.0)
        elif self._kind == "deploy":
            self.drive(0.0, 0.0)
            self.call(self.torque_mode, on=True)
            if not self._handed_over and self.in_mode_s > self._settle_s + HAND_OVER_S and not self.exit_code:
                self.get_logger().error(f"no policy was given command in {HAND_OVER_S:.0f} s: {self.refusal}")
                self.exit_code = 1
        else:
            self.drive(*self._script.command(self._driven_s, self.odom.pose.pose.position.x))
            self._driven_s += TICK_S

    def _finish(self) -> None:
        if self.mode == topics.TORQUE:
            self.call(self.torque_mode, on=False)
        elif self.mode == topics.BALANCE and self._kind == "deploy" and self.in_mode_s < 1.0:
            self.drive(0.0, 0.0)
        elif self.mode in (topics.BALANCE, topics.HOLD, topics.FAULT):
            self.call(self.disarm)
        else:
            self.get_logger().info(f"done: {self._driven_s:.0f} s, {self._stops()}")
            self.finished = True

    def _stops(self) -> str:
        return f"fallen or stopped {times(self.falls)}, held {times(self.holds)}"

    def make_safe(self) -> None:
        """Leave the robot standing still: an operator who walks away lets go of the stick and of the policy."""
        self.release()


def times(count: int) -> str:
    """Write how often in words."""
    return f"{count} time{'' if count == 1 else 's'}"


def main() -> None:
    """Console script `teleop_node`."""
    sys.exit(run(TeleopNode))
