# SPDX-License-Identifier: Apache-2.0
"""What is measured on a judged episode, over several episodes, and the tables of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from h2o_control.contract import FloatArray, Task
from h2o_training.lockstep import Outcome, Run
from h2o_training.report import TableData

#: Rows of a table of episodes; JSON has them all.
SHOWN = 20
#: Measures that both tables have, as they are printed.
_COLUMNS = ("max |x| (m)", "v error (m/s)", "rms (m/s)", "τ rms (Nm)", "Δτ rms (Nm)")
_LEGEND = "v error: v less the wanted speed, mean and rms. τ of one wheel, executed; Δτ from step to step."


@dataclass(frozen=True)
class EpisodeResult:
    """One episode, measured on the plant's truth.

    Attributes:
        seed: of start and sensor noise.
        outcome: whether it stood until the end, fell or ran away. survival_s: how long it lasted.
        max_abs_x_m: farthest from the start.
        v_error_mean_mps, v_error_rms_mps: of v minus the task's wanted speed.
        torque_rms_nm: executed common torque of one wheel. torque_change_rms_nm: its change from step to step.
        task_return: sum of the task's rewards.
    """

    seed: int
    outcome: Outcome
    survival_s: float
    max_abs_x_m: float
    v_error_mean_mps: float
    v_error_rms_mps: float
    torque_rms_nm: float
    torque_change_rms_nm: float
    task_return: float


def measure(run: Run, task: Task, seed: int) -> EpisodeResult:
    """Measure one run."""
    error = run.truth[1:, 1] - task.v_target_mps
    return EpisodeResult(
        seed=seed,
        outcome=run.outcome,
        survival_s=float(run.time_s[-1]),
        max_abs_x_m=float(np.abs(run.truth[:, 0] - run.truth[0, 0]).max()),
        v_error_mean_mps=float(error.mean()) if len(error) else 0.0,
        v_error_rms_mps=rms(error),
        torque_rms_nm=rms(run.executed_nm),
        torque_change_rms_nm=rms(np.diff(run.executed_nm)),
        task_return=float(np.sum(task.rewards(run.truth[1:], run.executed_nm))),
    )


def rms(values: FloatArray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def summarise(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Over all episodes: how many survived, fell, ran away; median and shortest survival, farthest x, else means.

    Where half of them survived or more, the median time to failure is longer than the episodes: the median survival
    that stands here is a lower bound of it.
    """
    survival = [r.survival_s for r in results]
    outcomes = [r.outcome for r in results]
    summary = {
        "episodes": float(len(results)),
        "survived": float(outcomes.count("stood")),
        "fell": float(outcomes.count("fell")),
        "ran_away": float(outcomes.count("ran away")),
        "survival_median_s": float(np.median(survival)),
        "survival_min_s": float(min(survival)),
        "max_abs_x_m": max(r.max_abs_x_m for r in results),
    }
    for name in ("v_error_mean_mps", "v_error_rms_mps", "torque_rms_nm", "torque_change_rms_nm", "task_return"):
        summary[name] = float(np.mean([getattr(r, name) for r in results]))
    return summary


def episode_table(results: Sequence[EpisodeResult], heading: str) -> TableData:
    """One row an episode, then one for all."""
    rows = [
        [
            str(number),
            f"{r.survival_s:.2f}" + ("" if r.outcome == "stood" else f" {r.outcome}"),
            *_cells(r.max_abs_x_m, r.v_error_mean_mps, r.v_error_rms_mps, r.torque_rms_nm, r.torque_change_rms_nm),
        ]
        for number, r in enumerate(results[:SHOWN])
    ]
    s = summarise(results)
    rows.append(["all", f"{s['survived']:.0f} of {len(results)}", *_summary_cells(s)])
    more = f"The first {SHOWN} of {len(results)} episodes are listed. " if len(results) > SHOWN else ""
    note = (
        f"{more}Stood: median {s['survival_median_s']:.2f} s, shortest {s['survival_min_s']:.2f} s. {_LEGEND} "
        "all: largest |x|, else means."
    )
    return TableData(heading, ["episode", "stood (s)", *_COLUMNS], rows, note)


def policy_table(results: Mapping[str, Sequence[EpisodeResult]], heading: str) -> TableData:
    """One row a policy, over all its episodes."""
    rows = []
    for name, of_policy in results.items():
        s = summarise(of_policy)
        censored = 2 * s["survived"] >= s["episodes"]
        rows.append(
            [
                name,
                f"{s['survived']:.0f}/{s['episodes']:.0f}",
                f"{s['fell']:.0f}",
                f"{s['ran_away']:.0f}",
                ("≥" if censored else "") + f"{s['survival_median_s']:.2f}",
                *_summary_cells(s),
            ]
        )
    columns = ["policy", "stood", "fell", "away", "median (s)", *_COLUMNS]
    note = (
        "Away: ran away, too fast or too far. Median time to failure; ≥: half of the episodes or more ended without. "
        f"{_LEGEND} Largest |x|, else means."
    )
    return TableData(heading, columns, rows, note)


def _summary_cells(s: Mapping[str, float]) -> list[str]:
    names = ("max_abs_x_m", "v_error_mean_mps", "v_error_rms_mps", "torque_rms_nm", "torque_change_rms_nm")
    return _cells(*(s[name] for name in names))


def _cells(x_m: float, error_mps: float, error_rms_mps: float, torque_nm: float, change_nm: float) -> list[str]:
    return [f"{x_m:.3f}", f"{error_mps:+z.3f}", f"{error_rms_mps:.3f}", f"{torque_nm:.3f}", f"{change_nm:.3f}"]
