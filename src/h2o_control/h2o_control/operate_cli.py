# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot operate`: one request to the running robot, its answer, and an exit status that scripts can use."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from rich.text import Text
from std_srvs.srv import SetBool, Trigger

from h2o_control import middleware, topics
from h2o_control.errors import UserError
from h2o_control.operator_node import OperatorNode
from h2o_control.policy_check import TIMEOUT_S as CHECK_TIMEOUT_S

GRANTED, REFUSED = 0, 1
#: How long the firmware may take to say that it is armed.
ARMED_S = 2.0
#: The driver reports twice a second; all nodes have within this time.
REPORT_S = 1.2
#: Nodes beside the driver are found this long after it at the latest, nearly always.
FOUND_S = 2.5
#: How near the height asked for the driver's own figure must come, and how slowly it may, m and m/s.
HEIGHT_M, HEIGHT_MPS = 0.002, 0.05
#: Diagnostics that `status` leaves out: for programs, not for reading.
LONG = "histogram"
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
        return answer.success, answer.message

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

    def swap(self, file: Path) -> tuple[bool, str]:
        """Put another policy in the place of the running one."""
        settings = self.create_client(SetParameters, "policy/set_parameters")
        parameter = Parameter("candidate", value=str(file.absolute())).to_parameter_msg()
        (result,) = self.ask(settings, SetParameters.Request(parameters=[parameter]), "policy node").results
        if not result.successful:
            return False, result.reason
        client = self.create_client(Trigger, topics.SWAP_POLICY)
        answer = self.ask(client, Trigger.Request(), "policy node", CHECK_TIMEOUT_S)
        return answer.success, answer.message

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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot operate",
        description="Ask one thing of the running robot. Exit status: 0 granted, 1 refused, 2 wrong input or nobody "
        "answers.",
        epilog="example: h2o-robot operate arm && h2o-robot operate policy on",
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="how long to wait for the driver, s")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in {
        "arm": "hold the robot upright; balances once armed",
        "disarm": "zero torque, and clear what is latched",
        "estop": "zero torque at once, until disarmed",
        "stand": "legs to the standing posture",
        "sit": "legs to the lowest posture",
        "status": "mode, reason and diagnostics of all nodes",
        "mode": "mode and reason on one line",
    }.items():
        actions.add_parser(name, help=text)
    policy = actions.add_parser("policy", help="give command to the policy, or take it back")
    policy.add_argument("switch", choices=("on", "off"))
    height = actions.add_parser("height", help="take up a height of the hips above the axle")
    height.add_argument("metres", type=float)
    swap = actions.add_parser("swap", help="put another ONNX file in the running policy's place")
    swap.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    if not 0 < args.timeout < math.inf:
        raise UserError(f"--timeout is {args.timeout:g} s: give a positive number")
    if args.action == "height" and not 0 < args.metres < math.inf:
        raise UserError(f"height {args.metres:g} m: give a positive number")
    if args.action == "swap" and not args.file.is_file():
        raise UserError(f"no such file: {args.file}")
    return args


def perform(node: Operator, args: argparse.Namespace) -> tuple[bool, str | Table]:
    """Make the request; returns whether it was granted, and what to print."""
    acts: dict[str, Callable[[], tuple[bool, str | Table]]] = {
        "arm": node.arm_and_wait,
        "disarm": lambda: node.trigger(node.disarm),
        "estop": node.stop,
        "stand": lambda: node.trigger(node.stand_up),
        "sit": lambda: node.trigger(node.sit_down),
        "policy": lambda: node.policy(args.switch == "on"),
        "height": lambda: node.height(args.metres),
        "swap": lambda: node.swap(args.file),
        "status": lambda: (True, node.status()),
        "mode": lambda: (True, node.state()),
    }
    return acts[args.action]()


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot operate`; returns 0 where the request was granted, 1 where it was refused."""
    args = parse(argv)
    middleware.apply_defaults()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Operator(args.timeout)
        granted, said = perform(node, args)
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    Console(soft_wrap=True).print(said if isinstance(said, Table) else Text(said if granted else f"refused: {said}"))
    return GRANTED if granted else REFUSED
