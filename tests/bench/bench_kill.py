# SPDX-License-Identifier: Apache-2.0
"""`make bench-kill`: the recorder killed at random moments while a robot's 2000 messages a second come in.

Half the kills are with `fsync` on. What is left is measured before anything is repaired, then repaired and opened by
every reader. The page is written from the results and nothing else.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_loop import machine
from recorder_load import RecorderLoad, recorder_cpu
from rich.console import Console
from rich.progress import track

from h2o_control import middleware
from h2o_control.atomic_file import write_atomically
from recorder_kill import ARMED_S, LATEST_S, MCAP, OURS, OURS_UNREPAIRED, PAUSE_S, ROSBAGS, Kill, kill_once, robot
from robot_rates import MESSAGES_PER_S

#: The goal.
LOSS_S = 0.5


def verdict(met: bool, text: str) -> str:
    """One line of the page."""
    return f"- **{'met' if met else 'not met'}** — {text}"


def _row(name: str, kills: list[Kill]) -> str:
    losses = [kill.loss_s for kill in kills if not math.isnan(kill.loss_s)]
    times = f"{statistics.median(losses):.3f} | {max(losses):.3f}" if losses else "— | —"
    counts = f"{sum(k.finished for k in kills)} | {sum(k.lost for k in kills)} | {sum(k.gaps for k in kills)}"
    return f"| {name} | {len(kills)} | {len(losses)} | {times} | {counts} |"


def page(kills: list[Kill], load: RecorderLoad | None, about: dict[str, str], seed: int) -> str:
    """Return the page."""
    running = [kill for kill in kills if not math.isnan(kill.loss_s)]
    worst_s = max((kill.loss_s for kill in running), default=0.0)
    finished, lost = sum(k.finished for k in kills), sum(k.lost for k in kills)
    opened = {reader: sum(not kill.opened[reader] for kill in kills) for reader in kills[0].opened}
    lines = [
        "# The recorder, killed",
        "",
        f"Written by `make bench-kill` (seed {seed}). A process publishes {MESSAGES_PER_S:g} messages a second on the "
        "robot's topics and arms and disarms the robot by turns "
        f"({ARMED_S:g} s and {PAUSE_S:g} s); the recorder records each time, and gets SIGKILL up to {LATEST_S:g} s "
        "after its first episode began. The loss is from the last message in the cut-off file to "
        "the kill, before any repair.",
        "",
        verdict(worst_s <= LOSS_S, f"at most {LOSS_S:g} s lost: {worst_s:.3f} s at worst of {len(running)} episodes"),
        verdict(lost == 0, f"no finished episode lost or changed: {lost} of {finished}"),
        verdict(
            all(opened[reader] == len(kills) for reader in (OURS, ROSBAGS, MCAP)),
            "all bags opened after `h2o-robot bag repair`: "
            + ", ".join(f"by {reader} {opened[reader]} of {len(kills)}" for reader in (OURS, ROSBAGS, MCAP))
            + f"; by our reader without repair {opened[OURS_UNREPAIRED]}",
        ),
        "",
        "| fsync | kills | while an episode ran | median loss (s) | worst | episodes finished before | of these lost |"
        " messages missing before the cut |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, [k for k in kills if k.fsync is on]) for name, on in (("off", False), ("on", True))),
        "",
    ]
    problems = [f"- {reader}: {kill.opened[reader]}" for kill in kills for reader in opened if kill.opened[reader]]
    lines += [*problems, ""] if problems else []
    if load is not None:
        lines += [
            f"Recording {load.messages_per_s:.0f} messages a second took {load.cpu_percent:.1f} % of a core "
            f"({load.seconds:.0f} s, sender a process of its own), wrote {load.kib_per_s:.0f} KiB/s and lost "
            f"{load.lost}.",
            "",
        ]
    lines += [
        "No power was cut: a test (`tests/test_bag_episodes.py`) keeps of every file and folder only what the recorder "
        "waited for the disk to have, at many moments, and reads the bag from that.",
        "",
        ", ".join(f"{key} {text}" for key, text in about.items()).capitalize() + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Kill, look, write the page."""
    parser = argparse.ArgumentParser(prog="make bench-kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many, default: 100")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, default: 0")
    parser.add_argument("--page", type=Path, default=Path("runs/bench-kill/recorder.md"), help="where the page goes")
    args = parser.parse_args()
    middleware.apply_defaults()
    environment = dict(os.environ)
    about, rng, kills = machine(), random.Random(args.seed), []
    with tempfile.TemporaryDirectory(prefix="bench_kill_") as folder, robot(environment):
        for number in track(range(args.kills), "killing", console=Console(stderr=True), transient=True):
            kills.append(kill_once(Path(folder) / f"bag_{number}", environment, rng, fsync=number % 2 == 1))
    load = recorder_cpu()
    text = page(kills, load, about, args.seed)
    write_atomically(args.page, text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
