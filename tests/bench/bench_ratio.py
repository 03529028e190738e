# SPDX-License-Identifier: Apache-2.0
"""`make bench-ratio`: the dynamics ratio and H2O's gap against data for which both are known in closed form.

Fits the classifiers, with inputs as shipped and as published, to the systems of tests/known_ratio.py. What is measured
of each fit is kept, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr
from torch import Tensor

from h2o_control.atomic_file import write_atomically
from h2o_control.provenance import software
from h2o_training.algorithm_config import RatioConfig
from h2o_training.noise import Noise
from h2o_training.ratio import RatioEstimator
from h2o_training.replay import Batch
from h2o_training.train_config import load_train_config

sys.path.insert(0, str(Path(__file__).parents[1]))
import ratio_page

import known_ratio
from known_ratio import Pair

SIZES = (1_000, 14_000, 50_000)
DIMENSIONS = (1, 2, 3, 4)
SIMULATED, HELD_OUT, DRAWS = 50_000, 20_000, 10
#: What noise leaves of these is told for every size of it.
NOISY: dict[str, Callable[[], Pair]] = {
    "s' shifted, 1-dimensional": partial(known_ratio.shifted, 1),
    "s' spread wider, 1-dimensional": partial(known_ratio.wider, 1),
    "pitch shifted": known_ratio.pitch,
    "damping": known_ratio.growing,
}
Rows = list[dict[str, float]]


def settings() -> dict[str, RatioConfig]:
    """Inputs and noise as shipped, with less noise, and as published; one network and batch for all."""
    shipped, paper = (load_train_config(name, []).ratio for name in ("h2o_plus", "paper/h2o_plus"))
    assert shipped is not None and paper is not None
    return {
        ratio_page.SHIPPED: shipped,
        ratio_page.FINE: dataclasses.replace(shipped, noise_std=0.1),
        ratio_page.PAPER: dataclasses.replace(paper, layers=shipped.layers, batch=shipped.batch),
    }


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for each purpose."""
    return torch.Generator().manual_seed(seed)


