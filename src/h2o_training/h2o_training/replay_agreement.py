# SPDX-License-Identifier: Apache-2.0
"""Do recorded answers on /wheel_torque agree with those given offline: bit for bit where they answer the same stamp.

Answers recorded while the bag was played through the real policy node (launch/replay.launch.yaml) do. So do those that
were recorded on the robot by the same policy, but for one thing that no bag holds: at which observation its node had
heard that it was in command. The recorder hears of it at another moment, and displacement is counted from there. Each
time in command may therefore be counted from the observation before or after; all its answers must then be the same.
A node may also have given the robot back, because an observation came too late.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2o_control.bag_reader import Episode
from h2o_control.contract import FloatArray
from h2o_control.topics import ARMED, TORQUE
from h2o_training.replay_answers import Answers, Place, Recorded, ask
from h2o_training.report import TableData

#: An answer to an observation this close to a recording may be in it, and the observation not: topics start and end
#: one by one, and later than this no answer is taken.
EDGE_NS = 30_000_000
#: A recording that lacks more than this share of the armed states of an episode was not there for all of it. A few at
#: its beginning may lack: it begins when the recorder has heard of arming.
MOST_LACKING = 0.1


@dataclass(frozen=True)
class Agreement:
    """Recorded answers against the offline ones of one policy.

    Attributes:
        policy: name.
        states: in the bag. recorded: of them, those that the recording of the answers holds, too.
        lacking: armed states of the bag that it does not hold. armed: how many there are.
        partial: it lacks more than MOST_LACKING of those of some episode.
        ended: of those recorded, the last one of an episode that had ended when its answer came.
        answered: of those recorded, with a message on /wheel_torque of their stamp.
        equal: of these, bit for bit, or given back by both.
        given_back: only the node gave the robot back.
        takeover: bit for bit, too, where all of one time in command is counted from the observation before or after
            the one at which the recorder heard of it.
        differing: any other. rms_nm, largest_nm: by how much; largest_at: where most, None where nowhere.
        strays: messages that answer no state of the bag, less those to an observation just before or after a recording.
        first_unanswered: where first an observation was left without an answer.
    """

    policy: str
    states: int
    recorded: int
    lacking: int
    armed: int
    partial: bool
    ended: int
    answered: int
    equal: int
    given_back: int
    takeover: int
    differing: int
    rms_nm: float
    largest_nm: float
    largest_at: Place | None
    strays: int
    first_unanswered: Place | None

    @property
    def agreed(self) -> bool:
        """Every recorded observation was answered, every answer equals the offline one, and no large part lacks."""
        complete = 0 < self.answered == self.recorded - self.ended and not self.partial
        return complete and self.answered == self.equal + self.takeover and self.differing == self.strays == 0

    @property
    def same_policy(self) -> bool:
        """Most answers are the same: this very policy gave them."""
        return self.equal + self.takeover > self.answered / 2

    def reasons(self) -> list[str]:
        """Say why they do not agree, or where they cannot be compared, in words."""
        said = []
        if self.recorded < self.states:
            missing = self.states - self.recorded
            said.append(f"{missing} of {self.states} states are not in the recording of the answers: {self._lacks()}")
        if self.ended:
            which = f"{self.ended} episode{'' if self.ended == 1 else 's'}"
            said.append(f"the recording of {which} ended before the last answer came")
        unanswered = self.recorded - self.ended - self.answered
        if self.first_unanswered is not None:
            at = self.first_unanswered
            said.append(
                f"{unanswered} observations were not answered, first {at.time_s:.3f} s into "
                f"{at.episode}: lost messages, or a node that started late"
            )
        if self.given_back:
            said.append(
                f"{self.given_back} times the node gave the robot back: its observation came too late (see "
                "/diagnostics); in a replay, rate:=0.5 gives it more time"
            )
        if self.takeover:
            said.append(
                f"{self.takeover} of the equal ones count displacement from the observation before or after the one "
                "taken here: the node heard of a change of mode a moment earlier or later than the recorder"
            )
        if self.differing:
            said.append(
                f"{self.differing} answers differ, by at most {self.largest_nm:.3g} Nm: "
                "another policy, another version of ONNX Runtime, or another machine gave them"
            )
        if self.strays:
            said.append(
                f"answers to no state of this bag: {self.strays}; they are of another one, or a state was not recorded"
            )
        return said

    def _lacks(self) -> str:
        """Say which states the recording of the answers does not hold, and why."""
        outside, said = self.states - self.recorded - self.lacking, []
        if outside > 0:
            when = "it begins when the robot is armed and ends half a second after it is not"
            said.append(f"{outside} while the robot was not armed ({when})")
        if self.lacking:
            why = "it was stopped early, or began late" if self.partial else "it begins a moment after arming"
            said.append(f"{self.lacking} of the {self.armed} while it was armed ({why})")
        return " and ".join(said)


def agreement(recorded: Recorded, answers: Answers, episodes: Sequence[Episode]) -> Agreement:
    """Compare the answers on /wheel_torque in these episodes with those given offline, by stamp."""
    stamps, order = np.unique(recorded.stamp_ns, return_index=True)
    seen = np.isin(stamps, np.concatenate([e.stamp_ns for e in episodes]))
    heard, heard_nm = _heard(episodes)
    lacks = np.isin(recorded.modes, ARMED) & ~np.isin(recorded.stamp_ns, stamps[seen])
    armed = np.bincount(recorded.episode, np.isin(recorded.modes, ARMED))
    ended = np.isin(stamps, _ends(episodes)) & seen & ~np.isin(stamps, heard)
    place = np.searchsorted(stamps, heard)
    known = (place < len(stamps)) & (stamps[np.minimum(place, len(stamps) - 1)] == heard)
    rows, theirs = order[place[known]], heard_nm[known]
    # Of the answers to observations just outside the recording none is missed, but none may differ.
    within = seen[place[known]]
    ours = answers.torque_nm[rows]
    same = _same(ours, theirs)
    back = np.isnan(theirs) & ~np.isnan(ours)
    differing = ~same & ~back
    takeover = (
        _by_takeover(recorded, answers, rows, theirs) & differing if differing.any() else np.zeros_like(differing)
    )
    differing &= ~takeover
    by = np.where(differing, np.nan_to_num(np.abs(ours - theirs), nan=0.0), 0.0)
    worst = int(by.argmax()) if differing.any() else -1
    unanswered = order[seen & ~np.isin(stamps, heard) & ~ended]
    return Agreement(
        policy=answers.name,
        states=len(stamps),
        recorded=int(seen.sum()),
        lacking=int(lacks.sum()),
        armed=int(armed.sum()),
        partial=bool((np.bincount(recorded.episode, lacks) > MOST_LACKING * armed).any()),
        ended=int(ended.sum()),
        answered=int(np.isin(stamps[seen], heard).sum()),
        equal=int((same & within).sum()),
        given_back=int(back.sum()),
        takeover=int((takeover & within).sum()),
        differing=int(differing.sum()),
        rms_nm=float(np.sqrt(np.mean(by[differing] ** 2))) if differing.any() else 0.0,
        largest_nm=float(by[worst]) if differing.any() else 0.0,
        largest_at=recorded.place(int(rows[worst])) if differing.any() else None,
        strays=int(_strays(heard[~known], episodes)),
        first_unanswered=recorded.place(int(unanswered.min())) if len(unanswered) else None,
    )


def agreement_table(agreements: Sequence[Agreement], where: str) -> TableData:
    """One row a policy."""
    columns = ["policy", "states", "recorded", "answered", "equal", "given back", "differ", "by at most (Nm)"]
    rows = [
        [
            a.policy,
            *map(str, (a.states, a.recorded, a.answered, a.equal + a.takeover, a.given_back, a.differing)),
            f"{a.largest_nm:.3g}",
        ]
        for a in agreements
    ]
    reasons = [f"{a.policy}: {'; '.join(a.reasons())}." for a in agreements if a.reasons()]
    note = (
        "Answers on /wheel_torque against those given offline, by the stamp of the observation they answer; equal: bit "
        f"for bit. {' '.join(reasons)}"
    )
    return TableData(f"Answers recorded in {where}", columns, rows, note.strip())


def to_json(agreements: Sequence[Agreement], where: str) -> dict[str, Any]:
    """Return all numbers, JSON-ready."""
    return {
        "answers of": where,
        "policies": [{**dataclasses.asdict(a), "agreed": a.agreed, "reasons": a.reasons()} for a in agreements],
    }


def has_answers(episodes: Sequence[Episode]) -> bool:
    """Whether anything was recorded on /wheel_torque."""
    return any(len(e.requested.stamp_ns) for e in episodes)


def _heard(episodes: Sequence[Episode]) -> tuple[Any, FloatArray]:
    """Return stamps, increasing, and common torque of all answers; of several with one stamp the first."""
    stamps = np.concatenate([e.requested.stamp_ns for e in episodes])
    torque = np.concatenate([e.requested.common_nm for e in episodes])
    unique, first = np.unique(stamps, return_index=True)
    return unique, torque[first]


def _ends(episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Return stamps of the last observations of episodes that hold no answer to a later one."""
    known = [e for e in episodes if len(e.stamp_ns)]
    ends = [e.stamp_ns[-1] for e in known if not (e.requested.stamp_ns > e.stamp_ns[-1]).any()]
    return np.array(ends, dtype=np.int64)


