# SPDX-License-Identifier: Apache-2.0
"""The command h2o-robot: what it lists, what it loads, and how it says that something is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console

from h2o_control import __version__, cli
from h2o_control.errors import DataError

HERE = "test_cli"


def wrong_input(_argv: Sequence[str]) -> int:
    raise DataError("column 3 holds text")


def interrupted(_argv: Sequence[str]) -> int:
    raise KeyboardInterrupt


def needs_torch(_argv: Sequence[str]) -> int:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


def echo(argv: Sequence[str]) -> int:
    print("got", *argv)
    return len(argv)


def exits(_argv: Sequence[str]) -> int:
    raise SystemExit(3)


def print_much(_argv: Sequence[str]) -> int:
    for _ in range(100_000):
        print("line")
    return 0


def rich_much(_argv: Sequence[str]) -> int:
    console = Console()
    for _ in range(20_000):
        console.print("line")
    return 0


def point(function: str, module: str = HERE) -> EntryPoint:
    return EntryPoint(name="thing", value=f"{module}:{function}", group=cli.GROUP)


def test_help_lists_every_installed_command_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.commands():
        assert any(line.split()[:1] == [name] and cli.SUMMARIES[name][1] in line for line in lines)


def test_every_command_with_a_summary_is_installed() -> None:
    assert list(cli.commands()) == list(cli.SUMMARIES)


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys\nfrom h2o_control import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'mujoco', 'rclpy', 'numpy', 'rosbags'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_console_script_prints_its_version() -> None:
    script = Path(sys.executable).parent / "h2o-robot"
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"h2o-robot {__version__}\n"


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evalute"]) == 2
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_command_gets_its_arguments_and_gives_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("thing", point("echo"), ["a", "--help"]) == 2
    assert capsys.readouterr().out == "got a --help\n"


def test_wrong_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("thing", point("wrong_input"), []) == 2
    assert capsys.readouterr().err == "h2o-robot thing: column 3 holds text\n"


@pytest.mark.parametrize("function", ["print_much", "rich_much"])
def test_output_that_nobody_reads_is_status_141(function: str) -> None:
    code = f"import sys, {HERE}\nfrom h2o_control import cli\n"
    code += f"sys.exit(cli.run('thing', {HERE}.point({function!r}), []))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141
    assert error == "h2o-robot thing: stopped, since nobody reads its output\n"


def test_an_exit_by_the_command_itself_stays_one() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run("thing", point("exits"), [])
    assert caught.value.code == 3


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("thing", point("interrupted"), []) == 130
    assert "interrupted" in capsys.readouterr().err


def test_missing_torch_says_where_training_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("thing", point("needs_torch"), []) == 2
    error = capsys.readouterr().err
    assert "needs torch" in error
    assert "off-board" in error


def test_command_whose_module_is_missing_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("thing", point("command", module="no_such_package.thing"), []) == 2
    assert "needs no_such_package" in capsys.readouterr().err


def test_command_of_a_package_that_is_not_installed_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    robot_side = {name: entry for name, entry in cli.commands().items() if "training" not in entry.value}
    monkeypatch.setattr(cli, "commands", lambda: robot_side)
    assert cli.main(["train"]) == 2
    assert "train belongs to h2o_training, which is not installed here" in capsys.readouterr().err
