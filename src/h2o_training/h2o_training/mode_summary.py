# SPDX-License-Identifier: Apache-2.0
"""Who stood: a bag split by the mode in command, so that the fallback's standing is never counted as the policy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from h2o_control.bag_reader import Bag, Episode, damage_note, nearest_index, read_bag
from h2o_control.contract import FloatArray, Task
from h2o_control.topics import ARMED, BALANCE, DISARMED, FAULT, HOLD, TORQUE
from h2o_training.figures import MODE_STYLE, Limits
from h2o_training.figures import Episode as Curves
from h2o_training.report import Report, TableData

#: Reason in /mode of a change that somebody asked for; any other end of torque mode was taken from the policy.
BY_REQUEST = "by request"


@dataclass(frozen=True)
class ModeSummary:
    """What happened while one mode was in command, over all episodes of a bag.

    Attributes:
        seconds, longest_s: in command, in all and at the longest stretch.
        stretches: times it took command.
        falls: times the pitch went beyond the task's limit; of a robot without torque this says nothing.
        lost: times command was taken from it, not given back by request (torque mode only).
        max_distance_m: largest |x − x at takeover|.
        mean_v_mps, torque_rms_nm: over the time in command; executed common torque.
    """

    mode: str
    seconds: float
    longest_s: float
    stretches: int
    falls: int
    lost: int
    max_distance_m: float
    mean_v_mps: float
    torque_rms_nm: float


def executed_after(episode: Episode, dt_s: float) -> FloatArray:
    """Common torque [n] executed over the step that begins at each state, as the firmware reports it at the step's end.

    NaN where no report came, e.g. at the last state.
    """
    following = episode.stamp_ns + round(1e9 * dt_s)
    index = nearest_index(episode.executed.stamp_ns, following, round(0.2e9 * dt_s))
    torque: FloatArray = np.append(episode.executed.common_nm, np.nan)[index]
    return torque


def summarise_modes(bag: Bag, task: Task) -> dict[str, ModeSummary]:
    """Summarise a bag for each mode that was in command, policy first."""
    dt = bag.require_interface().dt_s
    summaries = {}
    for mode in (TORQUE, BALANCE, HOLD, FAULT, DISARMED):
        stretches = [(episode, slice_, lost) for episode in bag.episodes for slice_, lost in _stretches(episode, mode)]
        if not stretches:
            continue
        seconds = [(s.stop - s.start) * dt for _, s, _ in stretches]
        speed = np.concatenate([e.states[s, 1] for e, s, _ in stretches])
        torque = np.concatenate([executed_after(e, dt)[s] for e, s, _ in stretches])
        torque = torque[np.isfinite(torque)]
        summaries[mode] = ModeSummary(
            mode=mode,
            seconds=float(sum(seconds)),
            longest_s=float(max(seconds)),
            stretches=len(stretches),
            falls=sum(_falls(e.states[max(0, s.start - 1) : s.stop, 2], task) for e, s, _ in stretches),
            lost=sum(lost for _, _, lost in stretches),
            max_distance_m=max(float(np.abs(e.states[s, 0] - e.states[s.start, 0]).max()) for e, s, _ in stretches),
            mean_v_mps=float(speed.mean()),
            torque_rms_nm=float(np.sqrt(np.mean(torque**2))) if len(torque) else 0.0,
        )
    return summaries


def _stretches(episode: Episode, mode: str) -> list[tuple[slice, bool]]:
    """Slices in which this mode is in command, and whether command was taken from it at the end."""
    inside = np.concatenate([[False], episode.modes() == mode, [False]])
    starts, ends = np.flatnonzero(~inside[:-1] & inside[1:]), np.flatnonzero(inside[:-1] & ~inside[1:])
    result = []
    leaving = [
        after for before, after in zip(episode.mode_changes, episode.mode_changes[1:], strict=False)
        if before.mode == mode and after.mode != mode
    ]  # fmt: skip
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        # /mode carries no stamp of its own: the n-th stretch ends with the n-th change away from the mode.
        change = leaving[number] if number < len(leaving) else None
        lost = mode == TORQUE and change is not None and not change.reason.startswith((BY_REQUEST, "disarmed by"))
        result.append((slice(int(start), int(end)), lost))
    return result


def _falls(pitch: FloatArray, task: Task) -> int:
    fallen = np.abs(pitch) > task.fall_pitch_rad
    return int((fallen[1:] & ~fallen[:-1]).sum())


def mode_table(summaries: Mapping[str, ModeSummary], heading: str = "Who was in command") -> TableData:
    """Summaries as a table for terminal or page."""
    rows = [
        [
            MODE_STYLE[s.mode][1],
            f"{s.seconds:.1f}",
            f"{s.longest_s:.1f}",
            str(s.falls) if s.mode in ARMED else "–",
            str(s.lost) if s.mode == TORQUE else "–",
            f"{s.max_distance_m:.3f}",
            f"{s.mean_v_mps:+z.3f}",
            f"{s.torque_rms_nm:.3f}",
        ]
        for s in summaries.values()
    ]
    columns = ["in command", "time (s)", "longest", "falls", "lost", "drift (m)", "mean v (m/s)", "τ rms (Nm)"]
    note = "Drift: farthest from where it took command. Lost: command was taken from the policy, not given back."
    return TableData(heading, columns, rows, note)


def bag_episodes(bag: Bag) -> list[Curves]:
    """Episodes of a bag as curves: executed torque, and what the commander asked for where it did."""
    dt = bag.require_interface().dt_s
    curves = []
    for episode in bag.episodes:
        if len(episode.stamp_ns) < 2:
            continue
        torques = {"executed": executed_after(episode, dt)}
        if len(episode.requested.stamp_ns):
            asked = nearest_index(episode.requested.stamp_ns, episode.stamp_ns, int(0.5e9 * dt))
            torques["requested by the policy"] = np.append(episode.requested.common_nm, np.nan)[asked]
        time_s = (episode.stamp_ns - episode.stamp_ns[0]) * 1e-9
        name = f"{episode.name} {episode.label}".strip() + (" (recovered)" if episode.recovered else "")
        curves.append(Curves(name, time_s, episode.states, torques, episode.modes()))
    return curves


def write_bag_report(
    path: str | Path, bag_path: str | Path, task: Task, title: str, extra_tables: Sequence[TableData] = ()
) -> dict[str, ModeSummary]:
    """Draw a report of one bag with the modes in command shaded; returns the summary that it shows."""
    bag = read_bag(bag_path)
    summaries = summarise_modes(bag, task)
    provenance = {"bag": str(bag.path.name), "interface": bag.require_interface().to_json(), **bag.custom_data}
    Report(
        title=title,
        lead=f"Recorded in {bag.path.name}, judged for the task {task.name!r}. {damage_note(bag.damaged)}".strip(),
        tables=[mode_table(summaries), *extra_tables],
        episodes=bag_episodes(bag),
        limits=Limits(task.fall_pitch_rad, bag.require_interface().torque_limit_nm, task.v_target_mps or None),
        provenance=provenance,
    ).write(path)
    return summaries
