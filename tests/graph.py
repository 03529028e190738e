# SPDX-License-Identifier: Apache-2.0
"""Real nodes as processes, and a probe in the graph: what an end-to-end test needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from h2o_control import topics
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS

BIN = Path(sys.executable).parent
#: The middleware's own retries make discovery take seconds at times; nothing here waits longer than this.
PATIENCE_S = 20.0


class Nodes:
    """Starts console scripts and stops what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, **parameters: object) -> subprocess.Popen[bytes]:
        """Start a console script; parameters become `-p name:=value`."""
        command = [str(BIN / name), *arguments]
        if parameters:
            command += ["--ros-args", *(a for k, v in parameters.items() for a in ("-p", f"{k}:={v}"))]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """What a node has printed so far."""
        return (self.folder / f"{name}.log").read_text()

    def start_robot(self, robot: str = "worn", **parameters: object) -> None:
        """Start an emulated robot and its driver."""
        link = str(self.folder / "tty")
        self.start("emulator", "--robot", robot, "--link", link, "--priority", "20")
        settings: dict[str, object] = {"port_wait_s": 20.0, "auto_activate": "true", "priority": 20, **parameters}
        self.start("driver_node", robot=robot, port=link, **settings)

    def stop(self) -> None:
        """Interrupt what still runs; kill what does not obey."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Probe:
    """A node of the test's own: sees the mode and the commands, calls services."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("probe")
        self.mode = ""
        self.reason = ""
        self.modes: list[str] = []
        self.commands: list[tuple[str, float]] = []
        self.torques: list[JointState] = []
        self.joints: list[JointState] = []
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.node.create_subscription(String, topics.MODE, self._on_mode, LATCHED_QOS)
        self.node.create_subscription(JointState, topics.WHEEL_COMMAND, self._on_command, STREAM_QOS)
        self.node.create_subscription(JointState, topics.WHEEL_TORQUE, self.torques.append, STREAM_QOS)
        self.node.create_subscription(JointState, topics.JOINT_STATES, self.joints.append, STREAM_QOS)

    def _on_mode(self, message: String) -> None:
        self.mode, _, self.reason = message.data.partition(": ")
        self.modes.append(message.data)

    def _on_command(self, message: JointState) -> None:
        self.commands.append((message.header.frame_id, sum(message.effort) / 2))

    def spin(self, seconds: float) -> None:
        """Let messages come in for a time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        """Spin until the condition holds; fail with what was awaited."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {seconds} s; mode {self.mode!r} ({self.reason})"
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, service: str, on: bool | None = None) -> Any:
        """Call a Trigger or, with `on`, a SetBool service."""
        client = self.node.create_client(Trigger if on is None else SetBool, service)
        self.wait(client.service_is_ready, f"service {service}")
        future = client.call_async(Trigger.Request() if on is None else SetBool.Request(data=on))
        self.wait(future.done, f"answer from {service}")
        self.node.destroy_client(client)
        return future.result()

    def arm(self) -> None:
        """Arm and wait for balance."""
        self.wait(lambda: self.mode == topics.DISARMED and bool(self.joints), "telemetry of a disarmed robot")
        answer = self.call(topics.ARM)
        assert answer.success, answer.message
        self.wait(lambda: self.mode == topics.BALANCE, "balance")


@contextmanager
def graph(folder: Path) -> Iterator[tuple[Nodes, Probe]]:
    """A ROS context in a domain of its own, with nodes that are gone afterwards."""
    nodes = Nodes(folder)
    rclpy.init()
    probe = Probe()
    try:
        yield nodes, probe
    finally:
        nodes.stop()
        probe.node.destroy_node()
        rclpy.try_shutdown()
