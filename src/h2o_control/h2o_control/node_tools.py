# SPDX-License-Identifier: Apache-2.0
"""What every node of the project does alike: say what it is, declare parameters, refuse unknown ones, run, stop."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rclpy.utilities import remove_ros_args

from h2o_control import middleware
from h2o_control.errors import ConfigError, UserError
from h2o_control.parameter import Parameter as Parameter

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:
    # Its name in ROS 2 Humble.
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

#: Depth 10 lost nothing at 500 Hz where depth 1 did; reliable, so that a recorder can count.
STREAM_QOS = QoSProfile(depth=10)
#: The last message reaches late subscribers.
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
#: What ends a node; a terminal that is closed sends SIGHUP.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: For timers, and as `throttle_time_source_type` of throttled log lines: rclpy takes the wall clock for both.
STEADY_CLOCK = Clock(clock_type=ClockType.STEADY_TIME)


def declare(node: Node, parameters: Iterable[Parameter]) -> None:
    """Declare parameters with type, range and description; raise ConfigError for wrong or unknown overrides."""
    for p in parameters:
        descriptor = ParameterDescriptor(description=p.description, read_only=p.read_only, dynamic_typing=p.any_type)
        if p.low is not None and p.high is not None:
            if isinstance(p.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(p.low), to_value=int(p.high))]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=p.low, to_value=p.high)]
        overrides = getattr(node, "_parameter_overrides", {})
        given = overrides.get(p.name)
        # rclpy refuses `-p distance_m:=2` for a double, and launch files pass on what somebody typed.
        if isinstance(p.default, float) and given is not None and given.type_ == RosParameter.Type.INTEGER:
            overrides[p.name] = RosParameter(p.name, value=float(given.value))
        try:
            node.declare_parameter(p.name, p.default, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            bounds = f", between {p.low} and {p.high}" if p.low is not None else ""
            kind = type(p.default).__name__
            raise ConfigError(f"parameter {p.name} must be {kind}{bounds} ({p.description}): {error}") from error
    # rclpy drops overrides of parameters nobody declares: a mistyped limit would be silently off.
    for name in getattr(node, "_parameter_overrides", {}):
        if not node.has_parameter(name) and not name.startswith("qos_overrides"):
            known = [p for p in node.get_parameters_by_prefix("") if p != "use_sim_time"]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(sorted(known))}."
            raise ConfigError(f"node {node.get_name()} has no parameter {name!r}. {hint}")


def value(node: Node, name: str) -> Any:
    """Return a parameter's value."""
    return node.get_parameter(name).value


def path(node: Node, name: str) -> Path:
    """Return a parameter that names a file or folder, `~` as the home folder: no shell expands it in `bag:=~/walk`.

    Raises:
        ConfigError: there is no such user's home folder.
    """
    expanded = os.path.expanduser(value(node, name))
    if expanded.startswith("~"):
        raise ConfigError(f"parameter {name}: no home folder is known for {expanded!r}; a name begins with ./")
    return Path(expanded)


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """Call back every `period_s` by the steady clock.

    `Node.create_timer` counts in ROS time: set the wall clock back by an hour and its timers sleep for an hour.
    """
    return node.create_timer(period_s, callback, clock=STEADY_CLOCK)


def publisher(node: Node, kind: Any, topic: str, qos: QoSProfile) -> Publisher[Any]:
    """Create a publisher that is no burden to the executor.

    Of its own accord rclpy gives each two handlers, for incompatible QoS and types, which its executor puts into the
    wait set at every wake-up, in Python: with a driver's dozen, 100 µs a tick. Whoever subscribes with other QoS is
    still warned, at his end.
    """
    return node.create_publisher(kind, topic, qos, event_callbacks=PublisherEventCallbacks(use_default_callbacks=False))


def subscription(
    node: Node, kind: Any, topic: str, callback: Callable[..., None], qos: QoSProfile, raw: bool = False
) -> Subscription[Any]:
    """Create a subscription that is no burden to the executor; see `publisher`.

    A callback that takes two arguments gets the message's info as the second; a `raw` message is its bytes (CDR).
    """
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
    return node.create_subscription(kind, topic, callback, qos, event_callbacks=quiet, raw=raw)


def usage(program: str, make_node: Callable[[], Node]) -> str:
    """Return what `--help` prints of a node: what its module says it is, and the module's PARAMETERS."""
    module = sys.modules[make_node.__module__]
    parameters: Sequence[Parameter] = getattr(module, "PARAMETERS", ())
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    lines = [
        f"usage: {program} [--ros-args -p NAME:=VALUE ...]",
        "",
        *textwrap.wrap((module.__doc__ or "").split("\n\n")[0], width),
    ]
    if parameters:
        lines += ["", "parameters, each set by -p NAME:=VALUE after --ros-args, or all by --params-file FILE:"]
    for p in parameters:
        facts = ["any type" if p.any_type else type(p.default).__name__, f"default {_as_yaml(p.default)}"]
        facts += [f"{p.low:.10g} to {p.high:.10g}"] if p.low is not None and p.high is not None else []
        facts += [] if p.read_only else ["may be set while it runs"]
        text = f"{p.name} ({', '.join(facts)}): {p.description}"
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    if parameters:
        example = parameters[0]
        lines += ["", f"example: {program} --ros-args -p {example.name}:={_as_yaml(example.default)}"]
    return "\n".join(lines)


def _as_yaml(default: Any) -> str:
    # As it would be typed: JSON is YAML, and true is not True there.
    return json.dumps(default, ensure_ascii=False)


def _start_ros(args: list[str] | None) -> None:
    """Refuse arguments that ROS would drop without a word, and start rclpy; UserError for what it does not know."""
    hint = "parameters follow --ros-args, each as -p NAME:=VALUE; --help lists them"
    try:
        if unknown := remove_ros_args(args)[0 if args is not None else 1 :]:
            raise UserError(f"there is no argument {unknown[0]!r}: {hint}")
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise UserError(f"ROS refuses its arguments, {str(error).splitlines()[0]}: {hint}") from error


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Build a node, spin it in one thread until a signal or shutdown, and stop cleanly.

    The node may offer `make_safe()`, called before it is destroyed, and set `exit_code`. With `--help` or `-h` among
    the arguments it is not built: what it is and its parameters are printed.

    Args:
        make_node: the node's class; its module's docstring and PARAMETERS are what `--help` prints.
        args: without the program's name; those of the process where None.

    Returns:
        exit status: 2 where a UserError stopped it, else the node's exit_code (0 where it has none).
    """
    program = os.path.basename(sys.argv[0])
    if not {"-h", "--help"}.isdisjoint(sys.argv[1:] if args is None else args):
        print(usage(program, make_node))
        return 0
    middleware.apply_defaults()
    node: Node | None = None
    code = 0
    signals: list[int] = []
    # rclpy's own handlers shut the context down at once: nothing could be said or published while making safe.
    for number in STOP_SIGNALS:
        # nohup ignores it on purpose.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: signals.append(received))
    try:
        _start_ros(args)
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok() and not signals and not getattr(node, "finished", False):
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    except UserError as error:
        print(f"{node.get_name() if node else program}: {error}", file=sys.stderr)
        code = 2
    finally:
        if node is not None:
            getattr(node, "make_safe", lambda: None)()
            code = code or int(getattr(node, "exit_code", 0))
            node.destroy_node()
        rclpy.try_shutdown()
        # A second signal, e.g. from a terminal and from a supervisor, must not spoil the exit status.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return code
