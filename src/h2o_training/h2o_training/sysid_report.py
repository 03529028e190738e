# SPDX-License-Identifier: Apache-2.0
"""What identification found, as tables, a page and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from h2o_training.figures import EPISODE_COLOURS
from h2o_training.prediction import FITTED, LINEAR, NOTHING, Comparison
from h2o_training.report import Page, TableData
from h2o_training.sysid import CONFOUNDED, IDENTIFIED, Estimate, Fit
from h2o_training.windows import OUTPUTS

#: Windows drawn over time, and points of a scatter plot.
TRACES, POINTS = 40, 1500
_TITLES = {"v": "v (m/s)", "theta": "θ (rad)", "theta_dot": "θ̇ (rad/s)"}


def verdict(e: Estimate) -> str:
    """Say what is known of a parameter."""
    return f"with {', '.join(e.partners)}" if e.verdict == "confounded" else e.verdict


def parameter_table(fit: Fit) -> TableData:
    """One row a parameter, with its 95 % interval."""
    rows = [[e.name, f"{e.start:.4g}", f"{e.value:.4g}", f"± {e.half_width:.2g}", verdict(e)] for e in fit.estimates]
    parts = [
        f"identified: the 95 % interval, end to end, is narrower than {IDENTIFIED:.0%} of the value. with …: errors go "
        f"together (correlation beyond {CONFOUNDED}), the data tell a combination. weak: the interval is wider. at "
        "bound: as far as the parameter goes."
    ]
    if fit.alike:
        pairs = "; ".join(f"{other} as {fitted}" for other, fitted in fit.alike)
        parts.append(f"Not fitted, and to these data much like what was: {pairs}.")
    if fit.asked:
        wishes = ", ".join(f"{name} ({share:.0%})" for name, share in fit.asked[:4])
        parts.append(
            f"Not fitted, and would explain more (share of what is left): {wishes}. Estimates of others make up for "
            "what is left out: name them too (--fit)."
        )
    best, *others = fit.starts
    same = sum(cost < 1.02 * best for cost in others)
    if others:
        parts.append(f"{same} of {len(others)} searches from random starts ended where the best one did.")
    return TableData("Parameters", ["parameter", "before", "fitted", "95 %", ""], rows, " ".join(parts))


def score_table(comparison: Comparison, dt_s: float) -> TableData:
    """R² at the end of the windows, one row a predictor."""
    steps = comparison.windows.steps
    scores = comparison.scores(steps)
    rows = [[name, *(f"{value:.3f}" for value in scores[name])] for name in scores]
    note = (
        f"R² of rows that were not fitted, {steps} steps ({steps * dt_s:.3g} s) after a measured state, with the "
        f"recorded actions; {len(comparison.windows)} windows."
    )
    if comparison.late:
        gained = scores[LINEAR] - scores[f"{LINEAR} but the last {comparison.late}"]
        note += (
            f" The last {comparison.late} actions come too late to move the robot: they tell what the operator saw, "
            f"and what the linear map gains by them ({', '.join(f'{g:.3f}' for g in gained)}) no simulator can."
        )
    return TableData("Predictions", ["predictor", *(_TITLES[name] for name in OUTPUTS)], rows, note)


def page(fit: Fit, comparison: Comparison, dt_s: float, lead: str, provenance: Mapping[str, Any]) -> Page:
    """Draw predicted against recorded rows, R² over the horizon, and the errors' correlation."""
    figures = [
        ("R² over the length of the prediction", _horizon(comparison, dt_s)),
        (f"Predicted against recorded, {comparison.windows.steps} steps on", _scatter(comparison)),
        ("Windows one after the other", _traces(comparison, dt_s)),
        ("Correlation of the estimates' errors", _correlation(fit)),
    ]
    tables = [parameter_table(fit), score_table(comparison, dt_s)]
    return Page(f"Identification of {fit.robot.name!r}", lead, tables, figures, provenance)


def content(fit: Fit, comparison: Comparison) -> dict[str, Any]:
    """All numbers, JSON-ready."""
    steps = comparison.windows.steps
    return {
        "parameters": [dataclasses.asdict(e) for e in fit.estimates],
        "correlation": fit.correlation.tolist(),
        "alike": [list(pair) for pair in fit.alike],
        "asked": dict(fit.asked),
        "start_costs": list(fit.starts),
        "noise": fit.noise,
        "windows": len(comparison.windows),
        "steps": steps,
        "r_squared": {
            name: dict(zip(OUTPUTS, map(float, score), strict=True)) for name, score in comparison.scores(steps).items()
        },
    }


