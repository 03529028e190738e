# SPDX-License-Identifier: Apache-2.0
"""Whether training has diverged, since which update, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from h2o_control.errors import UserError
from h2o_training.train_config import TrainConfig

#: Metrics that are values of states and actions in the units of the learner's return; their names begin so.
VALUES = ("value/q", "value/v")
#: So many times what a return can be is no value any more. Generous: entropy, DARC's corrections and the regularisers
#: of CQL and H2O move values by a few times that, and what diverges passes any bound within some hundred updates.
BEYOND_RETURNS = 100.0
#: From so many times on they may be on their way there, and no checkpoint is to be trusted.
DOUBTFUL = 10.0


class TrainingDivergedError(UserError):
    """A loss, a value or a weight is not finite any more, or a value is one that no return can have."""


class DivergenceWatch:
    """Looks at the metrics of every update, all those of a round at once.

    Args:
        discount: γ.
        largest_reward: answers the largest |reward| that the learner has now; asked only where a value is doubtful by
            what was known so far.
    """

    def __init__(self, discount: float, largest_reward: Callable[[], float]) -> None:
        self._horizon, self._largest_reward = 1.0 / (1.0 - discount), largest_reward
        self._return = 0.0
        #: Whether values were doubtful in the last round.
        self.doubtful = False

    def check(self, history: Sequence[Mapping[str, Tensor]], first: int) -> None:
        """Check the metrics of consecutive updates, the first of which is number `first`.

        Raises:
            TrainingDivergedError: naming the first update at which something was wrong, and what.
        """
        names = sorted({name for metrics in history for name in metrics})
        if not names:
            return
        absent = next(iter(history[0].values())).new_zeros(())
        # One transfer for the whole round: on a GPU each value looked at alone would wait for all that is queued.
        rows = torch.stack([metrics.get(name, absent) for metrics in history for name in names])
        table = rows.reshape(len(history), len(names)).double().cpu().numpy()
        wrong = ~np.isfinite(table)
        values = [column for column, name in enumerate(names) if name.startswith(VALUES)]
        largest = float(np.abs(table[:, values]).max(initial=0.0))
        self.doubtful = not largest <= DOUBTFUL * self._most(largest)
        wrong[:, values] |= np.abs(table[:, values]) > BEYOND_RETURNS * self._return
        if not wrong.any():
            return
        row = int(wrong.any(axis=1).argmax())
        told = []
        for column in np.flatnonzero(wrong[row]):
            name, value = names[column], table[row, column]
            known = row > 0 and name in history[row - 1]
            before = f" (update {first + row - 1}: {table[row - 1, column]:.4g})" if known else ""
            why = "" if not np.isfinite(value) else f", and no return can be beyond ±{self._return:.4g}"
            told.append(f"{name} is {value:.4g}{before}{why}")
        raise TrainingDivergedError(f"training diverged at update {first + row}: {'; '.join(told)}")

    def _most(self, largest: float) -> float:
        """Return the most that a return can be, as far as it must be known to judge a value."""
        if not largest <= DOUBTFUL * self._return:
            # Never below that of rewards of 1: the entropy's weight begins at 1, whatever the scale of the rewards.
            reward = max(1.0, self._largest_reward())
            self._return = max(self._return, reward * self._horizon)
        return self._return


def require_finite(weights: Mapping[str, Tensor], update: int) -> None:
    """Raise TrainingDivergedError naming the weights that are not finite: the metrics of an update are from before it.

    Args:
        weights: state dict of what is about to be saved.
        update: after which.
    """
    bad = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise TrainingDivergedError(f"training diverged at update {update}: {', '.join(bad[:3])}{more} not finite")


def what_is_left(run: Path, saved: int | None, config: TrainConfig) -> str:
    """Say what to do now.

    Args:
        run: folder of the run.
        saved: update of its checkpoint, None where there is none.
        config: of the run.
    """
    # Going on from the checkpoint computes the same numbers again, up to the same end.
    anew = (
        f"start anew with a lower learning_rate (now {config.learning_rate:g}) or reward_scale (now "
        f"{config.reward_scale:g}), and look at the data"
    )
    if saved is None:
        return f"There is no checkpoint yet: {anew}."
    return (
        f"The last good checkpoint is of update {saved}, as it was: h2o-robot export {run} -o policy.onnx takes its "
        f"policy, h2o-robot train --resume {run} updates=N goes on to an update before the divergence. Else {anew}."
    )
