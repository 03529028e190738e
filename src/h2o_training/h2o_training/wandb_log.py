# SPDX-License-Identifier: Apache-2.0
"""A run's TensorBoard log on Weights & Biases too, where its configuration asks for that (log.wandb)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from h2o_control.config import to_mapping
from h2o_control.contract import digest
from h2o_control.errors import UserError
from h2o_training.optional import require
from h2o_training.run_dir import RunInfo
from h2o_training.train_config import LogConfig


def require_wandb(log: LogConfig) -> None:
    """Raise UserError where W&B is asked for and not installed: before anything long starts."""
    if log.wandb is not None:
        require("wandb", "wandb")


@contextmanager
def mirrored(info: RunInfo, folder: Path) -> Iterator[None]:
    """Send what is written to TensorBoard in the block to the W&B project of the run, if it has one.

    The log itself stays in the folder; a resumed run goes on in its own place on W&B. Whether it is sent at once, kept
    for `wandb sync` or neither is W&B's own setting (WANDB_MODE).

    Raises:
        UserError: W&B is not installed, or refuses the run (not logged in, say).
    """
    project = info.config.log.wandb
    if project is None:
        yield
        return
    wandb = require("wandb", "wandb")
    folder = folder.resolve()
    try:
        run = wandb.init(
            project=project,
            name=f"{folder.parent.name}/{folder.name}",
            # Made from what a resumed run shares with its beginning and no other run has.
            id=digest({"created": info.provenance["created"], "seed": info.config.seed, "run": info.config.run}),
            resume="allow",
            dir=str(folder),
            config=to_mapping(info.config),
            sync_tensorboard=True,
        )
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases does not take the run: {error}; WANDB_MODE=offline keeps it in {folder} for `wandb sync`"
        ) from error
    with run:
        yield
