# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot up`: reads launch files, starts real processes and leaves none behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graph import BIN, graph
from h2o_control import launch_file, middleware, supervisor, topics, up
from h2o_control.errors import ConfigError
from h2o_control.launch_substitutions import Scope, condition, expand, expand_words

#: Programs of the package `toys` that the launch files below start; each one leaves its process id in the folder PIDS.
PREAMBLE = """
    import json, os, signal, sys, time
    folder = os.environ["PIDS"]
    open(os.path.join(folder, os.path.basename(sys.argv[0]) + ".pid"), "w").write(str(os.getpid()))
"""
PROGRAMS = {
    "brief": "print('brief done')",
    "failing": "time.sleep(0.3); print('no such port'); sys.exit(3)",
    "refusing": "time.sleep(0.3); print('no such file'); sys.exit(2)",
    "obedient": """
        def stop(number, frame):
            print("obedient got", number)
            sys.exit(0)
        signal.signal(signal.SIGINT, stop)
        open(os.path.join(folder, "obedient.ready"), "w").close()
        print("obedient ready")
        time.sleep(60)
    """,
    "following": """
        while not os.path.exists(os.path.join(folder, "obedient.ready")):
            time.sleep(0.01)
    """,
    "following_late": """
        while not os.path.exists(os.path.join(folder, "enough")):
            time.sleep(0.01)
    """,
    "stubborn": """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("stubborn ready")
        time.sleep(60)
    """,
    "parent": """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open(os.path.join(folder, "grandchild.pid"), "w").write(str(child.pid))
        print("parent ready")
        time.sleep(60)
    """,
    "show": """
        import yaml
        a = sys.argv
        values = yaml.safe_load(open(a[a.index("--params-file") + 1])) if "--params-file" in a else None
        row = {"argv": a[1:], "values": values, "environment": dict(os.environ)}
        json.dump(row, open(os.path.join(folder, "show.json"), "w"))
    """,
}


