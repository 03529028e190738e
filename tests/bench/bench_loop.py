# SPDX-License-Identifier: Apache-2.0
"""`make bench-loop`: latency, misses and cost of the control loop over ROS, beside a bare rclpy ping-pong.

The loop is the real one: emulated robot, driver and policy node with a linear ONNX policy in command, three processes;
its figure is the driver's own, from having read a telemetry frame to having written the command that answers it. The
ping-pong (ping_pong.py) sends the same messages between two processes at the same rate with the same settings, and
alternates with the loop in blocks of the same run. Then a long run at 200 Hz counts watchdogs and misses.

Every number on the page comes from this run; a noisy machine is said to be noisy by the ping-pong's own tail.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import rclpy
from loop_page import Run, write_page
from loop_stack import Block, Costs, StackError, stack
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from h2o_control import middleware
from h2o_control.histogram import Histogram

RATES_HZ = (200.0, 500.0, 1000.0)
LONG_RATE_HZ = 200.0
#: Starting, arming and settling take about this long a block; for the time shown only.
OVERHEAD_S = 7.0
PING_PONG = Path(__file__).parent / "ping_pong.py"


def ping_pong(rate_hz: float, seconds: float, priority: int, advance: Progress, line: object) -> Block:
    """Run the floor once."""
    command = [sys.executable, str(PING_PONG)]
    settings = ["--priority", str(priority)]
    # Sessions of their own: an interrupt at the terminal is for this process, which ends them.
    pong = subprocess.Popen([*command, "pong", *settings], start_new_session=True)
    asked = ["--rate", f"{rate_hz:g}", "--seconds", f"{seconds:g}", *settings]
    ping = subprocess.Popen([*command, "ping", *asked], stdout=subprocess.PIPE, text=True, start_new_session=True)
    block = Block(seconds=seconds)
    try:
        costs: Costs | None = None
        for second in range(round(seconds)):
            try:
                ping.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                advance.advance(line, 1.0)  # type: ignore[arg-type]
            if costs is None and second >= 1:
                costs = Costs({"ping": ping.pid, "pong": pong.pid})
        if costs is not None and ping.poll() is None:
            block.costs = costs.taken()
        text, _ = ping.communicate(timeout=60.0)
        block.latency = Histogram.from_text(text.strip())
        block.ticks = round(rate_hz * seconds)
        if block.latency.count == 0:
            raise StackError("the ping-pong's two processes did not hear each other")
    finally:
        for process in (ping, pong):
            if process.poll() is None:
                process.terminate()
                process.wait(10.0)
    return block


def loop(rate_hz: float, seconds: float, priority: int, progress: Progress, line: object) -> Block:
    """Start the loop, measure it once, stop it."""
    with tempfile.TemporaryDirectory(prefix="bench_loop_") as folder:
        with stack(rate_hz, priority, Path(folder)) as running:
            block = running.measure(seconds, lambda gone_s: progress.advance(line, gone_s))  # type: ignore[arg-type]
        block.slipped_s = running.slipped_s
        return block


def processor() -> str:
    """Name of the processor, as the kernel says it."""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, str]:
    """Describe what the numbers belong to."""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "middleware": rclpy.get_rmw_implementation_identifier(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def measure(args: argparse.Namespace, console: Console) -> Run:
    """Do all blocks and the long run."""
    run = Run(machine(), args.block_s, args.rounds, args.priority)
    total = len(args.rates) * args.rounds * 2 * (args.block_s + OVERHEAD_S) + args.minutes * 60 + OVERHEAD_S
    columns = (TextColumn("{task.description:34s}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        line = progress.add_task("", total=total)
        for rate_hz in args.rates:
            for number in range(1, args.rounds + 1):
                for name, one in (("ping-pong", ping_pong), ("loop", loop)):
                    what = f"{rate_hz:g} Hz: {name}, block {number} of {args.rounds}"
                    progress.update(line, description=what)
                    block = one(rate_hz, args.block_s, args.priority, progress, line)
                    run.blocks.setdefault(rate_hz, {}).setdefault(name, []).append(block)
                    progress.advance(line, OVERHEAD_S)
                    median, tail = (block.latency.percentile(p) * 1e3 for p in (50, 99))
                    lost = f", policy lost command {sum(block.lost.values())} times" if block.lost else ""
                    console.print(
                        f"{what}: median {median:.3f} ms, p99 {tail:.3f} ms{lost}", highlight=False, soft_wrap=True
                    )
        if args.minutes > 0:
            progress.update(line, description=f"{LONG_RATE_HZ:g} Hz: {args.minutes:g} minutes")
            run.long = loop(LONG_RATE_HZ, args.minutes * 60, args.priority, progress, line)
    return run


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="make bench-loop", description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES_HZ, help="Hz, default: 200 500 1000")
    parser.add_argument("--block-s", type=float, default=60.0, help="length of a block, s, default: 60")
    parser.add_argument("--rounds", type=int, default=2, help="blocks of each kind and rate, default: 2")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long run at 200 Hz, default: 10; 0: none")
    parser.add_argument("--priority", type=int, default=20, help="SCHED_FIFO priority of everything, default: 20")
    parser.add_argument("--docs", type=Path, help="where the page goes, default: docs, with --quick runs/bench-loop")
    parser.add_argument("--quick", action="store_true", help="one block of 5 s each and 10 s at 200 Hz: does it work?")
    args = parser.parse_args()
    if args.quick:
        args.block_s, args.rounds, args.minutes = 5.0, 1, 1 / 6
    docs = args.docs or Path("runs/bench-loop" if args.quick else "docs")
    console = Console()
    middleware.apply_defaults()
    # Python's own handler, so that an interrupt unwinds through everything that was started.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        run = measure(args, console)
    except StackError as error:
        print(f"bench-loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-loop: interrupted; nothing was written and nothing is left running", file=sys.stderr)
        return 130
    finally:
        rclpy.try_shutdown()
    docs.mkdir(parents=True, exist_ok=True)
    page = write_page(run, docs)
    console.print(page, soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
