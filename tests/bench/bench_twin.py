# SPDX-License-Identifier: Apache-2.0
"""`make bench-twin`: environment steps a second of each twin, as ratios to a gymnasium loop over the same MuJoCo model.

An environment step is one control step (5 ms for the shipped robots, five steps of physics in MuJoCo) under the same
LQR with noise, which is part of every loop: robots stay on their wheels and in motion. One thread; CPU loops are timed
in CPU time, so that other programs on the machine do not count, GPU loops in wall time. Repeats of all candidates are
interleaved; every ratio is within one repeat, then the median is taken. The MuJoCo twin compiles the same robot to a
leaner model with the same motion (twin_mujoco.py); what that alone gives a gymnasium loop has a row of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from h2o_training.model import PHYSICS_STEP_S, build_model, get_state, set_state
from h2o_training.twin import InitialStates, TwinConfig, make_twin
from h2o_training.twin_mujoco import MujocoTwin
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import Robot, load_robot

COUNTS = (1, 64, 1024, 16384)
CUDA_COUNTS = (*COUNTS, 1_048_576)
INITIAL = InitialStates(0.05, 0.1, 0.05, 0.2)
#: Standard deviation of the torque's noise, and how many draws go round.
NOISE_NM, DRAWS = 0.5, 8
BASE, LEAN = "gymnasium loop", "gymnasium loop, lean model"


class BalanceEnv(gymnasium.Env):
    """One robot with locked legs, as anyone would write it: observation x, v, theta, theta_dot, action torque in Nm."""

    def __init__(self, robot: Robot, model: Any) -> None:
        self.model = model
        self.data = mujoco.MjData(self.model)
        self.substeps = round(robot.interface.dt_s / PHYSICS_STEP_S)
        limit = robot.interface.torque_limit_nm
        self.action_space = gymnasium.spaces.Box(-limit, limit, (1,))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Stand up at a random state."""
        super().reset(seed=seed)
        half = np.array([INITIAL.x_m, INITIAL.v_mps, INITIAL.theta_rad, INITIAL.theta_dot_radps])
        set_state(self.model, self.data, self.np_random.uniform(-half, half))
        return get_state(self.data), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Hold a torque for one control step."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, self.substeps)
        observation = get_state(self.data)
        return observation, 0.0, bool(abs(observation[2]) > 0.5), False, {}


def gymnasium_loop(robot: Robot, model: Any, name: str) -> Callable[[int], None]:
    """Return a function that takes so many environment steps."""
    gymnasium.register(name, entry_point=lambda: BalanceEnv(robot, model))
    env = gymnasium.make(name, disable_env_checker=True)
    gain, limit = lqr_gain(robot), robot.interface.torque_limit_nm
    observation, _ = env.reset(seed=0)
    noise = np.random.default_rng(0).normal(0.0, NOISE_NM, 997).tolist()

    def steps(count: int) -> None:
        nonlocal observation
        for k in range(count):
            torque = min(max(noise[k % 997] - float(gain @ observation), -limit), limit)
            observation, _, terminated, truncated, _ = env.step(np.array([torque]))
            if terminated or truncated:
                observation, _ = env.reset()

    return steps


def twin_loop(robot: Robot, kind: str, count: int, device: str) -> Callable[[int], None]:
    """Return a function that takes so many steps of `count` robots."""
    config = TwinConfig(kind, count, initial=INITIAL)
    twin = make_twin(config, robot, torch.Generator(device).manual_seed(0))
    gain = torch.tensor(lqr_gain(robot), dtype=torch.float32, device=device)
    state = twin.reset()
    noise = NOISE_NM * torch.randn((DRAWS, count), device=device)

    def steps(number: int) -> None:
        nonlocal state
        for k in range(number):
            state = twin.step(noise[k % DRAWS] - state @ gain)
        if device == "cuda":
            torch.cuda.synchronize()

    return steps


def measure(name: str, steps: Callable[[int], None], number: int) -> float:
    """Return the seconds that `number` steps take."""
    clock = time.perf_counter if name.endswith("GPU") else time.process_time
    begin = clock()
    steps(number)
    return clock() - begin


def number_for(name: str, steps: Callable[[int], None], seconds: float) -> int:
    """Return how many steps take about so long, after a first one that warms up."""
    steps(1)
    number = 1
    while True:
        took = measure(name, steps, number)
        if took > 0.2 * seconds:
            return max(1, round(number * seconds / took))
        number *= 2


def candidates(robot: Robot) -> list[tuple[str, int, Callable[[int], None]]]:
    """Return (name, robots, loop) of everything that runs here, the gymnasium loop first."""
    twin = MujocoTwin(TwinConfig("mujoco", 1), robot, torch.Generator())
    found = [
        (BASE, 1, gymnasium_loop(robot, build_model(robot, legs_locked=True), "H2oBalance-v0")),
        (LEAN, 1, gymnasium_loop(robot, twin.models[0], "H2oBalanceLean-v0")),
    ]
    found += [("closed form, CPU", n, twin_loop(robot, "closed_form", n, "cpu")) for n in COUNTS]
    found += [("MuJoCo, CPU", n, twin_loop(robot, "mujoco", n, "cpu")) for n in COUNTS]
    if torch.cuda.is_available():
        found += [("closed form, GPU", n, twin_loop(robot, "closed_form", n, "cuda")) for n in CUDA_COUNTS]
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robot", default="ideal")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement, default: 0.5")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    robot = load_robot(args.robot)
    loops = candidates(robot)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    speeds: list[list[float]] = [[] for _ in loops]
    console = Console()
    with Progress(*columns, console=console, transient=True) as progress:
        numbers = [
            number_for(name, loop, args.seconds) for name, _, loop in progress.track(loops, description="warming up")
        ]
        for _ in progress.track(range(args.repeats), description="measuring"):
            for k, (name, envs, loop) in enumerate(loops):
                speeds[k].append(envs * numbers[k] / measure(name, loop, numbers[k]))
    rows = []
    for (name, envs, _), found in zip(loops, speeds, strict=True):
        ratios = [speed / base for speed, base in zip(found, speeds[0], strict=True)]
        rows.append(
            {
                "twin": name,
                "envs": envs,
                "steps_per_s": statistics.median(found),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    machine = {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": 1,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mujoco": mujoco.__version__,
        "gymnasium": gymnasium.__version__,
    }
    table = Table(title=f"environment steps of {1e3 * robot.interface.dt_s:g} ms, one thread")
    for column in ("twin", "robots", "steps/s", f"x {BASE}", "least to most"):
        table.add_column(column, justify="left" if column == "twin" else "right")
    for row in rows:
        spread = f"{row['ratio_min']:.3g} to {row['ratio_max']:.3g}"
        table.add_row(row["twin"], f"{row['envs']:,}", f"{row['steps_per_s']:,.0f}", f"{row['ratio']:.3g}", spread)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items() if value is not None))
    if args.output:
        settings = {"robot": robot.name, "repeats": args.repeats, "seconds": args.seconds}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=1) + "\n")


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
