# SPDX-License-Identifier: Apache-2.0
"""How a policy's answers differ from the torque that was executed, and from another policy's: how much, and where."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from h2o_control.contract import STATE, FloatArray
from h2o_control.topics import ARMED, BALANCE, HOLD, TORQUE
from h2o_training.figures import COLOURS, MODE_STYLE
from h2o_training.replay_answers import Answers, Place, Recorded
from h2o_training.report import TableData

EXECUTED = "executed"
#: How many places of great difference are listed for each pair, and how far apart they lie at least, s.
PLACES, APART_S = 3, 0.5
#: Into how many groups of equal size states are put for a picture, and how many each holds at least.
GROUPS, FEWEST = 30, 5
STATE_TITLES = {"x": "x (m)", "v": "v (m/s)", "theta": "θ (rad)", "theta_dot": "θ̇ (rad/s)"}


@dataclass(frozen=True)
class Largest:
    """A great difference: where, and both torques (Nm)."""

    place: Place
    policy_nm: float
    other_nm: float


@dataclass(frozen=True)
class Comparison:
    """A policy's torque against another one while one mode was in command.

    Attributes:
        policy, other: names; `other` is another policy's, or EXECUTED.
        mode: in command when it was recorded.
        steps: compared.
        rms_difference_nm: of policy minus other.
        correlation: Pearson's; NaN where one of the two does not vary.
        saturated_share: steps at which the policy asks for the limit.
        policy_rms_nm, other_rms_nm: for scale.
        largest: where they differ most, the greatest first.
    """

    policy: str
    other: str
    mode: str
    steps: int
    rms_difference_nm: float
    correlation: float
    saturated_share: float
    policy_rms_nm: float
    other_rms_nm: float
    largest: tuple[Largest, ...]


def compare_all(recorded: Recorded, answers: Sequence[Answers], limit_nm: float) -> list[Comparison]:
    """Compare each policy with what was executed, then each pair of policies, for every mode that was in command."""
    executed = [(a.name, a.torque_nm, EXECUTED, recorded.executed_nm) for a in answers]
    pairs = [(a.name, a.torque_nm, b.name, b.torque_nm) for a, b in itertools.combinations(answers, 2)]
    found = [
        compare(recorded, *pair, mode=mode, limit_nm=limit_nm)
        for pair in (*executed, *pairs)
        for mode in (TORQUE, BALANCE, HOLD)
    ]
    return [comparison for comparison in found if comparison is not None]


def compare(
    recorded: Recorded,
    policy: str,
    policy_nm: FloatArray,
    other: str,
    other_nm: FloatArray,
    mode: str,
    limit_nm: float,
) -> Comparison | None:
    """Compare two torques [n] over the steps of one mode at which both are known; None where there are none."""
    rows = np.flatnonzero((recorded.modes == mode) & np.isfinite(policy_nm) & np.isfinite(other_nm))
    if len(rows) == 0:
        return None
    a, b = policy_nm[rows], other_nm[rows]
    varies = a.std() > 1e-9 and b.std() > 1e-9
    return Comparison(
        policy=policy,
        other=other,
        mode=mode,
        steps=len(rows),
        rms_difference_nm=_rms(a - b),
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else math.nan,
        saturated_share=float(np.mean(np.abs(a) >= 0.999 * limit_nm)),
        policy_rms_nm=_rms(a),
        other_rms_nm=_rms(b),
        largest=tuple(
            Largest(recorded.place(row), float(policy_nm[row]), float(other_nm[row]))
            for row in _largest_rows(recorded, rows, np.abs(a - b))
        ),
    )


def comparison_tables(comparisons: Sequence[Comparison], heading: str) -> list[TableData]:
    """Return the comparison with what was executed, and of several policies that with each other."""
    columns = ["policy (in command)", "steps", "diff. (Nm)", "corr.", "at limit", "policy (Nm)", "executed (Nm)"]
    note = (
        "Rms of the difference and of each, common torque of one wheel over the step that begins at the state. At "
        "limit: steps at which the policy asks for all there is. "
    )
    with_executed = [c for c in comparisons if c.other == EXECUTED]
    rows = [[f"{c.policy} ({MODE_STYLE[c.mode][1]})", *_numbers(c)] for c in with_executed]
    tables = [TableData(heading, columns, rows, note + _largest_note(with_executed))]
    with_policies = [c for c in comparisons if c.other != EXECUTED]
    if with_policies:
        columns = ["policies (in command)", "steps", "diff. (Nm)", "corr.", "at limit", "first (Nm)", "second (Nm)"]
        rows = [[f"{c.policy}, {c.other} ({MODE_STYLE[c.mode][1]})", *_numbers(c)] for c in with_policies]
        note = "Over the same recorded states, whoever commanded then. At limit: the first. "
        tables.append(TableData("Policies against each other", columns, rows, note + _largest_note(with_policies)))
    return tables


def places_table(comparisons: Sequence[Comparison]) -> TableData:
    """Return where the differences are greatest: time, mode and state."""
    rows = [
        [
            f"{c.policy}, {c.other}",
            MODE_STYLE[c.mode][1],
            large.place.episode,
            f"{large.place.time_s:.2f}",
            f"{large.policy_nm:+.2f}",
            f"{large.other_nm:+.2f}",
            *(f"{value:+.2f}" for value in large.place.state),
        ]
        for c in comparisons
        for large in c.largest
    ]
    names = [STATE_TITLES[name] for name in STATE]
    columns = ["policy, other", "in command", "episode", "at (s)", "policy (Nm)", "other (Nm)", *names]
    note = f"The {PLACES} greatest differences of each kind, at least {APART_S:g} s apart."
    return TableData("Where they differ most", columns, rows, note)


def difference_figure(recorded: Recorded, answers: Sequence[Answers]) -> Any:
    """Draw policy minus executed over each component of the state: median, and the band that holds 80 %."""
    figure = make_subplots(rows=2, cols=2, vertical_spacing=0.17, horizontal_spacing=0.09)
    armed = np.isin(recorded.modes, ARMED)
    for number, answer in enumerate(answers):
        colour = COLOURS[(number + 1) % len(COLOURS)]
        difference = answer.torque_nm - recorded.executed_nm
        known = armed & np.isfinite(difference)
        for column in range(len(STATE)):
            centres, low, middle, high = _bands(recorded.states[known, column], difference[known])
            where = {"row": 1 + column // 2, "col": 1 + column % 2}
            band = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
            figure.add_trace(go.Scatter(x=centres, y=low, **band), **where)
            figure.add_trace(go.Scatter(x=centres, y=high, fill="tonexty", fillcolor=_pale(colour), **band), **where)
            figure.add_trace(
                go.Scatter(
                    x=centres,
                    y=middle,
                    mode="lines+markers",
                    name=answer.name,
                    legendgroup=answer.name,
                    showlegend=column == 0,
                    line={"color": colour},
                    marker={"size": 4},
                ),
                **where,
            )
    for column, name in enumerate(STATE):
        where = {"row": 1 + column // 2, "col": 1 + column % 2}
        figure.update_xaxes(title_text=STATE_TITLES[name], gridcolor="rgba(0,0,0,0.09)", zeroline=False, **where)
        figure.update_yaxes(
            title_text="difference (Nm)" if column % 2 == 0 else "",
            gridcolor="rgba(0,0,0,0.09)",
            zerolinecolor="#888",
            **where,
        )
    return style(figure, 620)


def style(figure: Any, height: int) -> Any:
    """Give a figure of panels the looks of the page."""
    figure.update_layout(
        height=height,
        margin={"l": 70, "r": 20, "t": 50, "b": 50},
        plot_bgcolor="white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.03, "x": 0},
        font={"size": 13},
    )
    return figure


def to_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return all numbers, JSON-ready."""
    return [dataclasses.asdict(c) for c in comparisons]


