# SPDX-License-Identifier: Apache-2.0
"""The node behind `h2o-robot operate`: waits for what one request needs, makes it, and tells what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rich.table import Table
from rich.text import Text
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.errors import UserError
from h2o_control.neighbours import publisher_names
from h2o_control.operator_node import OperatorNode
from h2o_control.policy_check import TIMEOUT_S as CHECK_TIMEOUT_S

#: How long the recorder may take to open or close a file.
RECORDER_S = 5.0
#: How long the firmware may take to say that it is armed.
ARMED_S = 2.0
#: The driver reports twice a second; all nodes have within this time.
REPORT_S = 1.2
#: Other nodes are found this long after the first at the latest, nearly always.
FOUND_S = 1.5
#: How near the height asked for the driver's own figure must come, and how slowly it may, m and m/s.
HEIGHT_M, HEIGHT_MPS = 0.002, 0.05
#: Diagnostics that `status` leaves out: for programs, not for reading.
LONG = "histogram"
#: Keys of the driver's diagnostics: who publishes torque, and whose came while another node was in command.
PUBLISHERS = "publishers of torque"
REFUSED_TORQUE = "torques refused from others"
LEVELS = {
    DiagnosticStatus.OK: ("ok", "green"),
    DiagnosticStatus.WARN: ("warning", "yellow"),
    DiagnosticStatus.ERROR: ("error", "bold red"),
    DiagnosticStatus.STALE: ("silent", "yellow"),
}


class Operator(OperatorNode):
    """Waits for what one request needs, makes it, and returns whether it was granted and what was said."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__("operate", watch_state=False)
        self.statuses: dict[str, DiagnosticStatus] = {}
        self._timeout_s = timeout_s
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_diagnostics(self, message: Any) -> None:
        super()._on_diagnostics(message)
        self.statuses.update({status.name: status for status in message.status})

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Let messages come in until the condition holds; tells whether it did in time."""
        deadline_s = time.monotonic() + (self._timeout_s if seconds is None else seconds)
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(0.05, left_s))
        return True

    def require(self, condition: Callable[[], bool], who: str) -> None:
        """Wait for somebody; raise UserError where nobody comes."""
        if not self.wait(condition):
            raise UserError(
                f"no {who} answers within {self._timeout_s:g} s: is the robot's launch file running, with the same "
                "ROS_DOMAIN_ID?"
            )

    def ask(self, client: Any, request: Any, who: str, seconds: float = 0.0) -> Any:
        """Call a service and return its answer; `seconds` are granted for the work itself."""
        self.require(client.service_is_ready, who)
        future = client.call_async(request)
        if not self.wait(future.done, self._timeout_s + seconds):
            raise UserError(f"the {who} did not answer {client.srv_name} within {self._timeout_s + seconds:g} s")
        return future.result()

    def trigger(self, client: Any) -> tuple[bool, str]:
        """Call one of the driver's services without arguments."""
        answer = self.ask(client, Trigger.Request(), "driver")
        return answer.success, answer.message

    def arm_and_wait(self) -> tuple[bool, str]:
        """Arm; granted once the driver balances."""
        granted, said = self.trigger(self.arm)
        if not granted:
            return False, said
        if not self.wait(lambda: self.mode in topics.ARMED, ARMED_S):
            return False, f"asked, but the firmware does not say that it is armed; {self.state()}"
        return True, self.state()

    def stop(self) -> tuple[bool, str]:
        """Stop by topic and by service, whichever is found first; the other one follows where it is quick."""
        said = ""
        future = None

        def stopped() -> bool:
            nonlocal said, future
            if self._stop.get_subscription_count():
                self.stop_by_topic()
            if future is None and self.estop.service_is_ready():
                future = self.estop.call_async(Trigger.Request())
            if future is not None and future.done():
                said = future.result().message
            return bool(said) or self.mode == topics.FAULT

        self.require(stopped, "driver")
        return True, said or self.state()

    def policy(self, on: bool) -> tuple[bool, str]:
        """Give command to the policy, or take it back."""
        answer = self.ask(self.torque_mode, SetBool.Request(data=on), "driver")
        if answer.success or not on:
            return answer.success, answer.message
        self.wait(lambda: "driver" in self.statuses, FOUND_S)
        # The driver has been there for long enough to have found who publishes; this node may know but half of them.
        if self._driver_value(PUBLISHERS) in ("", "none"):
            self.wait(lambda: bool(self.shadow_hint()), FOUND_S)
        return False, answer.message + self.shadow_hint()

    def height(self, height_m: float) -> tuple[bool, str]:
        """Take up a height; granted once the driver reports it."""
        self.require(lambda: self._height.get_subscription_count() > 0 and not math.isnan(self.height_m), "driver")
        state, start_m = self.state(), self.height_m
        if self.mode != topics.BALANCE:
            return False, f"the legs move only while the driver balances; {state}"
        self.take_height(height_m)
        seconds = abs(height_m - start_m) / HEIGHT_MPS + REPORT_S

        def there() -> bool:
            return abs(self.height_m - height_m) <= HEIGHT_M

        # The topic gives no answer: legs that do not begin to move were not allowed to.
        self.wait(lambda: there() or self.height_m != start_m, 2 * REPORT_S)
        if there() or (self.height_m != start_m and self.wait(there, seconds)):
            return True, f"hips at {self.height_m:.3f} m"
        return False, f"hips stay at {self.height_m:.3f} m, {height_m:.3f} m may be out of reach: see the driver's log"

    def swap(self, file: Path, name: str) -> tuple[bool, str]:
        """Put another policy in the place of the one that the node of this name runs."""
        node = f"/{name.strip('/')}"
        client = self.create_client(Trigger, f"{node}/{topics.SWAP}")
        if not self.wait(client.service_is_ready):
            found = publisher_names(self, topics.POLICY)
            others = f"there are {', '.join(found)}: give one as --node NAME." if found else "is it running?"
            raise UserError(f"no policy node named {node}: {others}{self.shadow_hint()}")
        settings = self.create_client(SetParameters, f"{node}/set_parameters")
        parameter = Parameter("candidate", value=str(file.absolute())).to_parameter_msg()
        (result,) = self.ask(settings, SetParameters.Request(parameters=[parameter]), f"policy node {node}").results
        if not result.successful:
            return False, result.reason
        answer = self.ask(client, Trigger.Request(), f"policy node {node}", CHECK_TIMEOUT_S)
        return answer.success, f"{answer.message}. {self._in_command(node)}" if answer.success else answer.message

    def record(self, service: str) -> tuple[bool, str]:
        """Call one of the recorder's services."""
        answer = self.ask(self.create_client(Trigger, service), Trigger.Request(), "recorder", RECORDER_S)
        return answer.success, answer.message

    def note(self, text: str) -> tuple[bool, str]:
        """Note something about the running episode, or else the one before."""
        settings = self.create_client(SetParameters, "recorder/set_parameters")
        parameter = Parameter("note", value=text).to_parameter_msg()
        (result,) = self.ask(settings, SetParameters.Request(parameters=[parameter]), "recorder").results
        return result.successful, "noted" if result.successful else result.reason

    def _in_command(self, node: str) -> str:
        """Say whether a policy node commands the robot."""
        if not self.wait(lambda: bool(self.mode), FOUND_S):
            return "No driver says whether it is in command"
        if self.mode != topics.TORQUE:
            return f"It is not in command: mode is {self.mode}"
        # Since command was given, the driver counts from whom else torque came; only its next report is fresh.
        self.statuses.pop("driver", None)
        self.wait(lambda: "driver" in self.statuses, FOUND_S)
        refused = self._driver_value(REFUSED_TORQUE)
        if not refused:
            return "The driver does not say whether it or another node is in command"
        if any(entry.split(" ")[0] == node for entry in refused.split(", ")):
            return "It is not in command: the driver obeys another node"
        return "It is in command"

    def _driver_value(self, key: str) -> str:
        values = self.statuses["driver"].values if "driver" in self.statuses else []
        return next((pair.value for pair in values if pair.key == key), "")

    def state(self) -> str:
        """The driver's mode and reason; waits for them."""
        self.require(lambda: bool(self.mode), "driver")
        return f"{self.mode}: {self.reason}"

    def status(self) -> Table:
        """Mode, and what every node says of itself."""
        self.require(lambda: bool(self.mode) and "driver" in self.statuses, "driver")
        self.wait(lambda: False, FOUND_S)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_row(Text("mode", style="bold"), Text(self.mode, style="bold"), Text(self.reason))
        for name, status in sorted(self.statuses.items()):
            word, style = LEVELS[status.level]
            table.add_row(Text(name, style="bold"), Text(word, style=style), Text(status.message))
            for pair in status.values:
                if LONG not in pair.key and pair.value and pair.value != status.message:
                    table.add_row("", Text(pair.key), Text(pair.value))
        return table
