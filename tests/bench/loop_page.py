# SPDX-License-Identifier: Apache-2.0
"""docs/loop-latency.md and its picture, from what the benchmark measured and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from loop_stack import Block, Cost
from matplotlib.ticker import FuncFormatter

from h2o_control.atomic_file import write_atomically
from h2o_control.histogram import Histogram, merged

LOOP, FLOOR = "loop", "ping-pong"
PICTURE = "loop-latency.png"
#: The goals.
RATIO, RATIO_RATE_HZ = 1.5, 500.0
SUSTAINED_RATE_HZ, SUSTAINED_S, SUSTAINED_SHARE = 1000.0, 60.0, 0.99
QUIET_MINUTES = 10.0
CPU_PERCENT, MEMORY_MIB, COST_RATE_HZ = 35.0, 250e6 / 2**20, 200.0


@dataclass
class Run:
    """One run of the benchmark."""

    machine: dict[str, str]
    block_s: float
    rounds: int
    priority: int
    blocks: dict[float, dict[str, list[Block]]] = field(default_factory=dict)
    long: Block | None = None

    def latency(self, rate_hz: float, kind: str) -> Histogram:
        """All blocks of a kind at a rate together."""
        return merged(block.latency for block in self.blocks[rate_hz][kind])

    def loops(self, rate_hz: float) -> list[Block]:
        """The loop's blocks at a rate; none where it was not measured."""
        return self.blocks.get(rate_hz, {}).get(LOOP, [])


def _verdict(met: bool, text: str, long_enough: bool = True) -> str:
    word = ("met" if met else "not met") if long_enough else "too short a run to judge"
    return f"- **{word}** — {text}"


def verdicts(run: Run) -> list[str]:
    """One line for each goal that this run can judge."""
    lines = []
    if RATIO_RATE_HZ in run.blocks:
        own, floor = (run.latency(RATIO_RATE_HZ, kind).percentile(50) * 1e3 for kind in (LOOP, FLOOR))
        text = f"median at most {RATIO} times the ping-pong at {RATIO_RATE_HZ:g} Hz: {own:.3f} / {floor:.3f} ms"
        lines.append(_verdict(own <= RATIO * floor, f"{text} = {own / floor:.2f}"))
    if run.long is not None:
        minutes = run.long.seconds / 60
        text = f"no watchdog in {QUIET_MINUTES:g} minutes at 200 Hz: {run.long.watchdog_trips} in {minutes:.1f} minutes"
        text += f", {run.long.deadline_misses} deadlines missed in {run.long.ticks} ticks"
        lines.append(_verdict(run.long.watchdog_trips == 0, text, minutes >= QUIET_MINUTES))
    if fast := run.loops(SUSTAINED_RATE_HZ):
        best = max(block.latency.count / (block.seconds * SUSTAINED_RATE_HZ) for block in fast)
        worst = min(block.latency.count / (block.seconds * SUSTAINED_RATE_HZ) for block in fast)
        long_enough = min(block.seconds for block in fast) >= SUSTAINED_S
        lost = sum(sum(block.lost.values()) for block in fast)
        met = worst >= SUSTAINED_SHARE and lost == 0
        share = f"{worst * 100:.2f} to {best * 100:.2f} %" if len(fast) > 1 else f"{best * 100:.2f} %"
        text = f"{SUSTAINED_RATE_HZ:g} Hz sustained for a minute: {share} of the ticks answered, blocks of"
        lines.append(_verdict(met, f"{text} {fast[0].seconds:.0f} s, policy lost command {lost} times", long_enough))
    if slow := run.loops(COST_RATE_HZ):
        cpu, memory = (max(values) for values in zip(*(_together(block.costs) for block in slow), strict=True))
        text = f"driver and policy together under {CPU_PERCENT:g} % of a core and 250 MB at {COST_RATE_HZ:g} Hz"
        met = cpu < CPU_PERCENT and memory < MEMORY_MIB
        lines.append(_verdict(met, f"{text}: {cpu:.1f} %, {memory * 2**20 / 1e6:.0f} MB resident, shared pages twice"))
    return lines


def _together(costs: dict[str, Cost]) -> tuple[float, float]:
    both = [costs["driver_node"], costs["policy_node"]]
    return sum(c.cpu_percent for c in both), sum(c.rss_mib for c in both)


