# SPDX-License-Identifier: Apache-2.0
"""Loads the next policy beside a running one, in a thread, so that no observation waits for it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from h2o_control.contract import Interface
from h2o_control.errors import UserError
from h2o_control.policy import Policy
from h2o_control.policy_check import load_beside


class PolicyLoader:
    """One candidate at a time: read, checked in a process of its own, loaded, warmed up."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def busy(self) -> bool:
        """Whether a candidate is being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def load(self, path: str, interface: Interface, done: Callable[[Policy | UserError], None]) -> None:
        """Load a policy for this interface; `done` gets it, or why it is not fit to run, in the loader's thread.

        Raises:
            UserError: no path, or another candidate is still being loaded.
        """
        if self.busy:
            raise UserError("another policy is being loaded: wait for its answer")
        if not path:
            raise UserError("no candidate: set the parameter 'candidate' to an ONNX file first")
        self._thread = threading.Thread(
            target=self._run, args=(Path(path), interface, done), name="loader", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End a load that is under way."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _run(self, path: Path, interface: Interface, done: Callable[[Policy | UserError], None]) -> None:
        try:
            policy = load_beside(path, self._started)
            policy.contract.require_interface(interface, "the running policy")
        except UserError as error:
            done(error)
        except (OSError, MemoryError) as error:
            done(UserError(f"{path} could not be loaded: {error}"))
        else:
            done(policy)

    def _started(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
