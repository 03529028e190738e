# SPDX-License-Identifier: Apache-2.0
"""One HTML page that holds everything, plotly's script included: it opens offline and can be mailed around."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from h2o_control.atomic_file import write_atomically
from h2o_control.errors import DataError
from h2o_training.figures import MODE_STYLE, QUANTITIES, Episode, Limits, episode_figure

#: Episodes drawn on one page; tables and JSON have them all.
MAX_EPISODES = 24

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 1.5rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .2rem; }} h2 {{ font-size: 1.1rem; margin: 1.8rem 0 .4rem; }}
p {{ margin: .3rem 0 .8rem; color: #444; max-width: 60rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th {{ font-weight: 600; border-bottom: 2px solid #bbb; }} th:first-child, td:first-child {{ text-align: left; }}
.chip {{ display: inline-block; padding: .1rem .6rem; margin: 0 .5rem .3rem 0; border: 1px solid #ccc;
  border-radius: 3px; }}
.origin td {{ text-align: left; font: 12.5px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  word-break: break-word; vertical-align: top; }}
</style></head><body>
<h1>{title}</h1><p>{lead}</p>
{body}
<h2>Where this comes from</h2>
<table class="origin">{origin}</table>
</body></html>
"""


@dataclass(frozen=True)
class TableData:
    """A table as text: heading, column names, rows."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Table:
        """Return the same table for the terminal; names in it may look like markup, and are text."""
        table = Table(
            title=escape(self.heading),
            title_justify="left",
            caption=escape(self.note) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for number, column in enumerate(self.columns):
            # Where the terminal is narrow names are folded: a number that is cut short would be another number.
            table.add_column(
                Text(column.replace(" (", "\n(")),
                justify="left" if number == 0 else "right",
                no_wrap=number > 0,
                overflow="fold" if number == 0 else "ellipsis",
            )
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


@dataclass(frozen=True)
class Page:
    """Title and sentence on top, tables, figures of plotly under their headings, origin at the bottom.

    Attributes:
        notes: HTML between tables and figures.
    """

    title: str
    lead: str
    tables: Sequence[TableData]
    figures: Sequence[tuple[str, Any]]
    provenance: Mapping[str, Any]
    notes: Sequence[str] = ()

    def write(self, path: str | Path) -> Path:
        """Write the page in one step; raises DataError where it cannot be written."""
        target = Path(path)
        try:
            write_atomically(target, self.html().encode())
        except OSError as error:
            raise DataError(f"cannot write report {path}: {error.strerror}") from error
        return target

    def html(self) -> str:
        """Return the page."""
        body = [_table(table, heading=table.heading != self.title) for table in self.tables]
        body += self.notes
        for number, (heading, figure) in enumerate(self.figures):
            if heading:
                body.append(f"<h2>{html.escape(heading)}</h2>")
            config = {"displaylogo": False, "responsive": True}
            body.append(figure.to_html(full_html=False, include_plotlyjs=number == 0, config=config))
        origin = "".join(f"<tr><td>{html.escape(k)}</td><td>{_value(v)}</td></tr>" for k, v in self.provenance.items())
        return _PAGE.format(
            title=html.escape(self.title), lead=html.escape(self.lead), body="\n".join(body), origin=origin
        )


@dataclass(frozen=True)
class Report:
    """A page: title and sentence on top, tables, plots (one figure, or one an episode), origin at the bottom."""

    title: str
    lead: str
    tables: Sequence[TableData]
    episodes: Sequence[Episode]
    limits: Limits
    provenance: Mapping[str, Any]
    overlay: bool = False
    quantities: Sequence[str] = QUANTITIES

    def write(self, path: str | Path) -> Path:
        """Write the page in one step; raises DataError where it cannot be written."""
        return self.page().write(path)

    def page(self) -> Page:
        """Draw the episodes."""
        notes = []
        shown = list(self.episodes[:MAX_EPISODES])
        if len(shown) < len(self.episodes):
            notes.append(f"<p>The first {len(shown)} of {len(self.episodes)} episodes are drawn.</p>")
        modes = [m for m in MODE_STYLE if any(e.modes is not None and (e.modes == m).any() for e in shown)]
        chips = [f'<span class="chip" style="background:{MODE_STYLE[m][0]}">{MODE_STYLE[m][1]}</span>' for m in modes]
        if chips:
            notes.append(f"<p>In command: {''.join(chips)}</p>")
        groups = [("", shown)] if self.overlay else [(e.name, [e]) for e in shown]
        figures = [(heading, episode_figure(group, self.limits, self.quantities)) for heading, group in groups]
        return Page(self.title, self.lead, self.tables, figures, self.provenance, notes)


def _table(table: TableData, heading: bool) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row) + "</tr>" for row in table.rows)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    above = f"<h2>{html.escape(table.heading)}</h2>" if heading else ""
    return f'{above}<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}'


def _value(value: Any) -> str:
    """A value for the page; what is long is folded."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) < 200:
        return html.escape(text)
    return f"<details><summary>{html.escape(text[:80])} …</summary>{html.escape(text)}</details>"
