# SPDX-License-Identifier: Apache-2.0
"""The emulator as a process: its port, its control socket, its manners. No ROS."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from h2o_control.errors import UserError
from wheel_leg_driver import inject_cli
from wheel_leg_driver.control_server import CHUNK_ROWS
from wheel_leg_driver.emulator import command
from wheel_leg_driver.emulator_control import EmulatorControl, EmulatorError
from wheel_leg_driver.protocol import Command, CommandFlag, Fault, FrameReader, Telemetry, encode_command

PATIENCE_S = 30.0


class Running:
    """An emulator, and the driver's end of its port."""

    def __init__(self, link: Path, *arguments: str) -> None:
        self.link = str(link)
        self._log = link.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "emulator"), "--robot", "ideal", "--link", self.link, *arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.reader = FrameReader()
        self._port = -1
        try:
            wait(lambda: link.is_symlink() and Path(f"{link}.control").exists(), "port")
            self.control = wait_for_control(self.link)
        except AssertionError:
            self.stop()
            raise

    def open(self) -> None:
        self._port = os.open(self.link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)

    def write(self, message: Command) -> None:
        os.write(self._port, encode_command(message))

    def read(self) -> list[Telemetry]:
        try:
            data = os.read(self._port, 65536)
        except BlockingIOError:
            return []
        return [m for m in self.reader.feed(data) if isinstance(m, Telemetry)]

    def telemetry(self, condition: Callable[[Telemetry], bool] = lambda _: True) -> Telemetry:
        found: list[Telemetry] = []

        def seen() -> bool:
            found.extend(m for m in self.read() if condition(m))
            return bool(found)

        wait(seen, "telemetry")
        return found[0]

    def stop(self) -> None:
        if self._port >= 0:
            os.close(self._port)
            self._port = -1
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE_S)
        self._log.close()


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.002)


