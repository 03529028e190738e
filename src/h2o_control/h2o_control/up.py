# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot up`: starts a launch file's nodes where ROS's own launch is absent, one process a node."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import yaml

from h2o_control import launch_file, middleware
from h2o_control.errors import ConfigError, nearest
from h2o_control.supervisor import Supervisor


def node_environment() -> dict[str, str]:
    """Return this process's environment, with what nodes need where the caller has not set it."""
    # Nodes find the message packages of this Python.
    return {"AMENT_PREFIX_PATH": sys.prefix, "PYTHONUNBUFFERED": "1", **os.environ, **middleware.defaults(os.environ)}


def find_executable(package: str, executable: str) -> Path:
    """Find the program behind `pkg` and `exec` of a launch file.

    Looks in `lib/<package>/` of every AMENT_PREFIX_PATH, where colcon puts it, then where pip put the console script.

    Raises:
        ConfigError: no such package, or no such executable in it.
    """
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        path = Path(prefix) / "lib" / package / executable
        if os.access(path, os.X_OK):
            return path
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"package {package!r} is not installed here") from error
    scripts = [point.name for point in distribution.entry_points if point.group == "console_scripts"]
    if executable not in scripts:
        raise ConfigError(f"package {package!r} has no executable {executable!r}.{nearest(executable, scripts)}")
    installed = [Path(str(file.locate())) for file in distribution.files or () if file.name == executable]
    for path in (*installed, Path(sys.executable).parent / executable):
        if os.access(path, os.X_OK):
            return Path(os.path.normpath(path))
    raise ConfigError(f"{executable!r} of package {package!r} is declared but its script is missing; install it again")


class _QuotedText(yaml.SafeDumper):
    """Puts all text in quotes, so that ROS's parameter parser cannot take '1e3' for a number."""


_QuotedText.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def node_command(node: launch_file.Node, folder: Path) -> list[str]:
    """Return the command line that starts a node; its parameters go into a file in `folder`, as ROS's launch does."""
    program = str(find_executable(node.package, node.executable))
    command = [program, *node.arguments, "--ros-args", "-r", f"__node:={node.name}"]
    # ROS takes them in this order, and of two values the later one.
    for given in node.parameter_files:
        command += ["--params-file", str(given)]
    if node.parameters:
        path = folder / f"{node.name}.yaml"
        values = {"/**": {"ros__parameters": dict(node.parameters)}}
        path.write_text(yaml.dump(values, Dumper=_QuotedText), encoding="utf-8")
        command += ["--params-file", str(path)]
    return command


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """Split `name:=value` arguments; raises ConfigError where one is not of that form."""
    given = {}
    for text in texts:
        name, separator, value = text.partition(":=")
        if not separator or not name:
            raise ConfigError(f"{text!r} is not a launch argument; write name:=value, e.g. robot:=ideal")
        given[name] = value
    return given


def start(path: Path, given: Mapping[str, str], until: str | None = None) -> int:
    """Start the nodes of a launch file and return when none is left; see Supervisor.run for the status."""
    nodes = launch_file.nodes(path, given)
    if not nodes:
        raise ConfigError(f"{path.name} starts no node with these arguments")
    names = [node.name for node in nodes]
    if until is not None and until not in names:
        raise ConfigError(f"--until {until}: {path.name} starts no node of that name.{nearest(until, names)}")
    supervisor = Supervisor(until)
    with tempfile.TemporaryDirectory(prefix="h2o-up-") as folder:
        for node in nodes:
            supervisor.add(node.name, node_command(node, Path(folder)), node_environment())
        status = supervisor.run()
    if supervisor.failure:
        # The tracebacks of nodes that were stopped while they started may stand between the reason and the prompt.
        print(f"h2o-robot up: {supervisor.failure}", file=sys.stderr)
    return status


def command(argv: Sequence[str]) -> int:
    """Run the subcommand `h2o-robot up`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot up",
        description="Start the nodes of a launch file, for machines without ROS's own launch. It ends when every node "
        "has ended, when one of them refuses its arguments at its start, or on Ctrl-C, and leaves no node running. "
        "When a node dies the others go on, as with ROS's launch, and the status in the end is its.",
        epilog="example: h2o-robot up launch/collect.launch.yaml bag:=bags/monday duration_s:=90 --until teleop",
    )
    parser.add_argument("file", type=Path, help="launch file in YAML")
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="launch arguments")
    parser.add_argument("-s", "--show-args", action="store_true", help="list the file's arguments and start nothing")
    parser.add_argument("--until", metavar="NODE", help="stop everything when this node ends")
    options = parser.parse_intermixed_args(argv)
    if options.show_args:
        for argument in launch_file.arguments(options.file):
            print(argument)
        return 0
    return start(options.file, parse_assignments(options.arguments), options.until)
