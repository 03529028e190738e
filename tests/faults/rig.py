# SPDX-License-Identifier: Apache-2.0
"""Real nodes as processes that stay alive from run to run, and the states they are brought into."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions

from faults.policies import failing_policy
from faults.wall_clock import WallClock
from faults.witness import RefusalError, Witness
from graph import Nodes
from h2o_control import topics
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.emulator_control import EmulatorControl, EmulatorError
from wheel_leg_driver.robot import load_robot

DISARMED, BALANCING, POLICY, RECORDING, SHUTTING = "disarmed", "balancing", "policy", "recording", "shutting down"
#: A commander is fresh for 25 ms; what came within this time is on its way.
ANSWERING_S = 0.1
#: How long a request may be refused at first, s.
GRANT_S = 8.0
SPEED_MPS = 0.5
#: The emulated robot unless told otherwise: noise, biases, dead zones, a delay.
ROBOT = "worn"
#: The robot is given this long to find its balance, and to get up to speed, s.
SETTLE_S, SPEED_UP_S = 0.4, 0.5
#: Ways in which a policy may fail, as in bad_policies.py.
FAILING = ("nan", "inf", "shape", "error", "slow")
YAW_RADPS = 0.5


@dataclasses.dataclass(frozen=True)
class Setup:
    """Which processes a cell needs; those of the last cell are kept where they fit.

    Attributes:
        policy: ONNX file, as named by `Rig.policies`.
        recorder: whether the recorder runs.
        joystick: whether joystick_node runs.
        shifted: whether all nodes see a wall clock that can be set (wall_clock.py).
        priority: SCHED_FIFO of emulator, driver and policy.
    """

    policy: str = "linear"
    recorder: bool = False
    joystick: bool = False
    shifted: bool = False
    priority: int = 20


class Rig:
    """Emulator, driver, policy and recorder, and a witness beside them."""

    def __init__(self, folder: Path, seed: int = 0, robot: str = ROBOT) -> None:
        self.folder, self.robot, self.seed = folder, robot, seed
        self.link = str(folder / "tty")
        self.nodes = Nodes(folder)
        self.witness = Witness()
        self.random = random.Random(seed)
        self.setup = Setup()
        self.environment: Mapping[str, str] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._control: EmulatorControl | None = None
        self._bags = 0
        self._wall_clock: WallClock | None = None
        self._plain = dict(self.nodes.environment)
        gain = list(lqr_gain(load_robot(robot)))
        self.policies = {"linear": linear_policy(folder / "linear.onnx", gain)}
        for kind in FAILING:
            self.policies[kind] = failing_policy(folder / f"{kind}.onnx", kind, gain)

    # Processes.

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """Return a running process by its console script's name."""
        return self._running[name]

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what runs, by name."""
        return {name: process.pid for name, process in self._running.items() if process.poll() is None}

    @property
    def control(self) -> EmulatorControl:
        """A connection to the emulator."""
        if self._control is None:
            deadline = time.monotonic() + 20.0
            while self._control is None:
                try:
                    self._control = EmulatorControl(self.link)
                except EmulatorError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
        return self._control

    @property
    def bag(self) -> Path:
        """Folder of the present recorder's bag."""
        return self.folder / f"bag_{self._bags}"

    def end(self, name: str) -> int | None:
        """Interrupt a process if it runs, kill it if it does not obey; returns its exit status."""
        process = self._running.pop(name, None)
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(8.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            self.nodes.processes.remove(process)

    def _start(self, name: str) -> None:
        self.end(name)
        setup, priority = self.setup, self.setup.priority
        self.nodes.environment = {**self._plain, **self.environment}
        if name == "emulator":
            if self._control is not None:
                self._control.close()
                self._control = None
            arguments = ("--robot", self.robot, "--link", self.link, "--seed", str(self.seed), "--priority", "20")
            process = self.nodes.start(name, *arguments)
        elif name == "driver_node":
            settings = {"port_wait_s": 20.0, "auto_activate": "true", "priority": priority}
            process = self.nodes.start(name, robot=self.robot, port=self.link, **settings)
        elif name == "policy_node":
            process = self.nodes.start(name, policy=str(self.policies[setup.policy]), priority=priority)
        elif name == "recorder_node":
            self._bags += 1
            process = self.nodes.start(name, bag=str(self.bag))
        else:
            process = self.nodes.start(name)
        self._running[name] = process

    @property
    def wall_clock(self) -> WallClock:
        """The clock that nodes of a shifted setup see.

        Raises:
            FileNotFoundError: no C compiler is installed.
        """
        if self._wall_clock is None:
            self._wall_clock = WallClock(self.folder)
        return self._wall_clock

    def drive(self) -> None:
        """Let the scripted operator drive; the witness is silent meanwhile."""
        self.witness.speed = None
        self._running["teleop_node"] = self.nodes.start("teleop_node", settle_s=0.2)
        began_s, speeds = time.monotonic(), self.witness.speeds
        self.witness.wait(lambda: len(speeds) > 9 and speeds[-10] > began_s, "speed commands of teleop_node")

    def prepare(self, setup: Setup) -> None:
        """Have the processes of this setup, and no others; what has died is started again."""
        environment = self.wall_clock.environment if setup.shifted else {}
        if environment != self.environment or setup.priority != self.setup.priority:
            self.stop()
        elif setup.policy != self.setup.policy:
            self.end("policy_node")
        self.setup, self.environment = setup, environment
        wanted = {"emulator": True, "driver_node": True, "policy_node": True}
        wanted |= {"recorder_node": setup.recorder, "joystick_node": setup.joystick, "teleop_node": False}
        for name, wants in wanted.items():
            running = name in self._running and self._running[name].poll() is None
            if wants and not running:
                self._start(name)
            elif running and not wants:
                self.end(name)

    def stop(self) -> None:
        """End everything."""
        if self._control is not None:
            self._control.close()
            self._control = None
        for name in ("teleop_node", "joystick_node", "recorder_node", "policy_node", "driver_node", "emulator"):
            self.end(name)

    def close(self) -> None:
        """End everything, the witness too."""
        try:
            self.stop()
        finally:
            self.nodes.stop()
            self.witness.close()

    # States.

    def establish(self, state: str, moving: bool) -> None:
        """Bring the robot into a state, from whatever it is in.

        Raises:
            RefusalError: it cannot be brought there; says what failed.
        """
        witness = self.witness
        witness.speed = (0.0, 0.0)
        self.control.clear()
        began = time.monotonic()
        witness.wait(lambda: bool(witness.odom) and witness.odom[-1][0] > began, "telemetry")
        witness.call(topics.DISARM)
        witness.wait(lambda: witness.mode == topics.DISARMED, "disarmed driver")
        witness.wait(self._standing, "robot that stands, held and disarmed, without a fault")
        if state == DISARMED:
            return
        if state == RECORDING:
            # Once it knows the driver's topics, it begins.
            self._insist(topics.START_EPISODE, lambda: False)
            witness.call(topics.STOP_EPISODE)
        # The estimate follows a robot that was just picked up within a moment.
        self._insist(topics.ARM, lambda: witness.mode == topics.BALANCE)
        witness.wait(lambda: witness.mode != topics.DISARMED, "balance after arming")
        if moving:
            witness.speed = (SPEED_MPS, YAW_RADPS)
            time.sleep(SPEED_UP_S)
        time.sleep(SETTLE_S)
        if state == POLICY:
            self.hand_over()
        if state == RECORDING:
            witness.call(topics.START_EPISODE)
            time.sleep(0.2)
        self.require(state)

    def require(self, state: str) -> None:
        """Raise RefusalError where the driver is not in the mode that belongs to a state."""
        witness = self.witness
        wanted = {DISARMED: topics.DISARMED, POLICY: topics.TORQUE}.get(state, topics.BALANCE)
        if witness.mode != wanted:
            raise RefusalError(f"mode is {witness.mode} ({witness.reason}) where it should be {wanted}")

    def _standing(self) -> bool:
        state = self.control.state()
        return state.held and not state.armed and not state.faults and not state.unplugged

    def answering(self) -> bool:
        """Whether a policy answers observations."""
        answers = self.witness.answers
        return bool(answers) and time.monotonic() - answers[-1] < ANSWERING_S

    def await_policy(self) -> None:
        """Wait for answers of the policy; it may have just been started."""
        process = self.process("policy_node")
        self.witness.wait(lambda: self.answering() or process.poll() is not None, "answers of the policy")
        if process.poll() is not None:
            raise RefusalError(f"the policy node has ended: {self.nodes.log('policy_node').splitlines()[-1]}")

    def hand_over(self) -> None:
        """Give command to the policy."""
        self.await_policy()
        self._insist(topics.TORQUE_MODE, lambda: self.witness.mode == topics.TORQUE, on=True)

    def _insist(self, service: str, granted: Callable[[], bool], on: bool | None = None) -> None:
        """Ask until it is granted; a robot or a node that was just started may need a moment."""
        deadline = time.monotonic() + GRANT_S
        while True:
            try:
                self.witness.call(service, on)
                return
            except RefusalError:
                if granted():
                    return
                if time.monotonic() > deadline or self.witness.mode in (topics.FAULT, topics.HOLD):
                    raise
                time.sleep(0.1)

    def elapsed_us(self) -> float:
        """Return the emulator's device time, never set back."""
        return float(self.control.state().elapsed_us)


@contextmanager
def rig(folder: Path, seed: int = 0, robot: str = ROBOT) -> Iterator[Rig]:
    """A rig in a ROS context of its own; nothing of it is left afterwards."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    # Ctrl-C is the runner's: it stops the nodes one after the other.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        made = Rig(folder, seed, robot)
        try:
            yield made
        finally:
            made.close()
    finally:
        rclpy.try_shutdown()
