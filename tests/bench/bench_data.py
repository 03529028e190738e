# SPDX-License-Identifier: Apache-2.0
"""`make bench-data`: how fast a bag becomes transitions, beside rosbags decoding the same messages; and what it costs.

The bag holds what the driver publishes and the recorder records by default, made up and written by the project's own
writer. Each reading is a process of its own, so that its time and its peak memory are its own; the two alternate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from data_page import OTHER, OWN, READ, page
from made_up_bag import write_bag
from rich.console import Console
from rich.progress import track

from h2o_control.atomic_file import write_atomically
from h2o_control.contract import get_task

HOUR = 3_600_000
PARTS = ("loading", "hour", "recorder")


def read_own(bag: Path) -> None:
    """Read the bag and find its transitions."""
    from h2o_control.bag_reader import read_bag
    from h2o_training.dataset_build import episode_transitions

    task = get_task("move")
    watch = Watch()
    found = read_bag(bag)
    watch.loaded()
    interface = found.require_interface()
    watch.report(sum(len(episode_transitions(episode, interface, task).rows) for episode in found.episodes))


def read_rosbags(bag: Path) -> None:
    """Decode the same topics by rosbags and keep nothing; counts messages."""
    from rosbags.highlevel import AnyReader

    watch = Watch()
    count = 0
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic.rpartition("/")[2] in READ]
        for connection, _, data in reader.messages(connections):
            reader.deserialize(data, connection.msgtype)
            count += 1
    watch.report(count)


READERS = {OWN: read_own, OTHER: read_rosbags}


class Watch:
    """Time and memory of this process from here on."""

    def __init__(self) -> None:
        self._base_mib = self._loaded_mib = peak_mib()
        self._loaded_cpu_s = 0.0
        self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()

    def loaded(self) -> None:
        """Note what reading alone took."""
        self._loaded_mib, self._loaded_cpu_s = peak_mib(), time.process_time() - self._start_cpu_s

    def report(self, count: int) -> None:
        """Print a Reading as JSON."""
        seconds, cpu_s = time.perf_counter() - self._start_s, time.process_time() - self._start_cpu_s
        reading = Reading(seconds, cpu_s, count, peak_mib(), self._base_mib, self._loaded_mib, self._loaded_cpu_s)
        print(json.dumps(dataclasses.asdict(reading)))


def peak_mib() -> float:
    """Most memory that this process ever had resident; getrusage would count that of the process it was started by."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@dataclass
class Reading:
    """One reading by a process of its own.

    Attributes:
        seconds, cpu_s: in all. count: transitions, or messages.
        peak_mib: in all. base_mib: before, libraries and all. loaded_mib, loaded_cpu_s: once the bag was read.
    """

    seconds: float
    cpu_s: float
    count: int
    peak_mib: float
    base_mib: float
    loaded_mib: float
    loaded_cpu_s: float


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
        "processor": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_version()}, {libraries}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def loading(samples: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Read a bag in turn, by us and by rosbags."""
    bag = folder / "bag"
    write_bag(bag, samples)
    bag_mib = warm(bag)
    readings: dict[str, list[dict[str, Any]]] = {OWN: [], OTHER: []}
    for _ in track(range(rounds), description="reading", transient=True):
        for reader in readings:
            readings[reader].append(dataclasses.asdict(read(reader, bag)))
    return {"samples": samples, "bag_mib": bag_mib, "readings": readings}


def hour(samples: int, folder: Path) -> dict[str, Any]:
    """Read an hour at 1 kHz."""
    bag = folder / "hour"
    write_bag(bag, samples)
    return {"samples": samples, "bag_mib": warm(bag), "reading": dataclasses.asdict(read(OWN, bag))}


def recorder() -> dict[str, Any]:
    """Record what a robot sends: needs a machine that is quiet enough for real time."""
    from recorder_load import recorder_cpu

    return dataclasses.asdict(recorder_cpu())


def warm(bag: Path) -> float:
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
    parser.add_argument("--hour-samples", type=int, default=HOUR)
    parser.add_argument("--scratch", help="where to write the bags (2 GB), default: the system's temporary folder")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this one anew, keep the others")
    parser.add_argument("--page", type=Path, help="Markdown page to write, e.g. docs/loading.md")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bench-data.json"))
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--bag", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        READERS[args.reader](args.bag)
        return
    kept = json.loads(args.output.read_text()) if args.part and args.output.is_file() else {}
    for part in args.part or PARTS:
        conditions = machine()
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            found = {
                "loading": lambda folder=Path(folder): loading(args.samples, args.rounds, folder),
                "hour": lambda folder=Path(folder): hour(args.hour_samples, folder),
                "recorder": recorder,
            }[part]()
        kept[part] = {**found, "conditions": conditions}
        write_atomically(args.output, (json.dumps(kept, indent=1) + "\n").encode())
    text = page(kept)
    Console().print(text, highlight=False, soft_wrap=True)
    if args.page:
        write_atomically(args.page, text.encode())


if __name__ == "__main__":
    main()
