# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from h2o_control import cli
from h2o_control.contract import get_task
from h2o_control.errors import ConfigError, DataError
from h2o_training.dataset import Dataset
from h2o_training.driving import UndrivableError, drive
from h2o_training.effects import Effects, effects_from
from h2o_training.indirect import STEPS, emulated, identify
from h2o_training.prediction import FITTED, LINEAR, NOTHING, REST, compare
from h2o_training.sysid import PAST, fit_of, solve
from h2o_training.sysid_problem import predict
from h2o_training.twin import TwinConfig, make_twin
from h2o_training.windows import Recording, cut, r_squared, recordings, split
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

LOG = Path(__file__).parents[2] / "shared" / "data" / "robot_log"
STAND = get_task("stand")


def from_twin(effects: dict[str, float], seconds: float = 40.0, noise: float = 1.0) -> list[Recording]:
    """Record a closed-form twin under LQR and random torque: data that the model can explain to the last bit."""
    robot = load_robot("ideal")
    measured = {"pitch_noise_rad": 0.001 * noise, "gyro_noise_radps": 0.01 * noise}
    generator = torch.Generator().manual_seed(3)
    config = TwinConfig(num_envs=1, effects={**effects, **measured})
    twin = make_twin(config, robot, generator, dtype=torch.float64)
    twin.set_state(torch.zeros(1, 4))
    gain, rng, torque_noise = lqr_gain(robot), np.random.default_rng(0), 0.0
    states, torques = [twin.state.numpy()[0]], []
    for _ in range(round(seconds / robot.interface.dt_s)):
        torque_noise += 0.06 * -torque_noise + 0.3 * rng.standard_normal()
        wanted = -gain @ states[-1]
        torque = float(np.clip(wanted + effects.get("dead_zone_nm", 0.0) * np.sign(wanted) + torque_noise, -3, 3))
        states.append(twin.step(torch.tensor([torque])).numpy()[0])
        torques.append([torque, torque])
    return [Recording(np.array(states), np.array(torques))]


@pytest.fixture(scope="module")
def driven() -> tuple[Effects, Dataset]:
    effects = effects_from(
        {"torque_factor": 0.8, "dead_zone_nm": 0.15, "actuation_delay_s": 0.007, "com_forward_m": 0.004}, "test"
    )
    noisy = dataclasses.replace(effects, pitch_noise_rad=0.001, gyro_noise_radps=0.01)
    return effects, drive(emulated(load_robot("ideal"), noisy), STAND, 40.0, 0)


def test_windows_stay_within_a_recording_and_follow_its_rows() -> None:
    states = np.arange(31 * 4, dtype=np.float64).reshape(31, 4)
    torque = np.arange(60, dtype=np.float64).reshape(30, 2)
    windows = cut([Recording(states, torque), Recording(states[:11], torque[:10])], steps=5, stride=4, past=3)
    # Starts 3, 7, … 23 of the first, 3 of the second.
    assert windows.recording.tolist() == [0] * 6 + [1]
    assert windows.states[1, 0].tolist() == states[7].tolist()
    assert windows.states[1, 5].tolist() == states[12].tolist()
    assert windows.torque_nm[1].tolist() == torque[7:12].tolist()
    assert windows.past_nm[1].tolist() == torque[4:7].tolist()
    with pytest.raises(DataError, match="3 \\+ 50 rows"):
        cut([Recording(states, torque)], steps=50, stride=1, past=3)


def test_what_is_held_back_is_the_end_and_no_row_is_in_both() -> None:
    states = np.arange(44, dtype=np.float64).reshape(11, 4)
    parts = [Recording(states, np.zeros((10, 2))), Recording(states + 100, np.ones((10, 2)))]
    first, second = split(parts, 0.25)
    assert [len(p.torque_nm) for p in first] == [10, 5]
    assert [len(p.torque_nm) for p in second] == [5]
    assert first[1].states[-1].tolist() == second[0].states[0].tolist()


