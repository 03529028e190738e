# SPDX-License-Identifier: Apache-2.0
"""docs/fault-matrix.md, written from the kept results."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from faults.cells import CELLS, EPISODE, FAULTS, STATES, USUALLY_DISARMED, USUALLY_SHUTTING, Cell, Fault
from faults.checks import Check, always
from faults.evidence import KEPT, OWN, ZERO
from faults.heartbeat import STILL_S
from faults.rig import DISARMED, RECORDING, SHUTTING, SPEED_MPS
from faults.runner import LOST, Repetition, Result, file_of
from h2o_control.atomic_file import write_atomically

GREEN, RED, MISSING = "🟩", "🟥", "⬜"
_WORDS = {ZERO: "zero", OWN: "own balance", KEPT: "went on"}


def write_page(path: Path, results: Path) -> None:
    """Write the page from all results that are kept in a folder."""
    found = {}
    for cell in CELLS:
        file = file_of(results, cell.name)
        if file.exists():
            found[cell.name] = Result.from_json(file.read_text())
    write_atomically(path, page(found).encode())


def page(results: dict[str, Result]) -> str:
    """Return the page as Markdown."""
    parts = [
        "# Fault matrix",
        "<!-- Written by `make faults`; do not edit. -->",
        _introduction(results),
        "## Fault × state",
        _matrix(results),
        _legend(),
        "## What was injected, and what must hold",
        _injected(),
        "## What happened",
        _happened(results),
        "## Red cells",
        _red(results),
        "## Load and clocks",
        _measured(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(results: dict[str, Result]) -> str:
    repetitions = sum(len(r.repetitions) for r in results.values())
    red = sum(not r.green for r in results.values())
    again = sum(r.again for r in results.values())
    lost = sum(LOST in repetition.found for r in results.values() for repetition in r.repetitions)
    minutes = sum(r.seconds for r in results.values()) / 60
    return "\n".join(
        [
            "Emulated robot, driver, policy and recorder run as processes, in real time. Each fault is let loose at a",
            "random moment in each state, and the emulator's black box (torque at the motors, pitch, latched faults, a",
            "row each millisecond of device time) tells what became of it. What must hold was declared in",
            "`tests/faults/cells.py` beforehand. `make faults` repeats it all.",
            "",
            f"- **{len(results)} of {len(CELLS)} cells, {red} red**, {repetitions} repetitions in {minutes:.0f} min;",
            f"  {'; '.join(dict.fromkeys(_described(r.origin) for r in results.values()))}",
            f"- {_machine()}",
            f"- {again} repetitions were run again because the machine itself stood still for more than",
            f"  {STILL_S * 1e3:.0f} ms meanwhile, as seen by a program on each processor, above all others, that only",
            f"  wakes up. In {lost} more, the state was lost before the fault came, and was established anew.",
        ]
    )


def _described(origin: dict[str, str]) -> str:
    return f"robot `{origin.get('robot')}`, seed {origin.get('seed')}, commit {origin.get('commit')}"


def _machine() -> str:
    cpu = next(
        (row.partition(": ")[2] for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row),
        platform.machine(),
    )
    parts = [f"{len(os.sched_getaffinity(0))} × {cpu}", f"Linux {platform.release()}"]
    parts += [f"Python {platform.python_version()}", f"rclpy {version('rclpy')}", "Fast DDS over UDP on the loopback"]
    parts.append(f"SCHED_FIFO {'allowed' if _fifo() else 'refused: late ticks are to be expected under load'}")
    return ", ".join(parts)


def _fifo() -> bool:
    """Whether the system grants the priority that the nodes ask for."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def _matrix(results: dict[str, Result]) -> str:
    rows = [["fault", *STATES]]
    for fault in FAULTS:
        rows.append([fault.name, *(_cell(fault, state, results) for state in STATES)])
    return _table(rows)


def _cell(fault: Fault, state: str, results: dict[str, Result]) -> str:
    if state not in fault.states:
        return ""
    result = results.get(Cell(fault, state).name)
    if result is None:
        return MISSING
    times = times_ms(result.repetitions)
    counts = Counter(r.end for r in result.repetitions if r.end)
    ends = ", ".join(f"{_WORDS.get(end, end)}{f' {n}×' if len(counts) > 1 else ''}" for end, n in counts.most_common())
    text = "never safe" if not times else "" if times[-1] == 0 else f" {statistics.median(times):.0f} / {times[-1]:.0f}"
    many = f" (n={len(result.repetitions)})" if len(result.repetitions) >= 100 else ""
    return f"{GREEN if result.green else RED} {ends}{text}{many}"


