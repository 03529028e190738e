# SPDX-License-Identifier: Apache-2.0
"""`make bench-data`: how fast a bag becomes transitions, beside rosbags decoding the same messages; and what it costs.

The bag holds what the driver publishes and the recorder records by default, made up and written by the project's own
writer. Each reading is a process of its own, so that its time and its peak memory are its own; the two alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from made_up_bag import STREAMS, write_bag
from rich.console import Console
from rich.progress import track

from h2o_control import topics
from h2o_control.atomic_file import write_atomically
from h2o_control.contract import get_task

#: The goals: times rosbags' speed, and memory for an hour at 1 kHz ("a few hundred MB").
RATIO = 10.0
HOUR_MIB = 600.0
HOUR = 3_600_000
#: What becomes transitions. The bag holds /imu too, which neither decodes.
READ = (topics.ODOM, topics.JOINT_STATES, topics.WHEEL_COMMAND, topics.DEVICE_TIME)
OWN, OTHER = "h2o", "rosbags"


def read_own(bag: Path) -> int:
    """Read the bag and find its transitions; returns how many."""
    from h2o_control.bag_reader import read_bag
    from h2o_training.dataset_build import episode_transitions

    task = get_task("move")
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    found = read_bag(bag)
    loaded_s = time.perf_counter() - start_s
    interface = found.require_interface()
    count = sum(len(episode_transitions(episode, interface, task).rows) for episode in found.episodes)
    _report(start_s, start_cpu_s, count, loaded_s=loaded_s)
    return count


def read_rosbags(bag: Path) -> int:
    """Decode the same topics by rosbags and keep nothing; returns how many messages."""
    from rosbags.highlevel import AnyReader

    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    count = 0
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic.rpartition("/")[2] in READ]
        for connection, _, data in reader.messages(connections):
            reader.deserialize(data, connection.msgtype)
            count += 1
    _report(start_s, start_cpu_s, count)
    return count


READERS = {OWN: read_own, OTHER: read_rosbags}


def _report(start_s: float, start_cpu_s: float, count: int, **more: float) -> None:
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "count": count, "peak_mib": peak_mib, **more}))


@dataclass
class Reading:
    """One reading by a process of its own."""

    seconds: float
    cpu_s: float
    count: int
    peak_mib: float
    loaded_s: float = 0.0


def read(reader: str, bag: Path) -> Reading:
    """Let a process of its own read the bag."""
    program = [sys.executable, __file__, "--reader", reader, "--bag", str(bag)]
    result = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
    return Reading(**json.loads(result.stdout))


def machine() -> dict[str, str]:
    """Describe what the numbers belong to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "rosbags", "mcap", "zstandard"))
    return {
        "processor": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, one used",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_version()}, {libraries}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


@dataclass
class Run:
    """All readings; `hour` is one of our own of an hour at 1 kHz, None where it was left out."""

    samples: int
    bag_mib: float
    readings: dict[str, list[Reading]]
    hour: Reading | None
    hour_bag_mib: float
    conditions: dict[str, str]

    def median(self, reader: str, field: str) -> float:
        """Median over the rounds."""
        return statistics.median(getattr(reading, field) for reading in self.readings[reader])

    def speed(self, reader: str) -> float:
        """Transitions a second; rosbags is granted those that its messages would make."""
        return self.readings[OWN][0].count / self.median(reader, "seconds")


def verdicts(run: Run) -> list[str]:
    """One line for each goal."""
    ratio = run.speed(OWN) / run.speed(OTHER)
    lines = [
        f"- **{'met' if ratio >= RATIO else 'not met'}** — {RATIO:g} times as many transitions/s as rosbags decodes: "
        f"{run.speed(OWN):,.0f} / {run.speed(OTHER):,.0f} = {ratio:.1f}"
    ]
    if run.hour is not None:
        met = "met" if run.hour.peak_mib <= HOUR_MIB else "not met"
        lines.append(
            f"- **{met}** — an hour at 1 kHz ({HOUR / 1e6:g} million samples, a bag of {run.hour_bag_mib / 1024:.1f} "
            f"GiB) in {HOUR_MIB:g} MiB at most: {run.hour.peak_mib:.0f} MiB at the peak, read in "
            f"{run.hour.loaded_s:.1f} s"
        )
    return lines


def page(run: Run) -> str:
    """Return the page of the documentation."""
    rows = [
        [
            {OWN: "`read_bag` and `episode_transitions`", OTHER: "`rosbags`, typed decode, nothing kept"}[reader],
            f"{run.speed(reader):,.0f}",
            f"{run.median(reader, 'seconds'):.2f} ({min(r.seconds for r in readings):.2f}–"
            f"{max(r.seconds for r in readings):.2f})",
            f"{run.median(reader, 'cpu_s'):.2f}",
            f"{run.median(reader, 'peak_mib'):.0f}",
        ]
        for reader, readings in run.readings.items()
    ]
    columns = ["what", "transitions/s", "seconds (from–to)", "CPU (s)", "peak memory (MiB)"]
    table = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    rounds = len(run.readings[OWN])
    own = run.readings[OWN][0]
    conditions = "; ".join(f"{name}: {value}" for name, value in run.conditions.items())
    return "\n".join(
        [
            "# How fast a bag becomes transitions",
            "",
            f"Written by `make bench-data`: a made-up bag of {run.samples:,} samples at 1 kHz ({run.bag_mib:.0f} MiB, "
            f"zstd; {', '.join(f'/{name}' for name in STREAMS)} as the driver publishes them), read in turn by "
            f"processes of their own, {rounds} times each, from the page cache. Both decode "
            f"{', '.join(f'/{name}' for name in READ)}; ours returns {own.count:,} transitions, rosbags throws each "
            "message away, so that its peak is little more than its libraries.",
            "",
            *verdicts(run),
            "",
            *table,
            "",
            "Chunks are checked against their checksums; messages that are laid out like no others are read one by "
            "one by rosbags (`h2o_control/bag_columns.py`).",
            "",
            f"{conditions}.",
            "",
        ]
    )


def measure(samples: int, rounds: int, hour: int, folder: Path) -> Run:
    """Write the bags into `folder` and read them."""
    conditions = machine()
    bag = folder / "bag"
    write_bag(bag, samples)
    readings: dict[str, list[Reading]] = {OWN: [], OTHER: []}
    _warm(bag)
    for _ in track(range(rounds), description="reading", transient=True):
        for reader in readings:
            readings[reader].append(read(reader, bag))
    long, long_mib = None, 0.0
    if hour:
        write_bag(folder / "hour", hour)
        long_mib = _warm(folder / "hour")
        long = read(OWN, folder / "hour")
    return Run(samples, _warm(bag), readings, long, long_mib, conditions)


def _warm(bag: Path) -> float:
    """Bring the bag into the page cache; returns its size in MiB."""
    size = 0
    for file in bag.glob("*.mcap"):
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                size += len(block)
    return size / 2**20


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hour-samples", type=int, default=HOUR, help="0 leaves the memory of an hour out")
    parser.add_argument("--scratch", help="where to write the bags (6 GB), default: the system's temporary folder")
    parser.add_argument("--page", type=Path, help="Markdown page to write, e.g. docs/loading.md")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--bag", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        READERS[args.reader](args.bag)
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        run = measure(args.samples, args.rounds, args.hour_samples, Path(folder))
    text = page(run)
    Console().print(text, highlight=False, soft_wrap=True)
    if args.page:
        write_atomically(args.page, text.encode())


if __name__ == "__main__":
    main()
