# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot calibrate` as a person runs it, in a terminal: what is interrupted goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from h2o_control.errors import ConfigError, UserError
from test_calibrate import emulated
from wheel_leg_driver.calibrate_cli import command
from wheel_leg_driver.calibration import Calibration, load_calibration
from wheel_leg_driver.emulator_control import EmulatorControl

PATIENCE_S = 30.0


class Person:
    """Sits at a terminal in which calibrate runs."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._end, other = os.openpty()
        os.set_blocking(self._end, False)
        program = "import sys; from h2o_control.cli import main; sys.exit(main())"
        arguments = ["calibrate", "--robot", "ideal", "--port", str(folder / "tty"), "-o", str(folder / "c.yaml")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments, *more],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "COLUMNS": "400", "TERM": "dumb"},
        )
        os.close(other)
        self.seen = ""

    def read(self, text: str) -> None:
        """Wait for a text, and forget what came up to it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            self._take()
            time.sleep(0.01)
        self.seen = self.seen.partition(text)[2]

    def _take(self) -> None:
        try:
            self.seen += os.read(self._end, 65536).decode(errors="replace")
        except OSError:
            # Nothing there, or nobody any more.
            pass

    def type(self, line: str) -> None:
        os.write(self._end, f"{line}\n".encode())

    def end(self) -> int:
        """Wait for the end of the process; return its status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self._take()
            if time.monotonic() > deadline:
                self.process.kill()
            time.sleep(0.01)
        self._take()
        os.close(self._end)
        return self.process.returncode


@pytest.mark.flaky(reruns=2, only_rerun=["it moved"])
@pytest.mark.parametrize("how", ["q", "SIGINT", "SIGKILL", "unplug"])
def test_interrupted_calibration_goes_on_after_its_last_finished_step(tmp_path: Path, how: str) -> None:
    output, partial = tmp_path / "c.yaml", tmp_path / "c.yaml.partial"
    with emulated(tmp_path) as (link, hands):
        link.close()
        hands.inject("bias_gyro radps=0.02")
        person = Person(tmp_path)
        person.read("Put the robot upright")
        person.type("")
        person.read("Hold it upright")
        interrupt(how, person, hands)
        status = person.end()
        assert status == {"q": 2, "SIGINT": 130, "SIGKILL": -9, "unplug": 2}[how]
        if how != "SIGKILL":
            assert "--resume" in person.seen
        assert not output.exists()
        kept = load_calibration(partial, "ideal", interrupted=True)
        assert kept.unfinished == ("mounting", "zero", "wheels", "torque")
        assert kept.gyro_bias_radps == pytest.approx((0.0, 0.02, 0.0), abs=1e-3)
        # The driver reads it like this.
        with pytest.raises(ConfigError, match=r"mounting, zero, wheels, torque still to do: .*--resume"):
            load_calibration(partial, "ideal")
        with pytest.raises(UserError, match="was interrupted: --resume"):
            command(["--port", "x", "--robot", "ideal", "-o", str(output)])
        if how != "q":
            return
        again = Person(tmp_path, "--resume")
        again.read("Step 2 of 5, mounting")
        for _ in range(3):
            again.read("> ")
            again.type("s")
        assert again.end() == 0
        assert "Left out: without wheels it would find nothing. Later: --steps wheels torque" in again.seen
    assert not partial.exists()
    found = load_calibration(output, "ideal")
    assert found.skipped == ("mounting", "zero", "wheels", "torque")
    assert found.gyro_bias_radps == kept.gyro_bias_radps


def interrupt(how: str, person: Person, hands: EmulatorControl) -> None:
    if how == "q":
        person.type("q")
    elif how == "unplug":
        hands.inject("unplug")
    else:
        person.process.send_signal(signal.Signals[how])


def test_steps_whose_need_is_not_met_are_refused_before_the_port_is_opened(tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"
    run = ["--port", "/nowhere", "--robot", "worn", "-o", str(output)]
    with pytest.raises(UserError, match="leave --resume away"):
        command([*run, "--resume"])
    Calibration("worn", skipped=("wheels", "torque")).write(output)
    with pytest.raises(UserError, match=r"step torque needs wheels, .*: --steps wheels torque"):
        command([*run, "--steps", "torque"])
    with pytest.raises(UserError, match="in a terminal"):
        command([*run, "--steps", "wheels", "torque"])
