# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `dataset check` found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from h2o_control.contract import FloatArray
from h2o_training.coverage import quantities, region
from h2o_training.dataset_check import Checked
from h2o_training.figures import COLOURS, Episode, Limits, episode_figure, thin
from h2o_training.windows import recordings

#: Stretches of driving that are drawn, longest first, and points of a scatter plot.
STRETCHES, POINTS = 3, 3000
_TITLES = {"v": "v (m/s)", "theta": "θ (rad)", "theta_dot": "θ̇ (rad/s)", "tau": "τ a wheel (Nm)"}


def _style(figure: Any, height: int) -> Any:
    figure.update_layout(
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        plot_bgcolor="white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.1, "x": 0},
        font={"size": 13},
    )
    figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb")
    return figure


def coverage_figure(checked: Checked) -> Any:
    """Time in each cell of the planes, the reference region, and its cells that hold nothing."""
    half = region(checked.dataset.interface.torque_limit_nm)
    titles = [f"{100 * plane.share:.0f} % of the region" for plane in checked.planes]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.12)
    angle = np.linspace(0, 2 * np.pi, 100)
    thin_planes = [number for number, plane in enumerate(checked.planes) if (plane.inside & ~plane.covered).any()]
    first_missing = min(thin_planes, default=0)
    for number, plane in enumerate(checked.planes):
        at = {"row": number // 2 + 1, "col": number % 2 + 1}
        x, y = ((e[1:] + e[:-1]) / 2 for e in plane.edges)
        # Cells without data stay white; the colours are of the logarithm, since rest takes most of the time.
        seconds = np.where(plane.seconds > 0, plane.seconds, np.nan)
        figure.add_trace(
            go.Heatmap(
                x=x,
                y=y,
                z=np.log10(seconds),
                coloraxis="coloraxis",
                customdata=seconds,
                hovertemplate="%{x:.3g}, %{y:.3g}: %{customdata:.3g} s<extra></extra>",
            ),
            **at,
        )
        missing_y, missing_x = np.nonzero(plane.inside & ~plane.covered)
        figure.add_trace(
            go.Scatter(
                x=x[missing_x],
                y=y[missing_y],
                mode="markers",
                marker={"symbol": "x-thin", "size": 6, "line": {"color": "#b8323a", "width": 1.5}},
                name="in the region, and hardly ever there",
                showlegend=number == first_missing,
                legendgroup="missing",
            ),
            **at,
        )
        line = {"color": "#444", "width": 1.5}
        ellipse = half[plane.names[0]] * np.cos(angle), half[plane.names[1]] * np.sin(angle)
        figure.add_trace(
            go.Scatter(
                x=ellipse[0],
                y=ellipse[1],
                mode="lines",
                line=line,
                name="reference region",
                showlegend=number == 0,
                legendgroup="region",
            ),
            **at,
        )
        # A little less than the cells, so that the ends' labels do not meet in the corner.
        width, height = 1.98 * half[plane.names[0]], 1.98 * half[plane.names[1]]
        figure.update_xaxes(title_text=_TITLES[plane.names[0]], range=[-width, width], **at)
        figure.update_yaxes(title_text=_TITLES[plane.names[1]], range=[-height, height], **at)
    ticks = [-2, -1, 0, 1, 2]
    figure.update_layout(
        coloraxis={
            "colorscale": "Blues",
            "cmin": -2,
            "colorbar": {"title": "time (s)", "tickvals": ticks, "ticktext": [f"{10.0**t:g}" for t in ticks]},
        }
    )
    return _style(figure, 820).update_layout(legend={"y": 1.06})


def distributions_figure(checked: Checked) -> Any:
    """Histograms of each quantity, with the reference region's ends."""
    columns, half = quantities(checked.dataset), region(checked.dataset.interface.torque_limit_nm)
    figure = make_subplots(rows=1, cols=len(columns), horizontal_spacing=0.06)
    dt = checked.dataset.interface.dt_s
    for number, (name, values) in enumerate(columns.items(), start=1):
        widest = max(2 * half[name], float(np.abs(values).max(initial=0.0)))
        counts, edges = np.histogram(values, bins=np.linspace(-widest, widest, 61))
        bars = go.Bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts * dt,
            width=np.diff(edges),
            marker_color=COLOURS[0],
            showlegend=False,
        )
        figure.add_trace(bars, row=1, col=number)
        for edge in (-half[name], half[name]):
            figure.add_vline(x=edge, line_color="#999", line_width=1, line_dash="dash", row=1, col=number)
        figure.update_xaxes(title_text=_TITLES[name], row=1, col=number)
        # From below one step, so that every bar is seen; ticks at decades, since those between would overlap.
        top = max(float(counts.max(initial=1)), 10.0)
        figure.update_yaxes(range=[math.log10(dt / 2), math.log10(1.3 * top * dt)], row=1, col=number)
    figure.update_yaxes(type="log", tickformat="~g", dtick=1)
    figure.update_yaxes(title_text="time (s)", col=1)
    return _style(figure, 340).update_layout(bargap=0)


