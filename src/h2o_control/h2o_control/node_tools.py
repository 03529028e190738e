# SPDX-License-Identifier: Apache-2.0
"""What every node of the project does alike: declare parameters, refuse unknown ones, run, stop cleanly."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer

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
    node: Node, kind: Any, topic: str, callback: Callable[..., None], qos: QoSProfile
) -> Subscription[Any]:
    """Create a subscription that is no burden to the executor; see `publisher`.

    A callback that takes two arguments gets the message's info as the second.
    """
    quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
    return node.create_subscription(kind, topic, callback, qos, event_callbacks=quiet)


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Build a node, spin it in one thread until a signal or shutdown, and stop cleanly.

    The node may offer `make_safe()`, called before it is destroyed, and set `exit_code`.

    Returns:
        exit status: 2 where a UserError stopped it, else the node's exit_code (0 where it has none).
    """
    middleware.apply_defaults()
    node: Node | None = None
    code = 0
    signals: list[int] = []
    # rclpy's own handlers shut the context down at once: nothing could be said or published while making safe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: signals.append(received))
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok() and not signals and not getattr(node, "finished", False):
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    except UserError as error:
        print(f"{node.get_name() if node else os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        code = 2
    finally:
        if node is not None:
            getattr(node, "make_safe", lambda: None)()
            code = code or int(getattr(node, "exit_code", 0))
            node.destroy_node()
        rclpy.try_shutdown()
        # A second signal, e.g. from a terminal and from a supervisor, must not spoil the exit status.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return code
