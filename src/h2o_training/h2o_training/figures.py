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

from h2o_control.contract import FloatArray
from h2o_control.topics import BALANCE, DISARMED, FAULT, TORQUE

#: Background of a plot while a mode is in command, and how the page names it.
MODE_STYLE = {
    TORQUE: ("#d9f0dd", "policy"),
    BALANCE: ("#e3e9f5", "driver's balance"),
    FAULT: ("#f7dcdc", "fault, no torque"),
    DISARMED: ("#ededed", "disarmed"),
}
#: Of the torques of one episode.
COLOURS = ("#1f5fa8", "#d1690e", "#2a8a4a", "#8a4fb0", "#b8323a", "#5c6470", "#0f8b8d", "#c2a300")
#: Of episodes in one figure, as many as a page draws: none comes twice.
EPISODE_COLOURS: tuple[str, ...] = tuple(qualitative.Dark24)
#: More points a curve than this are thinned, extremes kept: a page of many episodes must still scroll.
MAX_POINTS = 4000
_ROWS = (("x", "x (m)"), ("v", "v (m/s)"), ("theta", "θ (rad)"), ("tau", "τ a wheel (Nm)"))


@dataclass(frozen=True)
class Episode:
    """Curves of one episode.

    Attributes:
        name: shown in legend or heading.
        time_s: float [n].
        states: float [n, 4] in the order of contract.STATE.
        torques_nm: curves [n] by name; the first is drawn in full, the others dashed.
        modes: str [n], the mode in command; None where there is none to show.
    """

    name: str
    time_s: FloatArray
    states: FloatArray
    torques_nm: Mapping[str, FloatArray]
    modes: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class Limits:
    """Thin lines across the plots: fall pitch, torque limit, wanted speed."""

    fall_pitch_rad: float
    torque_nm: float
    v_target_mps: float | None = None


def episode_figure(episodes: Sequence[Episode], limits: Limits) -> Any:
    """Draw x, v, theta and torque over time, one colour an episode; with one episode, one colour a torque."""
    figure = make_subplots(rows=len(_ROWS), shared_xaxes=True, vertical_spacing=0.035, row_heights=[1, 1, 1, 1.3])
    alone = len(episodes) == 1
    for number, episode in enumerate(episodes):
        colour = COLOURS[0] if alone else EPISODE_COLOURS[number % len(EPISODE_COLOURS)]
        for row, column in ((1, 0), (2, 1), (3, 2)):
            _line(figure, row, episode, episode.states[:, column], colour, show=row == 1 and not alone)
        for order, (name, torque) in enumerate(episode.torques_nm.items()):
            _line(
                figure,
                4,
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
    _limit_lines(figure, episodes, limits)
    for row, (_, title) in enumerate(_ROWS, start=1):
        figure.update_yaxes(title_text=title, row=row, col=1, gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb")
        figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", row=row, col=1, zeroline=False)
    figure.update_xaxes(title_text="time (s)", row=len(_ROWS), col=1)
    figure.update_layout(
        height=860,
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
    label = name or episode.name
    figure.add_trace(
        go.Scatter(
            x=time_s.astype(np.float32),
            y=thinned.astype(np.float32),
            mode="lines",
            name=label if show else "",
            showlegend=show,
            legendgroup=None if name else episode.name,
            line={"color": colour, "width": 1.3 if dash == "solid" else 1.8, "dash": dash},
            hovertemplate=f"{html.escape(label)}: %{{y:.4g}}<extra></extra>",
        ),
        row=row,
        col=1,
    )


def _limit_lines(figure: Any, episodes: Sequence[Episode], limits: Limits) -> None:
    """Draw limits only where the curves come near them: elsewhere they would squeeze the curves flat."""
    style = {"line_color": "#999", "line_width": 1, "line_dash": "dash", "col": 1}
    pitch = max((np.nanmax(np.abs(e.states[:, 2]), initial=0.0) for e in episodes), default=0.0)
    torque = max((np.nanmax(np.abs(t), initial=0.0) for e in episodes for t in e.torques_nm.values()), default=0.0)
    for sign in (-1, 1):
        if pitch > 0.6 * limits.fall_pitch_rad:
            figure.add_hline(y=sign * limits.fall_pitch_rad, row=3, **style)
        if torque > 0.6 * limits.torque_nm:
            figure.add_hline(y=sign * limits.torque_nm, row=4, **style)
    if limits.v_target_mps:
        figure.add_hline(y=limits.v_target_mps, row=2, **style)
