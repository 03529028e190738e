# SPDX-License-Identifier: Apache-2.0
"""What `dataset check` found, as tables, a page with pictures, and JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from h2o_control.bag_reader import damage_note
from h2o_control.topics import ARMED
from h2o_training import dataset_check_figures as figures
from h2o_training.dataset_check import Checked
from h2o_training.dataset_check_rules import LEVEL_NAMES, VERDICTS, Finding, Level, format_value
from h2o_training.report import Page, TableData

#: Wishes that are told.
WISHES = 6
_COLOURS = {
    Level.UNKNOWN: "#ededed",
    Level.GOOD: "#d9f0dd",
    Level.NOTE: "#d9f0dd",
    Level.CARE: "#fbeecb",
    Level.REFUSE: "#f7dcdc",
}


def check_table(checked: Checked) -> TableData:
    """One row a rule that could be applied; the others are named below."""
    rows = [
        [f.rule.name, format_value(f.value, f.rule.unit), f.rule.threshold, LEVEL_NAMES[f.level]]
        for f in checked.findings
        if f.level != Level.UNKNOWN
    ]
    unknown = ", ".join(f.rule.name for f in checked.findings if f.level == Level.UNKNOWN)
    note = f"Cannot be told from these data: {unknown}." if unknown else ""
    return TableData("Checks", ["check", "found", "thresholds", ""], rows, note)


def amount_table(checked: Checked) -> TableData:
    """One row an input: how much driving, and who was in command."""
    modes = list(dict.fromkeys(mode for part in checked.parts for mode in part.mode_s))
    rows = [
        [
            part.name,
            f"{part.dataset.duration_s:.1f}",
            str(part.dataset.episode_count),
            str(int(part.dataset.terminals.sum())),
            *(f"{part.mode_s[mode]:.1f}" if mode in part.mode_s else "–" for mode in modes),
        ]
        for part in checked.parts
    ]
    columns = ["input", "counts (s)", "stretches", "falls", *(f"{mode or 'unknown'} (s)" for mode in modes)]
    notes = [f"Counts: transitions while armed ({', '.join(ARMED)})."] if modes else []
    if cut := [episode.name for part in checked.parts for episode in part.episodes if episode.recovered]:
        notes.append(damage_note(cut))
    return TableData("How much there is", columns, rows, " ".join(notes))


def verdict_text(checked: Checked) -> str:
    """The verdict in a sentence."""
    names = ", ".join(f.rule.name for f in checked.problems)
    return f"Verdict: {VERDICTS[checked.level]}" + (f" (because of {names})." if names else ".")


def page(checked: Checked, title: str, provenance: Mapping[str, Any]) -> Page:
    """Tables, reasons, what to drive next, and pictures."""
    drawn = [
        ("Where the data are: time in each cell, and the reference region", figures.coverage_figure(checked)),
        ("How often each value occurs", figures.distributions_figure(checked)),
        ("When the torque shows", figures.lags_figure(checked)),
        ("Do positions follow from their rates?", figures.consistency_figure(checked)),
    ]
    if any(len(part.step_s) for part in checked.parts):
        drawn.append(("Time between neighbouring states", figures.steps_figure(checked)))
    drawn += figures.stretch_figures(checked)
    tables = [amount_table(checked), check_table(checked)]
    return Page(title, verdict_text(checked), tables, drawn, provenance, _notes(checked))


def _notes(checked: Checked) -> list[str]:
    chip = f'<span class="chip" style="background:{_COLOURS[checked.level]}">{VERDICTS[checked.level]}</span>'
    notes = [f"<h2>Verdict</h2><p>{chip}</p>"]
    told = [*checked.problems, *(f for f in checked.findings if f.level == Level.NOTE)]
    notes += [_reason(f) for f in told]
    if not told:
        notes.append("<p>Nothing was found against these data.</p>")
    notes.append("<h2>What to drive next</h2>")
    items = "".join(f"<li>{html.escape(str(w))}</li>" for w in checked.wishes[:WISHES])
    notes.append(f"<ul>{items}</ul>" if items else "<p>Nothing is thin.</p>")
    return notes


def _reason(f: Finding) -> str:
    chip = f'<span class="chip" style="background:{_COLOURS[f.level]}">{LEVEL_NAMES[f.level]}</span>'
    return f"<p>{chip}{html.escape(f.reason)}</p>"


def content(checked: Checked) -> dict[str, Any]:
    """All numbers, JSON-ready."""
    return {
        "verdict": checked.level.name.lower(),
        "findings": [
            {
                "check": f.rule.name,
                "level": f.level.name.lower(),
                "value": _number(f.value),
                "unit": f.rule.unit,
                "care": f.rule.care,
                "refuse": f.rule.refuse,
                "text": f.text,
                "why": f.rule.why,
                "advice": f.rule.advice,
            }
            for f in checked.findings
        ],
        "inputs": [
            {
                "name": part.name,
                "kind": part.kind,
                "seconds": part.dataset.duration_s,
                "falls": int(part.dataset.terminals.sum()),
                "episodes": part.dataset.episode_count,
                "seconds_by_mode": part.mode_s,
            }
            for part in checked.parts
        ],
        "coverage": {" ".join(plane.names): plane.share for plane in checked.planes},
        "lags_ms": {lag.response: [1e3 * lag.lag_s, 1e3 * lag.spread_s] for lag in checked.lags if lag.told},
        "gains": {c.name: _number(c.gain) for c in checked.consistencies},
        "next": [{"text": w.text, "seconds": w.seconds, "wanted_s": w.wanted_s} for w in checked.wishes],
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
