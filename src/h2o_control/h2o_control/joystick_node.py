# SPDX-License-Identifier: Apache-2.0
"""An operator with a joystick: /joy of ROS's joy_node becomes speed and requests, and silence stops the robot."""

from __future__ import annotations

import dataclasses
import sys
import time

from sensor_msgs.msg import Joy

from h2o_control import topics
from h2o_control.errors import ConfigError
from h2o_control.joystick import Joystick, Layout, Request
from h2o_control.node_tools import STEADY_CLOCK, STREAM_QOS, Parameter, declare, run, steady_timer, value
from h2o_control.operator_node import OperatorNode

_LAYOUT = Layout()
#: Twice as often as the driver needs it; it also bounds how late silence is noticed.
TICK_S = 0.025
#: After silence, a policy that takes command within this time was asked for before, and loses it too.
TAKE_BACK_S = 1.0
#: Zero is commanded for so long after the dead-man button was let go.
LET_GO_S = 0.5

PARAMETERS = (
    Parameter("speed_axis", _LAYOUT.speed_axis, "axis that drives, +1 forward", 0, 31),
    Parameter("yaw_axis", _LAYOUT.yaw_axis, "axis that turns, +1 to the left", 0, 31),
    Parameter("deadman_button", _LAYOUT.deadman_button, "held while driving", 0, 63),
    Parameter("estop_button", _LAYOUT.estop_button, "stops the robot at once", 0, 63),
    Parameter("arm_button", _LAYOUT.arm_button, "arms", 0, 63),
    Parameter("disarm_button", _LAYOUT.disarm_button, "disarms: zero torque", 0, 63),
    Parameter("policy_button", _LAYOUT.policy_button, "gives command to the policy, or takes it back", 0, 63),
    Parameter("speed_mps", _LAYOUT.speed_mps, "speed at full deflection, m/s; negative turns the axis", -2.0, 2.0),
    Parameter("yaw_radps", _LAYOUT.yaw_radps, "yaw rate at full deflection, rad/s; negative turns it", -3.0, 3.0),
    Parameter("deadzone", _LAYOUT.deadzone, "share of the deflection that counts as none", 0.0, 0.9),
    # joy_node repeats what it last read 20 times a second (its parameter autorepeat_rate).
    Parameter("stale_s", _LAYOUT.stale_s, "without /joy for this long everything stops, s", 0.06, 1.0),
)


class JoystickNode(OperatorNode):
    """Drives while the dead-man button is held; a joystick that falls silent stops the robot and any policy."""

    def __init__(self) -> None:
        super().__init__("joystick", watch_state=False)
        declare(self, PARAMETERS)
        try:
            layout = Layout(**{f.name: value(self, f.name) for f in dataclasses.fields(Layout)})
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._joystick = Joystick(layout)
        self._stop_held = False
        self._take_back_until_s = 0.0
        self._speak_until_s = 0.0
        self.create_subscription(Joy, topics.JOY, self._on_joy, STREAM_QOS)
        steady_timer(self, TICK_S, self._tick)

    def _on_joy(self, message: Joy) -> None:
        # E-stop first, on press, whatever else is wrong with the message.
        stop = self._joystick.stops(message.buttons)
        if stop and not self._stop_held:
            self.get_logger().warning("e-stop by joystick")
            self.stop_now()
        self._stop_held = stop
        self._notice_silence(time.monotonic())
        was_fresh = self._joystick.fresh
        try:
            requests = self._joystick.update(message.axes, message.buttons, time.monotonic())
        except ConfigError as error:
            # Not an end of the node: whoever starts nodes in groups would end the driver with it.
            self.get_logger().error(
                f"joystick not obeyed: {error}", throttle_duration_sec=5.0, throttle_time_source_type=STEADY_CLOCK
            )
            return
        if not was_fresh:
            self.get_logger().info("joystick heard: let go of all buttons once")
        for request in requests:
            self._request(request)

    def _request(self, request: Request) -> None:
        if request is Request.ARM:
            self.call(self.arm)
        elif request is Request.DISARM:
            self.call(self.disarm, urgent=True)
        elif request is Request.POLICY:
            on = self.mode != topics.TORQUE
            self.call(self.torque_mode, on=on, urgent=not on)

    def _notice_silence(self, now_s: float) -> None:
        if self._joystick.went_silent(now_s):
            self.get_logger().error(
                f"joystick silent for {self._joystick.layout.stale_s:g} s: speed zero"
                + (", taking command back from the policy" if self.mode == topics.TORQUE else "")
            )
            self._take_back_until_s = now_s + TAKE_BACK_S
            self.drive(0.0, 0.0)

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._notice_silence(now_s)
        if now_s < self._take_back_until_s and self.mode == topics.TORQUE:
            self._take_back_until_s = now_s + TAKE_BACK_S
            self.call(self.torque_mode, on=False)
        if self._joystick.driving:
            self._speak_until_s = now_s + LET_GO_S
        # A joystick that lies on the table must not speak against other operators.
        if self._joystick.fresh and now_s < self._speak_until_s:
            self.drive(*self._joystick.command())

    def make_safe(self) -> None:
        """Stop what the joystick drives; a policy loses command with its operator."""
        if self._joystick.fresh:
            self.release()


def main() -> None:
    """Console script `joystick_node`."""
    sys.exit(run(JoystickNode))
