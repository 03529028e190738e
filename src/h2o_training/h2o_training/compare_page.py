# SPDX-License-Identifier: Apache-2.0
"""Tables, learning curves and page of compared training runs."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from h2o_control.contract import FloatArray
from h2o_control.provenance import now_utc, software
from h2o_training.compare import INTERVAL, LEAST_SEEDS, Group, differences, group_curve, mean_band
from h2o_training.figures import EPISODE_COLOURS
from h2o_training.report import Page, TableData

#: Tags of the deterministic policy's evaluation on the twin, and of its judging on an emulated robot.
EVALUATION, JUDGE = "evaluation", "judge"
#: What is drawn: tag, title of its axis, factor.
DRAWN = (
    (f"{EVALUATION}/survived", "stood on the twin (%)", 100.0),
    (f"{EVALUATION}/return", "return on the twin", 1.0),
    (f"{JUDGE}/survived", "stood on the emulated robot (%)", 100.0),
    (f"{JUDGE}/return", "return on the emulated robot", 1.0),
    ("twin/episode_return", "return of exploring episodes", 1.0),
)


def tables(these: Sequence[Group]) -> list[TableData]:
    """How far each group came and what its policies are worth on the twin; then the same on each emulated robot."""
    return [twin_table(these), *(judge_table(these, robot) for robot in judged_on(these))]


def twin_table(these: Sequence[Group]) -> TableData:
    """One row a group: how far it came, how its policies do on the twin, how long it took."""
    columns = ["algorithm", "seeds", "updates", "stood (twin)", "return (twin)", "updates/s", "time"]
    rows, unfinished = [], []
    for group in these:
        left = [run for run in group.runs if not run.finished]
        unfinished += [_where(group, run.seed, run.progress.state, run.progress.update) for run in left]
        rows.append(
            [
                group.label,
                _seeds([run.seed for run in group.runs]) + ("*" if left else ""),
                _range([run.progress.update for run in group.runs]),
                _values(group.last(f"{EVALUATION}/survived"), _percent),
                _values(group.last(f"{EVALUATION}/return"), _whole),
                _mean(np.array([run.updates_per_s for run in group.runs]), _whole),
                _mean(np.array([run.progress.trained_s or math.nan for run in group.runs]), _duration),
            ]
        )
    lengths = {f"{run.info.config.log.evaluate_s:g} s" for group in these for run in group.runs}
    note = (
        f"Mean and interval over seeds at each run's latest evaluation: {INTERVAL}; of fewer seeds each value. "
        f"Stood: share of robots still standing after {', '.join(sorted(lengths))} on the twin. updates/s and time: "
        "means, with evaluations and with whatever else ran beside."
    )
    if unfinished:
        note += f" * not finished: {'; '.join(unfinished)}."
    count = sum(len(group.runs) for group in these)
    return TableData(f"{count} training run{'' if count == 1 else 's'}, {_task(these)}", columns, rows, note)


def judge_table(these: Sequence[Group], robot: str) -> TableData:
    """One row a group that was judged on this emulated robot while it trained."""
    columns = {"stood": ("survived", _percent), "stood for (s)": ("survival_s", _hundredth)}
    columns |= {"return": ("return", _whole), "largest |x| (m)": ("x_abs_m", _hundredth)}
    judged = [group for group in these if _judge(group) == robot]
    rows = [
        [group.label, *(_values(group.last(f"{JUDGE}/{tag}"), form) for tag, form in columns.values())]
        for group in judged
    ]
    return TableData(f"Judged while training: emulated robot {robot}", ["algorithm", *columns], rows)


def judged_on(these: Sequence[Group]) -> list[str]:
    """Robots on which groups were judged while they trained, with episodes and seconds, in order."""
    return list(dict.fromkeys(robot for group in these if (robot := _judge(group))))


def curves_figure(these: Sequence[Group]) -> Any:
    """Learning curves, one panel a quantity that any group has logged: mean and interval, or each seed's own curve."""
    drawn = [
        (title, factor, {g.label: c for g in these if (c := group_curve(g, tag)) is not None})
        for tag, title, factor in DRAWN
    ]
    panels = [panel for panel in drawn if panel[2]]
    if not panels:
        return None
    figure = make_subplots(rows=len(panels), shared_xaxes=True, vertical_spacing=0.16 / len(panels))
    colours = {g.label: EPISODE_COLOURS[i % len(EPISODE_COLOURS)] for i, g in enumerate(these)}
    named: set[str] = set()
    for row, (title, factor, curves) in enumerate(panels, start=1):
        for label, curve in curves.items():
            colour, x = colours[label], curve.updates
            at = {"row": row, "col": 1}
            common = {"legendgroup": label, "name": label, "mode": "lines+markers" if len(x) < 3 else "lines"}
            if len(curve.values) >= LEAST_SEEDS:
                both = np.concatenate((curve.band.high, curve.band.low[::-1]))
                fill = f"rgba({','.join(map(str, hex_to_rgb(colour)))},0.15)"
                figure.add_trace(
                    go.Scatter(
                        x=np.concatenate((x, x[::-1])),
                        y=factor * both,
                        mode="lines",
                        fill="toself",
                        fillcolor=fill,
                        line={"width": 0},
                        hoverinfo="skip",
                        showlegend=False,
                        legendgroup=label,
                    ),
                    **at,
                )
                lines = [curve.band.mean]
            else:
                lines = list(curve.values)
            for values in lines:
                figure.add_trace(
                    go.Scatter(
                        x=x,
                        y=factor * values,
                        line={"color": colour, "width": 2 if len(lines) == 1 else 1.2},
                        showlegend=label not in named,
                        hovertemplate=f"{html.escape(label)}: %{{y:.4g}} at %{{x:,}}<extra></extra>",
                        **common,
                    ),
                    **at,
                )
                named.add(label)
        figure.update_yaxes(title_text=title, row=row, col=1, range=(-3, 103) if factor > 1 else None)
    figure.update_xaxes(gridcolor="rgba(0,0,0,0.09)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(0,0,0,0.09)", zerolinecolor="#bbb")
    figure.update_xaxes(title_text="updates", row=len(panels), col=1)
    figure.update_layout(
        height=110 + 270 * len(panels),
        margin={"l": 80, "r": 20, "t": 60, "b": 50},
        plot_bgcolor="white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        font={"size": 13},
    )
    return figure


