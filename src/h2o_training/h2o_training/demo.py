# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot demo`: the whole loop on an emulated robot; each step is the command a user would type."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from h2o_control.config import config_dir
from h2o_control.contract import TASKS, get_task
from h2o_control.errors import ConfigError, UserError
from h2o_training.child import TerminatedError, ended, raise_when_terminated, start
from h2o_training.evaluate import command as evaluate
from h2o_training.judging import write_json
from h2o_training.mode_summary import mode_table, write_bag_report
from h2o_training.report import TableData
from h2o_training.run_dir import RunDirectory
from h2o_training.train_config import load_train_config
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.robot import load_robot

#: Arming, settling and stopping around the time that a script drives, s.
OVERHEAD_S = 8.0
#: In which the policy is judged without the driver behind it.
EPISODES = 10
#: Shorter than this the robot has hardly left its stand.
SHORTEST_S = 5


@dataclass(frozen=True)
class Settings:
    """What the demo does; a folder that was begun with other settings is not continued."""

    robot: str = "worn"
    task: str = "stand"
    drive_s: int = 70
    deploy_s: int = 32
    config: str = "h2o_plus"
    updates: int | None = None
    seed: int = 0

    @property
    def overrides(self) -> list[str]:
        """Changes to the training configuration; paths are relative to the demo's folder."""
        updates = [] if self.updates is None else [f"updates={self.updates}"]
        return ["dataset=dataset.h5", f"robot={self.robot}", f"seed={self.seed}", "run=run", *updates]

    def check(self) -> None:
        """Raise ConfigError where a step would fail on these settings, minutes from now."""
        for option, value, least in (
            ("--drive-s", self.drive_s, SHORTEST_S),
            ("--deploy-s", self.deploy_s, SHORTEST_S),
            ("--seed", self.seed, 0),
            ("--updates", 1 if self.updates is None else self.updates, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} must be at least {least}, got {value}")
        config = load_train_config(self.config, self.overrides)
        if config.task not in (None, self.task):
            raise ConfigError(f"--config {self.config} is for task {config.task!r}: give --task {config.task}")
        make_plant(load_robot(self.robot), self.seed)


@dataclass(frozen=True)
class Step:
    """One step: what it is called, what it leaves behind, and how it is done."""

    title: str
    product: str
    run: Callable[[], None]


class Demo:
    """Runs the steps in one folder and skips those whose product is already there."""

    def __init__(self, folder: Path, settings: Settings, console: Console) -> None:
        self._folder, self._settings, self._console = folder, settings, console
        self._launch = launch_dir()

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        return [
            Step("Drive the robot and record a bag", "drive", self._drive),
            Step("Build the dataset", "dataset.h5", self._build),
            Step("Train H2O+ on the dataset and the twin", "trained", self._train),
            Step("Export the policy", "policy.onnx", self._export),
            Step("Deploy the policy through the graph and record it", "deploy", self._deploy),
            Step("Judge it alone, in lock-step, without the driver's balance", "alone/report.html", self._evaluate),
        ]

    def run(self) -> None:
        """Do what is left to do, then show what came of it."""
        started = time.monotonic()
        steps = self.steps()
        for number, step in enumerate(steps, start=1):
            label = f"[bold]{number}/{len(steps)} {step.title}[/bold]"
            if (self._folder / step.product).exists():
                self._console.print(f"{label}  [dim]already in {escape(str(self._folder / step.product))}[/dim]")
                continue
            self._console.print(label)
            begun = time.monotonic()
            step.run()
            self._console.print(f"  [dim]{time.monotonic() - begun:.0f} s[/dim]")
        self._show(time.monotonic() - started)

    def _drive(self) -> None:
        s = self._settings
        self._graph("collect", "drive", s.drive_s, f"seed:={s.seed}")

    def _deploy(self) -> None:
        self._graph("deploy", "deploy", self._settings.deploy_s, f"policy:={self._folder / 'policy.onnx'}")

    def _graph(self, launch: str, bag: str, seconds: int, *arguments: str) -> None:
        """Bring a launch file up until its operator is done; a live line shows what the nodes say."""
        unfinished = self._folder / f"{bag}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        command = [
            *("up", str(self._launch / f"{launch}.launch.yaml"), "--until", "teleop"),
            *(f"robot:={self._settings.robot}", f"bag:={unfinished / 'bag'}", f"duration_s:={seconds}", *arguments),
        ]
        log = self._folder / f"{bag}.log"
        with log.open("w", encoding="utf-8") as output, log.open(encoding="utf-8") as heard:
            process = start(command, output=output)
            with ended(process), Live(console=self._console, transient=True, auto_refresh=False) as live:
                begun, said = time.monotonic(), "starting the nodes"
                while process.poll() is None:
                    lines = heard.read().splitlines()
                    said = lines[-1].split("]: ")[-1] if lines else said
                    live.update(_live_line(time.monotonic() - begun, seconds + OVERHEAD_S, said), refresh=True)
                    time.sleep(0.1)
        if process.returncode:
            raise UserError(f"{launch}.launch.yaml failed with status {process.returncode}; its output is in {log}")
        (unfinished / "bag").rename(self._folder / bag)
        unfinished.rmdir()

    def _build(self) -> None:
        self._command("dataset", "build", "drive", "--task", self._settings.task, "-o", "dataset.h5")

    def _train(self) -> None:
        run = RunDirectory(self._folder / "run")
        if run.has_checkpoint():
            self._command("train", "--resume", "run")
        else:
            # Stopped before its first checkpoint, there is nothing in it to go on from.
            shutil.rmtree(run.path, ignore_errors=True)
            self._command("train", self._settings.config, *self._settings.overrides)
        (self._folder / "trained").touch()

    def _export(self) -> None:
        self._command("export", "run", "-o", "policy.onnx")

    def _evaluate(self) -> None:
        s = self._settings
        policy = str(self._folder / "policy.onnx")
        folder = str(self._folder / "alone")
        evaluate([policy, "--robot", s.robot, "--task", s.task, "--episodes", str(EPISODES), "-o", folder])

    def _command(self, *words: str) -> None:
        process = start(words, cwd=self._folder)
        with ended(process):
            process.wait()
        if process.returncode:
            raise UserError(f"h2o-robot {words[0]} failed with status {process.returncode}; see above")

    def _show(self, seconds: float) -> None:
        task = get_task(self._settings.task)
        judged = json.loads((self._folder / "alone" / "evaluation.json").read_text(encoding="utf-8"))
        alone = judged["policies"][0]["summary"]
        table = TableData(
            f"The policy alone: {alone['episodes']:.0f} episodes of 30 s in lock-step, no balance behind it",
            ["stood to the end", "median (s)", "farthest |x| (m)", "τ rms (Nm)"],
            [
                [
                    f"{alone['survived']:.0f} of {alone['episodes']:.0f}",
                    f"{alone['survival_median_s']:.1f}",
                    f"{alone['max_abs_x_m']:.2f}",
                    f"{alone['torque_rms_nm']:.2f}",
                ]
            ],
        )
        report = self._folder / "report.html"
        title = f"H2O+ on the emulated robot {self._settings.robot!r}, task {task.name!r}"
        summaries = write_bag_report(report, self._folder / "deploy", task, title, [table])
        in_command = mode_table(summaries, "Deployed through the graph: who was in command")
        write_json(
            self._folder / "demo.json",
            {"settings": vars(self._settings), "deployed": {k: vars(v) for k, v in summaries.items()}, "alone": alone},
        )
        self._console.print()
        self._console.print(in_command.rich())
        self._console.print(table.rich())
        done = f"Done in {seconds:.0f} s. Report: {report.resolve()}"
        self._console.print(done, soft_wrap=True, highlight=False, markup=False)


