# SPDX-License-Identifier: Apache-2.0
"""Logs of other people's robots go in strictly: what is wrong with them is said with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ConfigError, DataError
from h2o_training.dataset import Dataset
from h2o_training.dataset_cli import command
from h2o_training.dataset_log import import_logs, parse_columns, read_log

REAL_LOG = Path(__file__).resolve().parents[2] / "shared" / "data" / "robot_log"
COLUMNS = parse_columns("x,v,theta,theta_dot,tau,done")
ROWS = """\
0.1 0.2 0.01 0.1 1.5 0
0.2 0.3 0.02 0.2 -6.0 0

0.3 0.4 0.03 0.3 0.0 0  # a remark
"""


def write(tmp_path: Path, text: str, name: str = "log.txt") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_transition_is_a_row_its_torque_and_the_next_row(tmp_path: Path) -> None:
    result = import_logs([write(tmp_path, ROWS)], COLUMNS, Interface(), TASKS["stand"])
    d = result.dataset
    np.testing.assert_allclose(d.states, [[0.1, 0.2, 0.01, 0.1], [0.2, 0.3, 0.02, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(d.next_states, [[0.2, 0.3, 0.02, 0.2], [0.3, 0.4, 0.03, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(d.actions, [[0.5], [-1.0]])
    assert (result.rows, result.clipped, result.dropped) == (3, 1, 0)
    assert d.timeouts.tolist() == [False, True]
    assert d.rewards[1] == pytest.approx(30 - 0.09 - 0.16 - 0.0009 - 0.09 - 9.0)


def test_the_first_done_row_ends_the_recording(tmp_path: Path) -> None:
    rows = "".join(f"{k} 0 0 0 0 {int(k in (5, 6))}\n" for k in range(10))
    result = import_logs([write(tmp_path, rows)], COLUMNS, Interface(), TASKS["stand"])
    assert result.dataset.terminals.tolist() == [False] * 4 + [True]
    assert result.dataset.next_states[-1, 0] == 5
    assert not result.dataset.timeouts.any()
    assert result.dropped == 4


def test_files_are_recordings_of_their_own(tmp_path: Path) -> None:
    files = [write(tmp_path, text, f"{k}.txt") for k, text in enumerate((ROWS, ROWS + "0.4 0.5 0.04 0.4 0.0 0\n"))]
    d = import_logs(files, COLUMNS, Interface(), TASKS["stand"]).dataset
    assert len(d) == 5
    assert d.timeouts.tolist() == [False, True, False, False, True]


def test_columns_come_in_any_order_and_extra_ones_are_skipped(tmp_path: Path) -> None:
    log = write(tmp_path, "junk,1.5,0.1,0.01,0.2,0.3,nan\njunk,1.5,0.1,0.01,0.2,0.3,nan\n")
    d = import_logs([log], parse_columns("_,tau,theta_dot,theta,v,x,_"), Interface(), TASKS["move"]).dataset
    np.testing.assert_allclose(d.states, [[0.3, 0.2, 0.01, 0.1]], rtol=1e-6)
    assert d.actions[0, 0] == 0.5


def test_without_a_done_column_the_pitch_tells_the_fall(tmp_path: Path) -> None:
    log = write(tmp_path, "0 0 0.4 0 0\n0 0 0.51 0 0\n0 0 0.9 0 0\n")
    d = import_logs([log], parse_columns("x,v,theta,theta_dot,tau"), Interface(), TASKS["stand"]).dataset
    assert d.terminals.tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS + "1 2 3\n", r"log.txt line 5: 3 columns, 6 are named"),
        (ROWS + "1 2 3 4 5 0 7\n", r"line 5: 7 columns"),
        (ROWS + "1 2 upright 4 5 0\n", r"line 5: theta is 'upright', not a number"),
        (ROWS + "1 2 nan 4 5 0\n", r"line 5: theta is nan, not a finite number"),
        (ROWS + "1 -inf 3 4 5 0\n", r"line 5: v is -inf"),
        (ROWS + "1 2 3 4 5 0.5\n", r"line 5: done is 0.5, expected 0 or 1"),
        ("1 2 3 4 5 0\n", r"no transitions"),
        ("", r"no transitions"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_logs([write(tmp_path, text)], COLUMNS, Interface(), TASKS["stand"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,v,theta,tau", "lacks theta_dot"),
        ("x,v,theta,thetadot,tau", "Did you mean 'theta_dot'"),
        ("x,v,theta,theta_dot,tau,tau", "names 'tau' 2 times"),
    ],
)
def test_wrong_columns_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_columns(text)


def test_gzip_is_read_and_damaged_gzip_refused(tmp_path: Path) -> None:
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(ROWS.encode()))
    assert read_log(packed, COLUMNS).shape == (3, 6)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot read"):
        read_log(packed, COLUMNS)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        read_log(tmp_path / "binary", COLUMNS)
    with pytest.raises(DataError, match="No such file"):
        read_log(tmp_path / "absent", COLUMNS)


def test_another_rate_or_robot_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path, ROWS)
    arguments = ["import-log", str(log), "--columns", ",".join(COLUMNS), "-o", str(tmp_path / "d.h5")]
    with pytest.raises(DataError, match="the log has 100 rows a second"):
        command([*arguments, "--rate-hz", "100"])
    with pytest.raises(ConfigError, match="no robots file named"):
        command([*arguments, "--rate-hz", "200", "--robot", "idle"])


@pytest.mark.skipif(not REAL_LOG.is_dir(), reason="the real robot's log (../shared/data/robot_log) is not here")
def test_the_real_robots_log_goes_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "real.h5"
    files = [str(REAL_LOG / f"standing_{part}.txt.gz") for part in "ab"]
    columns = ["--columns", "x,v,theta,theta_dot,tau,done", "--rate-hz", "200"]
    assert command(["import-log", *files, *columns, "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    d = Dataset.load(output)
    assert len(d) == 11_999 + 2_051  # the second file: row 2051 is the first done row
    assert np.flatnonzero(d.terminals).tolist() == [len(d) - 1]
    assert np.flatnonzero(d.timeouts).tolist() == [11_998]
    assert np.abs(d.actions).max() == 1.0
    assert "36 after a fall dropped" in printed
    # Δx = 0.00499 v in this log: the pairs are neighbours.
    slope = np.polyfit(d.states[:, 1], d.next_states[:, 0] - d.states[:, 0], 1)[0]
    assert slope == pytest.approx(0.00499, abs=5e-5)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffx,v,theta,theta_dot,tau,done\r\n0.1,0.2,0.01,0.1,1.5,0\r\n0.2,0.3,0.02,0.2,-6,0",
        "0.1;0.2;0.01;0.1;1.5;0\n0.2;0.3;0.02;0.2;-6;0\n",
        "0,1;0,2;0,01;0,1;1,5;0;\n0,2;0,3;0,02;0,2;-6,0;0;",
        "0.1\t0.2\t0.01\t0.1\t1.5\t0\n0.2\t0.3\t0.02\t0.2\t-6\t0",
        "# a remark\n0.1, 0.2, 0.01, 0.1, 1.5, 0\n0.2, 0.3, 0.02, 0.2, -6, 0\n",
    ],
    ids=["BOM, names, CRLF, no last newline", "semicolons", "decimal commas", "tabs", "commas and blanks"],
)
def test_other_programs_text_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_bytes(text.encode())
    np.testing.assert_array_equal(
        read_log(tmp_path / "log.csv", COLUMNS), [[0.1, 0.2, 0.01, 0.1, 1.5, 0], [0.2, 0.3, 0.02, 0.2, -6, 0]]
    )


@pytest.mark.parametrize("head", ["t,theta [rad],x,v,theta_dot,tau (Nm)\n", '# t, "theta", x, v, theta_dot, tau\n'])
def test_columns_may_come_from_the_first_line(tmp_path: Path, head: str) -> None:
    log = write(tmp_path, head + "0,0.01,0.1,0.2,0.3,1.5\n1,0.02,0.2,0.3,0.4,0\n")
    d = import_logs([log], None, Interface(), TASKS["stand"]).dataset
    np.testing.assert_allclose(d.states, [[0.1, 0.2, 0.01, 0.3]], rtol=1e-6)
    assert d.actions[0, 0] == 0.5


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("1,2,3,4,5\n", "does not begin with a line of names"),
        ("x,v,pitch,theta_dot,tau\n", "names x, v, pitch, theta_dot, tau, but not theta"),
        ("x,x,v,theta,theta_dot,tau\n", "names 'x' 2 times"),
    ],
)
def test_a_first_line_without_the_names_is_refused(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_logs([write(tmp_path, head + "0,0,0,0,0\n")], None, Interface(), TASKS["stand"])


def test_names_that_contradict_the_columns_given_are_refused(tmp_path: Path) -> None:
    log = write(tmp_path, "x,v,theta_dot,theta,tau,done\n" + ROWS.replace(" ", ","))
    with pytest.raises(DataError, match="line 1 calls column 3 'theta_dot', --columns calls it 'theta'"):
        read_log(log, COLUMNS)


def test_an_empty_field_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: theta is '', not a number"):
        read_log(write(tmp_path, "1,2,3,4,5,0\n1,2,,4,5,0\n"), COLUMNS)
