# SPDX-License-Identifier: Apache-2.0
"""Emulated robot, driver and a linear policy in command, and what they say and cost, for the latency benchmark."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph import Nodes
from h2o_control import topics
from h2o_control.config import find_config, load_yaml
from h2o_control.histogram import Histogram
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import Robot, load_robot

#: What the loop's latency is called in /diagnostics, in the status of that name.
TIMING, LATENCY = "driver: timing", "read to write histogram (ms)"
NODES = ("driver_node", "policy_node", "emulator")
PATIENCE_S = 30.0
#: Arming, discovery and the first allocations are over after this long.
SETTLE_S = 2.0


class StackError(Exception):
    """The loop did not come up; the message holds the nodes' last words."""


@dataclass
class Cost:
    """Of one process: share of a core in percent; memory in MiB, resident, proportional and private."""

    cpu_percent: float
    rss_mib: float
    pss_mib: float
    uss_mib: float


@dataclass
class Block:
    """What was measured while it ran: one pass at one rate; the latency only while the policy was in command."""

    seconds: float = 0.0
    latency: Histogram = field(default_factory=Histogram)
    ticks: int = 0
    deadline_misses: int = 0
    #: How the policy lost command: reason and count; "watchdog" among them is the firmware's.
    lost: dict[str, int] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    #: Whether the kernel gave the driver the priority that was asked for.
    real_time: bool = False
    #: By how much the emulated robot's clock fell behind, because the machine was busy, s.
    slipped_s: float = 0.0

    @property
    def watchdog_trips(self) -> int:
        """Firmware watchdogs."""
        return sum(count for reason, count in self.lost.items() if "watchdog" in reason)


def robot_at(rate_hz: float, folder: Path) -> tuple[Path, Robot]:
    """Write the description of the ideal robot with another rate; return its path and itself."""
    description = load_yaml(find_config("robots", "ideal"))
    description["name"] = f"ideal_{rate_hz:g}"
    description["interface"]["rate_hz"] = rate_hz
    path = folder / f"ideal_{rate_hz:g}.yaml"
    path.write_text(yaml.safe_dump(description))
    return path, load_robot(str(path))


