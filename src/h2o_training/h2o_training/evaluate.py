# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot evaluate`: how policies do on an emulated robot, alone, from perturbed starts, the same every time."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from h2o_control.contract import TASKS, Task
from h2o_control.errors import ContractError, UserError
from h2o_control.policy import Policy
from h2o_training.episode_result import EpisodeResult, episode_table, measure, policy_table, summarise
from h2o_training.figures import QUANTITIES, Episode, Limits
from h2o_training.judging import origin, policy_for, write_json
from h2o_training.lockstep import START_PITCH_RAD, START_PITCH_RATE_RADPS, Run, run_episode
from h2o_training.report import Report
from wheel_leg_driver.robot import Robot, load_robot

#: Episodes of each policy drawn where several are compared: more hide one another.
DRAWN_EACH = 4


def load_policies(paths: Sequence[str], task: str | None, robot: Robot) -> dict[str, Policy]:
    """Load policies that can be compared, by the name each has in tables: the file's, or the path where that is shared.

    Raises:
        ContractError: policies of different tasks, or made for another interface than the robot's.
        UserError: a file that is given twice or cannot be read.
    """
    files = [Path(p).resolve() for p in paths]
    twice = next((p for p, file in zip(paths, files, strict=True) if files.count(file) > 1), None)
    if twice is not None:
        raise UserError(f"policy {twice} is given twice; a second row would say the same")
    shared = len({file.name for file in files}) < len(files)
    policies = {path if shared else Path(path).name: policy_for(path, task) for path in paths}
    (first_name, first), *others = policies.items()
    for name, policy in others:
        own, wanted = policy.contract.task, first.contract.task
        if own.name != wanted.name:
            raise ContractError(
                f"{name} was made for task {own.name!r}, {first_name} for {wanted.name!r}: judge them apart"
            )
        if own.hash != wanted.hash:
            raise ContractError(
                f"{name} and {first_name} were made for different versions of task {own.name!r} ({own.hash} and "
                f"{wanted.hash}), e.g. with other limits: judge them apart, or export both again"
            )
    for policy in policies.values():
        policy.contract.require_interface(robot.interface, f"robot {robot.name!r}")
    return policies


