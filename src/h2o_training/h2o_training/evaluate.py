# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot evaluate`: how a policy does on an emulated robot, alone, from perturbed starts, the same every time."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from h2o_control.contract import TASKS, FloatArray, Task
from h2o_control.errors import UserError
from h2o_training.figures import Episode, Limits
from h2o_training.judging import origin, policy_for, write_json
from h2o_training.lockstep import START_PITCH_RAD, START_PITCH_RATE_RADPS, Run, run_episode
from h2o_training.report import Report, TableData
from wheel_leg_driver.robot import load_robot

#: Rows of the table on screen; JSON has them all.
SHOWN = 20


@dataclass(frozen=True)
class EpisodeResult:
    """One episode, measured on the plant's truth.

    Attributes:
        seed: of start and sensor noise.
        survived: stood until the end. survival_s: how long.
        max_abs_x_m: farthest from the start.
        v_error_mean_mps, v_error_rms_mps: of v minus the task's wanted speed.
        torque_rms_nm: executed common torque of one wheel. torque_change_rms_nm: its change from step to step.
        task_return: sum of the task's rewards.
    """

    seed: int
    survived: bool
    survival_s: float
    max_abs_x_m: float
    v_error_mean_mps: float
    v_error_rms_mps: float
    torque_rms_nm: float
    torque_change_rms_nm: float
    task_return: float


def measure(run: Run, task: Task, seed: int) -> EpisodeResult:
    """Measure one run."""
    error = run.truth[1:, 1] - task.v_target_mps
    return EpisodeResult(
        seed=seed,
        survived=not run.failed,
        survival_s=float(run.time_s[-1]),
        max_abs_x_m=float(np.abs(run.truth[:, 0] - run.truth[0, 0]).max()),
        v_error_mean_mps=float(error.mean()) if len(error) else 0.0,
        v_error_rms_mps=rms(error),
        torque_rms_nm=rms(run.executed_nm),
        torque_change_rms_nm=rms(np.diff(run.executed_nm)),
        task_return=float(np.sum(task.rewards(run.truth[1:], run.executed_nm))),
    )


def rms(values: FloatArray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def summarise(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Over all episodes: share that survived, median and shortest survival, farthest x, means of the rest."""
    survival = [r.survival_s for r in results]
    summary = {
        "episodes": float(len(results)),
        "survived": float(sum(r.survived for r in results)),
        "survival_median_s": float(np.median(survival)),
        "survival_min_s": float(min(survival)),
        "max_abs_x_m": max(r.max_abs_x_m for r in results),
    }
    for name in ("v_error_mean_mps", "v_error_rms_mps", "torque_rms_nm", "torque_change_rms_nm", "task_return"):
        summary[name] = float(np.mean([getattr(r, name) for r in results]))
    return summary


def evaluation_table(results: Sequence[EpisodeResult], heading: str) -> TableData:
    """One row an episode, then one for all."""
    columns = [
        "episode",
        "stood (s)",
        "max |x| (m)",
        "v error (m/s)",
        "rms (m/s)",
        "τ rms (Nm)",
        "Δτ rms (Nm)",
    ]

    def row(name: str, stood: str, values: Sequence[float]) -> list[str]:
        x, mean, error, torque, change = values
        return [name, stood, f"{x:.3f}", f"{mean:+z.3f}", f"{error:.3f}", f"{torque:.3f}", f"{change:.3f}"]

    rows = [
        row(
            str(number),
            f"{r.survival_s:.2f}" + ("" if r.survived else " fell"),
            (r.max_abs_x_m, r.v_error_mean_mps, r.v_error_rms_mps, r.torque_rms_nm, r.torque_change_rms_nm),
        )
        for number, r in enumerate(results[:SHOWN])
    ]
    s = summarise(results)
    names = ("max_abs_x_m", "v_error_mean_mps", "v_error_rms_mps", "torque_rms_nm", "torque_change_rms_nm")
    rows.append(row("all", f"{s['survived']:.0f} of {len(results)}", [s[name] for name in names]))
    more = f"The first {SHOWN} of {len(results)} episodes are listed. " if len(results) > SHOWN else ""
    note = (
        f"{more}Stood: median {s['survival_median_s']:.2f} s, shortest {s['survival_min_s']:.2f} s. v error: v less "
        "the wanted speed, mean and rms. τ of one wheel, executed; Δτ from step to step. all: largest |x|, else means."
    )
    return TableData(heading, columns, rows, note)


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot evaluate`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot evaluate",
        description="Judge a policy on an emulated robot: lock-step with the emulator's own firmware and plant, faster "
        "than real time, from seeded perturbed starts, without the driver's balance behind it.",
        epilog="example: h2o-robot evaluate policy.onnx --robot ideal --task stand --episodes 20",
    )
    parser.add_argument("policy", metavar="POLICY.onnx", help="written by h2o-robot export")
    parser.add_argument("--robot", required=True, help="name in config/robots or a file")
    parser.add_argument("--task", choices=sorted(TASKS), help="must be the policy's own (default)")
    parser.add_argument("--episodes", type=int, default=10, help="default: 10")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an episode, default: 30")
    parser.add_argument("--seed", type=int, default=0, help="episode k starts from seed + k, default: 0")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: POLICY-ROBOT beside the policy")
    args = parser.parse_args(argv)
    if args.episodes < 1 or not 0 < args.seconds < math.inf or args.seed < 0:
        raise UserError("--episodes and --seconds must be positive and finite, --seed must not be negative")
    policy = policy_for(args.policy, args.task)
    robot = load_robot(args.robot)
    policy.contract.require_interface(robot.interface, f"robot {robot.name!r}")
    task = policy.contract.task
    folder = Path(args.output) if args.output else policy.path.with_name(f"{policy.path.stem}-{robot.name}")
    results, curves = [], []
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for k in progress.track(range(args.episodes), description=f"evaluating on {robot.name!r}"):
            run = run_episode(policy, robot, task, args.seconds, args.seed + k)
            results.append(measure(run, task, args.seed + k))
            curves.append(_curves(run, f"{k}: {results[-1].survival_s:.1f} s"))
    heading = f"{policy.path.name} on {robot.name!r}, task {task.name!r}"
    table = evaluation_table(results, heading)
    settings: dict[str, Any] = {
        "robot": robot.name,
        "task": task.name,
        "seconds": args.seconds,
        "seed": args.seed,
        "start": f"pitch ±{START_PITCH_RAD} rad, pitch rate ±{START_PITCH_RATE_RADPS} rad/s, uniform",
    }
    provenance = origin(policy, robot=dataclasses.asdict(robot), settings=settings)
    content = {
        "settings": settings,
        "summary": summarise(results),
        "episodes": [dataclasses.asdict(r) for r in results],
        "provenance": provenance,
    }
    write_json(folder / "evaluation.json", content)
    page = Report(
        title=heading,
        lead=f"{args.episodes} episodes of at most {args.seconds:g} s on the emulated robot {robot.name!r} "
        f"({robot.description}), in lock-step, from {settings['start']}; no driver's balance behind the policy. "
        "x, v and θ are the plant's truth.",
        tables=[table],
        episodes=curves,
        limits=Limits(task.fall_pitch_rad, robot.interface.torque_limit_nm, task.v_target_mps or None),
        provenance=provenance,
        overlay=True,
    ).write(folder / "report.html")
    console.print(table.rich())
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return 0


def _curves(run: Run, name: str) -> Episode:
    return Episode(name, run.time_s, run.truth, {"executed": np.append(run.executed_nm, np.nan)})