class Costs:
    """CPU time and memory of processes, from its making to `taken`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._start_s = time.monotonic()
        self._before = {name: sum(p.cpu_times()[:2]) for name, p in self._processes.items()}

    def taken(self) -> dict[str, Cost]:
        """Return what they cost since."""
        elapsed, found = time.monotonic() - self._start_s, {}
        for name, process in self._processes.items():
            cpu = 100.0 * (sum(process.cpu_times()[:2]) - self._before[name]) / elapsed
            memory = process.memory_full_info()
            found[name] = Cost(cpu, *(getattr(memory, kind) / 2**20 for kind in ("rss", "pss", "uss")))
        return found


class Stack:
    """The running loop as an operator sees it; subscribes to nothing that is sent at every tick."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._node = rclpy.create_node("bench")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._mode, self._reason = "", ""
        self._left: list[str] = []
        self._reports = 0
        self._in_command = False
        self._before, self._latency = Histogram(), Histogram()
        self._counts = (0, 0)
        self._node.create_subscription(String, topics.MODE, self._on_mode, LATCHED_QOS)
        self._node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, STREAM_QOS)

    @property
    def slipped_s(self) -> float:
        """How far the emulated robot fell behind the clock; known once it has been stopped."""
        return slipped_s(self._nodes.log("emulator"))

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()

    def _on_mode(self, message: String) -> None:
        before = self._mode
        self._mode, _, self._reason = message.data.partition(": ")
        if before == topics.TORQUE != self._mode:
            self._left.append(self._reason)
            self._in_command = False

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == TIMING:
                self._take({pair.key: pair.value for pair in status.values})

    def _take(self, timing: dict[str, str]) -> None:
        """Count what happened since the last report, unless the driver balanced by itself for a part of that time."""
        latency = Histogram.from_text(timing[LATENCY])
        if self._in_command and self._reports:
            self._latency.merge(latency.since(self._before))
        self._before, self._in_command = latency, self._mode == topics.TORQUE
        self._counts = int(timing["ticks"]), int(timing["deadline misses"])
        self._reports += 1

    def _spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.1)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(self._nodes.log(name)[-800:] for name in NODES)
                raise StackError(f"no {what} within {PATIENCE_S:g} s; mode {self._mode!r} ({self._reason})\n{logs}")
            self._executor.spin_once(timeout_sec=0.05)

    def _call(self, service: str, on: bool | None = None) -> Any:
        client = self._node.create_client(Trigger if on is None else SetBool, service)
        try:
            self._wait(client.service_is_ready, f"service {service}")
            future = client.call_async(Trigger.Request() if on is None else SetBool.Request(data=on))
            self._wait(future.done, f"answer from {service}")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def engage(self) -> None:
        """Disarm, arm, and give the policy command; a robot that fell is up again after a second."""
        deadline = time.monotonic() + PATIENCE_S
        while self._mode != topics.TORQUE:
            if self._mode != topics.BALANCE:
                self._call(topics.DISARM)
                self._call(topics.ARM)
                self._spin(0.5)
            answer = self._call(topics.TORQUE_MODE, True)
            self._spin(0.2)
            if time.monotonic() > deadline:
                raise StackError(
                    f"the policy did not get command: {answer.message}; mode {self._mode} ({self._reason})"
                )

    def ready(self) -> None:
        """Wait for the driver, put the policy in command and let it settle."""
        self._wait(lambda: bool(self._mode) and self._reports > 0, "word from the driver")
        self.engage()
        self._spin(SETTLE_S)
        self.engage()
        self._left.clear()

    def _next_report(self) -> tuple[int, int]:
        """Ticks and deadline misses up to the next report."""
        count = self._reports
        self._wait(lambda: self._reports > count, "report of the driver")
        return self._counts

    def measure(self, seconds: float, advance: Callable[[float], None]) -> Block:
        """Watch the loop for a time; calls `advance` with the seconds that have gone by, several times a second."""
        block = Block()
        pids = dict(
            zip(("emulator", "driver_node", "policy_node"), (p.pid for p in self._nodes.processes), strict=True)
        )
        block.real_time = os.sched_getscheduler(pids["driver_node"]) == os.SCHED_FIFO
        before = self._next_report()
        self._latency = Histogram()
        start = last = time.monotonic()
        costs = Costs(pids)
        while (now := time.monotonic()) - start < seconds:
            self._executor.spin_once(timeout_sec=0.1)
            advance(now - last)
            last = now
            if self._mode != topics.TORQUE:
                self.engage()
        after = self._next_report()
        block.seconds = time.monotonic() - start
        block.latency = self._latency
        block.ticks, block.deadline_misses = after[0] - before[0], after[1] - before[1]
        block.costs = costs.taken()
        for reason in self._left:
            # Numbers differ from time to time.
            name = re.sub(r"[-+]?\d+(\.\d+)?", "…", reason)
            block.lost[name] = block.lost.get(name, 0) + 1
        return block


def slipped_s(log: str) -> float:
    """How far device time fell behind the clock, as the emulator says when it ends."""
    found = re.search(r"device time slipped (\d+\.\d+) s", log)
    return float(found[1]) if found else 0.0


@contextmanager
def stack(rate_hz: float, priority: int, folder: Path) -> Iterator[Stack]:
    """Start robot, driver and policy; all are gone afterwards, whatever happens."""
    path, robot = robot_at(rate_hz, folder)
    policy = linear_policy(folder / f"linear_{rate_hz:g}.onnx", list(lqr_gain(robot)), interface=robot.interface)
    nodes, running = Nodes(folder), None
    try:
        nodes.start_robot(str(path), priority=priority)
        nodes.start("policy_node", policy=policy, priority=priority)
        running = Stack(nodes)
        running.ready()
        yield running
    finally:
        nodes.stop()
        if running is not None:
            running.close()
