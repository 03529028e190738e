# SPDX-License-Identifier: Apache-2.0
"""Is this policy fit to run? Asked of every file before it may answer a robot.

A running node asks it of a candidate in a process of its own (`load_beside`): a file that crashes ONNX Runtime, fills
the memory or never answers then costs that process, and the node goes on answering meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from h2o_control.contract import state_array
from h2o_control.errors import ContractError, UserError
from h2o_control.policy import AnswerError, Policy, read_model

#: Near balance, where any policy must know what to do: displacement m, speed m/s, pitch rad, pitch rate rad/s.
NEAR_BALANCE = (0.1, 0.1, 0.05, 0.3)
#: Share of the control step that an answer may take, by the quickest of the answers asked for: a busy machine slows
#: the others, and says nothing about the policy.
MAX_SHARE = 0.5
#: A process that has not said anything after this long is ended. Most of it is for starting Python on a small board.
TIMEOUT_S = 20.0
#: Address space of that process, bytes. Python, NumPy and ONNX Runtime take 1 GiB, hardly any of it in memory.
MEMORY = 3 * 2**30


def check(policy: Policy) -> float:
    """Ask a policy about 17 states in balance and near it; returns the time of the quickest answer in s.

    Raises:
        ContractError: an answer fails, is not a finite number, or takes more than half a control step.
    """
    step_s = policy.contract.interface.dt_s
    corners = itertools.product(*((-size, size) for size in NEAR_BALANCE))
    quickest_s = np.inf
    for values in ((0.0, 0.0, 0.0, 0.0), *corners):
        state = state_array(*values)
        started_s = time.perf_counter()
        try:
            torque = policy.torque_nm(state)
        except AnswerError as error:
            raise ContractError(f"{policy.path} does not answer {state}: {error}") from error
        quickest_s = min(quickest_s, time.perf_counter() - started_s)
        if not np.isfinite(torque):
            raise ContractError(f"{policy.path} answers {state} with {torque}")
    if quickest_s > MAX_SHARE * step_s:
        raise ContractError(
            f"{policy.path} takes {quickest_s * 1e3:.1f} ms for an answer, at best; a control step is "
            f"{step_s * 1e3:.1f} ms and half of it is granted: train a smaller network"
        )
    return float(quickest_s)


def load(path: Path) -> Policy:
    """Read and check a policy in this process; raises UserError where it is not fit to run."""
    policy = Policy(path)
    check(policy)
    return policy


def load_beside(path: Path, started: Callable[[subprocess.Popen[bytes]], None] = lambda _: None) -> Policy:
    """Read a policy, check it in another process, then load the very same bytes here.

    For a thread that a running node starts for this: its priority is lowered.

    `started` gets the other process, so that who stops the node can end it.

    Raises:
        UserError: it is not fit to run.
    """
    model = read_model(path)
    _step_back()
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with contextlib.suppress(OSError):
        os.sched_setaffinity(child.pid, range(os.cpu_count() or 1))
        os.setpriority(os.PRIO_PROCESS, child.pid, 10)
    started(child)
    try:
        _, error = child.communicate(model, TIMEOUT_S)
    except subprocess.TimeoutExpired as late:
        child.kill()
        child.communicate()
        raise UserError(f"{path} could not be checked within {TIMEOUT_S:.0f} s: it may never answer") from late
    said = error.decode(errors="replace").strip()
    if child.returncode == 2 and said:
        raise UserError(said.splitlines()[-1])
    if child.returncode:
        last = said.splitlines()[-1] if said else "nothing was said"
        raise UserError(f"{path} ended the process that checked it with status {child.returncode}: {last}")
    policy = Policy(path, model)
    check(policy)
    return policy


def _step_back() -> None:
    """Let the loop's own thread go first, and what this one starts run at normal priority."""
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy == os.SCHED_FIFO:
        priority = max(1, os.sched_getparam(0).sched_priority - 1)
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def main(argv: list[str]) -> int:
    """Check the model on standard input; status 2 and a line on standard error where it is not fit."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        check(Policy(argv[1], sys.stdin.buffer.read()))
    except (UserError, MemoryError) as error:
        print(error or "it takes too much memory", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
