# SPDX-License-Identifier: Apache-2.0
"""What recording costs: the recorder's processor time while a process of its own sends 2000 messages a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from h2o_control import middleware
from recorder_kill import BIN, end
from robot_rates import MESSAGES_PER_S

#: Starting and finding one another costs too, and is not what is asked for.
SETTLE_S = 3.0


@dataclass(frozen=True)
class RecorderLoad:
    """What was measured.

    Attributes:
        cpu_percent: of a core, by the recorder alone.
        messages_per_s: that it received; lost: that it did not.
        kib_per_s: that it wrote.
        seconds: of the measurement.
    """

    cpu_percent: float
    messages_per_s: float
    lost: int
    kib_per_s: float
    seconds: float


def recorder_cpu(
    seconds: float = 20.0, messages_per_s: float = MESSAGES_PER_S, parameters: tuple[str, ...] = ()
) -> RecorderLoad:
    """Record for a time and measure; `parameters` are NAME:=VALUE of the recorder.

    Raises:
        RuntimeError: the recorder did not come to record.
    """
    environment = {**os.environ, **middleware.defaults(os.environ)}
    with tempfile.TemporaryDirectory(prefix="recorder_load_") as folder:
        bag = Path(folder) / "b"
        given = [word for text in (f"bag:={bag}", "auto_start:=true", *parameters) for word in ("-p", text)]
        sender = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "robot_rates.py"), "--messages", f"{messages_per_s:g}"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        recorder = subprocess.Popen([str(BIN / "recorder_node"), "--ros-args", *given], env=environment)
        try:
            deadline_s = time.monotonic() + 60.0
            while not list(bag.glob("*.mcap")):
                if recorder.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError("the recorder did not come to record")
                time.sleep(0.05)
            time.sleep(SETTLE_S)
            (file,) = bag.glob("*.mcap")
            process = psutil.Process(recorder.pid)
            start_s, before, size = time.monotonic(), sum(process.cpu_times()[:2]), file.stat().st_size
            time.sleep(seconds)
            elapsed_s, used_s = time.monotonic() - start_s, sum(process.cpu_times()[:2]) - before
            written = file.stat().st_size - size
        finally:
            for running in (recorder, sender):
                end(running)
        information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    (row,) = json.loads(information["custom_data"]["h2o.episodes"])
    return RecorderLoad(
        cpu_percent=100.0 * used_s / elapsed_s,
        messages_per_s=information["message_count"] / (information["duration"]["nanoseconds"] * 1e-9),
        lost=sum(row["lost"].values()),
        kib_per_s=written / elapsed_s / 1024,
        seconds=elapsed_s,
    )