def test_r_squared_by_hand() -> None:
    recorded = np.array([[0.0], [2.0]])
    assert r_squared(recorded, recorded) == pytest.approx([1.0])
    assert r_squared(recorded, np.array([[1.0], [1.0]])) == pytest.approx([0.0])
    assert r_squared(recorded, np.array([[2.0], [0.0]])) == pytest.approx([-3.0])


def test_simulating_with_the_true_values_gives_back_noise_free_data() -> None:
    effects = {"torque_factor": 0.7, "dead_zone_nm": 0.2, "actuation_delay_s": 0.008, "torque_lag_s": 0.006}
    windows = cut(from_twin(effects, 5.0, noise=0.0), STEPS, STEPS, PAST)
    values = {"torque_factor": np.array([0.7, 0.75])}
    paths = predict(load_robot("ideal"), effects_from(effects, "test"), windows, values)
    right, wrong = np.abs(paths - windows.states)[..., 1:].max(axis=(1, 2, 3))
    assert right < 1e-6 < 1e-2 < wrong


def test_intervals_hold_where_the_model_is_right() -> None:
    truth = {
        "torque_factor": 0.75,
        "dead_zone_nm": 0.2,
        "actuation_delay_s": 0.007,
        "coulomb_nm": 0.1,
        "com_forward_m": 0.005,
        "gyro_scale": 0.9,
    }
    names = (*truth, "body.com_height_m")
    windows = cut(from_twin(truth), STEPS, STEPS, PAST)
    fit = fit_of(solve(windows, load_robot("ideal"), Effects(), names), load_robot("ideal"), Effects())
    assert {e.verdict for e in fit.estimates} == {"identified"}
    for estimate in fit.estimates:
        true = truth.get(estimate.name, load_robot("ideal").body.com_height_m)
        # 1.5 half-widths are 2.9 standard deviations; the derivative by a delay has kinks of its own size.
        assert abs(estimate.value - true) < max(1.5 * estimate.half_width, 1e-3 * abs(true)), estimate
        assert 2 * estimate.half_width < 0.1 * abs(true), estimate
    assert fit.noise["theta"] == pytest.approx(0.001, rel=0.1)
    assert fit.noise["theta_dot"] == pytest.approx(0.01, rel=0.1)
    assert max(fit.starts) < 1.02 * min(fit.starts)


def test_what_cannot_be_told_apart_is_named() -> None:
    robot = load_robot("ideal")
    windows = cut(from_twin({"com_forward_m": 0.01}, 30.0), STEPS, STEPS, PAST)
    names = ("torque_factor", "com_forward_m", "pitch_bias_rad")
    fit = fit_of(solve(windows, robot, Effects(), names, starts=1), robot, Effects())
    by_name = {e.name: e for e in fit.estimates}
    assert by_name["com_forward_m"].verdict == by_name["pitch_bias_rad"].verdict == "confounded"
    assert by_name["com_forward_m"].partners[0] == "pitch_bias_rad"
    assert by_name["torque_factor"].verdict == "identified"
    # A tilted sensor does what a centre of mass does; a heavier body what weaker motors do.
    fit = fit_of(solve(windows, robot, Effects(), names[:2], starts=1), robot, Effects())
    assert ("pitch_bias_rad", "com_forward_m") in fit.alike


def test_what_was_left_out_is_asked_for() -> None:
    robot = load_robot("ideal")
    windows = cut(from_twin({"dead_zone_nm": 0.2, "velocity_lag_s": 0.008}), STEPS, STEPS, PAST)
    fit = fit_of(solve(windows, robot, Effects(), ("dead_zone_nm",), starts=1), robot, Effects())
    assert fit.asked[0][0] == "velocity_lag_s"
    both = ("dead_zone_nm", "velocity_lag_s")
    fit = fit_of(solve(windows, robot, Effects(), both, starts=1), robot, Effects())
    assert not fit.asked
    assert fit.values["velocity_lag_s"] == pytest.approx(0.008, rel=0.02)


