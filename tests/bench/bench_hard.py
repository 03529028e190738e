# SPDX-License-Identifier: Apache-2.0
"""`make bench-hard`: on `hard`, policies from the ideal twin fall within seconds and a static map stands and drives.

Trains SAC in the ideal twin (seeds that are done are not trained again), searches static maps for `hard`, judges all on
`ideal` and `hard` in lock-step, and writes docs/robots-hard.md, .png and .json. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from h2o_control.atomic_file import write_atomically
from h2o_control.contract import TASKS, PolicyContract, Task, digest, get_task
from h2o_control.errors import UserError
from h2o_control.policy import Policy
from h2o_control.provenance import software
from h2o_training import train_cli
from h2o_training.episode_result import EpisodeResult, measure, summarise
from h2o_training.export import export_run
from h2o_training.feasible import find_with_progress
from h2o_training.lockstep import START_PITCH_RAD, START_PITCH_RATE_RADPS, Commander, Outcome, Run, run_episode
from h2o_training.run_dir import RunDirectory
from h2o_training.static_map import StaticMap
from h2o_training.static_map_search import Goal, Search
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.core import Exploration
from wheel_leg_driver.robot import Robot, load_robot

sys.path.insert(0, str(Path(__file__).parents[1]))
from lockstep import LockStep

mpl.use("Agg")
from matplotlib import pyplot as plt

SECONDS, FIRST_SEED, DRAWN = 30.0, 1000, 2
#: Pitch at which the robot is let go to its driver's balance.
LET_GO_RAD = 0.03
COLUMNS = (
    *("task", "policy", "robot", "stood", "fell", "away", "median (s)", "longest (s)"),
    *("max abs x (m)", "mean v (m/s)", "reward a step"),
)
#: What hard.yaml moved beyond the values carried over, put back one at a time: who stands then?
CARRIED_OVER = {"torque_factor": 0.39, "gyro_scale": 1.0}
VARIANT_EPISODES = 5
GOALS = {
    "stand": {"static map": Goal.of(TASKS["stand"])},
    "move": {
        "static map": Goal.of(TASKS["move"]),
        "static map, still": Goal.standing_still(TASKS["move"]),
        "static map, any speed": Goal.free(TASKS["move"]),
    },
}


def trained(task: str, seed: int, folder: Path) -> Policy:
    """Train SAC in the ideal twin, or take what is there; returns its policy."""
    directory = RunDirectory(folder / f"sac-{task}-{seed}")
    output = directory.path / "policy.onnx"
    progress = directory.read_progress() if directory.has_checkpoint() else None
    if progress is None:
        train_cli.command(["sac", "robot=ideal", f"task={task}", f"seed={seed}", f"run={directory.path}"])
    elif progress.state != "finished":
        train_cli.command(["--resume", str(directory.path)])
    export_run(directory, output)
    policy = Policy(output)
    if policy.contract.hash != PolicyContract(load_robot("ideal").interface, get_task(task)).hash:
        raise UserError(f"{directory.path} was trained for another version of task {task!r}: remove it and start again")
    return policy


def searched(name: str, goal: Goal, robot: Robot, folder: Path, console: Console) -> StaticMap:
    """Search a static map, or take the one that the same search has found before."""
    search = Search()
    file = folder / f"map-{goal.task.name}-{name.rpartition(' ')[2]}-{digest([robot, search, goal])}.json"
    if file.is_file():
        return StaticMap(**json.loads(file.read_text()))
    found = find_with_progress(robot, goal, search, f"{goal.task.name}: {name}", console)
    write_atomically(file, json.dumps(dataclasses.asdict(found)).encode())
    return found


def lqr(robot: Robot) -> StaticMap:
    """The driver's LQR as it would be for a robot with perfect motors: no compensation, no trim."""
    x, v, theta, theta_dot = (-float(k) for k in lqr_gain(robot))
    return StaticMap(x, v, theta, theta_dot, 0.0, 0.0, 1.0, 0.0, robot.interface.torque_limit_nm)


def driver_balance(robot: Robot, seed: int, exploration: float) -> EpisodeResult:
    """Let the driver's own balance stand, with the random torque of data collection."""
    loop = LockStep(robot.name, seed=seed, pitch_rad=LET_GO_RAD, explore=Exploration(exploration, seed))
    loop.step()
    loop.core.arm()
    states, torques = [], []
    for _ in range(round(SECONDS * robot.interface.rate_hz)):
        loop.step()
        states.append(loop.plant.truth())
        assert loop.telemetry is not None
        torques.append(sum(loop.telemetry.executed_nm) / 2)
        if loop.core.mode == "fault":
            break
    truth, executed = np.array(states), np.array(torques[1:])
    ended: Outcome = "fell" if loop.core.mode == "fault" else "stood"
    time_s = np.arange(len(truth)) * robot.interface.dt_s
    return measure(Run(time_s, truth, truth, executed, executed, ended, LET_GO_RAD, 0.0), TASKS["stand"], seed)


