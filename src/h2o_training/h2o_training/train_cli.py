# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot train`: from a configuration file and overrides to a run folder with checkpoints, logs and provenance."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
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
from h2o_training.stopping import stop_on_signal
from h2o_training.train_config import TrainConfig, load_train_config
from h2o_training.train_seeds import begin, is_folder_of_seeds, parse_seeds, processors, train_seeds, unfinished
from h2o_training.trainer import Trainer
from h2o_training.twin_fit import require_twin_fits
from h2o_training.wandb_log import mirrored, require_wandb
from wheel_leg_driver.robot import Robot, load_robot

#: What a resumed run may change: how long it goes on, and what it logs. Anything else would be another run.
RESUMABLE = ("updates", "time_limit_s", "log", "dataset")


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot train`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot train",
        description="Train a policy by any method of `h2o-robot algorithms`: from a dataset, in the twin, or both.",
        epilog="example: h2o-robot train h2o_plus dataset=data/stand.h5 robot=worn seed=1 run=runs/stand",
    )
    parser.add_argument("config", nargs="?", help="name in config/training, or a YAML file; not with --resume")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with this run, or all seeds in this folder; updates=N trains it longer",
    )
    parser.add_argument(
        "--seeds", metavar="N|A-B", help="train seeds 0 to N-1, or A to B, a process each: RUN/seed-A …"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="seeds at once; default: as many as processors")
    args = parser.parse_intermixed_args(argv)
    overrides = list(args.overrides)
    if args.config is not None and args.resume is not None:
        overrides.insert(0, args.config)
    several = args.seeds is not None or (args.resume is not None and is_folder_of_seeds(args.resume))
    _require_options(args, overrides, several)
    jobs = processors() if args.jobs is None else args.jobs
    if args.resume is not None and several:
        return train_seeds(unfinished(Path(args.resume), overrides), Path(args.resume), jobs)
    if args.resume is not None:
        directory, info = _reopen(args.resume, overrides)
    else:
        if args.config is None:
            parser.error("give a configuration, e.g. h2o_plus, or --resume RUN")
        directory, info = None, None
    config = info.config if info is not None else load_train_config(args.config, overrides)
    seeds = [] if args.seeds is None else parse_seeds(args.seeds)
    require_wandb(config.log)
    _prepare_torch(config.device)
    robot = load_robot(config.robot)
    _require_a_control_step(config, robot)
    dataset = _load_dataset(config, robot)
    contract = info.contract if info is not None else _contract(config, robot, dataset)
    if dataset is not None and config.check_twin and info is None:
        require_twin_fits(dataset, str(config.dataset), robot, config.twin)
    trainer = Trainer(config, robot, contract, dataset)
    if seeds:
        # Made to find what is wrong before any process starts; each seed makes its own.
        del trainer
        folder = Path(config.run or f"runs/{config.algorithm}-{contract.task.name}")
        return train_seeds(begin(config, folder, seeds), folder, jobs)
    if directory is None or info is None:
        directory = RunDirectory(config.run or f"runs/{config.algorithm}-{contract.task.name}-{config.seed}")
        info = RunInfo(config, contract, _provenance(config, trainer, dataset))
        directory.create(info)
    else:
        _require_same(info, trainer, robot, dataset)
        trainer.load_state_dict(directory.load_checkpoint(config.device))
        directory.write_info(info)
    with mirrored(info, directory.path):
        return _train(trainer, directory)


def _require_options(args: argparse.Namespace, overrides: Sequence[str], several: bool) -> None:
    """Raise where options exclude one another."""
    if args.seeds is not None and args.resume is not None:
        raise ConfigError(f"--resume {args.resume} goes on with the seeds that are there: leave --seeds out")
    if args.jobs is not None and (args.jobs < 1 or not several):
        raise ConfigError(f"--jobs {args.jobs}: give 1 or more, and only together with several seeds (--seeds)")
    own = [override for override in overrides if override.startswith("seed=")]
    if own and args.seeds is not None:
        raise ConfigError(f"{own[0]} and --seeds {args.seeds} both say which seeds: leave one of them out")
    for override in overrides if args.resume is not None else ():
        key = override.partition("=")[0].partition(".")[0]
        if key not in RESUMABLE:
            raise ConfigError(f"{override!r} would make it another run; a resumed one takes {', '.join(RESUMABLE)}")


def _train(trainer: Trainer, directory: RunDirectory) -> int:
    """Run the trainer behind a progress line; returns the exit status."""
    config = trainer.config
    console = Console(stderr=True)
    print(f"{config.algorithm}, task {trainer.contract.task.name}, seed {config.seed} -> {directory.path}")
    with _progress_bar(console) as bar, stop_on_signal() as stopped:
        task = bar.add_task("", total=config.updates, completed=trainer.agent.updates, line="starting")

        def report(progress: run_dir.Progress) -> None:
            bar.update(task, completed=progress.update, line=progress.line())

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


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("train"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


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
