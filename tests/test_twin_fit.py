# SPDX-License-Identifier: Apache-2.0
"""A dataset and a twin that cannot be of one robot are refused, each mistake by its reason; imperfect twins are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from h2o_control import cli
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import DataError
from h2o_training.action_lag import action_lag
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset
from h2o_training.dataset_log import import_logs
from h2o_training.driving import drive
from h2o_training.twin import TwinConfig
from h2o_training.twin_fit import recorded_answer, require_twin_fits, twin_answers
from make_golden_bags import GOLDEN
from wheel_leg_driver.robot import load_robot
from wheel_leg_driver.sagittal import linearise

STAND = TASKS["stand"]
REAL_LOG = Path(__file__).resolve().parents[2] / "shared" / "data" / "robot_log"


@pytest.fixture(scope="module")
def driven() -> Dataset:
    """Half a minute of the emulated robot that its twin describes worst."""
    return drive(load_robot("hard"), STAND, 30.0, seed=1)


def scaled(data: Dataset, factors: tuple[float, float, float, float], torque: float = 1.0) -> Dataset:
    """The same recording with states and torques in other units or signs."""
    by = np.array(factors, dtype=np.float32)
    return dataclasses.replace(
        data,
        states=data.states * by,
        next_states=data.next_states * by,
        wheel_torques=data.wheel_torques * np.float32(torque),
    )


def every_second_row(data: Dataset) -> Dataset:
    rows = np.arange(0, len(data) - 1, 2)
    return Dataset.from_states(
        data.states[rows],
        data.next_states[rows + 1],
        data.wheel_torques[rows],
        data.terminals[rows] | data.terminals[rows + 1],
        data.timeouts[rows] | data.timeouts[rows + 1],
        data.interface,
        data.task,
        {},
    )


@pytest.mark.parametrize("kind", ["closed_form", "mujoco"])
def test_a_merely_imperfect_twin_passes(driven: Dataset, kind: str) -> None:
    require_twin_fits(driven, "data", load_robot("ideal"), TwinConfig(kind=kind))


MISTAKES: dict[str, tuple[Callable[[Dataset], Dataset], tuple[str, ...]]] = {
    "torque the other way": (
        lambda d: scaled(d, (1, 1, 1, 1), torque=-1),
        ("v answers to torque with the opposite sign", "theta_dot answers to torque with the opposite sign"),
    ),
    "pitch the other way": (
        lambda d: scaled(d, (1, 1, -1, -1)),
        ("theta_dot answers to torque with the opposite sign",),
    ),
    "wheels the other way": (lambda d: scaled(d, (-1, -1, 1, 1)), ("v answers to torque with the opposite sign",)),
    "gyro the other way": (lambda d: scaled(d, (1, 1, 1, -1)), ("theta changes by -", "the other sign")),
    "pitch in degrees": (lambda d: scaled(d, (1, 1, 57.3, 1)), ("|theta| is beyond 1.57 rad", "degrees")),
    "small angles in degrees": (lambda d: scaled(d, (1, 1, 57.3, 57.3)), ("theta_dot", "times as much as in the twin")),
    "millimetres": (lambda d: scaled(d, (1000, 1000, 1, 1)), ("|v| is beyond 20 m/s", "v answers to torque")),
    "torque in mNm": (lambda d: scaled(d, (1, 1, 1, 1), torque=1000), ("beyond 2 times the limit of 3 Nm",)),
    "half the rate": (every_second_row, ("rows are about 9.", "ms apart and not 5 ms")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_its_reason(driven: Dataset, mistake: str) -> None:
    change, words = MISTAKES[mistake]
    with pytest.raises(DataError) as caught:
        require_twin_fits(change(driven), "monday.h5", load_robot("ideal"), TwinConfig())
    message = str(caught.value)
    assert "monday.h5 and the twin of robot 'ideal' do not fit together" in message
    assert "check_twin=false" in message
    for word in words:
        assert word in message, message


def test_the_twin_answers_as_its_equations_say(driven: Dataset) -> None:
    robot = load_robot("ideal")
    # Upright and at rest, so that the linearisation is exact but for the step's length.
    still = scaled(driven, (0, 0, 0, 0))
    answers = twin_answers(still, robot, TwinConfig())
    assert answers is not None
    wanted = linearise(robot.body, robot.interface.wheel_radius_m)[1][:, 0] * robot.interface.dt_s
    assert answers["v"].step == pytest.approx(wanted[1], rel=0.05)
    assert answers["theta_dot"].step == pytest.approx(wanted[3], rel=0.05)


def test_training_refuses_what_does_not_fit_unless_told_otherwise(driven, tmp_path, capsys) -> None:
    wrong = tmp_path / "wrong.h5"
    scaled(driven, (1, 1, -1, -1)).save(wrong)
    words = ["train", "h2o_plus", f"dataset={wrong}", "robot=hard", "updates=1", "collect.updates=1"]
    assert cli.main([*words, f"run={tmp_path / 'refused'}"]) == 2
    assert "opposite sign" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert cli.main([*words, f"run={tmp_path / 'trained'}", "check_twin=false", "log.evaluate_s=0.1"]) == 0


@pytest.mark.parametrize("bag", ["ideal", "worn", "hard", "carpet", "policy"])
def test_recordings_of_all_shipped_robots_pass_with_the_nominal_twin(bag: str) -> None:
    data = build_dataset([GOLDEN / bag], STAND)
    require_twin_fits(data, bag, load_robot("ideal"), TwinConfig())


def test_what_the_data_say_is_what_the_equations_say_where_the_twin_is_right() -> None:
    data, robot = build_dataset([GOLDEN / "ideal"], STAND), load_robot("ideal")
    answers = twin_answers(data, robot, TwinConfig())
    assert answers is not None
    for response, answer in answers.items():
        assert recorded_answer(data, action_lag(data, response)) == pytest.approx(answer.step, rel=0.05)


@pytest.mark.skipif(not REAL_LOG.is_dir(), reason="the real robot's log (../shared/data/robot_log) is not here")
@pytest.mark.parametrize("robot", ["ideal", "carpet"])
def test_the_real_robots_log_passes(robot: str) -> None:
    columns = ("x", "v", "theta", "theta_dot", "tau", "done")
    logs = [REAL_LOG / f"standing_{part}.txt.gz" for part in "ab"]
    data = import_logs(logs, columns, Interface(), STAND).dataset
    require_twin_fits(data, "the log", load_robot(robot), TwinConfig())