def variants(robot: Robot) -> list[Robot]:
    """The robot with one imperfection of CARRIED_OVER at a time, named after it."""
    assert robot.plant is not None
    options = robot.plant.options
    return [
        dataclasses.replace(
            robot,
            name=f"{robot.name}, {name} {value:g}",
            plant=dataclasses.replace(robot.plant, options={**options, name: value}),
        )
        for name, value in CARRIED_OVER.items()
    ]


def row(policy: str, task: Task, results: list[EpisodeResult], robot: Robot) -> dict[str, Any]:
    """What the table says of a policy on a robot."""
    s = summarise(results)
    return {
        "task": task.name,
        "policy": policy,
        "robot": robot.name,
        "episodes": len(results),
        "stood": int(s["survived"]),
        "fell": int(s["fell"]),
        "ran_away": int(s["ran_away"]),
        "survival_median_s": s["survival_median_s"],
        "survival_longest_s": max(r.survival_s for r in results),
        "max_abs_x_m": s["max_abs_x_m"],
        "mean_speed_mps": s["v_error_mean_mps"] + task.v_target_mps,
        "reward_a_step": s["task_return"] / round(SECONDS * robot.interface.rate_hz),
    }


def draw(curves: Mapping[str, Mapping[str, list[Run]]], path: Path) -> None:
    """Draw θ and x of every policy on `hard` over time, a column a task; the static map is drawn last, in black."""
    figure, axes = plt.subplots(2, len(curves), figsize=(11, 6), sharex=True, squeeze=False, layout="constrained")
    for column, (task, policies) in enumerate(curves.items()):
        for policy, runs in policies.items():
            number = list(policies).index(policy)
            style: dict[str, Any] = (
                {"color": "black", "lw": 1.0} if "map" in policy else {"color": f"C{number}", "lw": 1.4}
            )
            for k, run in enumerate(runs):
                label = policy if k == 0 else None
                for line, state in enumerate((2, 0)):
                    axes[line][column].plot(run.time_s, run.truth[:, state], label=label, **style)
                    if run.failed:
                        axes[line][column].plot(run.time_s[-1], run.truth[-1, state], "x", color=style["color"], ms=7)
        axes[0][column].set(title=f"{task} on 'hard'", ylabel="θ (rad)", ylim=(-0.6, 0.6))
        axes[1][column].set(xlabel="time (s)", ylabel="x (m)")
        axes[1][column].set_xscale("symlog", linthresh=1.0, linscale=1.0)
        axes[1][column].set_xlim(0.0, SECONDS)
        ticks = [0, 0.5, 1, 2, 5, 10, 30]
        axes[1][column].set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes[0][column].legend(loc="lower right", fontsize="small")
        for line in range(2):
            axes[line][column].grid(alpha=0.3)
    axes[1][0].set_ylim(-0.6, 0.6)
    figure.savefig(path, dpi=110)


