# SPDX-License-Identifier: Apache-2.0
"""How each fault is brought about. An action begins, may do something while the window passes, and is undone."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from faults.rig import Rig
from faults.witness import CLOCKED, RefusalError
from h2o_control import topics
from h2o_control.histogram import Histogram
from h2o_control.joystick import Layout
from h2o_control.node_tools import STREAM_QOS

#: No policy of the rig answers with this torque, Nm.
STRANGER_NM = 1.234
HOUR_S = 3600
Found = dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """When a fault began: in the emulator's elapsed time, or on this machine's monotonic clock."""

    elapsed_us: float | None = None
    host_s: float | None = None


def _nothing(rig: Rig, found: Found) -> None:
    pass


@dataclass(frozen=True)
class Action:
    """A fault to bring about.

    Attributes:
        begin: brings it about and says when.
        during: called again and again until the window has passed.
        end: undoes it, before the black box is read.
        ready: what must be there before, once the state is established.
    """

    begin: Callable[[Rig, Found], Moment]
    during: Callable[[Rig, Found], None] = _nothing
    end: Callable[[Rig, Found], None] = _nothing
    ready: Callable[[Rig, Found], None] = _nothing


def _now() -> Moment:
    return Moment(host_s=time.monotonic())


def nothing() -> Action:
    """Do nothing, for comparison."""
    return Action(lambda rig, found: _now(), _measure, _compare, _measure_first)


def inject(text: str) -> Action:
    """Let the emulator do it."""
    return Action(lambda rig, found: Moment(elapsed_us=float(rig.control.inject(text)[0]["begins_us"])))


def unplug(seconds: float) -> Action:
    """Pull the plug for so long, and wait for the link to come back."""

    def begin(rig: Rig, found: Found) -> Moment:
        (injected,) = rig.control.inject(f"unplug for={seconds}")
        found["_back_us"] = injected["ends_us"]
        return Moment(elapsed_us=float(injected["begins_us"]))

    def during(rig: Rig, found: Found) -> None:
        state = rig.control.state()
        if "_back_s" not in found and state.elapsed_us >= found["_back_us"]:
            found["_back_s"] = state.host_monotonic_s - (state.elapsed_us - found["_back_us"]) * 1e-6
        if "_back_s" in found and "link back (s)" not in found:
            heard = [host_s for host_s, _ in list(rig.witness.odom) if host_s > found["_back_s"]]
            if heard:
                found["link back (s)"] = round(heard[0] - found["_back_s"], 3)

    return Action(begin, during)


def send(name: str, number: signal.Signals, then: signal.Signals | None = None, after_s: float = 0.3) -> Action:
    """Send a signal to a node, and another one later."""

    def begin(rig: Rig, found: Found) -> Moment:
        found["_since_s"] = time.monotonic()
        os.kill(rig.pids[name], number)
        return Moment(host_s=found["_since_s"])

    def during(rig: Rig, found: Found) -> None:
        if then is not None and "_then" not in found and time.monotonic() > found["_since_s"] + after_s:
            found["_then"] = True
            os.kill(rig.pids[name], then)

    return Action(begin, during)


def hand_over() -> Action:
    """Give command to a policy that will misbehave."""

    def begin(rig: Rig, found: Found) -> Moment:
        moment = _now()
        rig.hand_over()
        return moment

    return Action(begin, ready=lambda rig, found: rig.await_policy())


def estop(by: str) -> Action:
    """Press e-stop: "service", "topic", or "joystick" for its button."""

    def ready(rig: Rig, found: Found) -> None:
        if by == "service":
            rig.witness.client(topics.ESTOP)
        if by == "joystick":
            _await_joystick(rig, found)

    def begin(rig: Rig, found: Found) -> Moment:
        if by == "joystick":
            # Whatever was pressed before is let go of.
            rig.witness.joy.publish(_joy())
            time.sleep(0.05)
        moment = _now()
        if by == "service":
            rig.witness.client(topics.ESTOP).call_async(Trigger.Request())
        elif by == "topic":
            rig.witness.press_estop()
        else:
            rig.witness.joy.publish(_joy(Layout().estop_button))
        return moment

    return Action(begin, ready=ready)


def estop_inactive(by: str) -> Action:
    """Press e-stop while the driver is inactive, activate it, and ask it to arm."""

    def begin(rig: Rig, found: Found) -> Moment:
        witness = rig.witness
        witness.transition(Transition.TRANSITION_DEACTIVATE)
        moment = _now()
        if by == "service":
            witness.call(topics.ESTOP)
        else:
            witness.press_estop()
            time.sleep(0.2)
        witness.transition(Transition.TRANSITION_ACTIVATE)
        witness.wait(lambda: witness.odom[-1][0] > moment.host_s + 0.2, "telemetry after activation")
        try:
            found["arming after activation"] = f"granted: {witness.call(topics.ARM)}"
        except RefusalError as error:
            found["arming after activation"] = f"refused: {error}"
        return moment

    return Action(begin, ready=lambda rig, found: rig.witness.wait(lambda: rig.witness.client(topics.ESTOP), "e-stop"))


def second_publisher() -> Action:
    """Answer every observation, as the right interface, from a node that nobody gave command to."""

    def ready(rig: Rig, found: Found) -> None:
        found["_publisher"] = rig.witness.node.create_publisher(JointState, topics.WHEEL_TORQUE, STREAM_QOS)
        rig.witness.wait(lambda: found["_publisher"].get_subscription_count() >= 2, "driver listening to a stranger")
        found["_answered"] = 0

    def during(rig: Rig, found: Found) -> None:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            stamp_ns = rig.witness.odom[-1][1]
            if stamp_ns != found["_answered"]:
                found["_answered"] = stamp_ns
                message = JointState(name=list(topics.WHEELS), effort=[STRANGER_NM, STRANGER_NM])
                message.header.frame_id = rig.witness.interface_hash
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
                found["_publisher"].publish(message)
            time.sleep(0.001)
        found["refused in diagnostics"] = rig.witness.diagnostics["driver"]["torques refused from others"]

    def end(rig: Rig, found: Found) -> None:
        rig.witness.node.destroy_publisher(found.pop("_publisher"))

    return Action(lambda rig, found: _now(), during, end, ready)


def _joy(*buttons: int, speed: float = 0.0) -> Joy:
    layout = Layout()
    message = Joy(axes=[0.0] * 8, buttons=[0] * 12)
    message.axes[layout.speed_axis] = speed
    for button in buttons:
        message.buttons[button] = 1
    return message


def stale_joystick() -> Action:
    """Drive by joystick, then let it fall silent with the stick still forward."""

    def begin(rig: Rig, found: Found) -> Moment:
        witness, deadman = rig.witness, Layout().deadman_button
        witness.speed = None
        for n in range(40):
            moment = _now()
            witness.joy.publish(_joy(deadman, speed=1.0) if n > 5 else _joy())
            time.sleep(0.02)
        found["speed before (m/s)"] = round(rig.control.state().truth[1], 2)
        return moment

    return Action(begin, ready=_await_joystick)


def _await_joystick(rig: Rig, found: Found) -> None:
    rig.witness.wait(lambda: rig.witness.joy.get_subscription_count() > 0, "joystick node")


def _measure(rig: Rig, found: Found) -> None:
    time.sleep(0.01)


def _measure_first(rig: Rig, found: Found) -> None:
    _await_diagnostics(rig)
    found["_before"] = {name: dict(values) for name, values in rig.witness.diagnostics.items()}


def _await_diagnostics(rig: Rig) -> None:
    since_s, came_s = time.monotonic(), rig.witness.diagnosed_s
    for name in ("driver: timing", CLOCKED):
        rig.witness.wait(lambda name=name: came_s.get(name, 0.0) > since_s, f"diagnostics of {name}")


def _compare(rig: Rig, found: Found) -> None:
    """Note what the driver counted between `_measure_first` and now."""
    _await_diagnostics(rig)
    before, after = found["_before"], rig.witness.diagnostics
    hop = "read to write histogram (ms)"
    ages = Histogram.from_text(after["driver: timing"][hop])
    ages = ages.since(Histogram.from_text(before["driver: timing"][hop]))
    found["read to write, p99 (ms)"] = round(ages.percentile(99) * 1e3, 2)
    for status, key in (("driver: timing", "deadline misses"), ("driver", "hand-backs")):
        found[key] = int(after[status][key]) - int(before[status][key])


def load() -> Action:
    """Keep every processor busy with programs of ordinary priority."""

    def begin(rig: Rig, found: Found) -> Moment:
        found["_busy"] = [
            subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)
        ]
        return _now()

    def end(rig: Rig, found: Found) -> None:
        stop(rig, found)
        _compare(rig, found)

    def stop(rig: Rig, found: Found) -> None:
        for process in found.pop("_busy", []):
            process.kill()
            process.wait()

    return Action(begin, _measure, end, _measure_first)


def turn_clock(hours: int, driven: bool = False) -> Action:
    """Set the wall clock of all nodes, and compare what nodes and middleware stamp before and after.

    Where it is `driven`, teleop_node drives meanwhile, and its commands are counted.
    """

    def ready(rig: Rig, found: Found) -> None:
        if driven:
            rig.drive()
        _measure_first(rig, found)

    def begin(rig: Rig, found: Found) -> Moment:
        found["_stamps"], found["_since_s"] = rig.witness.clocked[-1], time.monotonic()
        rig.wall_clock.turn(hours * HOUR_S)
        return _now()

    def end(rig: Rig, found: Found) -> None:
        if driven:
            heard = [at_s for at_s in list(rig.witness.speeds) if at_s > found["_since_s"]]
            found["speed commands (Hz)"] = round(len(heard) / (time.monotonic() - found["_since_s"]), 1)
        _compare(rig, found)
        old, new = found["_stamps"], rig.witness.clocked[-1]
        for name, n in (("node's clock", 1), ("middleware's clock", 2)):
            turned_s = (new[n] - old[n]) * 1e-9 - (new[0] - old[0])
            found[f"{name} turned by (h)"] = round(turned_s / HOUR_S, 3)
        stamps = [ns for host_s, ns in list(rig.witness.odom) if host_s > old[0]]
        steps = [(b - a) * 1e-6 for a, b in itertools.pairwise(stamps)]
        found["steps of stamps (ms)"] = (round(min(steps), 1), round(max(steps), 1))

    return Action(begin, _measure, end, ready)