def test_the_emulated_robot_is_found_in_what_its_operator_drove(driven: tuple[Effects, Dataset]) -> None:
    truth, data = driven
    names = ("torque_factor", "dead_zone_nm", "actuation_delay_s", "com_forward_m", "body.com_height_m")
    fit = identify(recordings(data), load_robot("ideal"), Effects(), names)
    for estimate in fit.estimates:
        true = 0.24 if estimate.name.startswith("body.") else getattr(truth, estimate.name)
        assert estimate.value == pytest.approx(true, rel=0.06), estimate
        assert abs(estimate.value - true) < 1.5 * estimate.half_width, estimate


def test_a_robot_that_cannot_be_driven_is_left_uncorrected_only_where_that_is_wanted(
    driven: tuple[Effects, Dataset],
) -> None:
    robot = load_robot("ideal")
    wild = dataclasses.replace(robot, balance=dataclasses.replace(robot.balance, exploration_nm=20.0))
    parts, names = recordings(driven[1]), ("dead_zone_nm",)
    with pytest.raises(UndrivableError, match="'ideal' falls within"):
        identify(parts, wild, Effects(), names)
    told: list[UndrivableError] = []
    fit = identify(parts, wild, Effects(), names, on_undrivable=told.append)
    assert len(told) == 1
    assert fit.values == identify(parts, robot, Effects(), names, as_driven=False).values


def test_the_3d_model_can_be_fitted_too(driven: tuple[Effects, Dataset]) -> None:
    truth, data = driven
    robot = load_robot("ideal")
    names = ("torque_factor", "dead_zone_nm", "actuation_delay_s")
    fit = identify(recordings(data), robot, Effects(com_forward_m=0.004), names, "mujoco", as_driven=False)
    for estimate in fit.estimates:
        assert estimate.value == pytest.approx(getattr(truth, estimate.name), rel=0.1), estimate


def test_bad_data_and_names_are_refused() -> None:
    robot, rows = load_robot("ideal"), np.zeros((3001, 4))
    still = [Recording(rows, np.zeros((3000, 2)))]
    with pytest.raises(DataError, match="windows are too few"):
        solve(cut(still, STEPS, STEPS, PAST), robot, Effects())
    with pytest.raises(DataError, match="never changes"):
        solve(cut(still, STEPS, 5, PAST), robot, Effects())
    with pytest.raises(ConfigError, match="Did you mean 'dead_zone_nm'"):
        solve(cut(still, STEPS, 5, PAST), robot, Effects(), ("dead_zone",))
    moving = cut(from_twin({}, 20.0), STEPS, STEPS, PAST)
    with pytest.raises(ConfigError, match="sliding_friction cannot be fitted"):
        solve(moving, robot, Effects(), ("sliding_friction",))