def wait_for_control(link: str) -> EmulatorControl:
    connected: list[EmulatorControl] = []

    def connect() -> bool:
        try:
            connected.append(EmulatorControl(link))
        except EmulatorError:
            return False
        return True

    wait(connect, "control socket")
    return connected[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # A long path: sockets have no room for one.
    folder = tmp_path_factory.mktemp("emulator") / ("long" * 20)
    folder.mkdir()
    running = Running(folder / "tty")
    running.open()
    yield running
    running.control.close()
    running.stop()


@pytest.fixture
def emulator(shared: Running) -> Running:
    shared.control.clear()
    return shared


def test_real_time_telemetry_comes_at_the_control_rate(emulator: Running) -> None:
    emulator.read()
    first, since = emulator.telemetry(), time.monotonic()
    last = emulator.telemetry(lambda m: m.sequence >= first.sequence + 200)
    # It may lag on a busy machine, and never runs ahead.
    assert 0.95 < time.monotonic() - since < 10.0
    assert last.device_time_us - first.device_time_us >= 1_000_000


def test_unplugged_port_disappears_and_a_new_one_comes_back(emulator: Running) -> None:
    old = os.readlink(emulator.link)
    emulator.telemetry()
    (begun,) = emulator.control.inject("unplug for=0.3")
    wait(lambda: not os.path.lexists(emulator.link), "end of the link")

    def dead() -> bool:
        try:
            # A port that has hung up reads as ended, or as an error.
            return os.read(emulator._port, 65536) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    wait(dead, "end of the port")
    state = emulator.control.state()
    assert state.unplugged and state.elapsed_us > begun["begins_us"]
    wait(lambda: os.path.lexists(emulator.link), "new port")
    # The old one is still open here, so the new one has another name.
    assert os.readlink(emulator.link) != old
    os.close(emulator._port)
    emulator.open()
    back = emulator.telemetry()
    assert back.device_time_us >= begun["device_time_us"] + 300_000, "device time went on"


def test_state_and_black_box_tell_what_a_command_and_a_fault_did(emulator: Running) -> None:
    control = emulator.control
    control.inject("stand on=1")
    wait(lambda: control.state().elapsed_us > 2e3 * CHUNK_ROWS, "more rows than one answer holds")
    emulator.write(Command(1, flags=CommandFlag.DISARM))
    emulator.write(Command(2, (0.1, 0.2), flags=CommandFlag.ARM))
    wait(lambda: control.state().faults == Fault.WATCHDOG, "watchdog, after a single command")
    state = control.state()
    assert not state.armed and state.held and state.torque_nm == (0.0, 0.0)
    assert [i["text"] for i in state.injections] == ["stand on=1"]
    rows = control.trace(state.elapsed_us - 2e6)
    assert len(rows) > CHUNK_ROWS
    assert set(np.diff([row.elapsed_us for row in rows])) == {1000.0}
    driven = [row for row in rows if row.armed]
    assert {(round(row.left_nm, 6), round(row.right_nm, 6)) for row in driven} == {(0.1, 0.2)}
    assert 29 <= len(driven) <= 31, "the watchdog's 30 ms, a row each"
    assert abs(time.monotonic() - rows[-1].host_monotonic_s) < 5.0
    emulator.write(Command(3, flags=CommandFlag.DISARM))
    wait(lambda: not control.state().faults, "disarm")


def test_injections_end_with_clear_and_wrong_ones_are_refused_in_words(emulator: Running) -> None:
    (planned,) = emulator.control.inject("bias_pitch rad=0.25")
    biased = emulator.telemetry(lambda m: m.sensors.accel_mps2[0] < -2.0)
    assert biased.device_time_us >= planned["device_time_us"] and planned["ends_us"] is None
    assert emulator.control.clear() == 1
    emulator.telemetry(lambda m: m.sensors.accel_mps2[0] > -0.5)
    with pytest.raises(EmulatorError, match="Did you mean 'unplug'"):
        emulator.control.inject("unplugg")
    with pytest.raises(EmulatorError, match="there are inject"):
        emulator.control._ask("reboot", True)
    assert emulator.control.state().injections == []


def test_garbage_on_the_control_socket_is_answered_and_harms_nobody(emulator: Running) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        folder = os.open(Path(emulator.link).parent, os.O_RDONLY)
        raw.connect(f"/proc/self/fd/{folder}/{Path(emulator.link).name}.control")
        os.close(folder)
        raw.settimeout(PATIENCE_S)
        lines = raw.makefile("rb")
        for garbage in (b"\n", b"\xff\x00\n", b"[]\n", b'{"inject": 1}\n', b'{"trace": null}\n', b'{"trace": 1e999}\n'):
            raw.sendall(garbage)
            assert b"error" in lines.readline()

        def line_without_end() -> None:
            while True:
                raw.sendall(b"x" * 10_000)

        with pytest.raises(ConnectionError):
            line_without_end()
    assert emulator.control.state().elapsed_us > 0


def test_clients_that_flood_the_control_socket_do_not_make_the_loop_late(emulator: Running) -> None:
    control, flooders = emulator.control, []

    def step_s(seconds: float) -> float:
        """Median over ten steps of the motor loop of the host time that each took: robust where the machine stalls."""
        start, ends = control.state().elapsed_us, time.monotonic() + seconds
        while time.monotonic() < ends:
            for flooder in flooders:
                flood(flooder)
            time.sleep(0.001)
        return float(np.median(np.diff([row.host_monotonic_s for row in control.trace(start)][::10]))) / 10

    def flood(flooder: socket.socket) -> None:
        try:
            flooder.send(b'{"trace": 0}\n{"state": true}\n{"inject": "stall at=1000"}\n{"clear": true}\n' * 20)
            flooder.recv(100_000)
        except BlockingIOError:
            pass

    quiet = step_s(1.0)
    folder = os.open(Path(emulator.link).parent, os.O_RDONLY)
    for _ in range(3):
        flooder = socket.socket(socket.AF_UNIX)
        flooder.connect(f"/proc/self/fd/{folder}/{Path(emulator.link).name}.control")
        flooder.setblocking(False)
        flooders.append(flooder)
    os.close(folder)
    flooded = step_s(2.0)
    for flooder in flooders:
        flooder.close()
    assert flooded < 1.25 * quiet


def test_inject_from_the_command_line(emulator: Running, capsys: pytest.CaptureFixture[str]) -> None:
    link = ["--link", emulator.link]
    assert inject_cli.command(["tilt", "pitch=0.2;", "bias_gyro", "at=9", *link]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("tilt pitch=0.2: begins at ") and "bias_gyro at=9: begins at " in out[1]
    assert inject_cli.command(["--state", *link]) == 0
    out = capsys.readouterr().out
    assert "armed         no, held" in out and "tilt pitch=0.2 (lasts)" in out and "bias_gyro at=9 (begins in " in out
    assert inject_cli.command(["--clear", *link]) == 0
    assert capsys.readouterr().out == "cleared 2 injections\n"
    assert inject_cli.command(["--list"]) == 0
    assert "byte_noise" in capsys.readouterr().out
    with pytest.raises(UserError, match="either a TEXT"):
        inject_cli.command([])
    with pytest.raises(UserError, match="no emulator serves /nowhere/tty"):
        inject_cli.command(["unplug", "--link", "/nowhere/tty"])


def test_a_second_emulator_on_the_same_link_is_refused(emulator: Running) -> None:
    with pytest.raises(UserError, match="another emulator serves"):
        command(["--robot", "ideal", "--link", emulator.link])
    assert emulator.control.state().elapsed_us > 0


def test_a_killed_emulator_is_replaced_and_a_terminated_one_leaves_nothing(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    first = Running(link)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    first.stop()
    assert link.is_symlink() and Path(f"{link}.control").exists(), "nobody could tidy up"
    with pytest.raises(EmulatorError, match="no emulator serves"):
        EmulatorControl(str(link))
    second = Running(link)
    second.open()
    second.telemetry()
    assert second.control.state().elapsed_us > 0
    second.control.close()
    second.stop()
    assert second.process.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tty.log"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_signal_ends_it_the_emulator_takes_its_link_along(tmp_path: Path, number: signal.Signals) -> None:
    running = Running(tmp_path / "tty")
    running.control.close()
    running.process.send_signal(number)
    running.process.wait(PATIENCE_S)
    running.stop()
    assert running.process.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tty.log"]


def test_faults_planned_at_the_start_run_in_device_time(tmp_path: Path) -> None:
    running = Running(tmp_path / "tty", "--inject", "bias_gyro at=0.5 for=0.1 radps=1")
    try:
        running.open()
        biased: list[int] = []

        def over() -> bool:
            messages = running.read()
            biased.extend(m.device_time_us for m in messages if m.sensors.gyro_radps[1] == 1.0)
            return any(m.device_time_us > 650_000 for m in messages)

        wait(over, "end of the fault")
        assert min(biased) > 500_000 and max(biased) <= 600_000 and len(biased) <= 20
    finally:
        running.control.close()
        running.stop()


def test_what_is_no_emulators_is_left_alone(tmp_path: Path) -> None:
    for name in ("file", "link"):
        path = tmp_path / name
        if name == "file":
            path.write_text("mine")
        else:
            path.symlink_to(tmp_path / "file")
        with pytest.raises(UserError, match="no emulator's link"):
            command(["--robot", "ideal", "--link", str(path)])
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "link").is_symlink()


def test_arguments_that_cannot_be_are_refused_before_anything_starts(tmp_path: Path) -> None:
    link = str(tmp_path / "tty")
    for arguments, says in (
        (["--inject", "unplugg"], "Did you mean 'unplug'"),
        (["--lockstep", "--inject", "drop_telemetry"], "a client waits for every answer"),
        (["--seed", "-1"], "--seed"),
    ):
        with pytest.raises(UserError, match=says):
            command(["--robot", "ideal", "--link", link, *arguments])
    assert not list(tmp_path.iterdir())


def test_the_list_of_faults_needs_no_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--list-faults"]) == 0
    assert "brown_out" in capsys.readouterr().out


def test_in_lock_step_sensors_fail_and_a_reset_is_answered_with_time_from_zero(tmp_path: Path) -> None:
    running = Running(tmp_path / "tty", "--lockstep")
    try:
        running.open()

        def ask(sequence: int) -> Telemetry:
            running.write(Command(sequence, flags=CommandFlag.DISARM))
            return running.telemetry()

        assert [ask(n).device_time_us for n in range(3)] == [5_000, 10_000, 15_000]
        running.control.inject("bias_gyro radps=0.5; reset at=0.003")
        answer = ask(3)
        assert (answer.device_time_us, answer.sequence, answer.sensors.gyro_radps[1]) == (5_000, 0, 0.5)
        for silencing in ("stall", "reset for=0.1", "brown_out v=5"):
            with pytest.raises(EmulatorError, match="a client waits for every answer"):
                running.control.inject(silencing)
        assert ask(4).device_time_us == 10_000
    finally:
        running.control.close()
        running.stop()
