# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot sysid`: fit a robot's description to recorded driving, and say how well it is known."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from h2o_control.atomic_file import write_atomically
from h2o_control.bag_reader import damage_note
from h2o_control.contract import get_task
from h2o_control.errors import ContractError, DataError, UserError
from h2o_control.provenance import files_sha256, now_utc, software
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset, damaged_files
from h2o_training.driving import UndrivableError
from h2o_training.effects import effects_from
from h2o_training.indirect import STEPS, emulated, identify
from h2o_training.judging import write_json
from h2o_training.prediction import compare
from h2o_training.robots import to_yaml
from h2o_training.sysid import DEFAULT, PAST, Fit, fewest_windows, noise_effects
from h2o_training.sysid_report import content, page, parameter_table, score_table, verdict
from h2o_training.windows import Recording, cut, recordings, split
from wheel_leg_driver.robot import Robot, load_robot

#: Share of the recording that is held back to judge by, where no other recording is given for that.
HELD_BACK = 0.2


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot sysid`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot sysid",
        description="Identify a robot from recorded driving: motors, friction, delay, centre of mass and sensors. "
        "Writes the description with what was found, and a page beside it: each parameter with its uncertainty, what "
        "the data cannot tell apart, and predicted against recorded rows that were not fitted. Weigh the robot first: "
        "its mass and the motors' torque factor are one thing to such data.",
        epilog="example: h2o-robot sysid bags/monday --robot ideal -o fitted.yaml",
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="HDF5 file of h2o-robot dataset, or a bag")
    parser.add_argument(
        "--robot",
        required=True,
        help="description to begin with: a name in config/robots or a file; of its plant nothing is used",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FITTED.yaml", help="description to write")
    parser.add_argument("--test", metavar="DATASET", help="judge by this one, not by the last fifth of the others")
    parser.add_argument("--fit", metavar="NAMES", help=f"parameters, by commas; default: {','.join(DEFAULT)}")
    parser.add_argument(
        "--model", choices=("closed_form", "mujoco"), default="closed_form", help="default: closed_form"
    )
    parser.add_argument(
        "--correct",
        choices=("auto", "yes", "no"),
        default="auto",
        help="drive the emulated robot with the estimates and take out how far the fit of that lands; auto: where our "
        "driver recorded the data",
    )
    parser.add_argument(
        "--emulated",
        action="store_true",
        help="write what was found into the file's plant, as an emulated robot, and not into its twin",
    )
    parser.add_argument("--name", help="of the robot in the file; default: the file's name")
    parser.add_argument("--seed", type=int, default=0, help="of the search's starts, default: 0")
    args = parser.parse_args(argv)
    output = Path(args.output)
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"-o must name a .yaml file, got {args.output}")
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    console = Console()
    torch.set_num_threads(1)
    robot = load_robot(args.robot)
    effects = effects_from(robot.twin, f"robot {robot.name!r}: twin")
    names = tuple(name.strip() for name in args.fit.split(",")) if args.fit else DEFAULT
    if output.exists():
        raise UserError(f"{output} exists already: name another file, or delete it first")
    folder = output.with_name(f"{output.stem}-sysid")
    _require_writable(folder)
    paths = [Path(path).resolve() for path in (*args.datasets, *([args.test] if args.test else []))]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path.name} is given twice: each recording counts once, and not as its own test")
    sources = [_load(path, robot) for path in args.datasets]
    parts = [part for data in sources for part in recordings(data)]
    judge = _load(args.test, robot) if args.test else None
    used = [*sources, judge] if judge else sources
    damaged = damage_note([name for data in used for name in damaged_files(data)])
    if damaged:
        console.print(damaged, soft_wrap=True, highlight=False, markup=False)
    train, test = (parts, recordings(judge)) if judge else split(parts, HELD_BACK)
    _require_enough(train, test, robot.interface.dt_s)
    driven = all(data.provenance.get("kind") not in ("logs", "foreign bag") for data in sources)
    as_driven = args.correct == "yes" or (args.correct == "auto" and driven)
    undrivable: list[UndrivableError] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("cutting windows")

        def say(what: str) -> None:
            progress.update(line, description=what)

        held = cut(test, STEPS, 1, PAST)
        fit = identify(
            *(train, robot, effects, names, args.model),
            as_driven=as_driven,
            seed=args.seed,
            on_step=say,
            on_undrivable=None if args.correct == "yes" else undrivable.append,
        )
        say("predicting the rows that were held back")
        comparison = compare(fit, cut(train, STEPS, 1, PAST), held, robot, effects, args.model)
    warning = ""
    if undrivable:
        as_driven = False
        warning = (
            f"not corrected: with these estimates the emulated {undrivable[0]} "
            "--robot should name the description whose balance section drove the recorded robot. "
        )
    name = args.name or output.stem
    provenance = _provenance(args, sources, judge, as_driven)
    if not comparison.explains:
        warning += (
            "The fitted model predicts rows that were held back no better than that nothing changes: the values below "
            "are no description of this robot, and balance is left as it was. Is the base description near, are all "
            "of the robot's effects among --fit, are these data of this robot?"
        )
        doubtful = tuple(dataclasses.replace(e, verdict="doubtful") for e in fit.estimates)
        fit = dataclasses.replace(fit, estimates=doubtful)
    found = _result(fit, name, args.emulated)
    if not comparison.explains:
        found = dataclasses.replace(found, balance=robot.balance)
    found = dataclasses.replace(found, provenance=provenance)
    fit = dataclasses.replace(fit, robot=found)
    try:
        write_atomically(output, to_yaml(found, _head(fit, robot.name)).encode())
    except OSError as error:
        raise DataError(f"cannot write {output}: {error.strerror}") from error
    dt_s = robot.interface.dt_s
    lead = (
        f"{_seconds(train, dt_s)} of driving fitted with the {args.model.replace('_', ' ')}, {_seconds(test, dt_s)} "
        f"held back; {'corrected by what fitting the emulated robot shows' if as_driven else 'not corrected'}. "
        f"{damaged}"
    )
    write_json(folder / "sysid.json", {**content(fit, comparison), "provenance": provenance})
    target = page(fit, comparison, dt_s, lead, provenance).write(folder / "report.html")
    if warning:
        console.print(warning, soft_wrap=True, highlight=False, markup=False)
    console.print(parameter_table(fit).rich())
    console.print(score_table(comparison, dt_s).rich())
    console.print(f"description: {output}\nreport: {target}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _load(path: str, robot: Robot) -> Dataset:
    data = build_dataset([path], get_task("stand")) if Path(path).is_dir() else Dataset.load(path)
    if data.interface.hash != robot.interface.hash:
        differences = data.interface.differences(robot.interface, path, repr(robot.name))
        raise ContractError(f"another interface: {differences}. Give the description of the robot that was recorded.")
    return data


def _require_writable(folder: Path) -> None:
    """Raise where this folder could not be made; a try of it is taken away again, for the data may yet be refused."""
    if folder.exists():
        return
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot write into {folder.parent}: {error.strerror}; name another place") from error


def _require_enough(train: Sequence[Recording], test: Sequence[Recording], dt_s: float) -> None:
    """Raise where there is too little to weigh the windows by, or nothing to judge them on."""
    fits, needed = sum(max(0, (len(part.torque_nm) - PAST) // STEPS) for part in train), fewest_windows(STEPS)
    if fits < needed or not any(len(part.torque_nm) >= PAST + STEPS for part in test):
        raise DataError(
            f"{_seconds(train, dt_s)} of driving to fit and {_seconds(test, dt_s)} to judge are too little: at least "
            f"{needed * STEPS * dt_s:.0f} s in stretches of some seconds are needed, a minute or more is better. "
            "Record longer, or judge by another recording (--test)."
        )


def _result(fit: Fit, name: str, as_emulated: bool) -> Robot:
    noise = noise_effects(fit.noise, fit.robot, fit.effects)
    found = dataclasses.replace(fit.effects, **{key: float(f"{value:.3g}") for key, value in noise.items()})
    robot = dataclasses.replace(fit.robot, name=name, description=f"identified, starting at {fit.robot.name}")
    made = emulated(robot, found)
    return made if as_emulated else dataclasses.replace(made, twin=found.changed, plant=None)


def _head(fit: Fit, base: str) -> str:
    """What stands above the description, as text without comment signs."""
    lines = [f"Identified by h2o-robot sysid, starting at {base!r}. 95 % intervals:"]
    lines += [f"  {e.name}: {e.value:.4g} ± {e.half_width:.2g} ({verdict(e)})" for e in fit.estimates]
    return "\n".join(lines)


def _provenance(
    args: argparse.Namespace, sources: Sequence[Dataset], judge: Dataset | None, corrected: bool
) -> dict[str, Any]:
    return {
        "datasets": [_origin(path, data) for path, data in zip(args.datasets, sources, strict=True)],
        "held back": _origin(args.test, judge) if judge else f"the last {HELD_BACK:.0%}",
        "began with": args.robot,
        "model": args.model,
        "corrected": corrected,
        "seed": args.seed,
        "created": now_utc(),
        "software": software(),
    }


def _origin(path: str, data: Dataset) -> dict[str, Any]:
    """Name, hash and kind of a recording; a bag's own record has the hash of its files."""
    bags = [bag["sha256"] for bag in data.provenance.get("bags", [])]
    sha256 = files_sha256([Path(path)]) if Path(path).is_file() else ", ".join(bags)
    return {"name": Path(path).name, "sha256": sha256, "recorded": data.provenance.get("kind", "unknown")}


def _seconds(parts: Sequence[Recording], dt_s: float) -> str:
    return f"{sum(len(part.torque_nm) for part in parts) * dt_s:.1f} s"