def lags_figure(checked: Checked) -> Any:
    """How much the torque of so long ago explains."""
    figure = go.Figure()
    dt_ms = 1e3 * checked.dataset.interface.dt_s
    for number, lag in enumerate(checked.lags):
        colour = COLOURS[number]
        known = f"{1e3 * lag.lag_s:.1f} ± {1e3 * lag.spread_s:.1f} ms" if lag.told else "cannot tell"
        x = dt_ms * np.arange(len(lag.share))
        name = f"{_TITLES[lag.response].partition(' ')[0]}: {known}"
        line = {"color": colour}
        figure.add_trace(go.Scatter(x=x, y=100 * lag.share, mode="lines+markers", name=name, line=line))
        if lag.told:
            figure.add_vline(x=1e3 * lag.lag_s, line_color=colour, line_dash="dash", line_width=1)
    figure.update_xaxes(title_text="from torque to response (ms)")
    figure.update_yaxes(title_text="explained by the torque (%)", rangemode="tozero")
    return _style(figure, 380)


def consistency_figure(checked: Checked) -> Any:
    """Changes of positions over the integrals of their rates."""
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    for number, c in enumerate(checked.consistencies, start=1):
        rows = slice(None, None, max(1, len(c.change) // POINTS))
        marker = {"size": 3, "color": COLOURS[0]}
        points = go.Scattergl(x=c.integral[rows], y=c.change[rows], mode="markers", marker=marker, showlegend=False)
        figure.add_trace(points, row=1, col=number)
        ends = np.array([c.integral.min(initial=0.0), c.integral.max(initial=0.0)])
        lines = [("equal", 1.0, "#444", "dash")]
        if math.isfinite(c.gain):
            lines.append(("fitted", c.gain, COLOURS[1], "solid"))
        for name, gain, colour, dash in lines:
            line = {"color": colour, "width": 1.5, "dash": dash}
            trace = go.Scatter(
                x=ends, y=gain * ends, mode="lines", line=line, name=name, legendgroup=name, showlegend=number == 1
            )
            figure.add_trace(trace, row=1, col=number)
        rate, symbol, unit = {"x": ("v", "x", "m"), "theta": ("θ̇", "θ", "rad")}[c.name]
        known = f"{c.gain:.3f} times" if math.isfinite(c.gain) else "too little motion"
        figure.update_xaxes(title_text=f"integral of {rate} over a window ({unit}), {known}", row=1, col=number)
        figure.update_yaxes(title_text=f"change of {symbol} ({unit})", row=1, col=number)
    return _style(figure, 420)


def steps_figure(checked: Checked) -> Any:
    """Time from state to state, over time."""
    figure = go.Figure()
    for number, part in enumerate(p for p in checked.parts if len(p.step_s)):
        time_s, step_s = thin(part.time_s, part.step_s)
        line = {"color": COLOURS[number % len(COLOURS)], "width": 1}
        figure.add_trace(go.Scatter(x=time_s, y=1e3 * step_s, mode="lines", name=part.name, line=line, showlegend=True))
    figure.add_hline(y=1e3 * checked.dataset.interface.dt_s, line_color="#999", line_dash="dash", line_width=1)
    figure.update_xaxes(title_text="time since the first state (s)")
    figure.update_yaxes(title_text="step between stamps (ms)", rangemode="tozero")
    return _style(figure, 340)


def stretch_figures(checked: Checked) -> list[tuple[str, Any]]:
    """Draw the longest unbroken stretches over time, each under its heading."""
    dt, limits = checked.dataset.interface.dt_s, Limits.of(checked.dataset.task, checked.dataset.interface)
    drawn = []
    for part in checked.parts:
        start = 0
        for number, run in enumerate(recordings(part.dataset)):
            steps = len(run.torque_nm)
            time_s: FloatArray = (start + np.arange(steps)) * dt
            torque = {"executed": run.torque_nm.mean(axis=1)}
            drawn.append(Episode(f"{part.name}, stretch {number + 1}", time_s, run.states[:-1], torque))
            start += steps
    longest: Sequence[Episode] = sorted(drawn, key=lambda c: -len(c.time_s))[:STRETCHES]
    return [(f"{c.name} ({len(c.time_s) * dt:.1f} s)", episode_figure([c], limits)) for c in longest]