def times_ms(repetitions: Sequence[Repetition]) -> list[float]:
    """Times to safe, ascending; without those that never were."""
    return sorted(r.safe_ms for r in repetitions if r.safe_ms is not None)


def _legend() -> str:
    return f"""{GREEN} all held in every repetition, {RED} something did not, {MISSING} not run, empty: no sense there.
Then how it ended, and the **time to safe, median / worst, in ms of device time**: from the fault until there is

- *zero*: no torque at the motors, for good, and a firmware that is not armed; without a time: there was none, or it
  ended within the millisecond of the fault;
- *own balance*: or the driver's balance in command of a robot that stays up, with no torque of a policy after it;
  without a time: it was in command all along;
- *went on*: the policy is in command as before, and the robot up: the fault did it no harm.

States: *disarmed*; *balancing*, driving at {SPEED_MPS:g} m/s half of the time; *policy*: a linear policy in command;
*recording*: balancing, with a recorder; *shutting down*: the driver gets SIGINT at the moment of the fault. A driver
that is asked to stop balances until it disarms, so times there include its stopping. A policy's own failures count from
the last observation that it answered well."""


def _injected() -> str:
    usual = {DISARMED: _says(USUALLY_DISARMED), SHUTTING: _says(USUALLY_SHUTTING)}
    rows = [["fault", "what", "state", "must hold"]]
    for fault in FAULTS:
        groups: dict[str, list[str]] = {}
        for state in fault.states:
            must = _says(check for check in fault.must[state] if check is not EPISODE)
            if must != usual.get(state):
                groups.setdefault(must, []).append(state)
        for n, (must, states) in enumerate(groups.items()):
            rows.append([fault.name if n == 0 else "", fault.what if n == 0 else "", ", ".join(states), must])
    return f"""- In every cell: {_says(always())}.
- {DISARMED}, unless said otherwise: {usual[DISARMED]}.
- {SHUTTING}, unless said otherwise: {usual[SHUTTING]}.
- {RECORDING}, unless the recorder itself is killed: {EPISODE.says}.

{_table(rows)}"""


def _says(checks: Iterable[Check]) -> str:
    return "; ".join(check.says for check in checks)


def _happened(results: dict[str, Result]) -> str:
    rows = [["fault", "state", "mode and reason that the driver gave, most often"]]
    for fault in FAULTS:
        groups: dict[str, list[str]] = {}
        for state in fault.states:
            result = results.get(Cell(fault, state).name)
            stories = Counter(r.story for r in result.repetitions if r.story) if result else Counter()
            if stories:
                groups.setdefault(stories.most_common(1)[0][0], []).append(state)
        for n, (story, states) in enumerate(groups.items()):
            rows.append([fault.name if n == 0 else "", ", ".join(states), story])
    return _table(rows)


def _red(results: dict[str, Result]) -> str:
    rows = [["cell", "repetitions", "what did not hold"]]
    for result in results.values():
        if not result.green:
            problems = Counter(problem for r in result.red for problem in r.problems)
            text = "; ".join(f"{problem} ({n}×)" for problem, n in problems.most_common(4))
            rows.append([result.name, f"{len(result.red)} of {len(result.repetitions)}", text])
    return _table(rows) if len(rows) > 1 else "None."


def _measured(results: dict[str, Result]) -> str:
    keys = ["read to write, p99 (ms)", "deadline misses", "hand-backs", "node's clock turned by (h)"]
    keys += ["middleware's clock turned by (h)", "steps of stamps (ms)", "speed commands (Hz)"]
    rows = [["cell", *keys]]
    for result in results.values():
        if any(keys[0] in r.found for r in result.repetitions):
            rows.append([result.name, *(_worst([r.found.get(key) for r in result.repetitions]) for key in keys)])
    if len(rows) == 1:
        return ""
    return (
        "The driver's own figures over the 2.5 s of a repetition, the worst of all repetitions. *Read to write*: from\n"
        "reading a frame to having written the command that answers it, policy included where one is in command.\n\n"
        + _table(rows)
    )


def _worst(values: Sequence[object]) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    if numbers:
        return f"{max(numbers, key=abs):g}"
    spans = [value for value in values if isinstance(value, list)]
    return f"{min(low for low, _ in spans):g} to {max(high for _, high in spans):g}" if spans else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([str(text).replace("|", "\\|") for text in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
