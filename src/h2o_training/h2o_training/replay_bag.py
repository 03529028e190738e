# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot replay`: what a policy would have done at every state of a bag, beside what was done."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from h2o_control.bag_reader import Bag, Episode, read_bag
from h2o_control.contract import FloatArray
from h2o_control.errors import DataError
from h2o_control.origin import DisplacementOrigin
from h2o_control.policy import Policy
from h2o_control.provenance import files_sha256
from h2o_control.topics import BALANCE, TORQUE
from h2o_training.figures import MODE_STYLE, Limits
from h2o_training.figures import Episode as Curves
from h2o_training.judging import origin, policy_for, write_json
from h2o_training.mode_summary import executed_after
from h2o_training.report import Report, TableData


@dataclass(frozen=True)
class Replayed:
    """One episode: at each state [n] the policy's torque and the one executed over the step that begins there (or NaN).

    Attributes:
        policy_nm, executed_nm: float [n], common torque of one wheel.
        modes: str [n].
    """

    episode: Episode
    policy_nm: FloatArray
    executed_nm: FloatArray
    modes: NDArray[np.str_]


@dataclass(frozen=True)
class Comparison:
    """Policy against executed torque while one mode was in command.

    Attributes:
        steps: compared.
        rms_difference_nm: of policy minus executed.
        correlation: Pearson's; NaN where one of the two does not vary.
        saturated_share: steps at which the policy asks for the limit.
        executed_rms_nm, policy_rms_nm: for scale.
        largest_nm, largest_at_s, largest_in, largest_state: greatest difference, where in which episode, and the state.
    """

    mode: str
    steps: int
    rms_difference_nm: float
    correlation: float
    saturated_share: float
    policy_rms_nm: float
    executed_rms_nm: float
    largest_nm: float
    largest_at_s: float
    largest_in: str
    largest_state: tuple[float, ...]


def replay_episode(episode: Episode, policy: Policy, dt_s: float) -> Replayed:
    """Ask the policy at every state of an episode as on the robot: one at a time, x counted from the takeover."""
    origin_m, modes, states = DisplacementOrigin(), episode.modes(), episode.states.copy()
    states[:, 0] = [origin_m.update(x, mode == TORQUE) for x, mode in zip(states[:, 0], modes, strict=True)]
    wanted = np.array([policy.torque_nm(state) for state in states])
    return Replayed(episode, wanted, executed_after(episode, dt_s), modes)


def compare(replayed: Sequence[Replayed], mode: str, limit_nm: float) -> Comparison | None:
    """Compare over all episodes while `mode` was in command; None where it never was."""
    rows = [np.flatnonzero((r.modes == mode) & np.isfinite(r.executed_nm)) for r in replayed]
    steps = sum(map(len, rows))
    if steps == 0:
        return None
    policy = np.concatenate([r.policy_nm[i] for r, i in zip(replayed, rows, strict=True)])
    executed = np.concatenate([r.executed_nm[i] for r, i in zip(replayed, rows, strict=True)])
    difference = policy - executed
    worst = int(np.abs(difference).argmax())
    offsets = np.cumsum([0, *map(len, rows)])
    which = int(np.searchsorted(offsets, worst, side="right")) - 1
    row = int(rows[which][worst - offsets[which]])
    episode = replayed[which].episode
    varies = policy.std() > 1e-9 and executed.std() > 1e-9
    return Comparison(
        mode=mode,
        steps=steps,
        rms_difference_nm=float(np.sqrt(np.mean(difference**2))),
        correlation=float(np.corrcoef(policy, executed)[0, 1]) if varies else math.nan,
        saturated_share=float(np.mean(np.abs(policy) >= 0.999 * limit_nm)),
        policy_rms_nm=float(np.sqrt(np.mean(policy**2))),
        executed_rms_nm=float(np.sqrt(np.mean(executed**2))),
        largest_nm=float(difference[worst]),
        largest_at_s=float(episode.stamp_ns[row] - episode.stamp_ns[0]) * 1e-9,
        largest_in=episode.name,
        largest_state=tuple(float(v) for v in episode.states[row]),
    )


