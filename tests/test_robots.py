# SPDX-License-Identifier: Apache-2.0
"""Robots between two others, robots drawn around one, and the command that makes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from h2o_control import cli
from h2o_control.config import config_dir, to_mapping
from h2o_control.errors import ConfigError
from h2o_training.distribution import Distribution
from h2o_training.effects import Effects, effects_from
from h2o_training.robots import WORDS, Spread, blend_effects, draw_robot, load_spread, shipped, to_yaml
from lockstep import LockStep
from wheel_leg_driver.blend import blend_robots
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.robot import PlantSpec, Robot, load_robot

LABELS = ("name", "description", "provenance")


def unlabelled(robot: Robot) -> dict[str, object]:
    return {key: value for key, value in to_mapping(robot).items() if key not in LABELS}


def run(*argv: str) -> int:
    return cli.main(["robot", *argv])


class LinearPlant:
    """Somebody else's plant, which does not say what lies between its options."""

    def __init__(self, robot: Robot, seed: int, gain: float = 1.0, floor: str = "wood") -> None:
        self.gain, self.floor = gain, floor

    def reset(self, pitch_rad: float = 0.0, pitch_rate_radps: float = 0.0) -> None:
        raise NotImplementedError

    def step(self, torque_nm: tuple[float, float], posture_rad: tuple[float, float], dt_s: float) -> None:
        raise NotImplementedError

    def sense(self) -> SensorReadings:
        raise NotImplementedError

    def truth(self) -> tuple[float, float, float, float]:
        raise NotImplementedError


def foreign(**options: object) -> Robot:
    return dataclasses.replace(load_robot("ideal"), plant=PlantSpec("test_robots:LinearPlant", options))


def test_gap_0_and_1_are_the_two_robots_themselves() -> None:
    ideal, worn = load_robot("ideal"), load_robot("worn")
    assert unlabelled(blend_robots(ideal, worn, 0.0)) == unlabelled(ideal)
    assert unlabelled(blend_robots(ideal, worn, 1.0)) == unlabelled(worn)


def test_halfway_is_the_mean_of_what_both_say_and_of_the_defaults_where_one_is_silent() -> None:
    ideal, worn = load_robot("ideal"), load_robot("worn")
    heavy = dataclasses.replace(ideal, body=dataclasses.replace(ideal.body, body_mass_kg=12.8))
    robot = blend_robots(heavy, worn, 0.5)
    assert robot.body.body_mass_kg == pytest.approx((12.8 + 10.8) / 2)
    assert robot.body.com_height_m == 0.24
    assert robot.balance.torque_factor == pytest.approx((1.0 + 0.75) / 2)
    assert robot.plant is not None
    assert robot.plant.options["torque_factor"] == pytest.approx((1.0 + 0.75) / 2)
    assert robot.plant.options["dead_zone_nm"] == pytest.approx(0.25 / 2)
    assert robot.name == "ideal-worn-0.5"


def test_a_load_grows_where_the_robot_that_carries_it_has_it() -> None:
    load = {"payload_kg": 0.8, "payload_forward_m": 0.06, "payload_height_m": 0.4}
    for first, second, gap in (({}, load, 0.25), (load, {}, 0.75)):
        effects = effects_from(blend_effects(first, second, gap), "test")
        assert effects.payload_kg == pytest.approx(0.2)
        assert (effects.payload_forward_m, effects.payload_height_m) == (0.06, 0.4)


@given(gap=st.floats(0.0, 1.0), low=st.floats(0.05, 5.0), high=st.floats(0.05, 5.0))
def test_every_blend_lies_between_its_ends(gap: float, low: float, high: float) -> None:
    effects = effects_from(blend_effects({"torque_factor": low}, {"torque_factor": high}, gap), "test")
    assert min(low, high) - 1e-12 <= effects.torque_factor <= max(low, high) + 1e-12


def test_what_identification_found_is_blended_too() -> None:
    fitted = dataclasses.replace(load_robot("ideal"), twin={"torque_factor": 0.6})
    robot = blend_robots(load_robot("ideal"), fitted, 0.5)
    assert robot.twin == {"torque_factor": pytest.approx(0.8)}


def test_another_interface_is_refused_with_what_differs() -> None:
    ideal = load_robot("ideal")
    other = dataclasses.replace(ideal, interface=dataclasses.replace(ideal.interface, rate_hz=100.0))
    with pytest.raises(ConfigError, match=r"different interfaces.*rate_hz 200\.0 and 100\.0"):
        blend_robots(ideal, other, 0.5)


def test_a_plant_that_does_not_say_what_lies_between_needs_the_same_numbers_from_both() -> None:
    robot = blend_robots(foreign(gain=1.0, floor="wood"), foreign(gain=3.0, floor="wood"), 0.25)
    assert robot.plant == PlantSpec("test_robots:LinearPlant", {"gain": 1.5, "floor": "wood"})
    with pytest.raises(ConfigError, match="gain is given for one of them only"):
        blend_robots(foreign(gain=1.0), foreign(), 0.5)
    with pytest.raises(ConfigError, match="nothing lies between floor 'wood' and 'ice'"):
        blend_robots(foreign(floor="wood"), foreign(floor="ice"), 0.5)
    with pytest.raises(ConfigError, match="nothing lies between plants"):
        blend_robots(foreign(), load_robot("worn"), 0.5)
    with pytest.raises(ConfigError, match="one has no plant"):
        blend_robots(dataclasses.replace(foreign(), plant=None), foreign(), 0.5)


