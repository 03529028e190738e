# SPDX-License-Identifier: Apache-2.0
"""Curves of episodes over time: x, v, theta and torque, with the mode in command as background."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from h2o_control.contract import STATE, FloatArray, Interface, Task
from h2o_control.topics import BALANCE, DISARMED, FAULT, HOLD, TORQUE

#: Background of a plot while a mode is in command, and how the page names it.
MODE_STYLE = {
    TORQUE: ("#d9f0dd", "policy"),
    BALANCE: ("#e3e9f5", "driver's balance"),
    HOLD: ("#fbeecb", "hold: a limit was hit"),
    FAULT: ("#f7dcdc", "fault, no torque"),
    DISARMED: ("#ededed", "disarmed"),
}
#: Of the torques of one episode.
COLOURS = ("#1f5fa8", "#d1690e", "#2a8a4a", "#8a4fb0", "#b8323a", "#5c6470", "#0f8b8d", "#c2a300")
#: Of episodes in one figure, as many as a page draws: none comes twice.
EPISODE_COLOURS: tuple[str, ...] = tuple(qualitative.Dark24)
#: More points a curve than this are thinned, extremes kept: a page of many episodes must still scroll.
MAX_POINTS = 4000
_TITLES = {"x": "x (m)", "v": "v (m/s)", "theta": "θ (rad)", "tau": "τ a wheel (Nm)"}
#: What a figure can show, one plot each.
QUANTITIES = tuple(_TITLES)
_HEIGHTS = {"x": 1.0, "v": 1.0, "theta": 1.0, "tau": 1.3}


@dataclass(frozen=True)
class Episode:
    """Curves of one episode.

    Attributes:
        name: shown in legend or heading.
        time_s: float [n].
        states: float [n, 4] in the order of contract.STATE.
        torques_nm: curves [n] by name; the first is drawn in full, the others dashed.
        modes: str [n], the mode in command; None where there is none to show.
        group: episodes of one group share a colour and the group's name in the legend; None: each its own.
    """

    name: str
    time_s: FloatArray
    states: FloatArray
    torques_nm: Mapping[str, FloatArray]
    modes: NDArray[np.str_] | None = None
    group: str | None = None

    @property
    def label(self) -> str:
        """What the legend calls it."""
        return self.group or self.name


@dataclass(frozen=True)
class Limits:
    """Thin lines across the plots: fall pitch, torque limit, wanted speed, and where the robot has run away."""

    fall_pitch_rad: float
    torque_nm: float
    v_target_mps: float | None = None
    v_limit_mps: float | None = None
    x_limit_m: float | None = None

    @classmethod
    def of(cls, task: Task, interface: Interface) -> Limits:
        """Return the limits that a task and a robot set."""
        target = task.v_target_mps or None
        return cls(task.fall_pitch_rad, interface.torque_limit_nm, target, task.v_limit_mps, task.x_limit_m)


def episode_figure(episodes: Sequence[Episode], limits: Limits, quantities: Sequence[str] = QUANTITIES) -> Any:
    """Draw quantities over time, one colour an episode or group of them; with one episode, one colour a torque."""
    rows = {name: number for number, name in enumerate(quantities, start=1)}
    figure = make_subplots(
        rows=len(rows), shared_xaxes=True, vertical_spacing=0.035, row_heights=[_HEIGHTS[name] for name in rows]
    )
    alone = len(episodes) == 1
    labels = list(dict.fromkeys(e.label for e in episodes))
    named: set[str] = set()
    for episode in episodes:
        colour = COLOURS[0] if alone else EPISODE_COLOURS[labels.index(episode.label) % len(EPISODE_COLOURS)]
        for name, row in rows.items():
            if name == "tau":
                continue
            show = not alone and episode.label not in named
            _line(figure, row, episode, episode.states[:, STATE.index(name)], colour, show)
            named.add(episode.label)
        for order, (name, torque) in enumerate(episode.torques_nm.items() if "tau" in rows else ()):
            _line(
                figure,
                rows["tau"],
                episode,
                torque,
                COLOURS[order] if alone else colour,
                show=alone and len(episode.torques_nm) > 1,
                name=name,
                dash="solid" if order == 0 else "dot",
            )
    if alone and episodes[0].modes is not None:
        for start_s, end_s, mode in mode_spans(episodes[0].time_s, episodes[0].modes):
            if mode in MODE_STYLE:
                figure.add_vrect(
                    x0=start_s, x1=end_s, fillcolor=MODE_STYLE[mode][0], layer="below", line_width=0, row="all", col=1
                )
    _limit_lines(figure, rows, episodes, limits)
    for name, row in rows.items():
        figure.update_yaxes(
            title_text=_TITLES[name], row=row, col=1, gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb"
        )
        figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", row=row, col=1, zeroline=False)
    figure.update_xaxes(title_text="time (s)", row=len(rows), col=1)
    figure.update_layout(
        height=100 + 190 * len(rows),
        margin={"l": 70, "r": 20, "t": 40, "b": 50},
        plot_bgcolor="white",
        hovermode="x unified" if alone else "closest",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        font={"size": 13},
    )
    return figure


def mode_spans(time_s: FloatArray, modes: NDArray[np.str_]) -> list[tuple[float, float, str]]:
    """Split into (start, end, mode) where the mode in command does not change; a span lasts until the next begins."""
    if len(time_s) == 0:
        return []
    starts = np.concatenate([[0], np.flatnonzero(modes[1:] != modes[:-1]) + 1])
    ends = np.append(starts[1:], len(modes) - 1)
    return [(float(time_s[a]), float(time_s[b]), str(modes[a])) for a, b in zip(starts, ends, strict=True)]


def thin(time_s: FloatArray, values: FloatArray, limit: int = MAX_POINTS) -> tuple[FloatArray, FloatArray]:
    """Keep the smallest and largest value of each stretch, so that at most `limit` points show every peak."""
    n = len(values)
    if n <= limit:
        return time_s, values
    keep: list[int] = []
    for stretch in np.array_split(np.arange(n), limit // 2):
        part = values[stretch]
        if not np.isfinite(part).any():
            keep.append(int(stretch[0]))
            continue
        keep += sorted({int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])})
    return time_s[keep], values[keep]


def _line(
    figure: Any,
    row: int,
    episode: Episode,
    values: FloatArray,
    colour: str,
    show: bool,
    name: str | None = None,
    dash: str = "solid",
) -> None:
    time_s, thinned = thin(episode.time_s, values)
    label = name or episode.label
    figure.add_trace(
        go.Scatter(
            x=time_s.astype(np.float32),
            y=thinned.astype(np.float32),
            mode="lines",
            name=label if show else "",
            showlegend=show,
            legendgroup=None if name else episode.label,
            line={"color": colour, "width": 1.3 if dash == "solid" else 1.8, "dash": dash},
            hovertemplate=f"{html.escape(label)}: %{{y:.4g}}<extra></extra>",
        ),
        row=row,
        col=1,
    )


def _limit_lines(figure: Any, rows: Mapping[str, int], episodes: Sequence[Episode], limits: Limits) -> None:
    """Draw limits only where the curves come near them: elsewhere they would squeeze the curves flat."""
    style = {"line_color": "#999", "line_width": 1, "line_dash": "dash", "col": 1}
    values = {"x": limits.x_limit_m, "v": limits.v_limit_mps, "theta": limits.fall_pitch_rad, "tau": limits.torque_nm}
    for name, row in rows.items():
        limit = values[name]
        if limit is not None and any(_largest(e, name) > 0.6 * limit for e in episodes):
            figure.add_hline(y=limit, row=row, **style)
            figure.add_hline(y=-limit, row=row, **style)
    if limits.v_target_mps and "v" in rows:
        figure.add_hline(y=limits.v_target_mps, row=rows["v"], **style)


def _largest(episode: Episode, name: str) -> float:
    """Largest absolute value that is drawn; 0 of nothing."""
    curves = episode.torques_nm.values() if name == "tau" else [episode.states[:, STATE.index(name)]]
    return max((float(np.nanmax(np.abs(c), initial=0.0)) for c in curves), default=0.0)
