# SPDX-License-Identifier: Apache-2.0
"""Runs cells again and again, judges each repetition, and keeps what came out as JSON."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.actions import Action, Found
from faults.cells import Cell
from faults.evidence import Evidence, span
from faults.heartbeat import STILL_S, Heartbeat
from faults.rig import RECORDING, SHUTTING, Rig
from faults.witness import RefusalError
from h2o_control import topics
from h2o_control.atomic_file import write_atomically
from h2o_control.bag_reader import read_bag
from h2o_control.errors import UserError
from wheel_leg_driver.emulator_control import EmulatorError

#: Black box before the fault that is looked at, µs.
BEFORE_US = 60_000
#: As often as this a repetition is run again because the machine stood still; then it counts as it came.
MOST_AGAIN = 10
#: Fewer observations than this share of what the robot sent are no whole episode.
WHOLE = 0.3
#: The witness has heard of a command within this time, s.
HEARD_S = 0.1
#: What is noted of a state that was lost before the fault came.
LOST = "state lost before"


@dataclass
class Repetition:
    """One run of a cell.

    Attributes:
        problems: what did not hold; none where all did.
        end: how it ended, see evidence.py.
        safe_ms: time to safe, ms of device time; None where it never was.
        story: modes and reasons that the driver gave.
        found: what the action measured.
        still_ms: longest standstill of the machine meanwhile.
    """

    problems: list[str]
    end: str = ""
    safe_ms: float | None = None
    story: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    still_ms: float = 0.0


@dataclass
class Result:
    """All repetitions of a cell; `again` counts those that were repeated because the machine stood still.

    `origin` says of which robot, seed and sources it is.
    """

    name: str
    repetitions: list[Repetition] = field(default_factory=list)
    again: int = 0
    seconds: float = 0.0
    checks: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def red(self) -> list[Repetition]:
        """Repetitions in which something did not hold."""
        return [repetition for repetition in self.repetitions if repetition.problems]

    @property
    def green(self) -> bool:
        """Whether all held in every repetition."""
        return bool(self.repetitions) and not self.red

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what to_json wrote."""
        fields = json.loads(text)
        fields["repetitions"] = [Repetition(**row) for row in fields["repetitions"]]
        return cls(**fields)


