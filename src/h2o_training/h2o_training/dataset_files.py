# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot dataset convert`: HDF5 with D4RL's keys, Minari and Parquet, each into each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from h2o_control.errors import DataError
from h2o_training.dataset_d4rl import load_d4rl, save_d4rl
from h2o_training.dataset_generic import GenericDataset
from h2o_training.dataset_minari import load_minari, save_minari
from h2o_training.dataset_output import require_output
from h2o_training.dataset_parquet import load_parquet, save_parquet

D4RL, MINARI, PARQUET = "d4rl", "minari", "parquet"
SUFFIXES = {".h5": D4RL, ".hdf5": D4RL, ".parquet": PARQUET}
MAGIC = {b"\x89HDF": D4RL, b"PAR1": PARQUET}


def read_dataset(path: str | Path, episode_steps: int | None = None) -> GenericDataset:
    """Read a dataset of any of the formats, told by its content, of our robots or not (`to_robot` asks for one).

    Args:
        path: an HDF5 or Parquet file, or the folder of a Minari dataset.
        episode_steps: see `load_d4rl`.

    Raises:
        DataError: no such dataset, or none of these formats.
    """
    path = Path(path)
    if path.is_dir():
        return load_minari(path)
    try:
        with path.open("rb") as stream:
            kind = MAGIC.get(stream.read(4))
    except OSError as error:
        raise DataError(f"cannot read dataset {path}: {error.strerror}") from error
    if kind is None:
        raise DataError(f"{path} is neither HDF5 nor Parquet, nor the folder of a Minari dataset")
    return load_d4rl(path, episode_steps) if kind == D4RL else load_parquet(path)


def write_dataset(data: GenericDataset, path: str | Path, kind: str, force: bool = False) -> list[str]:
    """Write as d4rl, minari or parquet; returns the keys that the format has no place for.

    Raises:
        DataError: the path is a folder, or exists and `force` is not set, or it cannot be written.
    """
    require_output(path, (), force)
    write: Callable[[GenericDataset, str | Path], list[str] | None]
    write = {D4RL: save_d4rl, MINARI: save_minari, PARQUET: save_parquet}[kind]
    return write(data, path) or []


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of `convert`."""
    parser = actions.add_parser(
        "convert",
        description="Convert a dataset between HDF5 with D4RL's keys, Minari and Parquet (docs/formats.md). What is "
        "converted back is the same to the bit.",
        epilog="example: h2o-robot dataset convert real.h5 real.parquet",
        help="to and from D4RL's HDF5, Minari, Parquet",
    )
    parser.add_argument("input", metavar="IN", help="HDF5, Parquet, or the folder of a Minari dataset; also D4RL's own")
    parser.add_argument("output", metavar="OUT", help="*.h5, *.hdf5, *.parquet; for Minari a folder, e.g. walk-v0")
    parser.add_argument(
        "--to", choices=(D4RL, MINARI, PARQUET), help="format; default: by OUT's suffix, Minari without"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists; never an input or a folder")
    parser.add_argument(
        "--episode-steps",
        type=int,
        metavar="N",
        help="rows of an episode, for D4RL's files that do not say (0: no limit)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was converted."""
    output = Path(args.output)
    kind = args.to or (SUFFIXES.get(output.suffix) if output.suffix else MINARI)
    if kind is None:
        raise DataError(f"{output.name}: the suffix {output.suffix} names no format; use .h5, .hdf5, .parquet or --to")
    if args.episode_steps is not None and args.episode_steps < 0:
        raise DataError(f"--episode-steps must not be negative, got {args.episode_steps}")
    require_output(output, [args.input], args.force)
    data = read_dataset(args.input, args.episode_steps)
    console = Console()
    left_out = write_dataset(data, output, kind, args.force)
    episodes, ends = len(data.episode_ends), int(data.terminals.sum())
    console.print(
        f"{output} ({kind}): {len(data)} transitions, {episodes} episode{'' if episodes == 1 else 's'}, "
        f"{ends} of them ended by a terminal; {'with' if data.of_robot else 'without'} the contracts of a robot",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if left_out:
        said = f"left out, since {kind} holds rows only: {', '.join(left_out)}"
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    return 0
