# SPDX-License-Identifier: Apache-2.0
"""The short form of `make faults`, and how it judges: black boxes made by hand, with outcomes computed by hand."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import checks
from faults.cells import CELLS, FAULTS, STATES, Cell
from faults.evidence import KEPT, OWN, UNSAFE, ZERO, Evidence
from faults.heartbeat import STILL_S, Heartbeat
from faults.page import page
from faults.rig import Rig, rig
from faults.runner import Repetition, Result, keep, kept, origin, run_once
from faults.witness import Sent
from wheel_leg_driver.emulated_robot import TraceRow
from wheel_leg_driver.fault_kinds import HAND, KINDS

#: One of each way to be safe, and of each that needs processes of its own.
SHORT = (
    "unplug and replug / balancing",
    "motor fault / recording",
    "firmware reset / shutting down",
    "stuck IMU / balancing",
    "policy node killed / policy",
    "policy answers NaN / policy",
    "policy takes 100 ms for an answer / policy",
    "driver node killed / policy",
    "driver node stopped / balancing",
    "second torque publisher / policy",
    "e-stop by topic / policy",
    "e-stop by service, driver inactive / disarmed",
    "wall clock set back by 1 h / balancing",
)


def black_box(torques: list[float], armed: list[int] | None = None, pitch: float = 0.0) -> list[TraceRow]:
    """Rows of a millisecond each, from 1000 µs; wheels get the same torque."""
    armed = armed or [1] * len(torques)
    return [
        TraceRow(1000.0 * (n + 1), 1000.0 * (n + 1), 10.0 + 0.001 * n, torque, torque, pitch, 0.0, armed[n], 0)
        for n, torque in enumerate(torques)
    ]


def evidence(rows: list[TraceRow], sent: list[Sent] = (), mode: str = "fault", begins_ms: float = 50.0) -> Evidence:
    return Evidence(rows, begins_ms * 1e3, sent, [], "torque", mode, "")


def test_time_to_safe_ends_with_the_last_torque() -> None:
    # Rows end at 1 … 300 ms; torque up to 67 ms, once more at 80 ms.
    torques = [0.5] * 67 + [0.0] * 12 + [0.25] + [0.0] * 220
    e = evidence(black_box(torques, [1] * 80 + [0] * 220))
    assert e.end == ZERO
    assert e.safe_ms == pytest.approx(30.0)
    assert checks.zero_within(30.0).problem(e) == ""
    assert checks.zero_within(29.0).problem(e) == "torque until 30 ms"


def test_time_to_own_balance_ends_with_the_first_torque_of_the_driver() -> None:
    # A policy's 0.5 Nm stays at the motors until the driver's own 0.75 Nm arrives in the row that ends at 90 ms.
    rows = black_box([0.5] * 89 + [0.75] * 211)
    sent = [
        Sent(10.0559, 55_000_000, "torque", 0.5, 0.5),
        Sent(10.0899, 85_000_000, "hold", 0.75, 0.75),
    ]
    e = evidence(rows, sent, "hold")
    assert e.end == OWN
    assert e.safe_ms == pytest.approx(40.0)
    # It answers the frame of 85 ms, the policy's last torque that of 55 ms: 5 ms after the fault.
    assert e.last_answered_ms == pytest.approx(5.0)
    assert checks.own_after_last_answer(35.0).problem(e) == ""
    assert "35.0 ms after" in checks.own_after_last_answer(34.0).problem(e)


def test_a_killed_drivers_last_word_is_not_told_as_the_end() -> None:
    rows = black_box([0.5] * 60 + [0.0] * 40)
    assert evidence(rows, mode="balance").story == "balance: as before"
    assert dataclasses.replace(evidence(rows, mode="balance"), driver_gone=True).story == "driver gone"


def test_torque_without_anybody_in_command_is_not_safe() -> None:
    e = evidence(black_box([0.5] * 300), mode="fault")
    assert e.end == UNSAFE
    assert e.safe_ms != e.safe_ms
    assert "not safe" in checks.settled().problem(e)
    assert evidence(black_box([0.5] * 300), mode="torque").end == KEPT


def test_a_robot_that_arms_itself_is_found_out() -> None:
    armed = [1] * 60 + [0] * 100 + [1] * 20 + [0] * 120
    assert checks.no_arming().problem(evidence(black_box([0.0] * 300, armed))) == "armed by itself"
    armed = [1] * 60 + [0] * 240
    assert checks.no_arming().problem(evidence(black_box([0.0] * 300, armed))) == ""


def test_torque_that_nobody_sent_is_found_out() -> None:
    sent = [Sent(10.0, 0, "balance", 0.5, 0.5)]
    assert checks.nothing_strange().problem(evidence(black_box([0.5] * 300), sent)) == ""
    strange = evidence(black_box([0.5] * 100 + [0.1, 0.2, 0.3] + [0.5] * 197), sent)
    assert "(0.1, 0.1)" in checks.nothing_strange().problem(strange)


def test_torque_long_after_a_fall_is_found_out() -> None:
    e = evidence(black_box([0.5] * 120 + [0.0] * 180, [1] * 120 + [0] * 180, pitch=0.7))
    # Fallen since the first row after the fault, that of 51 ms; torque until 120 ms.
    assert checks.fall_stops().problem(e) == "torque until 69 ms after the fall"


def test_every_fault_of_the_emulator_is_tried_in_every_state() -> None:
    for name, kind in KINDS.items():
        if kind.layer != HAND:
            states = {state for fault in FAULTS if name in fault.what for state in fault.states}
            assert states == set(STATES), name
    assert len(CELLS) >= 40
    assert len({cell.name for cell in CELLS}) == len(CELLS)


def test_kept_results_count_only_for_the_same_requirements_robot_and_sources(tmp_path: Path) -> None:
    cell, same = CELLS[0], origin("ideal", 0)
    says = [check.says for check in cell.checks]

    def counts(least: int, robot: str = "ideal", **changes: Any) -> bool:
        made = Result(cell.name, [Repetition([], ZERO, 12.0)] * 3, checks=says, origin=same)
        keep(tmp_path, dataclasses.replace(made, **changes))
        return kept(tmp_path, cell, least, robot, 0) is not None

    assert counts(3)
    assert not counts(4)
    assert not counts(3, checks=says[1:])
    assert not counts(3, robot="worn")
    assert not counts(3, origin={**same, "sources": "others"})


def test_the_page_shows_red_cells_with_what_did_not_hold() -> None:
    cell = CELLS[0]
    bad = Repetition(["torque until 70 ms"], ZERO, 70.0, "fault: link lost")
    results = {cell.name: Result(cell.name, [Repetition([], ZERO, 20.0), bad, Repetition([], ZERO, 30.0)])}
    text = page(results)
    assert "🟥 zero 30 / 70" in text
    assert "| 1 of 3 | torque until 70 ms (1×) |" in text


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Heartbeat]]:
    folder = tmp_path_factory.mktemp("faults")
    with Heartbeat(folder) as heartbeat, rig(folder) as made:
        yield made, heartbeat


def named(name: str) -> Cell:
    return next(cell for cell in CELLS if cell.name == name)


@pytest.mark.ros
@pytest.mark.parametrize("name", SHORT)
def test_what_must_hold_holds(short: tuple[Rig, Heartbeat], name: str) -> None:
    made, heartbeat = short
    if named(name).fault.setup.shifted and shutil.which("cc") is None:
        pytest.skip("no C compiler, which setting the wall clock of single processes needs")
    for _ in range(5):
        repetition = run_once(made, heartbeat, named(name))
        if repetition.still_ms < STILL_S * 1e3:
            break
    assert not repetition.problems, (repetition, os.getloadavg())
