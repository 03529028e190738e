# SPDX-License-Identifier: Apache-2.0
"""All that a replay found, as tables, a page and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from h2o_control.contract import Interface, get_task
from h2o_control.errors import ConfigError, DataError
from h2o_training import replay_agreement, replay_compare, replay_limits, replay_twin
from h2o_training.bag_configuration import configuration
from h2o_training.figures import Episode as Curves
from h2o_training.figures import Limits as Lines
from h2o_training.replay_agreement import Agreement
from h2o_training.replay_answers import Answers, Recorded
from h2o_training.replay_compare import Comparison
from h2o_training.replay_limits import Cut
from h2o_training.replay_twin import Consistency
from h2o_training.report import Page, Report, TableData
from wheel_leg_driver.limits import Limits
from wheel_leg_driver.robot import Robot


@dataclass(frozen=True)
class Setting:
    """What the bag says about its robot, or what stands in for it.

    Attributes:
        robots: of each episode; empty where nobody knows.
        limits: of each episode. limits_source: a sentence about whose these are.
        no_robot: why no robot is known, "" where one is.
    """

    robots: tuple[Robot, ...]
    limits: tuple[Limits, ...]
    limits_source: str
    no_robot: str = ""


@dataclass(frozen=True)
class Result:
    """See the modules named after the attributes.

    Attributes:
        twin: None where none could be compared; `no_twin` then says why.
        answers_of: name of the bag whose recorded answers were compared; `agreements` is empty where there are none.
        damaged: a sentence about files of which only a part was read, "" where all were whole.
    """

    recorded: Recorded
    answers: tuple[Answers, ...]
    comparisons: tuple[Comparison, ...]
    cuts: tuple[Cut, ...]
    limits_source: str
    twin: Consistency | None
    no_twin: str
    agreements: tuple[Agreement, ...]
    answers_of: str
    damaged: str = ""


def find_setting(recorded: Recorded, twin: Robot | None) -> Setting:
    """Take robot and limits from /configuration; `twin` replaces the robot."""
    count, problem = len(recorded.episodes), ""
    try:
        found = [configuration(episode) for episode in recorded.episodes]
    except ConfigError as error:
        found, problem = [None] * count, str(error)
    known = [c for c in found if c is not None]
    robots: tuple[Robot, ...] = (twin,) * count if twin else ()
    if len(known) < count:
        why = problem or "the bag has no /configuration"
        source = f"Limits are the driver's defaults: {why}."
        no_robot = "" if twin else f"No twin is compared, since {why}: name the robot with --twin."
        return Setting(robots, (Limits(),) * count, source, no_robot)
    source = "Limits are those of the driver when the bag was recorded."
    return Setting(robots or tuple(c.robot for c in known), tuple(c.limits for c in known), source)


def examine(
    recorded: Recorded,
    answers: Sequence[Answers],
    setting: Setting,
    interface: Interface,
    agreements: Sequence[Agreement] = (),
    answers_of: str = "",
    damaged: str = "",
) -> Result:
    """Compare, cut and predict.

    Raises:
        ContractError: the twin is of a robot with another interface.
    """
    twin, no_twin = None, setting.no_robot
    if setting.robots:
        try:
            # The paper's fall, whatever the policies' tasks: nothing is predicted beyond one.
            twin = replay_twin.consistency(recorded.episodes, setting.robots, interface, get_task("stand"))
        except DataError as error:
            no_twin = f"No twin is compared: {error}."
    return Result(
        recorded=recorded,
        answers=tuple(answers),
        comparisons=tuple(replay_compare.compare_all(recorded, answers, interface.torque_limit_nm)),
        cuts=tuple(replay_limits.find_cuts(recorded, answers, setting.limits, interface)),
        limits_source=setting.limits_source,
        twin=twin,
        no_twin=no_twin,
        agreements=tuple(agreements),
        answers_of=answers_of,
        damaged=damaged,
    )


def tables(result: Result, heading: str, interface: Interface) -> list[TableData]:
    """Return all tables that fit a terminal, the comparison with what was executed first."""
    first, *others = replay_compare.comparison_tables(result.comparisons, heading)
    refused = [
        f" {a.name} gives no torque at {steps} states, first: {a.reason}."
        for a in result.answers
        if (steps := int(np.isnan(a.torque_nm).sum()))
    ]
    found = [dataclasses.replace(first, note=first.note + "".join(refused)), *others]
    found.append(replay_limits.cut_table(result.cuts, result.limits_source))
    if result.twin:
        found.append(replay_twin.consistency_table(result.twin, interface.units))
    if result.agreements:
        found.append(replay_agreement.agreement_table(result.agreements, result.answers_of))
    return found


def page(result: Result, heading: str, interface: Interface, provenance: Mapping[str, Any]) -> Page:
    """Draw differences over the state, where limits cut, the twin's errors, and every episode."""
    task = result.answers[0].policy.contract.task
    drawn = Report(
        title=heading,
        lead="What the policies would have done at each recorded state, beside the torque that was executed. The "
        "states are those that somebody else's torques led to; as on the robot, a policy counts x from where one was "
        f"given command, and while another is in command its x is 0. {result.no_twin} {result.damaged}".strip(),
        tables=[*tables(result, heading, interface), replay_compare.places_table(result.comparisons)],
        episodes=_curves(result),
        limits=Lines(task.fall_pitch_rad, interface.torque_limit_nm, task.v_target_mps or None),
        provenance=provenance,
    ).page()
    figures = [
        (
            "Policy minus executed torque, over the state: median, and the band that holds 80 %",
            replay_compare.difference_figure(result.recorded, result.answers),
        )
    ]
    if (cuts := replay_limits.cut_figure(result.recorded, result.cuts)) is not None:
        figures.append(("When the limits would have cut", cuts))
    if result.twin:
        figures.append(("Error of predictions over their length", replay_twin.consistency_figure(result.twin)))
    return dataclasses.replace(drawn, figures=[*figures, *drawn.figures])


def to_json(result: Result) -> dict[str, Any]:
    """Return all numbers, JSON-ready."""
    recorded = result.recorded
    content: dict[str, Any] = {
        "states": len(recorded),
        "damaged": result.damaged,
        "comparisons": replay_compare.to_json(result.comparisons),
        "refusals": [
            {"policy": a.name, "steps": int(np.isnan(a.torque_nm).sum()), "first": a.reason} for a in result.answers
        ],
        "limits": {"source": result.limits_source, "cuts": replay_limits.to_json(result.cuts)},
        "twin": replay_twin.to_json(result.twin) if result.twin else {"missing": result.no_twin},
    }
    if result.agreements:
        content["agreement"] = replay_agreement.to_json(result.agreements, result.answers_of)
    return content


def _curves(result: Result) -> list[Curves]:
    recorded, curves = result.recorded, []
    for number, episode in enumerate(recorded.episodes):
        rows = recorded.rows(number)
        time_s = (episode.stamp_ns - episode.stamp_ns[0]) * 1e-9
        torques = {"executed": recorded.executed_nm[rows]} | {a.name: a.torque_nm[rows] for a in result.answers}
        name = f"{episode.name} {episode.label}".strip()
        curves.append(Curves(name, time_s, episode.states, torques, recorded.modes[rows]))
    return curves