def _panels(rows: int) -> Any:
    return make_subplots(rows=rows, cols=len(OUTPUTS), subplot_titles=[_TITLES[name] for name in OUTPUTS])


def _style(figure: Any, height: int) -> Any:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        plot_bgcolor="white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.08, "x": 0},
        font={"size": 13},
    )
    figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb")
    return figure


def _horizon(comparison: Comparison, dt_s: float) -> Any:
    figure = _panels(1)
    steps = range(1, comparison.windows.steps + 1)
    scores = [comparison.scores(k) for k in steps]
    for number, name in enumerate(comparison.paths):
        for column in range(len(OUTPUTS)):
            figure.add_trace(
                go.Scatter(
                    x=[k * dt_s for k in steps],
                    y=[s[name][column] for s in scores],
                    name=name,
                    legendgroup=name,
                    showlegend=column == 0,
                    line={"color": EPISODE_COLOURS[number], "dash": "dot" if name == NOTHING else "solid"},
                ),
                row=1,
                col=column + 1,
            )
    figure.update_yaxes(range=[-0.5, 1.02])
    figure.update_xaxes(title_text="horizon (s)")
    return _style(figure, 420)


def _scatter(comparison: Comparison) -> Any:
    figure = _panels(1)
    last = comparison.windows.steps
    rows = slice(None, None, max(1, len(comparison.windows) // POINTS))
    recorded = comparison.windows.states[rows, last, 1:]
    for name, colour in ((LINEAR, "#b9bec7"), (FITTED, "#1f5fa8")):
        for column in range(len(OUTPUTS)):
            figure.add_trace(
                go.Scattergl(
                    x=recorded[:, column],
                    y=comparison.paths[name][rows, last, column],
                    mode="markers",
                    marker={"size": 3, "color": colour},
                    name=name,
                    legendgroup=name,
                    showlegend=column == 0,
                ),
                row=1,
                col=column + 1,
            )
    for column in range(len(OUTPUTS)):
        ends = [float(recorded[:, column].min()), float(recorded[:, column].max())]
        line = {"color": "#444", "width": 1}
        figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False), row=1, col=column + 1)
    figure.update_xaxes(title_text="recorded")
    figure.update_yaxes(title_text="predicted", col=1)
    return _style(figure, 460)


def _traces(comparison: Comparison, dt_s: float) -> Any:
    """Windows that follow each other: recorded throughout, predicted from each start anew."""
    windows, steps = comparison.windows, comparison.windows.steps
    rows = np.arange(0, len(windows), steps)
    middle = max(0, len(rows) // 2 - TRACES // 2)
    rows = rows[middle : middle + TRACES]
    figure = make_subplots(rows=len(OUTPUTS), shared_xaxes=True, vertical_spacing=0.04)
    time_s = (rows[:, None] + np.arange(steps + 1)) * dt_s
    # A gap after each window lifts the pen.
    gap = np.full((len(rows), 1), np.nan)
    x = np.concatenate((time_s, gap), axis=1).ravel()
    curves = {"recorded": (windows.states[rows, :, 1:], "#444"), FITTED: (comparison.paths[FITTED][rows], "#d1690e")}
    for name, (path, colour) in curves.items():
        for column in range(len(OUTPUTS)):
            y = np.concatenate((path[:, :, column], gap), axis=1).ravel()
            line = {"color": colour, "width": 1.4}
            trace = go.Scatter(x=x, y=y, name=name, legendgroup=name, showlegend=column == 0, line=line)
            figure.add_trace(trace, row=column + 1, col=1)
    for column, name in enumerate(OUTPUTS):
        figure.update_yaxes(title_text=_TITLES[name], row=column + 1, col=1)
    figure.update_xaxes(title_text="time in the held-back rows (s)", row=len(OUTPUTS), col=1)
    return _style(figure, 620)


def _correlation(fit: Fit) -> Any:
    names = [e.name for e in fit.estimates]
    figure = go.Figure(go.Heatmap(z=fit.correlation, x=names, y=names, zmin=-1, zmax=1, colorscale="RdBu"))
    figure.update_yaxes(autorange="reversed")
    return _style(figure, 560)
