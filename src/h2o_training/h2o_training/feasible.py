# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot feasible`: could anything simple do this task on this robot? Searches the best static map, judges it."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from h2o_control.contract import PolicyContract, Task, get_task
from h2o_control.errors import UserError
from h2o_control.provenance import now_utc, software
from h2o_training.episode_result import EpisodeResult, measure, policy_table, summarise
from h2o_training.lockstep import run_episode
from h2o_training.report import TableData
from h2o_training.static_map import StaticMap
from h2o_training.static_map_search import Goal, Search, find_static_map
from wheel_leg_driver.robot import Robot, load_robot

#: Judged from other starts than it was searched and trimmed on.
JUDGED_SEED = 1000
SEARCH = Search()
#: Of a map, as printed.
PARAMETERS = {
    "x": "x (Nm/m)",
    "v": "v (Nm s/m)",
    "theta": "θ (Nm/rad)",
    "theta_dot": "θ̇ (Nm s/rad)",
    "bias_nm": "bias (Nm)",
    "compensation_nm": "compensation (Nm)",
    "width_nm": "width (Nm)",
}


@dataclasses.dataclass(frozen=True)
class Judged:
    """A map, the episodes it was judged on, and the mean over them of the task's reward a step of the whole episode."""

    map: StaticMap
    results: list[EpisodeResult]
    reward_a_step: float

    @property
    def stands(self) -> bool:
        """Whether it stood in every episode."""
        return all(r.outcome == "stood" for r in self.results)


def judge_map(found: StaticMap, robot: Robot, task: Task, episodes: int, seconds: float) -> Judged:
    """Judge a map in lock-step with the emulated robot."""
    seeds = range(JUDGED_SEED, JUDGED_SEED + episodes)
    results = [measure(run_episode(found, robot, task, seconds, seed), task, seed) for seed in seeds]
    reward = summarise(results)["task_return"] / round(seconds * robot.interface.rate_hz)
    return Judged(found, results, reward)


def find_with_progress(robot: Robot, goal: Goal, search: Search, what: str, console: Console) -> StaticMap:
    """Search behind a progress line."""
    torch.set_num_threads(1)  # at these sizes a second thread only waits
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[best]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        line = progress.add_task(escape(what), total=1.0, best="")

        def report(share: float, best: float) -> None:
            progress.update(line, completed=share, best=f"reward a step {best:.3f}")

        return find_static_map(robot, goal, search, report)


def provenance(robot: Robot, search: Search) -> dict[str, Any]:
    """Everything the map's numbers follow from, JSON-ready."""
    return {
        "seed": search.seed,
        "search": dataclasses.asdict(search),
        "robot": dataclasses.asdict(robot),
        "software": software(),
        "created": now_utc(),
    }


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot feasible`; returns 0 where the map stood in every episode, else 1."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot feasible",
        description="Find out whether anything simple could do a task on an emulated robot: search the best static map "
        "(state feedback, trim and dead-zone compensation) under the task's reward, knowing all of the robot's "
        "imperfections, and judge it in lock-step. The exit status is 0 where it stands in every episode, else 1.",
        epilog="example: h2o-robot feasible worn --task stand -o policy.onnx",
    )
    parser.add_argument("robot", help="name in config/robots or a file")
    parser.add_argument("--task", default="stand", help="default: stand")
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help="write the map as a policy")
    parser.add_argument("--seed", type=int, default=0, help="of the search, default: 0")
    parser.add_argument("--generations", type=int, default=SEARCH.generations, help=f"default: {SEARCH.generations}")
    parser.add_argument("--episodes", type=int, default=20, help="judged on, default: 20")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each, default: 30")
    args = parser.parse_args(argv)
    if args.episodes < 1 or args.generations < 1 or not 0 < args.seconds < math.inf or args.seed < 0:
        raise UserError(
            "--episodes, --generations and --seconds must be positive and finite, --seed must not be negative"
        )
    robot, task = load_robot(args.robot), get_task(args.task)
    search = dataclasses.replace(SEARCH, seed=args.seed, generations=args.generations)
    goals = {"best map": Goal.of(task)}
    if task.v_target_mps:
        goals["standing still"] = Goal.standing_still(task)
    console = Console()
    judged = {}
    for name, goal in goals.items():
        found = find_with_progress(robot, goal, search, f"{name}, task {task.name!r}, on {robot.name!r}", console)
        with console.status(f"judging {name}"):
            judged[name] = judge_map(found, robot, task, args.episodes, args.seconds)
    best = judged["best map"]
    if args.output:
        best.map.write_onnx(Path(args.output), PolicyContract(robot.interface, task), provenance(robot, search))
    _print(judged, robot, task, args.episodes, console)
    if args.output:
        console.print(f"policy: {args.output}", soft_wrap=True, highlight=False, markup=False)
    return 0 if best.stands else 1


def _print(judged: dict[str, Judged], robot: Robot, task: Task, episodes: int, console: Console) -> None:
    heading = f"static maps on {robot.name!r}, task {task.name!r}, {episodes} episodes"
    console.print(policy_table({name: j.results for name, j in judged.items()}, heading).rich())
    maps = [j.map for j in judged.values()]
    rows = [[label, *(f"{getattr(m, name):.3f}" for m in maps)] for name, label in PARAMETERS.items()]
    rows.append(["reward a step", *(f"{j.reward_a_step:.4f}" for j in judged.values())])
    console.print(TableData("their parameters", ["", *judged], rows).rich())
    best = judged["best map"]
    stood = sum(r.outcome == "stood" for r in best.results)
    say = f"feasible: it stood in all {episodes}" if best.stands else f"it stood in {stood} of {episodes}: none found"
    if still := judged.get("standing still"):
        more = best.reward_a_step - still.reward_a_step
        say += f"; it earns {abs(more):.4f} a step {'more' if more > 0 else 'less'} than standing still"
    console.print(say)
