# SPDX-License-Identifier: Apache-2.0
"""Is the twin consistent with a bag: states that it predicts from recorded ones and the torques executed since.

Predictions start at a recorded state, with the torques before it in the twin's delays and lags, and run for HORIZON
steps of recorded torque. Beside them stands the prediction that nothing changes: a twin that errs as much explains
nothing. Noise that the twin would add to its sensors is left out, since it is drawn and predicts nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from h2o_control.bag_reader import Episode
from h2o_control.contract import STATE, FloatArray, Interface, Task
from h2o_control.errors import ContractError, DataError
from h2o_training.dataset_build import episode_transitions
from h2o_training.effects import Effects, effects_from
from h2o_training.replay_answers import Place
from h2o_training.replay_compare import STATE_TITLES, at, style
from h2o_training.report import TableData
from h2o_training.sysid import PAST
from h2o_training.sysid_problem import predict
from h2o_training.windows import Recording, cut
from wheel_leg_driver.robot import Robot

#: Steps of a prediction, and those that are listed.
HORIZON = 20
LISTED = (1, HORIZON)
#: More windows than this are thinned: errors do not change any more, memory does.
MOST_WINDOWS = 20_000
NOISE = ("pitch_noise_rad", "gyro_noise_radps", "velocity_noise_mps")


@dataclass(frozen=True)
class Consistency:
    """Errors of predictions, predicted minus recorded, over all windows.

    Attributes:
        robot: whose twin, one for each name.
        windows: predictions made.
        dt_s: control step.
        twin_rms, nothing_rms: float [HORIZON, 4] after 1 to HORIZON steps, in the order and units of contract.STATE.
        mean: float [HORIZON, 4], of the twin's error: what a bias would show.
        worst: place of the start, and the error after HORIZON steps, for each component of the state.
    """

    robot: str
    windows: int
    dt_s: float
    twin_rms: FloatArray
    nothing_rms: FloatArray
    mean: FloatArray
    worst: tuple[tuple[Place, float], ...]


def consistency(episodes: Sequence[Episode], robots: Sequence[Robot], interface: Interface, task: Task) -> Consistency:
    """Predict from every recorded state that has enough torques before and behind it.

    Args:
        episodes: of the bag.
        robots: for each episode the one whose twin predicts.
        interface: of the bag.
        task: says what a fall is; nothing is predicted beyond one.

    Raises:
        DataError: no stretch of armed driving is long enough.
        ContractError: a robot whose twin runs at another rate or with another limit or wheel.
    """
    wanted = sum(max(0, len(e.stamp_ns) - HORIZON) for e in episodes)
    stride = max(1, math.ceil(wanted / MOST_WINDOWS))
    errors, naive, starts = [], [], []
    for episode, robot in zip(episodes, robots, strict=True):
        if robot.interface.hash != interface.hash:
            raise ContractError(
                f"robot {robot.name!r} is none for this bag: "
                + robot.interface.differences(interface, f"{robot.name!r} has", "the bag")
            )
        parts, first_rows = _stretches(episode, interface, task)
        effects = dataclasses.replace(
            effects_from(robot.twin, f"robot {robot.name!r}: twin"), **dict.fromkeys(NOISE, 0.0)
        )
        past = max(PAST, _reach(effects, interface))
        long_enough = [k for k, part in enumerate(parts) if len(part.torque_nm) >= past + HORIZON]
        if not long_enough:
            continue
        windows = cut([parts[k] for k in long_enough], HORIZON, stride, past)
        path = predict(robot, effects, windows, {"torque_factor": np.array([effects.torque_factor])})[0]
        errors.append((path - windows.states)[:, 1:])
        naive.append((windows.states[:, :1] - windows.states)[:, 1:])
        for number in range(len(long_enough)):
            count = int((windows.recording == number).sum())
            first = first_rows[long_enough[number]] + past
            starts += [(episode, first + stride * k) for k in range(count)]
    if not errors:
        raise DataError(
            f"no unbroken stretch of armed driving is as long as {PAST + HORIZON} control steps, so that no twin can "
            "be compared with it"
        )
    error = np.concatenate(errors)
    worst = [int(np.abs(error[:, -1, column]).argmax()) for column in range(len(STATE))]
    return Consistency(
        robot=", ".join(dict.fromkeys(robot.name for robot in robots)),
        windows=len(error),
        dt_s=interface.dt_s,
        twin_rms=np.sqrt(np.mean(error**2, axis=0)),
        nothing_rms=np.sqrt(np.mean(np.concatenate(naive) ** 2, axis=0)),
        mean=error.mean(axis=0),
        worst=tuple((_place(*starts[row]), float(error[row, -1, column])) for column, row in enumerate(worst)),
    )


def consistency_table(c: Consistency, units: Sequence[str]) -> TableData:
    """One row a component of the state and length of prediction."""
    rows = []
    for steps in LISTED:
        for column, name in enumerate(STATE):
            twin, nothing = c.twin_rms[steps - 1, column], c.nothing_rms[steps - 1, column]
            rows.append(
                [
                    f"{name} ({units[column]})",
                    f"{steps * c.dt_s * 1e3:g} ms, {steps} step{'' if steps == 1 else 's'}",
                    f"{twin:.4g}",
                    f"{nothing:.4g}",
                    f"{twin / nothing:.2f}" if nothing > 0 else "–",
                    f"{c.mean[steps - 1, column]:+.2g}",
                ]
            )
    worst = [f"{name} {error:+.3g} from {at(place)}" for name, (place, error) in zip(STATE, c.worst, strict=True)]
    note = (
        f"Rms of predicted minus recorded over {c.windows} starts, with the torques that were executed; beside it the "
        "error of saying that nothing changes. A ratio well below 1 means that the twin explains the motion; at 1 step "
        "the noise of the sensors is most of the error. Mean: the twin's, a bias where it is as large as the rms. "
        f"Largest after {HORIZON} steps: {'; '.join(worst)}."
    )
    columns = ["state", "predicted ahead", "twin (rms)", "no change (rms)", "ratio", "twin (mean)"]
    return TableData(f"Consistency with the twin of {c.robot}", columns, rows, note)


def consistency_figure(c: Consistency) -> Any:
    """Draw the errors over the length of the prediction, one panel a component of the state."""
    figure = make_subplots(rows=1, cols=4, horizontal_spacing=0.07)
    time_ms = np.arange(1, HORIZON + 1) * c.dt_s * 1e3
    curves = (("twin", c.twin_rms, "#1f5fa8", "solid"), ("nothing changes", c.nothing_rms, "#5c6470", "dot"))
    for column, name in enumerate(STATE, start=1):
        for label, rms, colour, dash in curves:
            figure.add_trace(
                go.Scatter(
                    x=time_ms,
                    y=rms[:, column - 1],
                    name=label,
                    legendgroup=label,
                    showlegend=column == 1,
                    line={"color": colour, "dash": dash},
                ),
                row=1,
                col=column,
            )
        title = STATE_TITLES[name]
        figure.update_yaxes(title_text=f"rms error of {title}", rangemode="tozero", row=1, col=column)
        figure.update_xaxes(title_text="predicted ahead (ms)", row=1, col=column)
    figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb")
    return style(figure, 380)


def to_json(c: Consistency) -> dict[str, Any]:
    """Return all numbers, JSON-ready."""
    return {
        "robot": c.robot,
        "windows": c.windows,
        "state": list(STATE),
        "twin_rms": {str(k): c.twin_rms[k - 1].tolist() for k in LISTED},
        "nothing_changes_rms": {str(k): c.nothing_rms[k - 1].tolist() for k in LISTED},
        "twin_mean": {str(k): c.mean[k - 1].tolist() for k in LISTED},
        "worst": [{"error": error, **vars(place)} for place, error in c.worst],
    }


def _stretches(episode: Episode, interface: Interface, task: Task) -> tuple[list[Recording], list[int]]:
    """Return unbroken stretches of armed driving, and the row at which each begins."""
    found = episode_transitions(episode, interface, task)
    rows = np.asarray(found.rows)
    ends = np.flatnonzero(found.terminals | found.timeouts) + 1
    parts, first_rows = [], []
    for part in np.split(np.arange(len(rows)), ends):
        if len(part):
            first, last = int(rows[part[0]]), int(rows[part[-1]])
            parts.append(Recording(episode.states[first : last + 2], found.torque_nm[part]))
            first_rows.append(first)
    return parts, first_rows


def _reach(effects: Effects, interface: Interface) -> int:
    """Return how many steps of past torque the twin's delays reach back."""
    return 1 + math.ceil((effects.observation_delay_s + effects.actuation_delay_s) / interface.dt_s)


def _place(episode: Episode, row: int) -> Place:
    time_s = float(episode.stamp_ns[row] - episode.stamp_ns[0]) * 1e-9
    return Place(episode.name, time_s, str(episode.modes()[row]), tuple(float(v) for v in episode.states[row]))