class Workspace:
    """A package of small programs where colcon would have put it, and `h2o-robot up` run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / "lib" / "toys"
        programs.mkdir(parents=True)
        for name, code in PROGRAMS.items():
            text = f"#!{sys.executable}\n{textwrap.dedent(PREAMBLE)}\n{textwrap.dedent(code)}\n"
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, "AMENT_PREFIX_PATH": str(folder), "PIDS": str(folder)}
        self.environment.pop("PYTHONUNBUFFERED", None)

    def launch(self, text: str) -> Path:
        path = self.folder / "toys.launch.yaml"
        path.write_text("launch:\n" + textwrap.indent(textwrap.dedent(text), "  "))
        return path

    def nodes(self, *names: str) -> Path:
        return self.launch("".join(f"- node: {{pkg: toys, exec: {name}, name: {name}}}\n" for name in names))

    def up(self, path: Path, *arguments: str) -> subprocess.Popen[str]:
        command = [Path(sys.executable).parent / "h2o-robot", "up", path, *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )

    def alive(self) -> list[str]:
        """Names of the programs that still run."""
        return [path.stem for path in self.folder.glob("*.pid") if running(int(path.read_text()))]


def running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], limit_s: float = 15.0) -> bool:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def read_until(process: subprocess.Popen[str], *wanted: str) -> None:
    assert process.stdout is not None
    missing = set(wanted)
    for line in process.stdout:
        missing -= {text for text in missing if text in line}
        if not missing:
            return
    raise AssertionError(f"output ended before {missing}")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_up_ends_well_when_every_node_has_ended(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("brief"))
    output, error = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "brief done" in output
    assert error == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_node_by_sigint(workspace: Workspace, number: signal.Signals) -> None:
    process = workspace.up(workspace.nodes("obedient", "parent"))
    read_until(process, "obedient ready", "parent ready")
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert f"obedient got {signal.SIGINT.value}" in output
    assert wait_for(lambda: workspace.alive() == [])


def test_a_lone_node_that_ignores_signals_is_killed_in_the_end(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("stubborn"))
    read_until(process, "stubborn ready")
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - start_s > 7.9
    assert process.returncode == 130
    assert [name in output for name in ("SIGINT sent", "SIGTERM sent", "SIGKILL sent")] == [True] * 3
    assert wait_for(lambda: workspace.alive() == [])


def test_repeated_ctrl_c_does_not_wait(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("stubborn", "obedient"))
    read_until(process, "stubborn ready", "obedient ready")
    start_s = time.monotonic()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=20)
    assert time.monotonic() - start_s < 4.0
    assert process.returncode == 130
    assert wait_for(lambda: workspace.alive() == [])


def test_a_node_that_refuses_its_input_stops_the_others_and_gives_its_status(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("obedient", "refusing"))
    _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert error == "h2o-robot up: refusing ended with status 2, and said last: no such file\n"
    assert wait_for(lambda: workspace.alive() == [])


def test_a_node_that_fails_leaves_the_others_running_and_is_named_twice(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("obedient", "failing"))
    read_until(process, "obedient ready", "ended with status 3 UNASKED; obedient goes on")
    time.sleep(0.5)
    assert process.poll() is None
    assert workspace.alive() == ["obedient"]
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error == "h2o-robot up: failing ended with status 3, and said last: no such port\n"
    assert workspace.alive() == []


def test_a_node_that_is_killed_leaves_the_others_running_and_its_status_to_the_end(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("obedient", "stubborn", "following_late"), "--until", "following_late")
    read_until(process, "obedient ready", "stubborn ready")
    os.kill(int((workspace.folder / "stubborn.pid").read_text()), signal.SIGKILL)
    read_until(process, "was ended by SIGKILL UNASKED; obedient, following_late go on")
    assert wait_for(lambda: set(workspace.alive()) == {"obedient", "following_late"})
    (workspace.folder / "enough").touch()
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL
    assert error == "h2o-robot up: stubborn was ended by SIGKILL, and said last: stubborn ready\n"
    assert wait_for(lambda: workspace.alive() == [])


def test_a_node_that_refuses_after_its_start_leaves_the_others_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By then a robot may be armed.
    monkeypatch.setattr(supervisor, "START_UP_S", 0.1)
    group = supervisor.Supervisor(until="last")
    group.add("refusing", ["sh", "-c", "sleep 0.5; exit 2"], os.environ)
    group.add("last", ["sh", "-c", f"sleep 1.5; touch {tmp_path / 'done'}"], os.environ)
    assert group.run() == 2
    assert (tmp_path / "done").exists()


def test_a_node_that_ends_well_leaves_the_others_running(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("brief", "obedient"))
    read_until(process, "brief done", "ended with status 0", "obedient ready")
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.ros
def test_a_recorder_that_is_killed_does_not_drop_the_robot(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    words = [BIN / "h2o-robot", "up", root / "launch" / "collect.launch.yaml", f"bag:={tmp_path / 'bag'}"]
    with graph(tmp_path) as (nodes, probe), (tmp_path / "up.log").open("w") as log:
        command = [*words, "robot:=ideal", "duration_s:=8", "--until", "teleop"]
        process = subprocess.Popen(command, cwd=root, env=nodes.environment, stdout=log, stderr=log)
        nodes.processes.append(process)
        probe.wait(lambda: probe.mode == topics.BALANCE, "balance", 40.0)
        (number,) = re.findall(r"recorder .*started \(process (\d+)\)", (tmp_path / "up.log").read_text())
        os.kill(int(number), signal.SIGKILL)
        probe.wait(lambda: "was ended by SIGKILL UNASKED" in (tmp_path / "up.log").read_text(), "word of it")
        probe.spin(3.0)
        assert probe.mode == topics.BALANCE, probe.reason
        probe.wait(lambda: process.poll() is not None, "end of the drive", 40.0)
    assert process.returncode == 128 + signal.SIGKILL
    assert {mode.split(":")[0] for mode in probe.modes} == {topics.DISARMED, topics.BALANCE}


def test_until_ends_well_with_the_named_node(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("following", "obedient"), "--until", "following")
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert wait_for(lambda: workspace.alive() == [])


def test_nothing_is_left_when_nobody_reads_the_output_any_more(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("obedient", "following"))
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=30)
    assert process.returncode == 141
    assert wait_for(lambda: workspace.alive() == [])


def test_parameter_files_come_in_order_and_before_the_values_of_the_launch_file(workspace: Workspace) -> None:
    folder = workspace.folder
    for name in ("mine", "yours"):
        (folder / f"{name}.yaml").write_text("/**: {ros__parameters: {}}")
    text = """
