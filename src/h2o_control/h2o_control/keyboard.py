# SPDX-License-Identifier: Apache-2.0
"""Teleoperation from a terminal's keyboard."""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from std_srvs.srv import Trigger

from h2o_control import middleware, topics
from h2o_control.contract import pitch_rad
from h2o_control.errors import UserError
from h2o_control.node_tools import steady_timer
from h2o_control.operator_node import TICK_S, OperatorNode

SPEED_STEP_MPS, YAW_STEP_RADPS = 0.05, 0.2
SPEED_MAX_MPS, YAW_MAX_RADPS = 1.0, 1.5
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[D": "left", "\x1b[C": "right"}
HEIGHT_STEP_M = 0.01
HELP = (
    "space E-STOP · arrows drive · s stop · a arm · d disarm · p policy on/off\n"
    "u stand up · j sit down · [ ] lower, higher · q quit\n"
    "episode: r start · t stop · y success · f fall · x x discard"
)
#: What keys ask of the recorder.
EPISODE_KEYS = {
    "r": topics.START_EPISODE,
    "t": topics.STOP_EPISODE,
    "y": topics.LABEL_SUCCESS,
    "f": topics.LABEL_FALL,
    "x": topics.DISCARD_EPISODE,
}
DISCARD, AGAIN_S = "x", 3.0
#: What to do next, by mode.
NEXT = {
    topics.DISARMED: "hold the robot upright and press a",
    topics.HOLD: "it balances on the spot and obeys nothing else: take hold of it, then d, and a to go on",
    topics.FAULT: "zero torque: pick it up, then d, and a to go on",
}
#: Modes in which the robot turns as it is told; it drives as it is told in balance alone.
STEERED = (topics.BALANCE, topics.TORQUE)
#: What has to come first where a key does nothing, by mode; in the others the driver balances.
FIRST = {
    "": "no driver is heard yet",
    topics.DISARMED: "arm first: a",
    topics.HOLD: "disarm and arm first: d, then a",
    topics.FAULT: "disarm and arm first: d, then a",
    topics.TORQUE: "a policy is in command: take it back first, p",
}
#: The robot's state is not shown any more when it is older than this.
STALE_S = 1.0
#: The recorder speaks twice a second; one that was heard and is silent for this long, s, is not there any more.
RECORDER_S = 3.0
RECORDER_STYLES = {DiagnosticStatus.WARN: "yellow", DiagnosticStatus.ERROR: "bold red"}
LOST = (signal.SIGHUP, signal.SIGTERM)


class KeyboardNode(OperatorNode):
    """Turns keys into speed commands and service calls."""

    def __init__(self) -> None:
        super().__init__("teleop")
        self.v_mps = 0.0
        self.yaw_radps = 0.0
        self.quit = False
        self._discard_asked_s = -math.inf
        self._recorder_status = DiagnosticStatus()
        self._recorder_at_s = -math.inf
        self._recorder = {key: self.create_client(Trigger, name) for key, name in EPISODE_KEYS.items()}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        super()._on_diagnostics(message)
        for status in message.status:
            if status.name == "recorder":
                if status.level == DiagnosticStatus.ERROR != self._recorder_status.level:
                    # What it answered before may not hold any more, such as that it records.
                    self.said = ""
                self._recorder_status, self._recorder_at_s = status, time.monotonic()

    def press(self, key: str) -> None:
        """Act on one key; what was answered to an earlier one goes."""
        self.said = self.refusal = ""
        if key == " ":
            self.v_mps = self.yaw_radps = 0.0
            self.stop_now()
        elif key in ("up", "down") and self.mode != topics.BALANCE:
            self.refusal = f"up and down drive while the driver balances; {self._first()}"
        elif key in ("left", "right") and self.mode not in STEERED:
            self.refusal = f"left and right turn an armed robot; {self._first()}"
        elif key in ("up", "down"):
            step = SPEED_STEP_MPS if key == "up" else -SPEED_STEP_MPS
            self.v_mps = max(-SPEED_MAX_MPS, min(SPEED_MAX_MPS, round(self.v_mps + step, 3)))
        elif key in ("left", "right"):
            step = YAW_STEP_RADPS if key == "left" else -YAW_STEP_RADPS
            self.yaw_radps = max(-YAW_MAX_RADPS, min(YAW_MAX_RADPS, round(self.yaw_radps + step, 3)))
        elif key == "s":
            self.v_mps = self.yaw_radps = 0.0
        elif key == "a":
            self.call(self.arm)
        elif key == "d":
            self.call(self.disarm, urgent=True)
        elif key == "p":
            self.call(self.torque_mode, on=self.mode != topics.TORQUE)
        elif key == "u":
            self.call(self.stand_up)
        elif key == "j":
            self.call(self.sit_down)
        elif key in ("[", "]"):
            self._step_height(HEIGHT_STEP_M if key == "]" else -HEIGHT_STEP_M)
        elif key in self._recorder:
            self._ask_recorder(key)
        elif key in ("q", "\x03"):
            self.quit = True

    def _ask_recorder(self, key: str) -> None:
        now_s = time.monotonic()
        if key == DISCARD and now_s - self._discard_asked_s > AGAIN_S:
            # It lies beside the key that disarms, and there is no way back.
            self._discard_asked_s = now_s
            self.refusal = f"{key} again within {AGAIN_S:g} s deletes the running episode, or else the one before"
            return
        self._discard_asked_s = -math.inf
        self.call(self._recorder[key])

    def _first(self) -> str:
        return FIRST.get(self.mode, f"the mode is {self.mode}")

    def _step_height(self, step_m: float) -> None:
        if self.mode != topics.BALANCE:
            self.refusal = f"the legs move while the driver balances; {self._first()}"
            return
        if math.isnan(self.height_m):
            self.refusal = "the driver has not said yet how high the hips are"
            return
        self.said = self.refusal = ""
        self.take_height(round(self.height_m + step_m, 3))

    def tick(self) -> None:
        """Repeat the speed command; whenever the driver does not obey it, it goes back to zero."""
        if self.mode != topics.BALANCE:
            self.v_mps = 0.0
        if self.mode not in STEERED:
            self.yaw_radps = 0.0
        self.drive(self.v_mps, self.yaw_radps)

    def screen(self) -> Table:
        """Return what the operator sees."""
        table = Table.grid(padding=(0, 2))
        style = "bold red" if self.mode in (topics.HOLD, topics.FAULT) else "bold"
        mode = Text.assemble((self.mode or "no driver yet", style), "  ", self.reason)
        table.add_row("mode", mode)
        table.add_row("", f"[cyan]{NEXT.get(self.mode, '')}[/cyan]")
        table.add_row("command", f"{self.v_mps:+.2f} m/s   {self.yaw_radps:+.1f} rad/s")
        table.add_row("robot", self._robot())
        table.add_row("recorder", self._recorder_line())
        # Answers come from other nodes: what looks like markup in them is text.
        table.add_row("answer", Text(self.refusal or self.said, style="yellow" if self.refusal else ""))
        table.add_row("keys", HELP)
        return table

    def _recorder_line(self) -> Text:
        """What the recorder says of itself: the file, how long it is, losses, or why it does not record."""
        silent_s = time.monotonic() - self._recorder_at_s
        if silent_s > RECORDER_S:
            if math.isinf(silent_s):
                return Text("none is heard")
            return Text(f"silent for {silent_s:.0f} s: does it still run?", "yellow")
        status = self._recorder_status
        text = status.message
        if text.startswith("recording "):
            seconds = next((pair.value for pair in status.values if pair.key == "duration (s)"), "")
            text = f"{text}, {seconds} s" if seconds else text
        return Text(text, RECORDER_STYLES.get(status.level, ""))

    def _robot(self) -> str:
        """State on one line, as far as it means something now."""
        if time.monotonic() - self.odom_at_s > STALE_S:
            return "no observations from the driver"
        pose, twist = self.odom.pose.pose, self.odom.twist.twist
        q = pose.orientation
        # Displacement counts from where the robot was armed.
        x = f"x {pose.position.x:+.2f} m" if self.mode in topics.ARMED else "x from arming on"
        height = "height not known yet" if math.isnan(self.height_m) else f"height {self.height_m:.3f} m"
        pitch = pitch_rad(q.w, q.x, q.y, q.z)
        return f"{x}   v {twist.linear.x:+.2f} m/s   pitch {pitch:+.3f} rad   {height}"

    def report(self, text: str) -> None:
        """Leave it to the screen: a log line would be written across it."""


@contextmanager
def single_keys() -> Iterator[None]:
    """Read keys one by one without echo; the terminal is put back however this ends."""
    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        mode = termios.tcgetattr(sys.stdin)
        # Ctrl-S would stop the screen, and with it the program that listens to the space bar.
        mode[0] &= ~termios.IXON
        termios.tcsetattr(sys.stdin, termios.TCSANOW, mode)
        yield
    finally:
        with suppress(termios.error, OSError):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def read_keys() -> list[str]:
    """Return the keys pressed since the last call, without waiting; raise OSError where the terminal is gone."""
    if not select.select([sys.stdin], [], [], 0.0)[0]:
        return []
    data = os.read(sys.stdin.fileno(), 64)
    if not data:
        raise OSError("end of the terminal's input")
    text = data.decode(errors="ignore")
    keys: list[str] = []
    while text:
        arrow = next((a for a in ARROWS if text.startswith(a)), None)
        keys.append(ARROWS[arrow] if arrow else text[0])
        text = text[len(arrow or text[0]) :]
    return keys


def show(live: Live, screen: Table) -> None:
    """Draw, unless the terminal takes nothing: keys count more than the screen."""
    if select.select([], [sys.stdout], [], 0.0)[1]:
        live.update(screen, refresh=True)


def control(node: KeyboardNode, executor: SingleThreadedExecutor, signals: list[int]) -> None:
    """Read keys and drive until the operator quits, a signal comes, or the terminal is gone (OSError)."""
    with single_keys(), Live(node.screen(), console=Console(), auto_refresh=False) as live:
        while not node.quit and not signals:
            executor.spin_once(timeout_sec=TICK_S / 2)
            for key in read_keys():
                node.press(key)
            show(live, node.screen())


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot teleop`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot teleop",
        description="Drive the robot from this terminal: arm, drive, crouch, record and label episodes, run a policy, "
        "stop. When the terminal is lost or the program interrupted, the robot stops and a policy loses command.",
        epilog="example: h2o-robot teleop",
    )
    parser.parse_args(argv)
    if not sys.stdin.isatty():
        raise UserError("the keyboard needs a terminal: run it by itself, not from a launch file or a pipe")
    middleware.apply_defaults()
    signals: list[int] = []
    # The middleware's own handlers would take away the means to stop the robot before it is stopped.
    handlers = {n: signal.signal(n, lambda got, _frame: signals.append(got)) for n in (signal.SIGINT, *LOST)}
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    lost = False
    try:
        node = KeyboardNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        steady_timer(node, TICK_S, node.tick)
        try:
            control(node, executor, signals)
        except OSError:
            lost = True
        finally:
            if node.quit and not signals:
                node.drive(0.0, 0.0)
            else:
                node.release()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    return 1 if lost or signals else 0
