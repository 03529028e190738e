# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot train`: from a configuration file and overrides to a run folder with checkpoints, logs and provenance."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from h2o_control.config import apply_overrides, from_mapping, to_mapping
from h2o_control.contract import PolicyContract, get_task
from h2o_control.errors import ConfigError, ContractError, DataError, UserError
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_training import run_dir
from h2o_training.catalogue import CATALOGUE
from h2o_training.dataset import Dataset
from h2o_training.run_dir import RunDirectory, RunInfo
from h2o_training.train_config import TrainConfig, load_train_config
from h2o_training.trainer import Trainer
from wheel_leg_driver.robot import Robot, load_robot

#: What a resumed run may change: how long it goes on, and what it logs. Anything else would be another run.
RESUMABLE = ("updates", "time_limit_s", "log", "dataset")
#: The first asks for a checkpoint and the end, the second changes nothing, this one gives the checkpoint up.
CTRL_C_TO_ABORT = 3


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot train`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot train",
        description="Train a policy by any method of `h2o-robot algorithms`: from a dataset, in the twin, or both.",
        epilog="example: h2o-robot train h2o_plus dataset=data/stand.h5 robot=worn seed=1 run=runs/stand",
    )
    parser.add_argument("config", nargs="?", help="name in config/training, or a YAML file; not with --resume")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run folder; updates=N trains it longer")
    args = parser.parse_args(argv)
    overrides = list(args.overrides)
    if args.resume is not None:
        if args.config is not None:
            overrides.insert(0, args.config)
        directory, info = _reopen(args.resume, overrides)
    else:
        if args.config is None:
            parser.error("give a configuration, e.g. h2o_plus, or --resume RUN")
        directory, info = None, None
    config = info.config if info is not None else load_train_config(args.config, overrides)
    _prepare_torch(config.device)
    robot = load_robot(config.robot)
    _require_a_control_step(config, robot)
    dataset = _load_dataset(config, robot)
    contract = info.contract if info is not None else _contract(config, robot, dataset)
    trainer = Trainer(config, robot, contract, dataset)
    if directory is None or info is None:
        directory = RunDirectory(config.run or f"runs/{config.algorithm}-{contract.task.name}-{config.seed}")
        directory.create(RunInfo(config, contract, _provenance(config, trainer, dataset)))
    else:
        _require_same(info, trainer, robot, dataset)
        trainer.load_state_dict(directory.load_checkpoint(config.device))
        directory.write_info(info)
    return _train(trainer, directory)


def _train(trainer: Trainer, directory: RunDirectory) -> int:
    """Run the trainer behind a progress line; returns the exit status."""
    config = trainer.config
    console = Console(stderr=True)
    print(f"{config.algorithm}, task {trainer.contract.task.name}, seed {config.seed} -> {directory.path}")
    with _progress_bar(console) as bar, _stop_on_signal() as stopped:
        task = bar.add_task("", total=config.updates, completed=trainer.agent.updates, line="starting")

        def report(progress: run_dir.Progress) -> None:
            bar.update(task, completed=progress.update, line=progress_line(progress))

        final = trainer.run(directory, report, stopped)
    if final.state == "interrupted":
        print(
            f"stopped at update {final.update} of {final.updates}, nothing is lost. Go on with: "
            f"h2o-robot train --resume {directory.path}",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    result = final.evaluation or {}
    print(
        f"{final.update} updates; on the twin {result['survived']:.0%} of robots stood {config.log.evaluate_s:g} s, "
        f"return {result['return']:.0f}. Next: h2o-robot export {directory.path} -o policy.onnx"
    )
    return 0


def progress_line(progress: run_dir.Progress) -> str:
    """Say in a few words how a run is doing: updates/s, return, losses of Q and V, mean ratio."""
    parts = [f"{progress.updates_per_s:.0f}/s"]
    if progress.episode_return is not None:
        parts.append(f"return {progress.episode_return:.0f}")
    for label, name in (("Q", "loss/critic"), ("V", "loss/value"), ("ratio", "ratio/weight")):
        if name in progress.metrics:
            parts.append(f"{label} {progress.metrics[name]:.2g}")
    return " ".join(parts)


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("train"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a callable that answers whether Ctrl-C (or SIGTERM) has come; a third Ctrl-C stops at once.

    A round of updates must not be cut in the middle, or the checkpoint would not be a state of the run. An impatient
    second Ctrl-C, or a supervisor's SIGTERM after it, must not cost the checkpoint either.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}
    seen = False
    interrupts = 0

    def remember(number: int, _frame: object) -> None:
        nonlocal seen, interrupts
        seen = True
        interrupts += number == signal.SIGINT
        if interrupts == CTRL_C_TO_ABORT:
            raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, remember)
    try:
        yield lambda: seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _prepare_torch(device: str) -> None:
    """Check the device and set what makes small networks fast on a CPU."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    # One thread a process: at these sizes two threads beside a busy neighbour run several times slower than one.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _require_a_control_step(config: TrainConfig, robot: Robot) -> None:
    """Raise where an episode or an evaluation would be over before the robot's first control step."""
    for name, seconds in (("collect.episode_s", config.collect.episode_s), ("log.evaluate_s", config.log.evaluate_s)):
        if seconds < robot.interface.dt_s:
            raise ConfigError(
                f"{name} must be at least one control step of robot {robot.name!r}, {robot.interface.dt_s:g} s, "
                f"got {seconds:g}"
            )


def _load_dataset(config: TrainConfig, robot: Robot) -> Dataset | None:
    if not CATALOGUE[config.algorithm].uses_real:
        return None
    if config.dataset is None:
        raise ConfigError(f"{config.algorithm} needs real data: give dataset=FILE.h5 (see h2o-robot dataset)")
    dataset = Dataset.load(config.dataset)
    if len(dataset) == 0:
        raise ConfigError(f"{config.dataset} holds no transitions")
    if dataset.interface.hash != robot.interface.hash:
        raise ContractError(
            f"{config.dataset} was recorded through interface {dataset.interface.hash}, robot {robot.name!r} has "
            f"{robot.interface.hash}: give robot=NAME of the robot it was recorded on"
        )
    if config.task is not None and config.task != dataset.task.name:
        raise ContractError(
            f"the configuration is for task {config.task!r}, {config.dataset} is of task {dataset.task.name!r}: take "
            "another configuration, or build the dataset for the other task"
        )
    return dataset


def _contract(config: TrainConfig, robot: Robot, dataset: Dataset | None) -> PolicyContract:
    if dataset is not None:
        return PolicyContract(robot.interface, dataset.task)
    if config.task is None:
        raise ConfigError(f"{config.algorithm} has no dataset to tell the task: give task=stand or task=move")
    return PolicyContract(robot.interface, get_task(config.task))


def _sha256(config: TrainConfig) -> str:
    return files_sha256([Path(config.dataset or "")])


def _provenance(config: TrainConfig, trainer: Trainer, dataset: Dataset | None) -> dict[str, object]:
    return {
        "dataset": None
        if dataset is None
        else {"file": config.dataset, "sha256": _sha256(config), "provenance": dict(dataset.provenance)},
        "twin": trainer.twin_description,
        "software": software(),
        "created": now_utc(),
    }


def _require_same(info: RunInfo, trainer: Trainer, robot: Robot, dataset: Dataset | None) -> None:
    """Raise where a resumed run would go on with other data or another twin than it was begun with."""
    config = trainer.config
    if dataset is not None and _sha256(config) != info.provenance["dataset"]["sha256"]:
        raise ConfigError(f"{config.dataset} is not the file the run was begun with: its SHA-256 differs")
    info.contract.require_interface(robot.interface, f"robot {robot.name!r}")
    if trainer.twin_description != info.provenance["twin"]:
        raise ConfigError(f"robot {config.robot!r} has another body now than when the run was begun; start a new run")


def _reopen(run: str, overrides: list[str]) -> tuple[RunDirectory, RunInfo]:
    """Read a run's description and apply what a resumed run may change."""
    directory = RunDirectory(run)
    info = directory.read_info()
    if not directory.has_checkpoint():
        raise UserError(f"{run} was stopped before its first checkpoint: start it anew")
    for override in overrides:
        key = override.partition("=")[0].partition(".")[0]
        if key not in RESUMABLE:
            raise ConfigError(f"{override!r} would make it another run; a resumed one takes {', '.join(RESUMABLE)}")
    config = from_mapping(TrainConfig, apply_overrides(to_mapping(info.config), overrides), run)
    if config.dataset is not None and not Path(config.dataset).is_file():
        raise DataError(
            f"no such file: {config.dataset}, the dataset of {run}. Say where it is now: "
            f"h2o-robot train --resume {run} dataset=PATH"
        )
    return directory, dataclasses.replace(info, config=config)


if __name__ == "__main__":
    from h2o_control.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
