# SPDX-License-Identifier: Apache-2.0
"""What a joystick asks for: speed while the dead-man button is held, requests by other buttons. No ROS, no clock."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from h2o_control.errors import ConfigError


class Request(enum.Enum):
    """What a button asks for."""

    ESTOP = "estop"
    ARM = "arm"
    DISARM = "disarm"
    POLICY = "policy"


@dataclass(frozen=True)
class Layout:
    """Which axis and button does what; the defaults are those of an Xbox pad under ROS's joy_node.

    Attributes:
        speed_axis, yaw_axis: numbers of the axes; +1 is forward, and to the left.
        deadman_button, estop_button, arm_button, disarm_button, policy_button: numbers of the buttons.
        speed_mps, yaw_radps: at full deflection; negative turns an axis around.
        deadzone: share of the deflection that counts as none; beyond it the rest is spread over the whole range.
        stale_s: without a message for this long the joystick counts as gone.

    Raises:
        ValueError: one button has two meanings, or both axes are one.
    """

    speed_axis: int = 1
    yaw_axis: int = 0
    deadman_button: int = 4
    estop_button: int = 1
    arm_button: int = 7
    disarm_button: int = 6
    policy_button: int = 3
    speed_mps: float = 0.6
    yaw_radps: float = 1.0
    deadzone: float = 0.1
    stale_s: float = 0.2

    def __post_init__(self) -> None:
        buttons = [self.deadman_button, *self.requests.values()]
        for button in buttons:
            if buttons.count(button) > 1:
                raise ValueError(f"button {button} has more than one meaning")
        if self.speed_axis == self.yaw_axis:
            raise ValueError(f"axis {self.speed_axis} is both speed and yaw")

    @property
    def requests(self) -> dict[Request, int]:
        """Button of each request."""
        return {
            Request.ESTOP: self.estop_button,
            Request.ARM: self.arm_button,
            Request.DISARM: self.disarm_button,
            Request.POLICY: self.policy_button,
        }


class Joystick:
    """Follows the messages of a joystick.

    A button counts from its press on. What was down in the first message, or in the first after a silence, has to be
    let go of first: a robot is not armed because something lies on the joystick. Only e-stop acts at once, always.

    Attributes:
        fresh: whether the joystick is heard.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.fresh = False
        self._heard_s = -math.inf
        self._released: set[int] = set()
        self._down: set[int] = set()
        self._axes = (0.0, 0.0)

    def update(self, axes: Sequence[float], buttons: Sequence[int], now_s: float) -> list[Request]:
        """Take one message; returns what has been asked for by it.

        Raises:
            ConfigError: it has fewer axes or buttons than the layout names; an e-stop in it has to be looked for by
                `stops` before.
        """
        layout = self.layout
        self._check(axes, buttons)
        if self.went_silent(now_s) or not self.fresh:
            self._released, self._down = set(), set()
        self.fresh, self._heard_s = True, now_s
        self._axes = (axes[layout.speed_axis], axes[layout.yaw_axis])
        down = {number for number, value in enumerate(buttons) if value}
        pressed = (down - self._down) & self._released
        self._released |= set(range(len(buttons))) - down
        self._down = down
        return [r for r, button in layout.requests.items() if r is not Request.ESTOP and button in pressed]

    def stops(self, buttons: Sequence[int]) -> bool:
        """Tell whether the e-stop button is down in a message, whatever else is wrong with it."""
        number = self.layout.estop_button
        return number < len(buttons) and bool(buttons[number])

    def went_silent(self, now_s: float) -> bool:
        """Tell, once, that a joystick which was heard is not any more."""
        if self.fresh and now_s - self._heard_s > self.layout.stale_s:
            self.fresh = False
            return True
        return False

    @property
    def driving(self) -> bool:
        """Whether the dead-man button is held, pressed since the joystick has been heard."""
        button = self.layout.deadman_button
        return self.fresh and button in self._down and button in self._released

    def command(self) -> tuple[float, float]:
        """Return speed in m/s and yaw rate in rad/s; zero unless driving."""
        if not self.driving:
            return 0.0, 0.0
        v, yaw = (self._shape(value) for value in self._axes)
        return v * self.layout.speed_mps, yaw * self.layout.yaw_radps

    def _shape(self, value: float) -> float:
        if not math.isfinite(value):
            return 0.0
        beyond = max(0.0, min(1.0, abs(value)) - self.layout.deadzone) / (1.0 - self.layout.deadzone)
        return math.copysign(beyond, value) if beyond else 0.0

    def _check(self, axes: Sequence[float], buttons: Sequence[int]) -> None:
        layout = self.layout
        needed = max(layout.speed_axis, layout.yaw_axis) + 1
        if len(axes) < needed:
            raise ConfigError(
                f"the joystick has {len(axes)} axes, numbered from 0; speed_axis {layout.speed_axis} and yaw_axis "
                f"{layout.yaw_axis} need {needed}: set them to this joystick's"
            )
        named = {"deadman_button": layout.deadman_button}
        named.update({f"{request.value}_button": button for request, button in layout.requests.items()})
        missing = [f"{name} {button}" for name, button in named.items() if button >= len(buttons)]
        if missing:
            raise ConfigError(
                f"the joystick has {len(buttons)} buttons, numbered from 0, and none for {', '.join(missing)}: "
                "set these to buttons that it has"
            )