def page(these: Sequence[Group]) -> Page:
    """Return the page: table, what the groups differ in, learning curves, where all of it comes from."""
    shown = tables(these)
    rows = [[key, *values] for key, values in differences(these).items()]
    if rows:
        shown.append(TableData("What they differ in", ["configuration key", *(g.label for g in these)], rows))
    figure = curves_figure(these)
    robots = judged_on(these)
    judged = f" Emulated robot: {', '.join(robots)}; no training sees it." if robots else ""
    lead = (
        f"Runs that differ by their seed only are one row and one curve. Band: {INTERVAL}; of fewer seeds each has a "
        "line of its own. A curve ends where the run of its group that came least far ends. Everything on the twin "
        f"is the deterministic policy, but for the exploring episodes.{judged}"
    )
    provenance: dict[str, Any] = {str(run.path): _origin(group, run.seed) for group in these for run in group.runs}
    figures = [("Learning curves", figure)] if figure is not None else []
    return Page(shown[0].heading, lead, shown, figures, {**provenance, "created": now_utc(), "software": software()})


def content(these: Sequence[Group]) -> dict[str, Any]:
    """Return all numbers, JSON-ready."""
    return {
        "interval": INTERVAL,
        "groups": [
            {
                "label": group.label,
                "algorithm": group.runs[0].info.config.algorithm,
                "judged on": _judge(group),
                "runs": [
                    {
                        "path": str(run.path),
                        "seed": run.seed,
                        "state": run.progress.state,
                        "update": run.progress.update,
                        "updates": run.progress.updates,
                        "trained_s": run.progress.trained_s,
                        "latest": {tag: run.last(tag) for tag in sorted(run.curves)},
                    }
                    for run in group.runs
                ],
                "latest": {tag: _numbers(group.last(tag)) for tag in sorted(group.tags)},
                "curves": {
                    tag: {"updates": c.updates.tolist(), **{k: v.tolist() for k, v in vars(c.band).items()}}
                    for tag, _, _ in DRAWN
                    if (c := group_curve(group, tag)) is not None
                },
            }
            for group in these
        ],
        "created": now_utc(),
        "software": software(),
    }


def default_folder(paths: Sequence[str | Path]) -> Path:
    """Where the results of comparing these go: into a folder of runs, else beside the first run."""
    first = Path(paths[0])
    inside = len(paths) == 1 and not (first / "run.json").is_file()
    return (first if inside else first.parent) / "compare"


def _numbers(values: FloatArray) -> dict[str, Any]:
    band = mean_band(values[:, None])
    return {"mean": band.mean[0], "low": band.low[0], "high": band.high[0], "values": values.tolist()}


def _origin(group: Group, seed: int) -> dict[str, Any]:
    info = next(run.info for run in group.runs if run.seed == seed)
    return {"group": group.label, "seed": seed, **{k: info.provenance[k] for k in ("dataset", "twin", "created")}}


def _judge(group: Group) -> str:
    judge = group.runs[0].info.config.log.judge
    return "" if judge is None else f"{Path(judge.robot).stem}, {judge.episodes} × {judge.seconds:g} s"


def _task(these: Sequence[Group]) -> str:
    first = these[0].runs[0].info
    return f"task {first.contract.task.name!r}, robot {Path(first.config.robot).stem!r}"


def _where(group: Group, seed: int, state: str, update: int) -> str:
    said = "running, or killed" if state == "running" else state
    return f"{group.label}, seed {seed}: {said} at update {update:,}"


def _values(values: FloatArray, form: Callable[[float], str]) -> str:
    """Mean and interval of enough values, each of them where there are fewer."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) or len(values) < LEAST_SEEDS:
        return ", ".join(form(value) for value in values)
    band = mean_band(values[:, None])
    # On two lines in the terminal, where columns are narrow; on one in the page.
    return f"{form(band.mean[0])}\n[{form(band.low[0])}, {form(band.high[0])}]"


def _mean(values: FloatArray, form: Callable[[float], str]) -> str:
    known = values[np.isfinite(values)]
    return form(float(known.mean())) if len(known) else "–"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%" if math.isfinite(value) else "–"


def _whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "–"


def _hundredth(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to\n{max(numbers)}"


def _seeds(seeds: Sequence[int]) -> str:
    """Write seeds as ranges: 0-4, 7."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
