# SPDX-License-Identifier: Apache-2.0
"""Several seeds of one training side by side: each `h2o-robot train` in a process and a folder of its own.

RUN/config.yaml     what all of them train, every key written out
RUN/seed-3/         a run's folder like any other, and train.log, what it said
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from h2o_control.atomic_file import write_atomically
from h2o_control.config import apply_overrides, to_mapping
from h2o_control.errors import ConfigError, DataError
from h2o_training import run_dir
from h2o_training.child import ended, start
from h2o_training.run_dir import RUN, RunDirectory
from h2o_training.stopping import stop_on_signal
from h2o_training.train_config import TrainConfig, load_train_config

CONFIG, LOG = "config.yaml", "train.log"
#: More seeds at once are a slip of the finger.
MOST_SEEDS = 1000
#: Status of a child that Ctrl-C or SIGTERM has ended, before or after it could write a checkpoint.
STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)
POLL_S = 0.2


@dataclass
class Seed:
    """One seed: where it trains, by which words, and how that stands.

    Attributes:
        number: the seed.
        folder: of its run.
        words: subcommand and arguments.
        status: of its process, None until it has ended.
    """

    number: int
    folder: Path
    words: list[str]
    process: subprocess.Popen[bytes] | None = None
    status: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended by an error of its own."""
        return self.status is not None and self.status != 0 and self.status not in STOPPED

    def progress(self) -> run_dir.Progress | None:
        """Where it stands; None before its first report."""
        return RunDirectory(self.folder).read_progress()

    def last_line(self) -> str:
        """Return the last thing that it said."""
        try:
            lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def parse_seeds(text: str) -> list[int]:
    """Read "5", which are 0 to 4, or "3-7".

    Raises:
        ConfigError: anything else, or more than MOST_SEEDS.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not match:
        raise ConfigError(f"--seeds {text!r}: give how many, e.g. 5 for 0 to 4, or a range, e.g. 3-7")
    first, last = (0, int(match[1]) - 1) if match[2] is None else (int(match[1]), int(match[2]))
    if not 1 <= last - first + 1 <= MOST_SEEDS:
        raise ConfigError(f"--seeds {text}: that are {last - first + 1} seeds, give 1 to {MOST_SEEDS}")
    return list(range(first, last + 1))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def is_folder_of_seeds(path: str | Path) -> bool:
    """Whether a folder is one that `begin` made, and not a single run."""
    return (Path(path) / CONFIG).is_file() and not (Path(path) / RUN).is_file()


def begin(config: TrainConfig, folder: Path, seeds: Sequence[int]) -> list[Seed]:
    """Make the folder of a training with several seeds; returns what is to be run.

    Raises:
        ConfigError: a run, or seeds of another configuration, are there.
        DataError: the folder cannot be written.
    """
    if (folder / RUN).is_file():
        raise ConfigError(f"{folder} holds a single run: give another run=FOLDER")
    taken = [path for seed in seeds if RunDirectory(path := _folder(folder, seed)).has_checkpoint()]
    if taken:
        raise ConfigError(
            f"{taken[0]} holds a run already; go on with it and the others by --resume {folder}, or give another "
            "run=FOLDER"
        )
    common = _common(config)
    if is_folder_of_seeds(folder) and _common(load_train_config(str(folder / CONFIG), ())) != common:
        raise ConfigError(f"{folder} holds seeds of another configuration: give another run=FOLDER")
    try:
        write_atomically(folder / CONFIG, yaml.safe_dump(common, sort_keys=False, allow_unicode=True).encode())
        # All at once: those that are never begun are known to be wanted by their folders.
        for seed in seeds:
            _folder(folder, seed).mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write into {folder}: {error.strerror}") from error
    return [_anew(folder, seed, ()) for seed in seeds]


def unfinished(folder: Path, overrides: Sequence[str]) -> list[Seed]:
    """Return what is to be run to bring the seeds of a folder to their end.

    Args:
        folder: that `begin` made.
        overrides: what a resumed run may change; a finished one goes on too where these ask for more updates.
    """
    wanted = apply_overrides({}, overrides).get("updates")
    todo = []
    for path in sorted(folder.glob("seed-*"), key=_number):
        directory = RunDirectory(path)
        if not directory.has_checkpoint():
            todo.append(_anew(folder, _number(path), overrides))
            continue
        progress = directory.read_progress()
        finished = progress is not None and progress.state == "finished"
        if not finished or (wanted is not None and progress is not None and progress.update < wanted):
            todo.append(Seed(_number(path), path, ["train", "--resume", str(path), *overrides]))
    return todo


def train_seeds(todo: Sequence[Seed], folder: Path, jobs: int) -> int:
    """Train all of them, at most `jobs` at once, and print the table of all seeds of the folder.

    One that fails does not stop the others.

    Returns:
        exit status, 1 where one has failed.

    Raises:
        KeyboardInterrupt: asked to stop; all have written what they had learned.
    """
    status = _run(todo, folder, jobs)
    if any(folder.glob(f"seed-*/{RUN}")):
        # Slow to import: only where it is used.
        from h2o_training.compare import find_runs, groups, read_run
        from h2o_training.compare_page import tables

        for table in tables(groups([read_run(path) for path in find_runs([folder])])):
            Console().print(table.rich())
    return status


def _run(todo: Sequence[Seed], folder: Path, jobs: int) -> int:
    console = Console(stderr=True)
    # A thread each: two that share a processor with others take several times as long as one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), TaskProgressColumn())
    with (
        Progress(*columns, TextColumn("{task.fields[line]}", markup=False), console=console) as bar,
        stop_on_signal() as stopped,
        ExitStack() as children,
    ):
        lines = {seed.number: bar.add_task(f"seed {seed.number}", total=None, line="waiting") for seed in todo}
        waiting, running, asked = deque(todo), list[Seed](), False
        while waiting or running:
            if stopped() and not asked:
                asked = True
                waiting.clear()
                # Ctrl-C at the terminal has reached them too; SIGTERM asks the same and does not count as another one.
                for seed in running:
                    _send_stop(seed)
                console.print("stopping: each seed finishes its round and writes a checkpoint")
            while waiting and len(running) < jobs and not stopped():
                seed = waiting.popleft()
                seed.process = _start(seed)
                children.enter_context(ended(seed.process))
                running.append(seed)
            for seed in running:
                assert seed.process is not None
                seed.status = seed.process.poll()
                _show(bar, lines[seed.number], seed)
            running = [seed for seed in running if seed.status is None]
            time.sleep(POLL_S)
    return _tell(todo, folder, asked)


def _tell(todo: Sequence[Seed], folder: Path, asked: bool) -> int:
    """Say what failed and how to go on; returns the exit status."""
    failed = [seed for seed in todo if seed.failed]
    for seed in failed:
        print(f"seed {seed.number} failed: {seed.last_line()} ({seed.folder / LOG})", file=sys.stderr)
    if asked or any(seed.status in STOPPED for seed in todo):
        print(f"stopped, nothing is lost. Go on with: h2o-robot train --resume {folder}", file=sys.stderr)
        raise KeyboardInterrupt
    return 1 if failed else 0


def _start(seed: Seed) -> subprocess.Popen[bytes]:
    try:
        with (seed.folder / LOG).open("a", encoding="utf-8") as log:
            return start(seed.words, output=log)
    except OSError as error:
        raise DataError(f"cannot start seed {seed.number} in {seed.folder}: {error.strerror}") from error


def _send_stop(seed: Seed) -> None:
    if seed.process is not None and seed.process.poll() is None:
        seed.process.terminate()


def _show(bar: Progress, line: TaskID, seed: Seed) -> None:
    if seed.failed:
        bar.update(line, line=f"failed: {seed.last_line()}")
        return
    progress = seed.progress()
    # What says that it has ended, while the process runs, is from before that was started.
    fresh = progress is not None and (seed.status is not None or progress.state == "running")
    said = progress.line() if progress is not None and fresh else "starting"
    if seed.status is None:
        left = f" left {progress.remaining_s:.0f} s" if progress is not None and progress.remaining_s else ""
    else:
        left = " finished" if seed.status == 0 else " stopped"
    if progress is not None:
        bar.update(line, completed=progress.update, total=progress.updates)
    bar.update(line, line=said + left)


def _anew(folder: Path, seed: int, overrides: Sequence[str]) -> Seed:
    path = _folder(folder, seed)
    return Seed(seed, path, ["train", str(folder / CONFIG), f"seed={seed}", f"run={path}", *overrides])


def _common(config: TrainConfig) -> Mapping[str, Any]:
    return {key: value for key, value in to_mapping(config).items() if key not in ("seed", "run")}


def _folder(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}"


def _number(path: Path) -> int:
    return int(path.name.removeprefix("seed-"))
