# SPDX-License-Identifier: Apache-2.0
"""Kills the recorder at a random moment while a robot's messages come in, and looks at what is left."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from h2o_control.bag_reader import read_bag

BIN = Path(sys.executable).parent
#: The robot is armed this long and disarmed that long by turns, so that moments between episodes come too, s.
ARMED_S, PAUSE_S = 1.5, 0.8
#: Kills come up to this long after the first episode began, s.
LATEST_S = 4.0
OURS_UNREPAIRED, OURS, ROSBAGS, MCAP = "ours, before repair", "ours", "rosbags", "mcap"


@dataclass(frozen=True)
class Kill:
    """What one kill left.

    Attributes:
        fsync: whether the recorder had that on.
        after_s: since its first episode began.
        loss_s: from the last message in the file of the running episode to the kill; NaN between episodes.
        received: messages in that file.
        gaps: messages that are missing in it before its last one.
        finished: episodes that were finished before.
        lost: of these, how many are not byte for byte what they were, or cannot be read.
        opened: by reader, what stopped it, or nothing.
    """

    fsync: bool
    after_s: float
    loss_s: float
    received: int
    gaps: int
    finished: int
    lost: int
    opened: dict[str, str] = field(default_factory=dict)


@contextmanager
def robot(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Publish a robot's 2000 messages a second from a process of its own."""
    program = [sys.executable, str(Path(__file__).with_name("robot_rates.py"))]
    command = [*program, "--armed", str(ARMED_S), "--pause", str(PAUSE_S)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; kill it where it does not: a neighbour killed can leave it waiting in the middleware."""
    process.terminate()
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill_once(bag: Path, environment: dict[str, str], rng: random.Random, fsync: bool) -> Kill:
    """Record into a new bag, kill the recorder at a random moment, repair and read the bag."""
    command = [str(BIN / "recorder_node"), "--ros-args", "-p", f"bag:={bag}", "-p", "auto_start:=true"]
    command += ["-p", f"fsync:={str(fsync).lower()}"]
    with (bag.parent / f"{bag.name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + 60.0
        while not list(bag.glob("*.mcap")):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the recorder did not record: {Path(log.name).read_text()}")
            time.sleep(0.01)
        after_s = rng.uniform(0.0, LATEST_S)
        time.sleep(after_s)
    finally:
        killed_ns = time.time_ns()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return look(bag, fsync, after_s, killed_ns)


def look(bag: Path, fsync: bool, after_s: float, killed_ns: int) -> Kill:
    """Repair and read what is left."""
    information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    finished = {name: _digest(bag / name) for name in information["relative_file_paths"]}
    running = [file for file in bag.glob("*.mcap") if file.name not in finished]
    loss_s, received, gaps = math.nan, 0, 0
    for file in running:
        loss_s, received, gaps = _what_is_left(file, killed_ns)
    opened = {OURS_UNREPAIRED: _try_ours(bag)}
    repair = subprocess.run([str(BIN / "h2o-robot"), "bag", "repair", str(bag)], capture_output=True, text=True)
    opened["repair"] = "" if repair.returncode == 0 else repair.stderr.strip()
    opened |= {OURS: _try_ours(bag), ROSBAGS: _try_rosbags(bag), MCAP: _try_mcap(bag)}
    unharmed = [name for name, digest in finished.items() if (bag / name).is_file() and _digest(bag / name) == digest]
    readable = [name for name in unharmed if not _try_mcap(bag, name)]
    return Kill(fsync, after_s, loss_s, received, gaps, len(finished), len(finished) - len(readable), opened)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _what_is_left(file: Path, killed_ns: int) -> tuple[float, int, int]:
    """Loss in s, messages, and how many are missing between the first and the last, by their publishers' numbers."""
    last_ns, received, gaps = file.stat().st_mtime_ns, 0, 0
    numbers: dict[int, int] = {}
    with file.open("rb") as stream, contextlib.suppress(McapError, struct.error, zstandard.ZstdError, ValueError):
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Message):
                received += 1
                last_ns = record.log_time
                gaps += max(0, record.sequence - numbers.get(record.channel_id, record.sequence - 1) - 1)
                numbers[record.channel_id] = record.sequence
    return (killed_ns - last_ns) * 1e-9, received, gaps


def _try_ours(bag: Path) -> str:
    try:
        # A recorder that was killed in the first moment has left no message.
        read_bag(bag, require=[])
    except Exception as error:  # noqa: BLE001 - whatever stops a reader is the finding
        return repr(error)
    return ""


def _try_rosbags(bag: Path) -> str:
    try:
        with Reader(bag) as reader:
            count = sum(1 for _ in reader.messages())
            return "" if count == reader.message_count else f"{count} of {reader.message_count} messages"
    except Exception as error:  # noqa: BLE001 - as above
        return repr(error)


def _try_mcap(bag: Path, pattern: str = "*.mcap") -> str:
    try:
        for file in bag.glob(pattern):
            with file.open("rb") as stream:
                reader = make_reader(stream, validate_crcs=True)
                summary = reader.get_summary()
                if summary is None or sum(1 for _ in reader.iter_messages()) != summary.statistics.message_count:
                    return f"{file.name} has no index, or another number of messages than it says"
    except Exception as error:  # noqa: BLE001 - as above
        return repr(error)
    return ""
