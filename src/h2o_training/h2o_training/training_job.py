# SPDX-License-Identifier: Apache-2.0
"""One training started from a ROS graph: train, then export, as child processes, so that the node stays responsive."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from h2o_control.errors import ConfigError
from h2o_training.run_dir import Progress, RunDirectory
from h2o_training.train_config import load_train_config

#: How long a child may take to write its checkpoint after being asked to stop.
STOP_TIMEOUT_S = 15.0


class TrainingJob:
    """Runs `h2o-robot train` into a folder and then `h2o-robot export` to policy.onnx in it.

    Call `poll` regularly; `state` is "training", "exporting", "ready", "failed" or "stopped".

    Raises:
        ConfigError: the configuration is wrong, or the folder holds a run of another one.
    """

    def __init__(self, config: str, overrides: list[str], output: Path) -> None:
        self.directory = RunDirectory(output)
        self.policy = output / "policy.onnx"
        self.state = "training"
        arguments = [config, *overrides, f"run={output}"]
        wanted = load_train_config(config, arguments[1:])
        # The same run is gone on with: a graph that is started again must not lose the hours before.
        if self.directory.has_checkpoint():
            if self.directory.read_info().config != wanted:
                raise ConfigError(f"{output} holds a run with another configuration: give another output folder")
            arguments = ["--resume", str(output)]
        self._child = self._start("train", *arguments)

    def poll(self) -> str:
        """Advance to export when training is done; returns the state."""
        code = self._child.poll()
        if code is None or self.state in ("ready", "failed", "stopped"):
            return self.state
        if code != 0:
            self.state = "failed"
        elif self.state == "training":
            self.state = "exporting"
            self._child = self._start("export", str(self.directory.path), "-o", str(self.policy))
        else:
            self.state = "ready"
        return self.state

    def progress(self) -> Progress | None:
        """Where the training stands; None before its first report."""
        return self.directory.read_progress()

    def stop(self) -> None:
        """Ask the child to stop, which writes a checkpoint; a child that does not is ended."""
        if self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self.state = "stopped"

    @staticmethod
    def _start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        code = "import sys; from h2o_control.cli import main; sys.exit(main())"
        # A session of its own: a Ctrl-C at the terminal reaches the node, which stops the child once and waits for it.
        return subprocess.Popen([sys.executable, "-c", code, name, *arguments], start_new_session=True)