def judge(
    policies: Mapping[str, Policy], robot: Robot, seconds: float, seeds: Sequence[int], jobs: int = 1
) -> Iterator[tuple[str, int, Run]]:
    """Run an episode of each policy from each seed; yields (policy's name, seed, run) policy by policy, in order.

    Episodes are independent, so that the runs are the same however many processes share them.
    """
    names = [(name, seed) for name in policies for seed in seeds]
    todo = [(policies[n].path, robot, policies[n].contract.task, seconds, seed) for n, seed in names]
    with _mapping(jobs) as mapped:
        for (name, seed), run in zip(names, mapped(_run, todo), strict=True):
            yield name, seed, run


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot evaluate`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot evaluate",
        description="Judge policies on an emulated robot: lock-step with the emulator's own firmware and plant, faster "
        "than real time, from seeded perturbed starts, without the driver's balance behind them. Several policies get "
        "the same starts, one table and one picture.",
        epilog="example: h2o-robot evaluate policy.onnx --robot ideal --task stand --episodes 20",
    )
    parser.add_argument("policy", nargs="+", metavar="POLICY.onnx", help="written by h2o-robot export")
    parser.add_argument("--robot", required=True, help="name in config/robots or a file")
    parser.add_argument("--task", choices=sorted(TASKS), help="must be the policies' own (default)")
    parser.add_argument("--episodes", type=int, default=10, help="default: 10")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an episode, default: 30")
    parser.add_argument("--seed", type=int, default=0, help="episode k starts from seed + k, default: 0")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the results are the same, default: 1")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="default: beside the (first) policy, POLICY-ROBOT or comparison-ROBOT"
    )
    args = parser.parse_args(argv)
    if args.episodes < 1 or not 0 < args.seconds < math.inf or args.seed < 0 or args.jobs < 1:
        raise UserError("--episodes, --seconds and --jobs must be positive and finite, --seed must not be negative")
    robot = load_robot(args.robot)
    policies = load_policies(args.policy, args.task, robot)
    alone = len(policies) == 1
    first = next(iter(policies.values()))
    task = first.contract.task
    _require_range(task, args.seconds)
    stem = first.path.stem if alone else "comparison"
    folder = Path(args.output) if args.output else first.path.with_name(f"{stem}-{robot.name}")
    settings: dict[str, Any] = {
        "robot": robot.name,
        "task": task.name,
        "seconds": args.seconds,
        "seed": args.seed,
        "start": f"pitch ±{START_PITCH_RAD} rad, pitch rate ±{START_PITCH_RATE_RADPS} rad/s, uniform",
    }

    console = Console()
    results: dict[str, list[EpisodeResult]] = {name: [] for name in policies}
    curves: list[Episode] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        runs = judge(policies, robot, args.seconds, range(args.seed, args.seed + args.episodes), args.jobs)
        total = len(policies) * args.episodes
        label = f"evaluating on {escape(repr(robot.name))}"
        for name, seed, run in progress.track(runs, total=total, description=label):
            results[name].append(measure(run, task, seed))
            number = seed - args.seed
            if alone or number < DRAWN_EACH:
                curves.append(_curves(run, number, None if alone else name))

    origins = {n: origin(p, robot=dataclasses.asdict(robot), settings=settings) for n, p in policies.items()}
    content = {
        "settings": settings,
        "policies": [
            {
                "policy": name,
                "summary": summarise(of_policy),
                "episodes": [dataclasses.asdict(r) for r in of_policy],
                "provenance": origins[name],
            }
            for name, of_policy in results.items()
        ],
    }
    write_json(folder / "evaluation.json", content)
    where = f"on {robot.name!r}, task {task.name!r}"
    if alone:
        table = episode_table(results[next(iter(policies))], f"{first.path.name} {where}")
    else:
        table = policy_table(results, f"{len(policies)} policies {where}")
    page = Report(
        title=table.heading,
        lead=f"{args.episodes} episodes of at most {args.seconds:g} s on the emulated robot {robot.name!r} "
        f"({robot.description}), in lock-step, from {settings['start']}; no driver's balance behind the policy. "
        "x, v and θ are the plant's truth."
        + ("" if alone else f" Drawn: the first {min(DRAWN_EACH, args.episodes)} episodes of each policy."),
        tables=[table],
        episodes=curves,
        limits=Limits.of(task, robot.interface),
        provenance=next(iter(origins.values())) if alone else origins,
        overlay=True,
        quantities=QUANTITIES if alone else ("theta", "v" if task.v_target_mps else "x"),
    ).write(folder / "report.html")
    console.print(table.rich())
    console.print(f"report: {page}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _require_range(task: Task, seconds: float) -> None:
    if task.x_limit_m is not None and abs(task.v_target_mps) * seconds >= task.x_limit_m:
        longest = task.x_limit_m / abs(task.v_target_mps)
        raise UserError(
            f"--seconds {seconds:g}: at {task.v_target_mps} m/s the robot is at the end of task {task.name!r}'s range, "
            f"{task.x_limit_m:g} m, after {longest:g} s; use shorter episodes"
        )


@functools.lru_cache(maxsize=1)
def _policy(path: Path) -> Policy:
    return Policy(path)


def _run(todo: tuple[Path, Robot, Task, float, int]) -> Run:
    path, robot, task, seconds, seed = todo
    return run_episode(_policy(path), robot, task, seconds, seed)


@contextlib.contextmanager
def _mapping(jobs: int) -> Iterator[Callable[..., Iterable[Run]]]:
    """Yield a `map` that keeps the order: in this process, or in `jobs` others, begun afresh (no forked threads)."""
    if jobs == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _curves(run: Run, number: int, group: str | None) -> Episode:
    torques = {"executed": np.append(run.executed_nm, np.nan)}
    return Episode(f"{number}: {run.time_s[-1]:.1f} s", run.time_s, run.truth, torques, group=group)