def test_a_blend_is_loaded_wherever_a_robot_is() -> None:
    robot = load_robot("ideal:worn:0.25")
    assert robot == blend_robots(load_robot("ideal"), load_robot("worn"), 0.25)
    run = LockStep("ideal:worn:0.25")
    run.balance()
    assert abs(run.plant.truth()[2]) < 0.1


def test_a_blend_in_a_file_finds_the_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(to_yaml(load_robot("worn")))
    file = tmp_path / "between.yaml"
    file.write_text("name: between\nblend: {from: ideal, to: mine.yaml, gap: 0.5}\n")
    robot = load_robot(str(file))
    assert robot.name == "between"
    assert unlabelled(robot) == unlabelled(load_robot("ideal:worn:0.5"))
    assert load_robot(f"{file}:ideal:1").body == load_robot("ideal").body


def test_a_written_robot_finds_a_plant_that_lies_beside_the_original(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "still.py").write_text("class Still:\n    pass\n")
    original = tmp_path / "mine" / "robot.yaml"
    text = to_yaml(dataclasses.replace(load_robot("ideal"), plant=PlantSpec("still.py:Still")))
    original.write_text(text.replace(str(Path.cwd() / "still.py"), "still.py"))
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(load_robot(str(original))))
    assert load_robot(str(copy)).plant == PlantSpec(f"{tmp_path}/mine/still.py:Still")
    assert load_robot(f"{original}:{copy}:0.5").plant == load_robot(str(copy)).plant


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("blend: {from: ideal, to: worn}", "blend must read"),
        ("blend: {from: ideal, to: worn, gap: half}", "gap must be a number"),
        ("blend: {from: ideal, to: worn, gap: 1.5}", r"must lie in \[0, 1\], got 1.5"),
        ("blend: {from: ideal, to: worn, gap: .nan}", r"must lie in \[0, 1\], got nan"),
        ("blend: {from: ideal, to: bad.yaml, gap: 0.5}", "leads back to itself"),
        ("blend: {from: ideal, to: worn, gap: 0.5}\nname: a/b", "slash"),
        ("blend: {from: ideal, to: worn, gap: 0.5}\nbody: {}", "unknown key 'body'"),
        ("blend: worn", "blend must be a mapping"),
    ],
)
def test_a_bad_blend_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_robot(str(file))


@pytest.mark.parametrize("text", ["ideal:worn", "ideal:worn:", "ideal:worn:x", "a:b:c:0.5", ":", "ideal:worn:-0.1"])
def test_a_bad_blend_in_words_says_what_is_wrong(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write FROM:TO:GAP|must lie in"):
        load_robot(text)


def test_drawn_robots_follow_from_seed_and_number_alone() -> None:
    robot, spread = load_robot("worn"), load_spread("default")
    first = draw_robot(robot, spread, 7, 3, "default")
    assert first == draw_robot(robot, spread, 7, 3, "default")
    assert unlabelled(first) != unlabelled(draw_robot(robot, spread, 8, 3, "default"))
    assert unlabelled(first) != unlabelled(draw_robot(robot, spread, 7, 4, "default"))
    assert first.provenance["drawn_around"] == "worn"
    assert (first.provenance["seed"], first.provenance["index"]) == (7, 3)
    assert first.balance == robot.balance


def test_drawn_values_have_the_spread_they_were_given() -> None:
    spread = Spread(
        {
            "torque_factor": Distribution(uniform=(0.8, 1.2), relative=True),
            "pitch_bias_rad": Distribution(normal=(0.0, 0.01), offset=True),
            "body.com_height_m": Distribution(log_uniform=(0.2, 0.3)),
        }
    )
    robots = [draw_robot(load_robot("worn"), spread, 0, index, "test") for index in range(200)]
    effects = [effects_from(robot.plant.options, "test") for robot in robots if robot.plant]
    torque = np.array([e.torque_factor for e in effects])
    assert torque.min() >= 0.75 * 0.8 and torque.max() <= 0.75 * 1.2
    assert torque.mean() == pytest.approx(0.75, abs=4 * 0.75 * 0.4 / np.sqrt(12 * 200))
    bias = np.array([e.pitch_bias_rad for e in effects])
    assert bias.mean() == pytest.approx(0.01, abs=4 * 0.01 / np.sqrt(200))
    height = np.array([robot.body.com_height_m for robot in robots])
    assert height.min() >= 0.2 and height.max() <= 0.3 and height.std() > 0.02
    assert {e.dead_zone_nm for e in effects} == {0.25}


def test_a_draw_that_makes_no_robot_is_drawn_again() -> None:
    robot = load_robot("ideal")
    # With the centre of mass far above them, the legs alone have more pitch inertia about it than the whole body.
    spread = Spread({"body.com_height_m": Distribution(uniform=(0.24, 0.72))})
    heights = [draw_robot(robot, spread, 0, index, "test").body.com_height_m for index in range(20)]
    assert max(heights) < 0.6, "some of twenty would be higher, were they not refused"
    with pytest.raises(ConfigError, match="no valid robot in 100 draws"):
        draw_robot(robot, Spread({"body.com_height_m": Distribution(uniform=(0.7, 0.72))}), 0, 0, "test")


def test_the_driver_balances_robots_drawn_around_worn(tmp_path: Path) -> None:
    spread = load_spread("default")
    for index in range(4):
        robot = draw_robot(load_robot("worn"), spread, 0, index, "default")
        file = tmp_path / f"{robot.name}.yaml"
        file.write_text(to_yaml(robot))
        run = LockStep(str(file))
        run.balance()
        run.seconds(8.0)
        assert run.core.mode == "balance", run.core.reason


def test_every_effect_has_words() -> None:
    assert list(WORDS) == [field.name for field in dataclasses.fields(Effects)]


@pytest.mark.parametrize("name", ["ideal", "worn", "ideal:worn:0.5"])
def test_a_written_robot_is_the_robot(name: str, tmp_path: Path) -> None:
    file = tmp_path / "copy.yaml"
    file.write_text(to_yaml(load_robot(name), "a comment"))
    assert load_robot(str(file)) == load_robot(name)


def test_shipped_spreads_name_parameters_of_every_shipped_robot() -> None:
    for path in (config_dir() / "populations").glob("*.yaml"):
        for robot in shipped(config_dir() / "robots"):
            draw_robot(load_robot(robot), load_spread(path.stem), 0, 0, path.stem)


def test_list_shows_every_shipped_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert {path.stem for path in (config_dir() / "robots").glob("*.yaml")} <= words


def test_show_prints_a_file_that_is_the_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "worn") == 0
    text = capsys.readouterr().out
    assert "motors produce 75% of the commanded torque" in text
    assert yaml.safe_load(text)["plant"]["options"]["dead_zone_nm"] == 0.25