def at(place: Place) -> str:
    """Write when and in which episode a place is."""
    return f"{place.time_s:.2f} s of {place.episode}"


def _numbers(c: Comparison) -> list[str]:
    correlation = f"{c.correlation:.3f}" if math.isfinite(c.correlation) else "–"
    share = f"{100 * c.saturated_share:.1f} %"
    ends = [f"{c.policy_rms_nm:.3f}", f"{c.other_rms_nm:.3f}"]
    return [str(c.steps), f"{c.rms_difference_nm:.3f}", correlation, share, *ends]


def _largest_note(comparisons: Sequence[Comparison]) -> str:
    said = []
    for c in comparisons:
        for large in c.largest[:1]:
            difference = large.policy_nm - large.other_nm
            said.append(f"{c.policy} {difference:+.2f} Nm at {at(large.place)} ({MODE_STYLE[c.mode][1]})")
    return f"Largest difference: {'; '.join(said)}." if said else ""


def _largest_rows(recorded: Recorded, rows: Any, difference: FloatArray) -> list[int]:
    """Return the rows of the greatest differences, each the greatest within APART_S around."""
    left, found = difference.copy(), []
    for _ in range(PLACES):
        worst = int(left.argmax())
        if left[worst] <= 0.0:
            break
        row = int(rows[worst])
        found.append(row)
        near = np.abs(recorded.stamp_ns[rows] - recorded.stamp_ns[row]) < APART_S * 1e9
        left[near & (recorded.episode[rows] == recorded.episode[row])] = 0.0
    return found


def _bands(values: FloatArray, difference: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return median value, and 10 %, 50 % and 90 % of the difference, in groups of equal size by value."""
    groups = np.array_split(np.argsort(values, kind="stable"), max(1, min(GROUPS, len(values) // FEWEST)))
    filled = [group for group in groups if len(group)]
    centres = np.array([np.median(values[group]) for group in filled])
    bands = np.array([np.quantile(difference[group], [0.1, 0.5, 0.9]) for group in filled]).reshape(-1, 3)
    return centres, bands[:, 0], bands[:, 1], bands[:, 2]


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