def markdown(content: Mapping[str, Any]) -> str:
    """Say it in words and a table; every number comes from this run."""
    rows = content["rows"]

    def of(task: str, policy: str) -> dict[str, Any]:
        return next(r for r in rows if (r["task"], r["policy"], r["robot"]) == (task, policy, "hard"))

    def cells(r: Mapping[str, Any]) -> str:
        most = 2 * r["stood"] >= r["episodes"]
        median = ("≥ " if most else "") + f"{r['survival_median_s']:.1f}"
        return (
            f"| {r['task']} | {r['policy']} | {r['robot']} | {r['stood']}/{r['episodes']} | {r['fell']} "
            f"| {r['ran_away']} | {median} "
            f"| {r['survival_longest_s']:.1f} | {r['max_abs_x_m']:.2f} | {r['mean_speed_mps']:+.3f} "
            f"| {r['reward_a_step']:.3f} |"
        )

    def counted(some: list[dict[str, Any]]) -> str:
        return f"{sum(r['stood'] for r in some)} of {sum(r['episodes'] for r in some)}"

    sac = [r for r in rows if r["policy"].startswith("SAC")]
    fell = [r for r in sac if r["robot"] == "hard"]
    medians = sorted(r["survival_median_s"] for r in fell)
    longest = max(r["survival_longest_s"] for r in fell)
    stand, drive = of("stand", "static map"), of("move", "static map")
    still, free = of("move", "static map, still"), of("move", "static map, any speed")
    lines = [
        "# `hard`: where policies from the ideal twin fall, and why that is not the robot's fault",
        "",
        "Written by `make bench-hard`; the numbers behind it are in `robots-hard.json`, the robot and the reasons for "
        "each of its numbers in `config/robots/hard.yaml`.",
        "",
        f"- SAC, trained only in the ideal twin, {len(content['seeds'])} seeds for each task, stands in "
        f"{counted([r for r in sac if r['robot'] == 'ideal'])} episodes of {SECONDS:g} s on `ideal` and in "
        f"{counted(fell)} on `hard`. There the median episode of a seed ends after {medians[0]:.1f} to "
        f"{medians[-1]:.1f} s, the longest after {longest:.1f} s: with a fall (|θ| over "
        f"{TASKS['stand'].fall_pitch_rad} rad), or with the robot running away under it (|v| over "
        f"{TASKS['stand'].v_limit_mps} m/s).",
        f"- The best static map under the standing reward stands in {counted([stand])} and stays within "
        f"{stand['max_abs_x_m']:.2f} m.",
        f"- The best static map that drives at 0.2 m/s does so at {drive['mean_speed_mps']:.3f} m/s, the start "
        f"included, in {counted([drive])} and earns {drive['reward_a_step']:.4f} a step under the moving reward; the "
        f"best that stands still earns {still['reward_a_step']:.4f}. Left free to choose its speed, the reward is "
        f"earned best at {free['mean_speed_mps']:.3f} m/s ({free['reward_a_step']:.4f}).",
        "",
        "![θ and x over time](robots-hard.png)",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(cells(r) for r in rows),
        "",
        f"Lock-step with the emulator's firmware and plant, {SECONDS:g} s from pitch ±{START_PITCH_RAD} rad and pitch "
        f"rate ±{START_PITCH_RATE_RADPS} rad/s, no driver's balance behind the policy (but for the rows of that name, "
        f"where it is the policy, let go at {LET_GO_RAD} rad). Reward a step: the papers' reward over all {SECONDS:g} "
        "s, nothing after its end. Away: ran away. Time in the picture is linear up to 1 s and logarithmic beyond; "
        "crosses are ends before time. "
        "`hard` with a value behind it: that number as it carries over from the robot that hard.yaml began with.",
        "",
        "The maps, in Nm a wheel per m, m/s, rad, rad/s, and Nm (`h2o-robot feasible hard` finds them):",
        "",
        "| map | x | v | θ | θ̇ | bias | compensation | width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, m in content["maps"].items():
        values = (m[k] for k in ("x", "v", "theta", "theta_dot", "bias_nm", "compensation_nm", "width_nm"))
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    s = content["software"]
    lines += ["", f"Python {s['python']}, torch {s['torch']}, MuJoCo {s['mujoco']}, {s['machine']}.", ""]
    return "\n".join(lines)


def main() -> int:
    """Run what is missing, judge everything, write the page."""
    parser = argparse.ArgumentParser(prog="make bench-hard", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of SAC, default: 1 2 3")
    parser.add_argument("--episodes", type=int, default=20, help="of each policy on each robot, default: 20")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-hard"), help="of what is kept between calls")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes, default: docs")
    args = parser.parse_args()
    console = Console()
    ideal, hard = load_robot("ideal"), load_robot("hard")
    policies: dict[str, dict[str, Commander]] = {}
    for task_name, goals in GOALS.items():
        policies[task_name] = {f"SAC, seed {seed}": trained(task_name, seed, args.folder) for seed in args.seeds}
        policies[task_name] |= {name: searched(name, goal, hard, args.folder, console) for name, goal in goals.items()}
    policies["stand"]["LQR"] = lqr(ideal)

    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, list[Run]]] = {task: {} for task in policies}
    columns = (TextColumn("judging {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    todo = [
        (t, p, r, args.episodes)
        for t in policies
        for p in policies[t]
        for r in (ideal, hard)
        if r is hard or "map" not in p
    ]
    todo += [("stand", p, r, VARIANT_EPISODES) for r in variants(hard) for p in policies["stand"] if "map" not in p]
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("", total=sum(count for *_, count in todo) + 2 * args.episodes)
        for task_name, name, robot, count in todo:
            progress.update(line, description=f"{task_name}: {name} on {robot.name}")
            task, results = get_task(task_name), []
            for seed in range(FIRST_SEED, FIRST_SEED + count):
                run = run_episode(policies[task_name][name], robot, task, SECONDS, seed)
                results.append(measure(run, task, seed))
                if robot is hard and not name.startswith("static map,") and seed < FIRST_SEED + DRAWN:
                    curves[task_name].setdefault(name, []).append(run)
                progress.advance(line)
            rows.append(row(name, task, results, robot))
        for exploration in (0.0, 1.0):
            name = "driver's balance" + (f" + {hard.balance.exploration_nm:g} Nm random" if exploration else "")
            progress.update(line, description=f"{name} on {hard.name}")
            results = []
            for seed in range(FIRST_SEED, FIRST_SEED + args.episodes):
                results.append(driver_balance(hard, seed, exploration))
                progress.advance(line)
            rows.append(row(name, TASKS["stand"], results, hard))

    maps = {
        f"{t}: {n}": dataclasses.asdict(p) for t in policies for n, p in policies[t].items() if isinstance(p, StaticMap)
    }
    content = {"seeds": args.seeds, "episodes": args.episodes, "seconds": SECONDS, "rows": rows, "maps": maps}
    content["software"] = {k: v for k, v in software().items() if k != "git_commit"}
    write_atomically(args.docs / "robots-hard.json", (json.dumps(content, indent=2) + "\n").encode())
    draw(curves, args.docs / "robots-hard.png")
    page = markdown(content)
    write_atomically(args.docs / "robots-hard.md", page.encode())
    console.print(page, soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