def replay_table(comparisons: Sequence[Comparison], heading: str) -> TableData:
    """One row a mode."""
    columns = ["in command", "steps", "diff. (Nm)", "corr.", "at limit", "policy (Nm)", "executed (Nm)"]
    rows = [
        [
            MODE_STYLE[c.mode][1],
            str(c.steps),
            f"{c.rms_difference_nm:.3f}",
            f"{c.correlation:.3f}" if math.isfinite(c.correlation) else "–",
            f"{100 * c.saturated_share:.1f} %",
            f"{c.policy_rms_nm:.3f}",
            f"{c.executed_rms_nm:.3f}",
        ]
        for c in comparisons
    ]
    places = [
        f"{c.largest_nm:+.2f} Nm at {c.largest_at_s:.2f} s of {c.largest_in} ({MODE_STYLE[c.mode][1]})"
        for c in comparisons
    ]
    note = (
        "Rms of policy minus executed common torque of one wheel, over the step that begins at the state, and of each. "
        f"At limit: steps at which the policy asks for all there is. Largest difference: {'; '.join(places)}."
    )
    return TableData(heading, columns, rows, note)


def command(argv: Sequence[str]) -> int:
    """Entry point of `h2o-robot replay`."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot replay",
        description="Ask a policy at every state of a recorded bag what it would have done, beside the torque "
        "that was executed. Nothing moves.",
        epilog="example: h2o-robot replay bags/walk --policy policy.onnx",
    )
    parser.add_argument("bag", metavar="BAG", help="rosbag2 directory")
    parser.add_argument("--policy", required=True, metavar="POLICY.onnx", help="written by h2o-robot export")
    parser.add_argument("-o", "--output", metavar="DIR", help="default: POLICY-replay-BAG beside the policy")
    args = parser.parse_args(argv)
    policy = policy_for(args.policy, None)
    console = Console()
    with console.status(f"reading {args.bag}"):
        bag = read_bag(args.bag)
    interface = bag.require_interface()
    policy.contract.require_interface(interface, f"bag {bag.path.name}")
    folder = Path(args.output) if args.output else policy.path.with_name(f"{policy.path.stem}-replay-{bag.path.stem}")
    with Progress(console=console, transient=True) as progress:
        replayed = [
            replay_episode(e, policy, interface.dt_s)
            for e in progress.track([e for e in bag.episodes if len(e.stamp_ns)], description="asking the policy")
        ]
    found = [compare(replayed, mode, interface.torque_limit_nm) for mode in (TORQUE, BALANCE)]
    comparisons = [c for c in found if c is not None]
    if not comparisons:
        raise DataError(f"bag {bag.path}: nobody balanced the robot in it, so there is nothing to compare with")
    heading = f"{policy.path.name} replayed on {bag.path.name}"
    table = replay_table(comparisons, heading)
    provenance = origin(policy, bag=_source(bag), interface=interface.to_json())
    content = {"comparisons": [dataclasses.asdict(c) for c in comparisons], "provenance": provenance}
    write_json(folder / "replay.json", content)
    task = policy.contract.task
    page = Report(
        title=heading,
        lead="What the policy would have done at each recorded state, beside the torque that was executed. The states "
        "are those that somebody else's torques led to; as on the robot, the policy counts x from where it was given "
        "command, and while another is in command its x is 0.",
        tables=[table],
        episodes=[_curves(r) for r in replayed],
        limits=Limits(task.fall_pitch_rad, interface.torque_limit_nm, task.v_target_mps or None),
        provenance=provenance,
    ).write(folder / "report.html")
    console.print(table.rich())
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return 0


def _curves(r: Replayed) -> Curves:
    time_s = (r.episode.stamp_ns - r.episode.stamp_ns[0]) * 1e-9
    name = f"{r.episode.name} {r.episode.label}".strip()
    return Curves(name, time_s, r.episode.states, {"executed": r.executed_nm, "policy": r.policy_nm}, r.modes)


def _source(bag: Bag) -> dict[str, str]:
    return {"name": bag.path.name, "sha256": files_sha256(bag.files)}