def test_blend_writes_a_robot_once(tmp_path: Path) -> None:
    file = tmp_path / "half.yaml"
    arguments = ("blend", "ideal", "worn", "--gap", "0.5", "-o", str(file))
    assert run(*arguments) == 0
    assert load_robot(str(file)) == load_robot("ideal:worn:0.5")
    file.write_text("mine")
    assert run(*arguments) == 2
    assert file.read_text() == "mine"


def test_draw_writes_the_same_files_for_the_same_seed(tmp_path: Path) -> None:
    for folder, count in (("a", 3), ("b", 2)):
        assert run("draw", "worn", "--population", str(count), "--seed", "5", "-o", str(tmp_path / folder)) == 0
    names = ["worn-5-000.yaml", "worn-5-001.yaml", "worn-5-002.yaml"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    for name in names[:2]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert load_robot(str(tmp_path / "a" / name)).name + ".yaml" == name


def test_draw_leaves_a_folder_with_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "worn-5-000.yaml"
    kept.write_text("mine")
    assert run("draw", "worn", "--population", "3", "--seed", "5", "-o", str(tmp_path)) == 2
    assert "holds files already" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(kept.name, "mine")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("show nobody", "no robots file named 'nobody'"),
        ("show ideal:worn:2", "must lie in [0, 1], got 2"),
        ("blend ideal worn --gap -0.1 -o OUT/x.yaml", "must lie in [0, 1], got -0.1"),
        ("blend ideal worn --gap 0.5 -o OUT/x", "must end in .yaml"),
        ("draw worn --population 0 --seed 1 -o OUT/p", "--population must be at least 1, got 0"),
        ("draw worn --population 2 --seed -1 -o OUT/p", "--seed must not be negative"),
        ("draw worn --population 2 --seed 1 --spread nowhere -o OUT/p", "no populations file named 'nowhere'"),
        ("draw worn --population 2 --seed 1 --spread OUT/typo.yaml -o OUT/p", "Did you mean 'dead_zone_nm'?"),
        ("draw worn --population 2 --seed 1 --spread OUT/two.yaml -o OUT/p", "exactly one of uniform"),
        ("draw worn --population 2 --seed 1 -o OUT/two.yaml", "is a file; give a folder"),
        ("draw OUT/real.yaml --population 2 --seed 1 -o OUT/p", "only emulated robots can be drawn"),
        ("urdf ideal -o OUT/two.yaml/x.urdf", "cannot write"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text("parameters: {dead_zon_nm: {uniform: [0, 1]}}")
    (tmp_path / "two.yaml").write_text("parameters: {dead_zone_nm: {uniform: [0, 1], normal: [0, 1]}}")
    (tmp_path / "real.yaml").write_text(to_yaml(dataclasses.replace(load_robot("ideal"), plant=None)))
    before = sorted(tmp_path.iterdir())
    assert run(*arguments.replace("OUT", str(tmp_path)).split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