def origin(robot: str, seed: int) -> dict[str, str]:
    """Return what a result depends on beside its cell, as far as it can be said."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "src") else ""
    return {
        "robot": robot,
        "seed": str(seed),
        "sources": git("rev-parse", "HEAD:src") + changed,
        "commit": git("rev-parse", "--short", "HEAD") + changed,
    }


def run_cell(rig: Rig, heartbeat: Heartbeat, cell: Cell, repetitions: int, say: Callable[[str], None]) -> Result:
    """Run a cell so many times; `say` is told what did not hold."""
    result = Result(cell.name, checks=[check.says for check in cell.checks], origin=origin(rig.robot, rig.seed))
    began_s = time.monotonic()
    while len(result.repetitions) < repetitions:
        repetition = run_once(rig, heartbeat, cell)
        if repetition.still_ms > STILL_S * 1e3 and result.again < MOST_AGAIN:
            result.again += 1
            continue
        result.repetitions.append(repetition)
        for problem in repetition.problems:
            say(f"{problem} ({repetition.story})")
    result.seconds = time.monotonic() - began_s
    return result


def run_once(rig: Rig, heartbeat: Heartbeat, cell: Cell) -> Repetition:
    """Bring the robot into the state, let the fault happen, look at what came of it."""
    fault, found = cell.fault, {}
    began_s = time.monotonic()
    moving = rig.random.random() < 0.5 if fault.moving is None else fault.moving
    try:
        rig.prepare(dataclasses.replace(fault.setup, recorder=cell.state == RECORDING))
        action = _establish(rig, cell, moving, found)
        evidence = _happen(rig, cell, action, found)
    except (RefusalError, EmulatorError) as error:
        # Whatever is wrong with the processes, the next repetition has new ones.
        rig.stop()
        still_ms = heartbeat.longest_s(began_s, time.monotonic()) * 1e3
        return Repetition([f"could not be carried out: {error}"], still_ms=still_ms)
    still_ms = heartbeat.longest_s(began_s, time.monotonic()) * 1e3
    problems = [problem for check in cell.checks if (problem := check.problem(evidence))]
    safe_ms = round(evidence.safe_ms, 1) if evidence.safe_ms == evidence.safe_ms else None
    shown = {key: value for key, value in found.items() if not key.startswith("_")}
    return Repetition(problems, evidence.end, safe_ms, evidence.story, shown, round(still_ms, 1))


def _establish(rig: Rig, cell: Cell, moving: bool, found: Found) -> Action:
    """Bring the robot into the state; on a busy machine it may be lost again before the fault, which is noted."""
    for last in (False, False, True):
        action = cell.fault.action()
        try:
            state = cell.fault.before or cell.state
            rig.establish(state, moving)
            action.ready(rig, found)
            time.sleep(rig.random.uniform(0.1, 0.4))
            rig.require(state)
            return action
        except RefusalError as error:
            if last:
                raise
            found[LOST] = str(error)
            rig.stop()
            rig.prepare(rig.setup)
    raise AssertionError


def _happen(rig: Rig, cell: Cell, action: Action, found: Found) -> Evidence:
    fault, witness = cell.fault, rig.witness
    try:
        since_us, since_s = rig.elapsed_us() - BEFORE_US, time.monotonic()
        mode_before = witness.mode
        if cell.state == SHUTTING:
            rig.process("driver_node").send_signal(signal.SIGINT)
        moment = action.begin(rig, found)
        until_us = (rig.elapsed_us() if moment.elapsed_us is None else moment.elapsed_us) + fault.window_s * 1e6
        while (left_us := until_us - rig.elapsed_us()) > 0:
            action.during(rig, found)
            time.sleep(min(left_us * 1e-6, 0.02))
        driver_gone = (rig.process("driver_node").poll() or 0) < 0
        rows = rig.control.trace(since_us)
        # What the driver has said about the last of these rows is still on its way.
        time.sleep(HEARD_S)
    finally:
        action.end(rig, found)
        witness.speed = (0.0, 0.0)
    if cell.state == RECORDING:
        found["episode"] = _episode_problem(rig)
    if cell.state == SHUTTING and moment.elapsed_us is not None:
        found["exit status"] = rig.end("driver_node")
    evidence = Evidence(
        rows=rows,
        begins_us=moment.elapsed_us if moment.elapsed_us is not None else span(rows, moment.host_s or 0.0),
        sent=[sent for sent in list(witness.sent) if sent.host_s > since_s - BEFORE_US * 1e-6],
        modes=[said for said in list(witness.modes) if said.host_s > since_s],
        mode_before=mode_before,
        mode=witness.mode,
        reason=witness.reason,
        found=found,
        driver_gone=driver_gone,
    )
    if fault.before and evidence.last_answered_ms == evidence.last_answered_ms:
        # The fault is no sooner than the policy stops answering well.
        return dataclasses.replace(evidence, begins_us=evidence.begins_us + evidence.last_answered_ms * 1e3)
    return evidence


def _episode_problem(rig: Rig) -> str:
    """End the episode; return what is wrong with its file, or nothing."""
    killed = "recorder_node" not in rig.pids
    if not killed:
        try:
            rig.witness.call(topics.STOP_EPISODE)
        except RefusalError as error:
            return str(error)
    file = max(rig.bag.glob("*.mcap"), key=lambda path: path.stat().st_mtime)
    try:
        (episode,) = read_bag(file).episodes
    except UserError as error:
        return str(error)
    if episode.recovered != killed:
        return f"{file.name} is {'cut off' if episode.recovered else 'whole though its recorder was killed'}"
    if (episode.stamp_ns[1:] <= episode.stamp_ns[:-1]).any():
        return f"{file.name}: stamps go back"
    seconds = (episode.stamp_ns[-1] - episode.stamp_ns[0]) * 1e-9
    if len(episode.stamp_ns) < WHOLE * seconds * 200:
        return f"{file.name}: {len(episode.stamp_ns)} observations in {seconds:.1f} s"
    return ""


def keep(folder: Path, result: Result) -> None:
    """Write a result where `kept` finds it."""
    write_atomically(file_of(folder, result.name), result.to_json().encode())


def file_of(folder: Path, name: str) -> Path:
    """Where the result of a cell is kept."""
    return folder / ("".join(c if c.isalnum() else "_" for c in name) + ".json")


def kept(folder: Path, cell: Cell, least: int, robot: str, seed: int) -> Result | None:
    """Return the result of an earlier run; None where it is of something else, or has fewer repetitions."""
    path = file_of(folder, cell.name)
    if not path.exists():
        return None
    result, now = Result.from_json(path.read_text()), origin(robot, seed)
    same = result.checks == [check.says for check in cell.checks]
    same = same and all(result.origin.get(key) == now[key] for key in ("robot", "seed", "sources"))
    return result if same and len(result.repetitions) >= least else None