launch:
  - node:
      pkg: toys
      exec: show
      name: show
      param:
        - from: $(dirname)/mine.yaml
        - from: $(dirname)/yours.yaml
        - {name: a, value: 1}
"""
    file = folder / "files.launch.yaml"
    file.write_text(text)
    workspace.up(file).communicate(timeout=20)
    argv = json.loads((folder / "show.json").read_text())["argv"]
    given = [argv[i + 1] for i, word in enumerate(argv) if word == "--params-file"]
    assert given[:2] == [str(folder / "mine.yaml"), str(folder / "yours.yaml")]
    assert len(given) == 3

    file.write_text(text.replace("yours", "theirs"))
    with pytest.raises(ConfigError, match=r"node show: param from: there is no file .*theirs.yaml"):
        launch_file.nodes(file, {})
    # Older versions of ROS's launch put files first in any case, newer ones where they stand.
    file.write_text(text.replace("- from: $(dirname)/mine.yaml", "- {name: b, value: 2}"))
    with pytest.raises(ConfigError, match=r"yours.yaml must stand before the params with name and value"):
        launch_file.nodes(file, {})


def test_nodes_get_name_parameters_and_defaults_of_the_environment(workspace: Workspace) -> None:
    path = workspace.launch("""
        - arg: {name: bag, default: '0x10'}
        - node:
            pkg: toys
            exec: show
            name: shown
            args: --folder $(var bag)/a b
            param:
              - {name: bag, value: $(var bag), type: str}
              - {name: power, value: $(var bag)}
              - {name: text, value: "1e3", type: str}
              - {name: rate, value: '2', type: float}
              - {name: count, value: 3}
              - {name: words, value: [one, $(var bag)x]}
              - {name: empty, value: ''}
              - {name: agreed, value: $(eval "'a' == 'a'"), type: bool}
    """)
    for name in middleware.CHOICES:
        workspace.environment.pop(name, None)
    process = workspace.up(path, "bag:=17")
    _, error = process.communicate(timeout=20)
    assert process.returncode == 0, error
    shown = json.loads((workspace.folder / "show.json").read_text())
    assert shown["argv"][:6] == ["--folder", "17/a", "b", "--ros-args", "-r", "__node:=shown"]
    assert shown["values"] == {
        "/**": {
            "ros__parameters": {
                "bag": "17",
                "power": 17,
                "text": "1e3",
                "rate": 2.0,
                "count": 3,
                "words": ["one", "17x"],
                "empty": "",
                "agreed": True,
            }
        }
    }
    assert middleware.defaults({}).items() <= shown["environment"].items()
    assert not Path(shown["argv"][-1]).exists(), "the parameter file was left behind"


def test_text_that_looks_like_a_number_is_quoted_for_the_parser_of_ros(tmp_path: Path) -> None:
    node = launch_file.Node("h2o_control", "policy_node", "policy", {"a": "1e3", "b": 1.0, "c": True})
    path = Path(up.node_command(node, tmp_path)[-1])
    assert '"1e3"' in path.read_text()
    assert '"1.0"' not in path.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- node: {pkg: toys, exec: brief, name: a, respawn: 'true'}", "key 'respawn' is not supported"),
        ("- node: {pkg: toys, exec: brief}", "key 'name' is missing"),
        ("- node: {pkg: toys, exec: brief, name: a, param: {x: 1}}", "param must be a list"),
        ("- node: {pkg: toys, exec: brief, name: a, param: [{name: x, value: 1, kind: int}]}", "key 'kind'"),
        ("- node: {pkg: toys, exec: brief, name: a, param: [{name: yes, value: 1}]}", "name must be text"),
        ("- node: {pkg: toys, exec: brief, name: a, param: [{name: x, value: z, type: int}]}", "'z' is not int"),
        ("- node: {pkg: toys, exec: brief, name: a, param: [{name: x, value: [a, 1]}]}", "must hold words only"),
        ("- node: {pkg: toys, exec: brief, name: a, if: true}", "if must be text"),
        ("- node: {pkg: toys, exec: brief, name: a, if: maybe}", "neither true nor false"),
        ("- node: {pkg: toys, exec: brief, name: a, if: 'true', unless: 'true'}", "cannot stand together"),
        ("- node: {pkg: toys, exec: bref, name: a}", "package 'toys' is not installed"),
        ("- node: {pkg: h2o_control, exec: polcy_node, name: a}", "Did you mean 'policy_node'?"),
        ("- node: {pkg: toys, exec: brief, name: $(var nme)}", "which no arg or let has set"),
        ("- node: {pkg: toys, exec: brief, name: $(command ls)}", "$(command), which is not supported"),
        ("- let: {name: x, value: $(eval '__import__(\"os\").getpid()')}", "only \"'text' == 'text'\""),
        ("- group: {}", "action 'group' is not supported"),
        ("- arg: {name: x}", "needs x:=…"),
        ("- arg: {name: x, default: 3}", "default must be text"),
        ("- include: {file: $(dirname)/none.yaml}", "cannot read"),
        ("- arg: {name: x, default: y}", "starts no node"),
        (
            "- node: {pkg: toys, exec: brief, name: a}\n- node: {pkg: toys, exec: show, name: a}",
            "two nodes named 'a'",
        ),
    ],
)
def test_launch_files_with_what_is_not_supported_are_refused(workspace: Workspace, text: str, message: str) -> None:
    path = workspace.launch(text)
    with pytest.raises(ConfigError) as caught:
        up.start(path, {})
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_unknown_argument_is_status_2_and_lists_the_valid_ones(workspace: Workspace) -> None:
    path = workspace.launch("- arg: {name: robot, default: worn, description: which robot}")
    process = workspace.up(path, "robt:=ideal")
    _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "no argument 'robt'. Did you mean 'robot'?" in error
    assert "robot (default 'worn'): which robot" in error


def test_argument_without_value_is_status_2(workspace: Workspace) -> None:
    process = workspace.up(workspace.nodes("brief"), "robot=ideal")
    _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "write name:=value" in error


def test_missing_file_is_status_2(workspace: Workspace) -> None:
    process = workspace.up(workspace.folder / "none.yaml")
    _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "cannot read" in error


def test_until_a_node_that_is_not_there_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="starts no node of that name"):
        up.start(workspace.nodes("brief"), {}, until="teleop")


def test_substitutions_nest_and_keep_words() -> None:
    scope = Scope(Path("/a/b.yaml"), {"x": "one two", "port": ""}, {"HOME": "/root"})
    assert expand("$(dirname)/$(var x)", scope) == "/a/one two"
    assert expand("$(env HOME) $(env NONE $(var x))", scope) == "/root one two"
    assert expand("plain $ (text) 'quoted'", scope) == "plain $ (text) 'quoted'"
    assert expand_words("--to $(var x)/y '$HOME'", scope) == ["--to", "one two/y", "$HOME"]
    assert condition("$(eval \"'$(var port)' == ''\")", scope)
    assert condition("$(eval \"'$(var x)' != 'one'\")", scope)
    assert not condition("$(eval \"'$(var x)' == 'one'\")", scope)


@pytest.mark.parametrize("text", ["$(var x", "$(env NONE)", "$(var a b)", "$(dirname a)", "$(eval 'a'b)", "$()"])
def test_malformed_substitutions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        expand(text, Scope(Path("/a/b.yaml"), {"x": "1"}, {}))


def test_a_quote_in_an_argument_cannot_change_the_comparison() -> None:
    scope = Scope(Path("/a/b.yaml"), {"port": "' == '' or '"}, {})
    with pytest.raises(ConfigError, match="only"):
        condition("$(eval \"'$(var port)' == ''\")", scope)
