# SPDX-License-Identifier: Apache-2.0
"""Teleoperation from a terminal's keyboard."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from rich.live import Live
from rich.table import Table
from std_srvs.srv import Trigger

from h2o_control import middleware, topics
from h2o_control.contract import pitch_rad
from h2o_control.errors import UserError
from h2o_control.operator_node import TICK_S, OperatorNode

SPEED_STEP_MPS, YAW_STEP_RADPS = 0.05, 0.2
SPEED_MAX_MPS, YAW_MAX_RADPS = 1.0, 1.5
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[D": "left", "\x1b[C": "right"}
HELP = "arrows drive · s stop · a arm · d disarm · space E-STOP · p policy on/off · r/t start/stop episode · q quit"


class KeyboardNode(OperatorNode):
    """Turns keys into speed commands and service calls."""

    def __init__(self) -> None:
        super().__init__("teleop")
        self.v_mps = 0.0
        self.yaw_radps = 0.0
        self.quit = False
        self._start = self.create_client(Trigger, topics.START_EPISODE)
        self._stop = self.create_client(Trigger, topics.STOP_EPISODE)

    def press(self, key: str) -> None:
        """Act on one key."""
        if key == " ":
            self.v_mps = self.yaw_radps = 0.0
            self.call(self.estop, urgent=True)
        elif key in ARROWS.values() and self.mode != topics.BALANCE:
            self.refusal = "arrows drive while the driver balances: arm first"
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
        elif key == "r":
            self.call(self._start)
        elif key == "t":
            self.call(self._stop)
        elif key in ("q", "\x03"):
            self.quit = True

    def tick(self) -> None:
        """Repeat the speed command; whenever the driver does not balance, it goes back to zero."""
        if self.mode != topics.BALANCE:
            self.v_mps = self.yaw_radps = 0.0
        self.drive(self.v_mps, self.yaw_radps)

    def screen(self) -> Table:
        """Return what the operator sees."""
        pose, twist = self.odom.pose.pose, self.odom.twist.twist
        q = pose.orientation
        pitch = pitch_rad(q.w, q.x, q.y, q.z)
        table = Table.grid(padding=(0, 2))
        table.add_row("mode", f"[bold]{self.mode or 'no driver yet'}[/bold]  {self.reason}")
        table.add_row("command", f"{self.v_mps:+.2f} m/s   {self.yaw_radps:+.1f} rad/s")
        table.add_row("robot", f"x {pose.position.x:+.2f} m   v {twist.linear.x:+.2f} m/s   pitch {pitch:+.3f} rad")
        table.add_row("", f"[yellow]{self.refusal}[/yellow]")
        table.add_row("keys", HELP)
        return table


@contextmanager
def single_keys() -> Iterator[None]:
    """Read keys one by one without echo; the terminal is put back however this ends."""
    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def read_keys() -> list[str]:
    """Return the keys pressed since the last call, without waiting."""
    if not select.select([sys.stdin], [], [], 0.0)[0]:
        return []
    text = os.read(sys.stdin.fileno(), 64).decode(errors="ignore")
    keys: list[str] = []
    while text:
        arrow = next((a for a in ARROWS if text.startswith(a)), None)
        keys.append(ARROWS[arrow] if arrow else text[0])
        text = text[len(arrow or text[0]) :]
    return keys


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot teleop`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot teleop",
        description="Drive the robot from this terminal: arm, drive, start episodes, run a policy, stop.",
        epilog="example: h2o-robot teleop",
    )
    parser.parse_args(argv)
    if not sys.stdin.isatty():
        raise UserError("the keyboard needs a terminal: run it by itself, not from a launch file or a pipe")
    middleware.apply_defaults()
    rclpy.init(args=[])
    try:
        node = KeyboardNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.create_timer(TICK_S, node.tick)
        with single_keys(), Live(node.screen(), console=Console(), auto_refresh=False) as live:
            while rclpy.ok() and not node.quit:
                executor.spin_once(timeout_sec=TICK_S / 2)
                for key in read_keys():
                    node.press(key)
                live.update(node.screen(), refresh=True)
        node.drive(0.0, 0.0)
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    return 0
