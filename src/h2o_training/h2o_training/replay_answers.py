# SPDX-License-Identifier: Apache-2.0
"""What policies answer to every state of a bag, asked one at a time as their node does it on the robot.

The same bag and policy give the same torques, bit for bit: the session has one thread, nothing is drawn, and the file
they are written to holds no time of its own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h2o_control.answering import Answering
from h2o_control.bag_reader import Bag, Episode
from h2o_control.contract import FloatArray
from h2o_control.errors import DataError, UserError
from h2o_control.policy import Policy
from h2o_control.topics import TORQUE
from h2o_training.judging import policy_for
from h2o_training.mode_summary import executed_after

Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Place:
    """One recorded state: the episode it is in, seconds from that one's start, the mode in command, the state [4]."""

    episode: str
    time_s: float
    mode: str
    state: tuple[float, ...]


@dataclass(frozen=True)
class Recorded:
    """All states of a bag, n in all, one episode after the other.

    Attributes:
        episodes: those that hold a state.
        episode: int [n], index into them.
        stamp_ns: int64 [n].
        states: float64 [n, 4] in the order of contract.STATE.
        modes: str [n], in command, as the driver's commands say.
        engaged: bool [n], whether a policy's node knew that it was in command.
        executed_nm: float64 [n], common torque over the step that begins at the state; NaN where none was reported.
    """

    episodes: tuple[Episode, ...]
    episode: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    states: FloatArray
    modes: NDArray[np.str_]
    engaged: NDArray[np.bool_]
    executed_nm: FloatArray

    @classmethod
    def of(cls, bag: Bag) -> Recorded:
        """Collect the states of a bag; raises DataError where it holds none."""
        episodes = tuple(e for e in bag.episodes if len(e.stamp_ns))
        if not episodes:
            raise DataError(f"bag {bag.path} holds no states, so there is nothing to ask a policy about")
        dt_s = bag.require_interface().dt_s
        return cls(
            episodes=episodes,
            episode=np.concatenate([np.full(len(e.stamp_ns), k, dtype=np.int64) for k, e in enumerate(episodes)]),
            stamp_ns=np.concatenate([e.stamp_ns for e in episodes]),
            states=np.concatenate([e.states for e in episodes]),
            modes=np.concatenate([e.modes() for e in episodes]),
            engaged=np.concatenate([engaged(e) for e in episodes]),
            executed_nm=np.concatenate([executed_after(e, dt_s) for e in episodes]),
        )

    def __len__(self) -> int:
        return len(self.stamp_ns)

    def rows(self, number: int) -> slice:
        """Return the rows of one episode."""
        first, last = np.searchsorted(self.episode, [number, number + 1])
        return slice(int(first), int(last))

    def place(self, row: int) -> Place:
        """Say where a row is."""
        episode = self.episodes[int(self.episode[row])]
        time_s = float(self.stamp_ns[row] - episode.stamp_ns[0]) * 1e-9
        return Place(episode.name, time_s, str(self.modes[row]), tuple(float(v) for v in self.states[row]))


@dataclass(frozen=True)
class Answers:
    """One policy's answers to the states of a bag.

    Attributes:
        name: of the policy in tables and files.
        torque_nm: float64 [n], of one wheel; NaN where its node would have given the robot back.
        reason: why it would, the first time; "" where it never would.
    """

    name: str
    policy: Policy
    torque_nm: FloatArray
    reason: str


def engaged(episode: Episode) -> NDArray[np.bool_]:
    """Whether a policy knew at each state [n] that it was in command: by /mode, as far as it had come by then.

    At a hand-back the driver says so after the observation at which it took the robot, so that by its commands
    (Episode.modes) the policy has lost command one observation earlier. Without /mode these have to do.
    """
    changes = sorted(episode.mode_changes, key=lambda change: change.stamp_ns)
    if not changes:
        return np.asarray(episode.modes() == TORQUE)
    seen = episode.received_ns if len(episode.received_ns) == len(episode.stamp_ns) else episode.stamp_ns
    last = np.searchsorted([change.stamp_ns for change in changes], seen, side="right") - 1
    in_command = np.array([change.mode == TORQUE for change in changes])
    return np.asarray((last >= 0) & in_command[last])


def load_policies(paths: Sequence[str]) -> dict[str, Policy]:
    """Load policies by the name each has in tables: the file's, or the path where that is shared.

    Raises:
        UserError: a file that is given twice or cannot be read.
    """
    files = [Path(path).resolve() for path in paths]
    twice = next((p for p, file in zip(paths, files, strict=True) if files.count(file) > 1), None)
    if twice is not None:
        raise UserError(f"policy {twice} is given twice; its answers would be the same")
    shared = len({file.name for file in files}) < len(files)
    return {path if shared else Path(path).name: policy_for(path, None) for path in paths}


def ask(name: str, policy: Policy, recorded: Recorded, track: Track = iter) -> Answers:
    """Ask the policy at every state, in order, x counted from the takeover: what its node would have answered in time.

    Args:
        name: of the policy.
        policy: to ask.
        recorded: the states.
        track: wraps the rows, e.g. to show progress.
    """
    # No clock: an answer offline is never late.
    answering = Answering(policy, math.inf, lambda: 0.0)
    answers, first_reason = np.full(len(recorded), np.nan), ""
    for row in track(range(len(recorded))):
        answering.engaged = bool(recorded.engaged[row])
        torque, reason = answering.answer(recorded.states[row].copy(), 0.0)
        if torque is None:
            first_reason = first_reason or reason
        else:
            answers[row] = torque
    return Answers(name, policy, answers, first_reason)


def answers_file(recorded: Recorded, answers: Sequence[Answers]) -> bytes:
    """Return a file of numpy's npz with stamps, states and all torques; equal content gives equal bytes.

    Arrays: `episodes` (names), `episode` [n] (index into them), `stamp_ns` [n], `states` [n, 4], `modes` [n],
    `executed_nm` [n], `policies` (names) and `torque_nm` [policies, n], NaN where a policy gives no torque.
    """
    stream = io.BytesIO()
    np.savez(
        stream,
        episodes=np.array([e.name for e in recorded.episodes]),
        episode=recorded.episode,
        stamp_ns=recorded.stamp_ns,
        states=recorded.states,
        modes=recorded.modes,
        executed_nm=recorded.executed_nm,
        policies=np.array([a.name for a in answers]),
        torque_nm=np.stack([a.torque_nm for a in answers]),
    )
    return stream.getvalue()
