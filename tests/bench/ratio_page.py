# SPDX-License-Identifier: Apache-2.0
"""docs/ratio.md and its pictures, from what the benchmark measured and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHIPPED, FINE, PAPER = "shipped", "shipped, noise 0.1", "paper"
SETTINGS = (SHIPPED, FINE, PAPER)
DIMENSIONS = (1, 2, 3, 4)
SIZES = (1_000, 14_000, 50_000)
KINDS = {"shifted": "s' shifted", "wider": "s' spread wider"}
PICTURES = {name: f"ratio-{name}.png" for name in ("dimensions", "pitch", "reliability", "gap")}
#: Of relative inputs, in standard deviations.
NOISES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
LIMIT = 5.0
Content = Mapping[str, Any]


def _named(content: Content, name: str) -> str:
    config = content["run"]["settings"][name]
    whose = "" if name == FINE else f" ({name})"
    return f"{'relative' if config['relative'] else 'raw'}, noise {config['noise_std']:g}{whose}"


def _ratio_panel(axes: Axes, rows: list[dict[str, float]], bound: float) -> None:
    at = [row["at"] for row in rows]
    axes.plot([-LIMIT, -bound, bound, LIMIT], [-bound, -bound, bound, bound], color="0.6", lw=1, label="truth, bounded")
    axes.fill_between(
        at, [r["estimate_low"] for r in rows], [r["estimate_high"] for r in rows], color="C0", alpha=0.25, lw=0
    )
    axes.plot(at, [r["estimate"] for r in rows], color="C0", label="estimate: median, 10–90 %")
    axes.plot(at, [r["left"] for r in rows], "--", color="C1", label="what the noise leaves, median")
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
    axes.grid(alpha=0.3)


def _saved(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    return plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained")


def draw(content: Content, folder: Path) -> None:
    """Draw all pictures into a folder."""
    results, bound = content["results"], content["run"]["settings"][SHIPPED]["logit_bound"]
    figure, axes = _grid(2, 4, (11, 6.4))
    for line, (kind, title) in enumerate(KINDS.items()):
        for column, n in enumerate(DIMENSIONS):
            _ratio_panel(axes[line][column], results[f"{kind}/{n}"]["rows"], bound)
            axes[line][column].set_title(f"{title}, {n}-dimensional", fontsize="medium")
    _label(figure, axes, "true log P/P̂ (nats)", "estimated log P/P̂ (nats)")
    _saved(figure, folder / PICTURES["dimensions"])

    figure, axes = _grid(3, 3, (10, 10.5))
    reliable, panels = _grid(3, 3, (10, 10.5))
    for line, name in enumerate(SETTINGS):
        for column, size in enumerate(SIZES):
            found = results[f"pitch/{name}/{size}"]
            title = f"{_named(content, name)},\n{size:,} real transitions"
            _ratio_panel(axes[line][column], found["rows"], bound)
            _reliability_panel(panels[line][column], found["reliability"])
            for panel in (axes[line][column], panels[line][column]):
                panel.set_title(title, fontsize="small")
    _label(figure, axes, "true log P/P̂ (nats)", "estimated log P/P̂ (nats)")
    _saved(figure, folder / PICTURES["pitch"])
    _label(reliable, panels, "probability of real, as said", "share that is real")
    _saved(reliable, folder / PICTURES["reliability"])

    figure, axes = plt.subplots(2, 4, figsize=(13, 7), sharey="row", squeeze=False, layout="constrained")
    for column, (name, spread) in enumerate(SHOWN_GAPS):
        for line, (robot, along) in enumerate((("growing", "|v| (m/s)"), ("hard", "|torque| over limit"))):
            panel = axes[line][column]
            _gap_panel(panel, results[f"{robot}/{name}"][spread]["rows"], "C0", "u: median, 10–90 %")
            if robot == "hard":
                _gap_panel(panel, results[f"ideal/{name}"][spread]["rows"], "C2", "u of 'ideal' against itself", False)
            title = "damping that the twin lacks" if robot == "growing" else "'ideal' against 'hard'"
            panel.set_title(f"{title}\n{_named(content, name)}\ns' around by {spread}", fontsize="small")
            panel.set(xlabel=along, ylim=(-2, 5))
            panel.grid(alpha=0.3)
        axes[0][0].set_ylabel("u (nats)")
        axes[1][0].set_ylabel("u (nats)")
    shown = {label: line for row in axes for line, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4)
    _saved(figure, folder / PICTURES["gap"])


#: Whose u is drawn, and by what s' is drawn around.
SHOWN_GAPS = ((SHIPPED, "steps"), (FINE, "steps"), (SHIPPED, "states"), (PAPER, "states"))


def _label(figure: Figure, axes: Any, x: str, y: str) -> None:
    figure.supxlabel(x)
    figure.supylabel(y)
    axes[0][0].legend(fontsize="x-small", loc="lower right")


def _reliability_panel(axes: Axes, found: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    for colour, (name, curve) in zip(("C0", "C1", "C2"), found.items(), strict=True):
        rows = curve["rows"]
        axes.plot([r["at"] for r in rows], [r["share"] for r in rows], ".-", color=colour, label=f"D_{name}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(alpha=0.3)


def _gap_panel(axes: Axes, rows: list[dict[str, float]], colour: str, label: str, exact: bool = True) -> None:
    at = [row["at"] for row in rows]
    axes.fill_between(at, [r["gap_low"] for r in rows], [r["gap_high"] for r in rows], color=colour, alpha=0.25, lw=0)
    axes.plot(at, [r["gap"] for r in rows], color=colour, label=label)
    if exact:
        if "exact" in rows[0]:
            axes.plot(at, [r["exact"] for r in rows], "--", color="C1", label="the same, exact ratio with the noise")
        axes.plot(at, [r["divergence"] for r in rows], ":", color="black", label="KL(P̂ ‖ P), closed form")


def page(content: Content) -> str:
    """Return the page."""
    run, results = content["run"], content["results"]
    config = run["settings"][SHIPPED]
    lines = [
        "# The dynamics ratio, against data whose ratio is known",
        "",
        "Written by `make bench-ratio`. H2O, H2O+ and DARC weigh or correct simulated transitions by the ratio "
        "P(s'|s,a) / P̂(s'|s,a) of real to simulated dynamics, which two classifiers estimate "
        "(`h2o_training/ratio.py`). Here they learn from systems whose s' is Gaussian given (s, a) "
        "(`tests/known_ratio.py`), so that the ratio "
        "is known. Real and simulated data lie at different (s, a) throughout, which must not enter the ratio.",
        "",
        "## What to take from it",
        "",
        *_conclusions(results),
        "",
        "## What noise on the inputs leaves",
        "",
        "The classifiers learn on inputs z = (s, a, s') or (s, a, s' − s) with Gaussian noise of covariance N, and "
        "are asked without it. What they can learn is the ratio of the noisy densities. Where (s, a) is Gaussian and "
        "s' "
        "linear in it, z ~ N(μ, C), and these are Gaussian too:",
        "",
        "    log q(s'|s,a) = log N(z; μ, C + N) − log N((s, a); μ_sa, C_sa + N_sa)",
        "",
        'The difference of this between the two systems is "what the noise leaves", bounded to '
        f"±{config['logit_bound']:g} as the estimate is. For two Gaussians δ apart with standard deviation ς the log "
        "ratio has slope δ/ς² over s' without noise; noise of standard deviation n makes it δ/(ς² + n² + …), where "
        "the "
        "dots are what noise on s and a takes from what they tell of s'. An estimator is right if it meets that "
        "curve; "
        "whether that curve is near the truth is a matter of the inputs.",
        "",
        "Slope over the true log ratio of what is left, by noise on relative inputs in standard deviations (nothing "
        "is "
        'fitted here; "raw": as published; bounded logits take a part without noise too):',
        "",
        "| systems | " + " | ".join(next(iter(content["noise"].values()))) + " |",
        "|---" * (1 + len(next(iter(content["noise"].values())))) + "|",
        *(
            f"| {name} | " + " | ".join(f"{slope:.2f}" for slope in row.values()) + " |"
            for name, row in content["noise"].items()
        ),
        "",
        f"All fits: hidden layers {config['layers']}, {config['batch']} + {config['batch']} samples a step, Adam at "
        f"{run['learning_rate']:g}, {run['steps']:,} steps, 50,000 simulated transitions, seed {run['seed']}; judged "
        "on 20,000 + 20,000 transitions held out. The published inputs are given the shipped network, so that inputs "
        "and "
        "noise alone differ. Slope: of the line through estimates over the true log ratio, unbounded; 1 is right. "
        "Rank: "
        'Spearman\'s correlation with the truth. "Possible": the same of what the noise leaves. Error: root mean '
        "square of estimate less what the noise leaves; spread: standard deviation of the latter.",
        "",
        "## In one to four dimensions",
        "",
        f"All of order 1, {SIZES[1]:,} real transitions, inputs as shipped. Shifted: s' differs by 1.2 standard "
        "deviations. Wider: by a spread 1.5 times as large.",
        "",
        f"![Estimated against true log ratio]({PICTURES['dimensions']})",
        "",
        *_table(
            ["systems", "dimensions"],
            [([KINDS[k], str(n)], results[f"{k}/{n}"]["scores"]) for k in KINDS for n in DIMENSIONS],
        ),
        "",
        "## As small as a pitch",
        "",
        "s = (v, θ), v of order 1 and θ of order 0.05. Only θ' differs: its mean by 0.05, one standard deviation of "
        "θ' given (s, a).",
        "",
        f"![Estimated against true log ratio]({PICTURES['pitch']})",
        "",
        *_table(
            ["inputs", "real transitions"],
            [
                ([_named(content, name), f"{n:,}"], results[f"pitch/{name}/{n}"]["scores"])
                for name in SETTINGS
                for n in SIZES
            ],
        ),
        "",
        "Do the classifiers' probabilities come true? Of the transitions that a classifier calls real with "
        "probability p, a share p should be. It is so on inputs with the noise that they learnt on, where the data "
        "are too many to be learnt by heart. Without the noise, as they are asked, classifiers that learnt on much of "
        "it say less than they could know: that is its price.",
        "",
        f"![Share of real transitions against the probability said]({PICTURES['reliability']})",
        "",
        "| inputs | real transitions | " + " | ".join(f"D_{name}" for name in _curves(results)) + " |",
        "|---|---|" + "---|" * len(_curves(results)),
        *(
            f"| {_named(content, name)} | {n:,} | "
            + " | ".join(f"{c['off']:.3f}" for c in results[f"pitch/{name}/{n}"]["reliability"].values())
            + " |"
            for name in SETTINGS
            for n in SIZES
        ),
        "",
        "Mean distance of share from probability.",
        "",
        "## H2O's u against a planted gap",
        "",
        "u(s, a) stands for KL(P̂ ‖ P) and is the mean of log P̂/P over s' drawn around the one simulated s' there is "
        "(H2O paper, 4.2 to 4.4; ten draws). Drawn with the spread of the real states (`h2o.gap_spread: states`, as "
        "published) s' lies where no control step leads; with the spread of their change in a step (`steps`) it does "
        "not. Upper row, as in Figure 3 of the paper: the real system loses 20 % of v a step and the simulator does "
        "not, "
        "so the gap grows with |v|. Lower row: one step of the closed form as the driver sees it, (v, θ, θ̇), between "
        "`ideal` and `hard`, whose motors are weak, so the gap grows with the torque; and of `ideal` against itself "
        "with other "
        "(s, a), where it is 0. Both have the noise of `hard`'s sensors, and noise of 0.02 m/s on v.",
        "",
        f"![u over what the gap grows with]({PICTURES['gap']})",
        "",
        "| systems | inputs | s' around by | rank of u with what it grows with | the same, exact ratio with the "
        "noise | rank of u with KL | mean u |",
        "|---|---|---|---|---|---|---|",
        *(_gap_row(content, robot, name, spread) for robot in GAPS for name in SETTINGS for spread in SPREADS),
        "",
        "`ideal` against `hard`, both on transitions held out:",
        "",
        "| inputs | slope | rank | true log ratio beyond the bound | size of the estimate, `ideal` against itself |",
        "|---|---|---|---|---|",
        *(_robot_row(content, name) for name in SETTINGS),
        "",
        f"Python {content['software']['python']}, torch {content['software']['torch']}, "
        f"{content['software']['machine']}.",
        "",
    ]
    return "\n".join(lines)


GAPS = {"growing": "damping", "hard": "`ideal` and `hard`", "ideal": "`ideal` and itself"}
SPREADS = ("steps", "states")


def _curves(results: Mapping[str, Any]) -> list[str]:
    return list(results[f"pitch/{SHIPPED}/{SIZES[0]}"]["reliability"])


def _table(heads: list[str], rows: list[tuple[list[str], Mapping[str, float]]]) -> list[str]:
    columns = [*heads, "slope", "possible", "rank", "possible", "error (nats)", "spread"]
    keys = ("slope", "left_slope", "rank", "left_rank", "error", "left_spread")
    return [
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join([*names, *(f"{found[key]:.2f}" for key in keys)]) + " |" for names, found in rows),
    ]


def _gap_row(content: Content, robot: str, name: str, spread: str) -> str:
    found = content["results"][f"{robot}/{name}"][spread]

    def of(key: str) -> str:
        # Without a gap there is nothing that ranks could follow.
        return f"{found[key]:.2f}" if key in found and robot != "ideal" else "–"

    ranks = " | ".join(of(key) for key in ("rank_gap", "rank_exact", "rank_gap_divergence"))
    return f"| {GAPS[robot]} | {_named(content, name)} | {spread} | {ranks} | {found['mean']:.2f} |"


def _robot_row(content: Content, name: str) -> str:
    hard, same = (content["results"][f"{robot}/{name}"]["scores"] for robot in ("hard", "ideal"))
    return (
        f"| {_named(content, name)} | {hard['slope']:.2f} | {hard['rank']:.2f} | {hard['beyond']:.0%} "
        f"| {same['size']:.2f} |"
    )


def _conclusions(results: Mapping[str, Any]) -> list[str]:
    def pitch(name: str, size: int = SIZES[1]) -> Mapping[str, float]:
        found: Mapping[str, float] = results[f"pitch/{name}/{size}"]["scores"]
        return found

    def u(robot: str, name: str, spread: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = results[f"{robot}/{name}"][spread]
        return found

    few = SIZES[0]
    errors = [results[f"{kind}/{n}"]["scores"]["error"] for kind in KINDS for n in DIMENSIONS]
    raw, fine, spread = (
        results[f"hard/{PAPER}"]["scores"],
        results[f"hard/{FINE}"]["scores"],
        results["wider/1"]["scores"],
    )
    fast, fast_fine = (u("growing", name, "steps")["rows"][-1] for name in (SHIPPED, FINE))
    return [
        f"- The estimators find what their inputs let them find: with the shipped inputs within {min(errors):.2f} to "
        f"{max(errors):.2f} nats (root mean square) in one to four dimensions, wherever the data lie. What decides "
        "is the noise on the inputs.",
        f"- The shipped noise of one standard deviation leaves {pitch(SHIPPED)['left_slope']:.2f} of the log ratio "
        f"of a shifted pitch and {spread['left_slope']:.2f} of that of a wider spread. It keeps the order (rank "
        f"correlation {pitch(SHIPPED)['rank']:.2f} and {spread['rank']:.2f}). Read shipped weights as telling better "
        "from worse "
        "transitions, on a scale drawn together towards 1; not as densities.",
        f"- `ratio.noise_std=0.1` finds nearly the true ratio (slope {pitch(FINE)['slope']:.2f}, error "
        f"{pitch(FINE)['error']:.2f} nats) given {SIZES[1]:,} real transitions. Given {few:,} it learns them by "
        f"heart: error {pitch(FINE, few)['error']:.2f} nats, where the shipped noise is "
        f"{pitch(SHIPPED, few)['error']:.2f} "
        "from what it can find. Turn the noise down for long recordings, not for short ones.",
        f"- Raw inputs with noise 0.1, as published, are nearly blind on a pitch of order 0.05: "
        f"{pitch(PAPER)['slope']:.2f} of its log ratio is left. On one step of the robot's own twin, where less "
        f"changes, {raw['slope']:.2f} is, with rank correlation {raw['rank']:.2f} ({FINE}: {fine['rank']:.2f}).",
        f"- No estimate exceeds the bound of the logits: {raw['beyond']:.0%} of the true log ratios between `ideal` "
        "and `hard` lie beyond it. Slopes there are small for that reason too; ranks are not.",
        f"- H2O's u follows the gap with `h2o.gap_spread: steps`: between `ideal` and `hard` rank correlation "
        f"{u('hard', SHIPPED, 'steps')['rank_gap_divergence']:.2f} with the true divergence, and "
        f"{u('ideal', SHIPPED, 'steps')['mean']:.2f} on average where there is none. With `states`, as published, "
        f"{u('hard', SHIPPED, 'states')['rank_gap_divergence']:.2f}, and {u('ideal', SHIPPED, 'states')['mean']:.2f} "
        "where there is none: at 200 Hz the classifiers are asked about steps that no robot makes.",
        "- Noise takes most from gaps that s and a explain. At the highest speeds the planted damping is a "
        f"divergence of {fast['divergence']:.1f} nats; u is {fast['gap']:.2f} with the shipped noise and "
        f"{fast_fine['gap']:.2f} "
        "with 0.1. u of single samples has chance in it, even with the exact ratio: the mean over many follows.",
    ]
