# SPDX-License-Identifier: Apache-2.0
"""`make bench-sysid`: robots drawn at random, driven for a minute each, identified; how often do the intervals hold?

Each robot is drawn around a description (config/populations/identification.yaml), driven in lock-step by the scripted
operator, and identified from that recording alone, starting at the description. Only parameters that the fit itself
calls identified are counted. Results are kept robot by robot, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from h2o_control.atomic_file import write_atomically
from h2o_control.contract import get_task
from h2o_training.driving import drive
from h2o_training.effects import Effects, effects_from, value_of
from h2o_training.indirect import identify
from h2o_training.report import TableData
from h2o_training.robots import draw_robot, load_spread
from h2o_training.windows import recordings
from wheel_leg_driver.robot import load_robot

SPREAD = "identification"


def one(index: int, base: str, seconds: float, seed: int) -> dict[str, Any]:
    """Draw, drive and identify robot `index`; returns truth and estimate of each parameter."""
    torch.set_num_threads(1)
    nominal = load_robot(base)
    drawn = draw_robot(nominal, load_spread(SPREAD), seed, index, SPREAD)
    assert drawn.plant is not None
    truth = effects_from(drawn.plant.options, "plant")
    # What an operator finds out on the stand before driving.
    known = dataclasses.replace(drawn.balance, dead_zone_nm=truth.dead_zone_nm, torque_factor=truth.torque_factor)
    data = drive(dataclasses.replace(drawn, balance=known), get_task("stand"), seconds, seed * 1000 + index)
    start = time.perf_counter()
    fit = identify(recordings(data), nominal, Effects(), seed=index)
    taken = time.perf_counter() - start
    # A tilted sensor and a centre of mass that lies ahead are one thing to the robot's motion.
    lumped = dataclasses.replace(
        truth, com_forward_m=truth.com_forward_m - drawn.body.com_height_m * truth.pitch_bias_rad
    )
    rows = {e.name: {**dataclasses.asdict(e), "truth": value_of(e.name, drawn, lumped)} for e in fit.estimates}
    return {"robot": drawn.name, "falls": int(data.terminals.sum()), "seconds": taken, "parameters": rows}


def table(results: list[dict[str, Any]]) -> TableData:
    """Coverage and width of each parameter, over the robots in which it was called identified."""
    rows, covered, widths = [], 0, []
    total = 0
    for name in results[0]["parameters"]:
        mine = [r["parameters"][name] for r in results if r["parameters"][name]["verdict"] == "identified"]
        inside = sum(abs(p["value"] - p["truth"]) <= p["half_width"] for p in mine)
        relative = [2 * p["half_width"] / abs(p["value"]) for p in mine]
        error = [abs(p["value"] - p["truth"]) / abs(p["truth"]) for p in mine]
        covered, total, widths = covered + inside, total + len(mine), widths + relative
        rows.append(
            [name, f"{len(mine)} of {len(results)}"]
            + (
                [f"{inside / len(mine):.0%}", f"{np.median(relative):.1%}", f"{np.median(error):.1%}"]
                if mine
                else ["–"] * 3
            )
        )
    rows.append(["all", str(total), f"{covered / total:.1%}", f"{np.median(widths):.1%}", ""])
    times = [r["seconds"] for r in results]
    note = f"Time of one identification: median {np.median(times):.1f} s, longest {max(times):.1f} s."
    columns = ["parameter", "identified", "95 % interval holds", "width (median)", "error (median)"]
    return TableData(f"{len(results)} robots", columns, rows, note)


def page(shown: TableData, settings: dict[str, Any]) -> str:
    """Return the table as a page of the documentation."""
    rows = ["| " + " | ".join(row) + " |" for row in (shown.columns, ["---"] * len(shown.columns), *shown.rows)]
    return "\n".join(
        [
            "# Does identification find what is there?",
            "",
            f"Written by `make bench-sysid`: {shown.heading} drawn around `{settings['base']}` (spread "
            f"`config/populations/{SPREAD}.yaml`, seed {settings['seed']}), each driven in lock-step by the scripted "
            f"operator for {settings['seconds']:g} s and identified from that recording alone, starting at the "
            "description, with the closed form and its correction. A parameter is counted where the fit itself calls "
            "it identified; width is that of the 95 % interval over the value, error the distance to the truth over "
            "the truth. `com_forward_m` is judged together with the pitch bias, which does the same.",
            "",
            *rows,
            "",
            shown.note,
            "",
        ]
    )


def main() -> None:
    """Run, or go on with, the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robots", type=int, default=50)
    parser.add_argument("--base", default="ideal")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--page", type=Path, help="Markdown page to write, e.g. docs/identification.md")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bench-sysid.json"))
    args = parser.parse_args()
    settings = {"base": args.base, "seconds": args.seconds, "seed": args.seed}
    old = json.loads(args.output.read_text()) if args.output.is_file() else {}
    done = old.get("results", {}) if old.get("settings") == settings else {}
    todo = [k for k in range(args.robots) if str(k) not in done]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        futures = {k: pool.submit(one, k, args.base, args.seconds, args.seed) for k in todo}
        for k in track(todo, description="robots"):
            done[str(k)] = futures[k].result()
            content = {"settings": settings, "results": done}
            write_atomically(args.output, (json.dumps(content, indent=1) + "\n").encode())
    shown = table([done[str(k)] for k in range(args.robots)])
    Console().print(shown.rich())
    if args.page:
        write_atomically(args.page, page(shown, settings).encode())


if __name__ == "__main__":
    main()