def test_command_writes_description_page_and_numbers(
    driven: tuple[Effects, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driven[1].save(tmp_path / "d.h5")
    out = tmp_path / "fitted.yaml"
    names = "torque_factor,dead_zone_nm,actuation_delay_s"
    arguments = ["sysid", str(tmp_path / "d.h5"), "--robot", "ideal", "--fit", names, "-o", str(out)]
    assert cli.main([*arguments, "--correct", "no"]) == 0
    assert "identified" in capsys.readouterr().out
    fitted = load_robot(str(out))
    assert fitted.plant is None
    assert fitted.twin["dead_zone_nm"] == pytest.approx(0.15, rel=0.1)
    assert fitted.balance.dead_zone_nm == fitted.twin["dead_zone_nm"]
    # The twin of the fitted robot has what was found.
    twin = make_twin(TwinConfig(num_envs=1), fitted, torch.Generator())
    assert twin.describe()["effects"]["dead_zone_nm"] == fitted.twin["dead_zone_nm"]
    content = json.loads((tmp_path / "fitted-sysid" / "sysid.json").read_text())
    assert content["r_squared"][FITTED]["theta"] > content["r_squared"][NOTHING]["theta"]
    assert "Predicted against recorded" in (tmp_path / "fitted-sysid" / "report.html").read_text()
    assert cli.main([*arguments, "--correct", "no"]) == 2
    assert "exists already" in capsys.readouterr().err
    out = tmp_path / "played.yaml"
    arguments[-1] = str(out)
    assert cli.main([*arguments, "--correct", "no", "--emulated"]) == 0
    assert load_robot(str(out)).plant is not None
    other = tmp_path / "other.yaml"
    data = yaml.safe_load(out.read_text())
    data["interface"]["wheel_radius_m"] = 0.1
    other.write_text(yaml.safe_dump(data))
    more = str(tmp_path / "more.yaml")
    assert cli.main(["sysid", str(tmp_path / "d.h5"), "--robot", str(other), "-o", more]) == 2
    assert "wheel_radius_m" in capsys.readouterr().err
    assert cli.main(["sysid", *[str(tmp_path / "d.h5")] * 2, "--robot", "ideal", "-o", more]) == 2
    assert "given twice" in capsys.readouterr().err
    short = dataclasses.replace(driven[1], **{k: v[:2000] for k, v in vars(driven[1]).items() if hasattr(v, "dtype")})
    short.save(tmp_path / "short.h5")
    assert cli.main(["sysid", str(tmp_path / "short.h5"), "--robot", "ideal", "-o", more]) == 2
    assert "at least 18 s" in capsys.readouterr().err
    assert not (tmp_path / "more-sysid").exists(), "what is refused leaves nothing behind"
    # Nothing but the dead zone is fitted, from far away: the model cannot predict, and nobody shall drive with it.
    heavy = ["--robot", str(_far_off(tmp_path)), "--fit", "dead_zone_nm", "--correct", "no"]
    assert cli.main(["sysid", str(tmp_path / "d.h5"), *heavy, "-o", more]) == 0
    shown = capsys.readouterr().out
    assert "no description of this robot" in shown
    assert "doubtful" in shown
    assert load_robot(more).balance.dead_zone_nm == 0.0


def _far_off(folder: Path) -> Path:
    data = {"name": "far", "description": "", "interface": {}, "body": dataclasses.asdict(load_robot("ideal").body)}
    data["twin"] = {"torque_factor": 3.0, "actuation_delay_s": 0.03}
    path = folder / "far.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.skipif(not LOG.is_dir(), reason="the log of the real robot is not part of the project")
def test_real_log_is_predicted_better_than_by_a_linear_map(tmp_path: Path) -> None:
    parts = {}
    for name in ("a", "b"):
        out = tmp_path / f"{name}.h5"
        columns = ["--columns", "x,v,theta,theta_dot,tau,done", "--rate-hz", "200"]
        assert cli.main(["dataset", "import-log", str(LOG / f"standing_{name}.txt.gz"), *columns, "-o", str(out)]) == 0
        parts[name] = recordings(Dataset.load(out))
    robot = load_robot("ideal")
    fit = fit_of(solve(cut(parts["a"], STEPS, STEPS, PAST), robot, Effects(), starts=1), robot, Effects())
    train, test = (cut(parts[name], STEPS, 1, PAST) for name in ("a", "b"))
    scores = compare(fit, train, test, robot, Effects(), "closed_form").scores(STEPS)
    assert (scores[REST] > scores[LINEAR] - 0.02).all()
    assert scores[REST].mean() > scores[LINEAR].mean() + 0.02
    assert (scores[FITTED] > scores[NOTHING] + 0.3).all()
    # θ̇ in this log is not the derivative of θ.
    assert fit.values["gyro_scale"] == pytest.approx(0.8, abs=0.05)