def _live_line(elapsed_s: float, expected_s: float, said: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(
        "  ",
        ProgressBar(total=expected_s, completed=min(elapsed_s, expected_s), width=30),
        f"{elapsed_s:.0f} of about {expected_s:.0f} s",
        Text(said, style="dim", no_wrap=True, overflow="ellipsis"),
    )
    return row


def launch_dir() -> Path:
    """Return the folder of the launch files; raises UserError where there is none."""
    folder = config_dir().parent / "launch"
    if not (folder / "collect.launch.yaml").is_file():
        raise UserError(f"no launch files in {folder}: run the demo from a clone of the project")
    return folder


def absolute(name_or_path: str) -> str:
    """Return a file's absolute path, for commands that run in another folder; a name of a shipped file as it is."""
    return str(Path(name_or_path).resolve()) if name_or_path.endswith((".yaml", ".yml")) else name_or_path


def choose_folder(base: Path, settings: Settings, fresh: bool) -> Path:
    """Return the newest folder that was begun with these settings and is not complete, else a new one."""
    numbers = sorted(int(p.name) for p in base.glob("[0-9][0-9][0-9]") if p.is_dir())
    if numbers and not fresh:
        newest = base / f"{numbers[-1]:03d}"
        try:
            same = json.loads((newest / "settings.json").read_text(encoding="utf-8")) == vars(settings)
        except (OSError, ValueError):
            same = False
        if same and not (newest / "demo.json").exists():
            return newest
    folder = base / f"{(numbers[-1] if numbers else 0) + 1:03d}"
    write_json(folder / "settings.json", vars(settings))
    return folder


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot demo`."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="h2o-robot demo",
        description="The whole loop on an emulated robot: drive and record, build the dataset, train H2O+ with the "
        "twin, export, deploy through the ROS graph, judge. Interrupted, it goes on where it was.",
        epilog="example: h2o-robot demo --robot worn",
    )
    parser.add_argument("--robot", default=default.robot, help="name in config/robots, or a YAML file (%(default)s)")
    parser.add_argument("--task", default=default.task, choices=sorted(TASKS), help="what to learn (%(default)s)")
    parser.add_argument("--drive-s", type=int, default=default.drive_s, help="seconds of driving (%(default)s)")
    parser.add_argument("--deploy-s", type=int, default=default.deploy_s, help="seconds of deployment (%(default)s)")
    parser.add_argument("--config", default=default.config, help="name in config/training, or a file (%(default)s)")
    parser.add_argument("--updates", type=int, default=None, help="gradient updates (the configuration's)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of operator and training (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where results go (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if an unfinished demo is there")
    args = parser.parse_args(argv)
    config = absolute(args.config)
    robot = absolute(args.robot)
    settings = Settings(robot, args.task, args.drive_s, args.deploy_s, config, args.updates, args.seed)
    settings.check()
    launch_dir()
    folder = choose_folder(args.folder, settings, args.fresh)
    console = Console()
    where = f"Everything goes to {folder}. Ctrl-C stops; the same command goes on from there."
    console.print(where, highlight=False, markup=False)
    try:
        with raise_when_terminated():
            Demo(folder, settings, console).run()
    except KeyboardInterrupt as interrupt:
        console.print("\nStopped, nothing is left running. Go on with: make demo   (or the same h2o-robot command)")
        if isinstance(interrupt, TerminatedError):
            return 128 + interrupt.number
        raise
    return 0