def draw(run: Run, path: Path) -> None:
    """Share of ticks that took longer, over time, loop and ping-pong beside each other, a panel a rate."""
    rates = sorted(run.blocks)
    figure, panels = plt.subplots(
        1, len(rates), figsize=(4 * len(rates), 3.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    longest_ms = max(run.latency(rate_hz, kind).max_s for rate_hz in rates for kind in (LOOP, FLOOR)) * 1e3
    for axes, rate_hz in zip(panels[0], rates, strict=True):
        for kind, style, colour in ((LOOP, "-", "C0"), (FLOOR, "--", "C1")):
            histogram = run.latency(rate_hz, kind)
            points = [(edge * 1e3, 100 * (1 - share)) for edge, share in histogram.cumulative()]
            points = [(edge, share) for edge, share in points if share > 0]
            points.append((histogram.max_s * 1e3, 100 / histogram.count))
            axes.plot(*zip(*points, strict=True), style, color=colour, label=kind)
        axes.axvline(1e3 / rate_hz, color="0.6", linewidth=0.8)
        axes.annotate("period", (1e3 / rate_hz, 90), color="0.4", fontsize=8, rotation=90, va="top", ha="right")
        axes.set(xscale="log", yscale="log", title=f"{rate_hz:g} Hz", xlabel="latency (ms)")
        axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.minorticks_off()
        axes.grid(True, which="major", alpha=0.3)
    panels[0][0].set(ylabel="ticks that took longer", xlim=(0.2, max(10.0, 1.2 * longest_ms)), ylim=(None, 150))
    panels[0][0].legend(loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _latency_rows(run: Run) -> list[str]:
    lines = [
        "| rate | what | median (ms) | p99 | p99.9 | max | times ping-pong | ticks | deadlines missed | watchdogs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rate_hz in sorted(run.blocks):
        floor = run.latency(rate_hz, FLOOR).percentile(50)
        for kind in (LOOP, FLOOR):
            blocks, histogram = run.blocks[rate_hz][kind], run.latency(rate_hz, kind)
            times = " | ".join(f"{histogram.percentile(p) * 1e3:.3f}" for p in (50, 99, 99.9, 100))
            ratio, counts = "1", f"{histogram.count} | — | —"
            if kind == LOOP:
                ratio = f"{histogram.percentile(50) / floor:.2f}"
                misses, trips = sum(b.deadline_misses for b in blocks), sum(b.watchdog_trips for b in blocks)
                counts = f"{sum(b.ticks for b in blocks)} | {misses} | {trips}"
            lines.append(f"| {rate_hz:g} Hz | {kind} | {times} | {ratio} | {counts} |")
    return lines


def _cost_rows(run: Run) -> list[str]:
    lines = [
        "| rate | process | CPU (% of a core) | resident (MiB) | proportional | private |",
        "|---|---|---|---|---|---|",
    ]
    for rate_hz in sorted(run.blocks):
        for kind in (LOOP, FLOOR):
            blocks = [b for b in run.blocks[rate_hz][kind] if b.costs]
            for name in blocks[0].costs if blocks else ():
                costs = [b.costs[name] for b in blocks]
                cpu = sum(c.cpu_percent for c in costs) / len(costs)
                memory = " | ".join(
                    f"{max(getattr(c, f) for c in costs):.0f}" for f in ("rss_mib", "pss_mib", "uss_mib")
                )
                lines.append(f"| {rate_hz:g} Hz | {name.removesuffix('_node')} | {cpu:.1f} | {memory} |")
    return lines


def page(run: Run) -> str:
    """Return the page."""
    loops = [block for kinds in run.blocks.values() for block in kinds[LOOP]] + ([run.long] if run.long else [])
    granted = all(block.real_time for block in loops)
    about = ", ".join(f"{key} {text}" for key, text in run.machine.items())
    priority = f"SCHED_FIFO {run.priority}" if granted else "normal priority (real time was refused or not asked for)"
    slipped_s, seconds = sum(block.slipped_s for block in loops), sum(block.seconds for block in loops)
    lost: dict[str, int] = {}
    for block in loops:
        for reason, count in block.lost.items():
            lost[reason] = lost.get(reason, 0) + count
    lines = [
        "# Latency of the control loop, beside its floor",
        "",
        "Written by `make bench-loop`. The loop: from the driver having read a telemetry frame to having written the "
        "command that answers it, while a linear ONNX policy is in command, as the driver itself counts it. "
        "The ping-pong: a bare rclpy process sends another the same message (nav_msgs/Odometry) and gets the same one "
        "back (sensor_msgs/JointState). Both at the same rates, with the same QoS, executor and priority, in "
        f"alternating blocks of {run.block_s:g} s, {run.rounds} of each.",
        "",
        *verdicts(run),
        "",
        f"![Share of ticks that took longer]({PICTURE})",
        "",
        *_latency_rows(run),
        "",
        "A deadline is missed where a frame comes, or its command goes, more than a period late. Times are read from "
        "bins 10 % wide.",
        "",
        *_cost_rows(run),
        "",
        "Resident memory counts a page that two processes share in both, proportional memory half in each. "
        "The policy lost command to the driver: "
        + ("; ".join(f"{count} × {reason}" for reason, count in lost.items()) or "never")
        + f". The machine held the emulated robot up, whose clock fell {slipped_s:.2f} s behind in {seconds:.0f} s.",
        "",
        f"{about[0].upper()}{about[1:]}; {priority}.",
        "",
    ]
    return "\n".join(lines)


def write_page(run: Run, docs: Path) -> str:
    """Write page and picture into a folder; return the page."""
    draw(run, docs / PICTURE)
    text = page(run)
    write_atomically(docs / "loop-latency.md", text.encode())
    return text