def _by_takeover(recorded: Recorded, answers: Answers, rows: NDArray[np.int64], theirs: FloatArray) -> Any:
    """Which answers [m] are equal where the node heard of changes of mode an observation earlier or later.

    One choice for each time in command: there is no other for one answer than for the next. Only at observations where
    the choices disagree about who is in command does any of them do, since a hand-back has a moment of its own.
    """
    known_from = recorded.engaged
    sooner, later = np.append(known_from[1:], known_from[-1:]), np.append(known_from[:1], known_from[:-1])
    choices = (known_from, sooner, later, recorded.modes == TORQUE)
    somebody, everybody = np.logical_or.reduce(choices), np.logical_and.reduce(choices)
    stretch = np.cumsum(somebody & ~np.append(False, somebody[:-1]))[rows]
    certain, unsure = everybody[rows], (somebody & ~everybody)[rows]
    found = np.zeros(len(rows), dtype=np.bool_)
    for choice in choices:
        moved = dataclasses.replace(recorded, engaged=choice)
        same = _same(ask(answers.name, answers.policy, moved).torque_nm[rows], theirs)
        # Answers that were given back say nothing about where displacement is counted from.
        wrong = np.bincount(stretch, certain & ~same & ~np.isnan(theirs))
        found |= same & (unsure | (certain & (wrong[stretch] == 0)))
    return found


def _strays(stamps: NDArray[np.int64], episodes: Sequence[Episode]) -> int:
    """Count stamps of answers to observations that should have been recorded: not just before or after an episode."""
    edges = np.array([(e.stamp_ns[0], e.stamp_ns[-1]) for e in episodes if len(e.stamp_ns)]).reshape(-1, 2)
    before, after = edges[:, 0] - stamps[:, None], stamps[:, None] - edges[:, 1]
    at_edge = ((before > 0) & (before <= EDGE_NS)) | ((after > 0) & (after <= EDGE_NS))
    return int((~at_edge.any(axis=1)).sum())


def _same(a: FloatArray, b: FloatArray) -> Any:
    return (a == b) | (np.isnan(a) & np.isnan(b))
