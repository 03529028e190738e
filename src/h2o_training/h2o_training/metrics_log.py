# SPDX-License-Identifier: Apache-2.0
"""What a run has logged, read back from its TensorBoard event files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from h2o_control.contract import FloatArray

#: Folder of the event files in a run's folder.
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Curve:
    """One logged quantity: updates int64 [n], rising, and values float64 [n]."""

    updates: NDArray[np.int64]
    values: FloatArray


def read_curves(run: Path) -> dict[str, Curve]:
    """Read all scalars of a run by tag, {} where it has none yet.

    A run that was resumed logs once more what it had logged after its checkpoint; only the later values count.
    """
    folder = run / TENSORBOARD
    if not folder.is_dir():
        return {}
    # Slow to import: only where it is used.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    # That events after the checkpoint of a resumed run are dropped is no warning here but what is wanted.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    log = EventAccumulator(str(folder), size_guidance={SCALARS: 0}, purge_orphaned_data=True)
    log.Reload()
    curves = {}
    for tag in log.Tags()[SCALARS]:
        # An evaluation at the end may fall on an update that was evaluated already: the same policy, the same numbers.
        last = {event.step: event.value for event in log.Scalars(tag)}
        updates = np.array(sorted(last), dtype=np.int64)
        curves[str(tag)] = Curve(updates, np.array([last[update] for update in updates.tolist()], dtype=np.float64))
    return curves