def binned(by: Tensor, bins: int, columns: dict[str, Tensor]) -> Rows:
    """Cut samples into bins of equal count along `by`; of each column the 10th, 50th and 90th percentile."""
    rows = []
    for chosen in torch.tensor_split(by.argsort(), bins):
        row = {"at": float(by[chosen].mean()), "count": float(len(chosen))}
        for name, values in columns.items():
            low, middle, high = torch.quantile(values[chosen].double(), torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
            row |= {f"{name}_low": low, name: middle, f"{name}_high": high}
        rows.append(row)
    return rows


def reliability(probability: Tensor, real: Tensor) -> dict[str, Any]:
    """Share of real transitions among those said to be real with so much probability, and the mean difference."""
    rows, off = [], 0.0
    for low in (torch.arange(20) / 20).tolist():
        inside = (probability >= low) & (probability < low + 0.05)
        count = int(inside.sum())
        if count:
            said, share = float(probability[inside].mean()), float(real[inside].mean())
            off += count * abs(said - share) / len(probability)
            if count >= 50:
                rows.append({"at": said, "share": share, "count": count})
    return {"rows": rows, "off": off}


def scores(estimate: Tensor, left: Tensor | None, truth: Tensor, bound: float) -> dict[str, float]:
    """How an estimate lies to the true log ratio, and to what the noise on the inputs leaves of it."""
    centred = truth - truth.mean()

    def of(values: Tensor) -> tuple[float, float]:
        return float((values * centred).sum() / centred.square().sum()), float(spearmanr(values, truth).statistic)

    found = dict(zip(("slope", "rank"), of(estimate), strict=True))
    found["beyond"] = float((truth.abs() > bound).double().mean())
    if left is not None:
        found |= dict(zip(("left_slope", "left_rank"), of(left), strict=True))
        found["error"] = float((estimate - left).square().mean().sqrt())
        found["left_spread"] = float(left.std())
    return found


def calibration(pair: Pair, config: RatioConfig, ratio: RatioEstimator, _: Batch) -> dict[str, Any]:
    """Estimated against true log ratio on held-out transitions, real and simulated alike; both classifiers' word."""
    batch, real = pair.held_out(HELD_OUT, seeded(1))
    truth, estimate = pair.log_ratio(batch), ratio.log_ratio(batch).double()
    left = known_ratio.blurred_log_ratio(pair, batch, config, ratio.scale).clamp(
        -config.logit_bound, config.logit_bound
    )
    noisy, clean = (ratio.classify(batch, noise).detach().sigmoid() for noise in (Noise(seeded(2)), None))
    return {
        "scores": scores(estimate, left, truth, config.logit_bound),
        "rows": binned(truth, 24, {"estimate": estimate, "left": left}),
        "reliability": {
            "sas, noise as learnt on": reliability(noisy[0], real),
            "sas, without noise": reliability(clean[0], real),
            "sa, noise as learnt on": reliability(noisy[1], real),
        },
    }


def gaps(
    by: Callable[[Batch], Tensor], pair: Pair, config: RatioConfig, ratio: RatioEstimator, data: Batch
) -> dict[str, Any]:
    """u of simulated transitions over what it grows with, s' drawn around by the spread of steps and of states."""
    batch = pair.simulated.draw(HELD_OUT, seeded(1))
    noise = torch.randn(DRAWS, *batch.next_observation.shape, generator=seeded(2))
    spreads = {"steps": data.next_observation - data.observation, "states": data.next_observation}
    along, divergence = by(batch), pair.divergence(batch)
    found: dict[str, Any] = {}
    for name, values in spreads.items():
        std = values.std(0)
        columns = {"gap": ratio.gap(batch, noise, std).double(), "divergence": divergence}
        if isinstance(pair.real, known_ratio.LinearGaussian):
            left = partial(left_within_bound, pair, config, ratio.scale)
            columns["exact"] = known_ratio.gap_of(left, batch, noise, std)
        ranks = {}
        if divergence.max() > 1e-6:  # else there is nothing that ranks could follow
            ranks = {f"rank_{key}": float(spearmanr(column, along).statistic) for key, column in columns.items()}
            ranks["rank_gap_divergence"] = float(spearmanr(columns["gap"], divergence).statistic)
        found[name] = {**ranks, "mean": float(columns["gap"].mean()), "rows": binned(along, 16, columns)}
    both, _ = pair.held_out(HELD_OUT, seeded(1))
    truth, estimate = pair.log_ratio(both), ratio.log_ratio(both).double()
    # Against itself the truth is 0 throughout and has no slope.
    found["scores"] = scores(estimate, None, truth, config.logit_bound) if truth.abs().max() > 1e-6 else {}
    found["scores"]["size"] = float(estimate.square().mean().sqrt())
    return found


def left_within_bound(pair: Pair, config: RatioConfig, scale: Tensor, batch: Batch) -> Tensor:
    """What noise and bound leave of the log ratio."""
    return known_ratio.blurred_log_ratio(pair, batch, config, scale).clamp(-config.logit_bound, config.logit_bound)


def left_by_noise(pair: Pair) -> dict[str, float]:
    """Slope over the true log ratio of what noise of each size leaves of it; nothing is fitted."""
    batch, _ = pair.held_out(HELD_OUT, seeded(1))
    truth = pair.log_ratio(batch)
    configs = settings()
    relative = [dataclasses.replace(configs[ratio_page.SHIPPED], noise_std=noise) for noise in ratio_page.NOISES]
    found = {}
    for config in (*relative, configs[ratio_page.PAPER]):
        assert isinstance(pair.real, known_ratio.LinearGaussian)
        spread = pair.real.joint(relative=True)[1].diagonal().sqrt()
        scale = spread if config.relative else torch.ones_like(spread)
        left = left_within_bound(pair, config, scale, batch)
        found[f"{config.noise_std:g}" if config.relative else "raw"] = scores(left, None, truth, 4.0)["slope"]
    return found


def speed(batch: Batch) -> Tensor:
    """|v| in m/s."""
    return batch.observation[:, 0].abs()


def torque_share(batch: Batch) -> Tensor:
    """|torque| over limit."""
    return batch.action[:, 0].abs()


@dataclasses.dataclass(frozen=True)
class Job:
    """One fit and what is measured of it."""

    key: str
    pair: Callable[[], Pair]
    config: RatioConfig
    real: int
    measure: Callable[[Pair, RatioConfig, RatioEstimator, Batch], dict[str, Any]]


def jobs() -> Iterator[Job]:
    """All there is to fit."""
    configs = settings()
    shipped = configs[ratio_page.SHIPPED]
    for kind in (known_ratio.shifted, known_ratio.wider):
        for n in DIMENSIONS:
            yield Job(f"{kind.__name__}/{n}", partial(kind, n), shipped, SIZES[1], calibration)
    for name, config in configs.items():
        for size in SIZES:
            yield Job(f"pitch/{name}/{size}", known_ratio.pitch, config, size, calibration)
    for name, config in configs.items():
        yield Job(f"growing/{name}", known_ratio.growing, config, SIZES[1], partial(gaps, speed))
        for robot in ("hard", "ideal"):
            pair = partial(known_ratio.ideal_and, robot)
            yield Job(f"{robot}/{name}", pair, config, SIZES[1], partial(gaps, torque_share))


def main() -> None:
    """Fit what is missing, draw, and write the page."""
    parser = argparse.ArgumentParser(prog="make bench-ratio", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="of each fit, default: 10000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--page", type=Path, help="Markdown page to write, e.g. docs/ratio.md; its pictures go beside it"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bench-ratio.json"))
    args = parser.parse_args()
    learning_rate = load_train_config("h2o_plus", []).learning_rate
    run: dict[str, Any] = {
        "settings": {name: dataclasses.asdict(config) for name, config in settings().items()},
        "steps": args.steps,
        "seed": args.seed,
        "learning_rate": learning_rate,
    }
    run = json.loads(json.dumps(run))
    old = json.loads(args.output.read_text()) if args.output.is_file() else {}
    done = old.get("results", {}) if old.get("run") == run else {}
    for job in track([j for j in jobs() if j.key not in done], description="fits"):
        pair = job.pair()
        ratio, data = known_ratio.fit(
            pair, job.config, job.real, SIMULATED, steps=args.steps, learning_rate=learning_rate, seed=args.seed
        )
        done[job.key] = job.measure(pair, job.config, ratio, data)
        content = {"run": run, "software": software(), "results": done}
        write_atomically(args.output, (json.dumps(content, indent=1) + "\n").encode())
    content = {**json.loads(args.output.read_text()), "noise": {n: left_by_noise(p()) for n, p in NOISY.items()}}
    if args.page:
        ratio_page.draw(content, args.page.parent)
        write_atomically(args.page, ratio_page.page(content).encode())
    Console().print(ratio_page.page(content), soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
