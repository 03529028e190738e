# SPDX-License-Identifier: Apache-2.0
"""A recording made by hand with each defect that `dataset check` knows: each gives its finding, none gives none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest

from bag_tools import (
    START_NS,
    TYPESTORE,
    device_time,
    header,
    joint_torques,
    make_bag,
    message,
    odometry,
    swaying,
    text,
    vector,
)
from h2o_control import topics
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import TASKS, Interface
from h2o_control.errors import ContractError, DataError
from h2o_training.action_lag import action_lag
from h2o_training.coverage import planes
from h2o_training.dataset import Dataset
from h2o_training.dataset_build import build_dataset
from h2o_training.dataset_check import Checked, LogFormat, check
from h2o_training.dataset_check_rows import consistency
from h2o_training.dataset_check_rules import RULE, RULES, Level
from h2o_training.dataset_cli import command
from h2o_training.dataset_log import import_logs
from h2o_training.driving import drive
from make_golden_bags import GOLDEN
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot
from wheel_leg_driver.sagittal import Parameters, accelerations

REAL_LOG = Path(__file__).resolve().parents[2] / "shared" / "data" / "robot_log"
STAND = TASKS["stand"]
RATE_HZ = 100.0
DT = 1.0 / RATE_HZ
STEP = round(1e9 * DT)
N = 6400
WHEEL_RADIUS_M = 0.065


@dataclass
class Made:
    """A recording to be: arrays with a row a frame; `lost` frames and messages are not written, `twice` are, twice."""

    stamps_ns: np.ndarray
    states: np.ndarray
    executed: np.ndarray
    device_us: np.ndarray
    sequence: np.ndarray
    gyro: np.ndarray
    lost: set[int] = field(default_factory=set)
    lost_joints: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    swapped: set[int] = field(default_factory=set)
    interface: Interface = field(default_factory=lambda: Interface(rate_hz=RATE_HZ))
    lost_commands: set[int] = field(default_factory=set)
    fault_at: int = -1


def simulate(n: int = N, vigour: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The closed form under the driver's gain, wanted speeds, exploration and pushes: states [n, 4], torques [n]."""
    robot, rng = load_robot("ideal"), np.random.default_rng(3)
    gain, parameters = lqr_gain(robot), Parameters.of(robot.body, WHEEL_RADIUS_M)
    state, target, noise, wanted = np.zeros(4), np.zeros(4), 0.0, 0.0
    states, torques = np.zeros((n, 4)), np.zeros(n)
    for k in range(n):
        if k % 150 == 0:
            wanted = vigour * float(rng.choice([-0.5, -0.25, 0.0, 0.0, 0.25, 0.5]))
        if k % 100 == 50:
            state[3] += vigour * rng.normal(0.0, 0.8)
        target[1] += np.clip(wanted - target[1], -0.02, 0.02)
        target[0] = state[0] + np.clip(target[0] + target[1] * DT - state[0], -0.1, 0.1)
        noise = 0.85 * noise + vigour * 0.5 * rng.standard_normal()
        states[k] = state
        torques[k] = np.clip(-gain @ (state - target) + noise, -2.9, 2.9)
        for _ in range(5):
            v_dot, theta_ddot = accelerations(parameters, state[1], state[2], state[3], torques[k])
            state[[1, 3]] += np.array([v_dot, theta_ddot]) * DT / 5
            state[[0, 2]] += state[[1, 3]] * DT / 5
    return states, torques


@lru_cache(maxsize=4)
def run(vigour: float) -> tuple[np.ndarray, np.ndarray]:
    return simulate(vigour=vigour)


def made(vigour: float = 1.0) -> Made:
    states, torques = run(vigour)
    # Executed over the step that ends at the stamp, as the firmware reports it.
    executed = np.concatenate(([0.0], torques[:-1]))
    k = np.arange(N)
    gyro = np.random.default_rng(1).normal(0.0, 0.01, (N, 3)) + np.outer(states[:, 3], [0, 1, 0])
    return Made(
        START_NS + k * STEP, states.copy(), executed, 10**6 + 10_000 * k, 7 + k, gyro, set(), set(), set(), set()
    )


@cache
def odom_bytes(stamp: int, *state: float) -> bytes:
    return odometry(stamp, state)


@cache
def joint_bytes(stamp: int, torque: float, x: float, v: float) -> bytes:
    wheels = np.array([x, x]) / WHEEL_RADIUS_M, np.array([v, v]) / WHEEL_RADIUS_M
    state = message(
        "sensor_msgs/msg/JointState",
        header=header(stamp),
        name=list(topics.WHEELS),
        position=wheels[0],
        velocity=wheels[1],
        effort=np.array([torque, torque]),
    )
    return bytes(TYPESTORE.serialize_cdr(state, "sensor_msgs/msg/JointState"))


@cache
def command_bytes(stamp: int, torque: float) -> bytes:
    return joint_torques(stamp, (torque, torque), topics.BALANCE)


@cache
def imu_bytes(stamp: int, *gyro: float) -> bytes:
    imu = message(
        "sensor_msgs/msg/Imu",
        header=header(stamp),
        orientation=message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        orientation_covariance=np.zeros(9),
        angular_velocity=vector(*gyro),
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector(0.0, gyro[0], 9.81 + gyro[2]),
        linear_acceleration_covariance=np.zeros(9),
    )
    return bytes(TYPESTORE.serialize_cdr(imu, "sensor_msgs/msg/Imu"))


def write(path: Path, m: Made) -> Path:
    writer = BagWriter(path, {f"/{name}": kind for name, kind in topics.TYPES.items()}, m.interface)
    writer.start_episode()
    writer.write("/interface", text(m.interface.to_json()), START_NS)
    writer.write("/configuration", text(json.dumps({"robot": {"name": "made"}})), START_NS)
    writer.write("/mode", text("balance: armed"), START_NS)
    travelled = np.concatenate(([0.0], np.cumsum(m.states[:-1, 1]) * DT))
    order = list(range(len(m.stamps_ns)))
    for k in m.swapped:
        order[k], order[k + 1] = order[k + 1], order[k]
    following = np.append(m.executed[1:], 0.0)
    for written, k in enumerate(order):
        if k in m.lost:
            continue
        stamp, state = int(m.stamps_ns[k]), m.states[k]
        messages = [("odom", odom_bytes(stamp, *state)), ("device_time", time_bytes(m, k, stamp))]
        if k not in m.lost_joints:
            # What the encoders say is what x and v say, which may have been tampered with.
            joints = joint_bytes(stamp, m.executed[k], float(travelled[k]), float(m.states[k, 1]))
            messages.append(("joint_states", joints))
        if k not in m.lost_commands:
            messages.append(("wheel_command", command_bytes(stamp, following[k])))
        if k == m.fault_at:
            messages.append(("mode", text("fault: fallen")))
        messages.append(("imu", imu_bytes(stamp, *m.gyro[k])))
        for topic, data in messages * (2 if k in m.twice else 1):
            writer.write(f"/{topic}", data, START_NS + written * STEP)
    writer.close()
    return path


def time_bytes(m: Made, k: int, stamp: int) -> bytes:
    return device_time(stamp, int(m.device_us[k]), int(m.sequence[k]))


def gap(m: Made) -> None:
    m.lost |= set(range(2000, 2100))


def drops(m: Made) -> None:
    m.lost |= set(range(1000, 1900, 30))


def incomplete(m: Made) -> None:
    m.lost_joints |= set(range(3000, 3100))


def not_a_number(m: Made) -> None:
    m.states[[500, 700], 1] = np.nan


def backwards(m: Made) -> None:
    m.swapped |= {4000, 4100}


def duplicates(m: Made) -> None:
    m.twice |= set(range(4200, 4240))


def clock(m: Made) -> None:
    m.stamps_ns[3500:] += 30_000_000


def drift(m: Made) -> None:
    m.stamps_ns[:] = START_NS + ((m.stamps_ns - START_NS) * 1.02).astype(np.int64)


def restart(m: Made) -> None:
    m.sequence[5000:] -= m.sequence[5000]
    m.device_us[5000:] -= m.device_us[5000]


def stuck_pitch(m: Made) -> None:
    m.states[2600:2620, 2] = m.states[2600, 2]


def stuck_gyro(m: Made) -> None:
    m.gyro[2700:2750, 1] = m.gyro[2700, 1]


def jump(m: Made) -> None:
    m.states[5500:, 0] += 0.1


def position(m: Made) -> None:
    m.states[:, 1] *= 0.8


def pitch(m: Made) -> None:
    m.states[:, 3] *= 0.8


def saturation(m: Made) -> None:
    limit = float(np.quantile(np.abs(m.executed), 0.9))
    m.executed = np.clip(m.executed, -limit, limit)
    m.interface = Interface(rate_hz=RATE_HZ, torque_limit_nm=limit)


def over_limit(m: Made) -> None:
    m.interface = Interface(rate_hz=RATE_HZ, torque_limit_nm=float(np.quantile(np.abs(m.executed), 0.99)))


def excitation(m: Made) -> None:
    m.executed = np.random.default_rng(2).permutation(m.executed)


def lag(m: Made) -> None:
    m.executed = np.append(m.executed[4:], np.zeros(4))


def sign(m: Made) -> None:
    m.executed = -m.executed


def amount(m: Made) -> None:
    m.lost |= set(range(4500, N))


ALONE: dict[Callable[[Made], None], str] = {
    gap: "gaps",
    drops: "drops",
    incomplete: "incomplete",
    not_a_number: "not a number",
    backwards: "backwards",
    duplicates: "duplicates",
    clock: "clock",
    drift: "drift",
    restart: "restarts",
    stuck_pitch: "stuck",
    stuck_gyro: "stuck",
    jump: "jumps",
    position: "position",
    pitch: "pitch",
    saturation: "saturation",
    over_limit: "over limit",
    excitation: "excitation",
    lag: "lag",
    sign: "sign",
    amount: "amount",
}


def found(checked: Checked) -> dict[str, Level]:
    return {f.rule.name: f.level for f in checked.findings if f.level > Level.GOOD}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clean") / "walk", made())


def test_nothing_is_found_against_a_clean_recording(clean: Path) -> None:
    checked = check([clean], STAND)
    assert found(checked) == {}
    assert checked.level == Level.GOOD
    assert [f.rule.name for f in checked.findings] == [rule.name for rule in RULES]


@pytest.mark.parametrize(("spoil", "name"), ALONE.items(), ids=lambda value: getattr(value, "__name__", None))
def test_each_defect_alone_is_found_and_nothing_else(tmp_path: Path, spoil: Callable[[Made], None], name: str) -> None:
    recording = made()
    spoil(recording)
    checked = check([write(tmp_path / "walk", recording)], STAND)
    assert set(found(checked)) == {name}
    assert found(checked)[name] >= Level.CARE
    (finding,) = checked.problems
    assert RULE[name].advice[1:] in finding.reason and RULE[name].threshold in finding.reason


def test_a_recording_in_which_the_robot_hardly_moves_lacks_coverage(tmp_path: Path) -> None:
    checked = check([write(tmp_path / "walk", made(vigour=0.05))], STAND)
    assert set(found(checked)) == {"coverage"}
    told = [str(wish) for wish in checked.wishes]
    assert any(w.startswith("drive backwards at 0.1–0.3 m/s: 0.0 s of it so far, 3 s wanted") for w in told)
    assert any(w.startswith("push it so that it leans forward: pitch beyond +0.05 rad is rare") for w in told)
    assert not any("turn" in w for w in told), "no state of a dataset tells how the robot turns"


def test_commands_that_lack_at_a_fault_are_not_lost_and_elsewhere_they_are(tmp_path: Path) -> None:
    for name, fault_at, count in (("fault", 3000, 0), ("elsewhere", 5000, 8)):
        recording = made()
        recording.lost_commands, recording.fault_at = set(range(2996, 3004)), fault_at
        checked = check([write(tmp_path / name, recording)], STAND)
        (finding,) = (f for f in checked.findings if f.rule.name == "incomplete")
        assert f"({count})" in finding.text


def test_a_recording_with_everything_wrong_is_told_everything(tmp_path: Path) -> None:
    recording = made()
    # A torque that explains nothing has neither lag nor sign; a recording that is cut off loses what is at its end.
    spoilers = [spoil for spoil in ALONE if spoil not in (excitation, saturation, amount)]
    for spoil in spoilers:
        spoil(recording)
    bag = write(tmp_path / "walk", recording)
    shutil.copytree(bag, tmp_path / "copy")
    checked = check([bag, tmp_path / "copy"], STAND)
    assert set(found(checked)) >= {"copies", *(ALONE[spoil] for spoil in spoilers)}
    assert checked.level == Level.REFUSE


def test_the_command_writes_a_page_and_its_status_is_the_verdict(
    tmp_path: Path, clean: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clean, tmp_path / "bags" / "walk")
    assert command(["check", "bags/walk"]) == 0
    assert "Verdict: good" in capsys.readouterr().out
    page = (tmp_path / "bags" / "walk-check.html").read_text()
    assert page.count("<h2>") >= 8 and "Nothing was found against these data" in page
    recording = made()
    sign(recording)
    bad = write(tmp_path / "bad", recording)
    assert command(["check", str(bad), "--json", "-o", "bad.html"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["verdict"] == "refuse"
    assert [f["check"] for f in content["findings"] if f["level"] == "refuse"] == ["sign"]
    assert "v and theta_dot the wrong way" in (tmp_path / "bad.html").read_text()


def test_a_dataset_is_checked_like_the_bag_it_was_built_from_and_known_as_its_copy(tmp_path: Path, clean: Path) -> None:
    build_dataset([clean], STAND).save(tmp_path / "d.h5")
    checked = check([tmp_path / "d.h5"], TASKS["move"])
    assert found(checked) == {}
    assert checked.parts[0].mode_s == {"balance": pytest.approx((N - 1) * DT), "torque": 0.0, "hold": 0.0}
    both = check([clean, tmp_path / "d.h5"], STAND)
    assert found(both) == {"copies": Level.REFUSE}
    assert "d.h5 holds what walk holds" in both.problems[0].text


def test_rows_of_a_dataset_that_repeat_or_do_not_follow_are_told(tmp_path: Path, clean: Path) -> None:
    d = build_dataset([clean], STAND)
    rows = np.concatenate((np.arange(3000), np.arange(2000, len(d))))
    names = [f.name for f in dataclasses.fields(Dataset) if f.name not in ("interface", "task", "provenance")]
    doubled = dataclasses.replace(d, **{name: getattr(d, name)[rows] for name in names})
    doubled.save(tmp_path / "d.h5")
    checked = check([tmp_path / "d.h5"], STAND)
    assert set(found(checked)) == {"duplicates", "jumps"}
    texts = {f.rule.name: f.text for f in checked.problems}
    assert "(1000)" in texts["duplicates"]
    assert "row 3000 of d.h5 does not begin where row 2999 ends" in texts["jumps"]


def test_a_bag_whose_recorder_was_killed_is_checked_as_far_as_it_goes(
    tmp_path: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (clean / "walk_0.mcap").read_bytes()
    (tmp_path / "cut_0.mcap").write_bytes(whole[: len(whole) * 94 // 100])
    assert command(["check", str(tmp_path / "cut_0.mcap"), "-o", str(tmp_path / "page.html")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "cut_0.mcap is cut off (was its recorder killed?) or damaged: used up to" in printed
    assert "Verdict: good" in printed


def test_a_text_log_is_checked_and_says_what_it_needs(tmp_path: Path) -> None:
    states, torques = run(1.0)
    np.savetxt(tmp_path / "log.txt", np.column_stack((states, torques)))
    with pytest.raises(DataError, match="if it is a text log, say what is in it: --columns"):
        check([tmp_path / "log.txt"], STAND)
    log = LogFormat(("x", "v", "theta", "theta_dot", "tau"), Interface(rate_hz=RATE_HZ))
    checked = check([tmp_path / "log.txt"], STAND, log)
    assert found(checked) == {}
    assert {f.rule.name for f in checked.findings if f.level == Level.UNKNOWN} >= {"drops", "clock", "gaps"}


def test_the_page_lists_every_rule_as_it_is() -> None:
    page = (Path(__file__).parents[1] / "docs" / "checking.md").read_text("utf-8")
    for rule in RULES:
        assert f"| {rule.threshold} | {rule.why} | {rule.advice} |" in page
        assert f"| {rule.name} | {rule.what}" in page


def test_wrong_input_is_refused(tmp_path: Path, clean: Path) -> None:
    recording = made()
    recording.interface = Interface(rate_hz=RATE_HZ, wheel_radius_m=0.1)
    other = write(tmp_path / "other", recording)
    with pytest.raises(ContractError, match=r"wheel_radius_m: walk 0.065, other 0.1"):
        check([clean, other], STAND)
    with pytest.raises(DataError, match="no such bag, dataset or log"):
        check([tmp_path / "nowhere"], STAND)
    with pytest.raises(DataError, match="--columns goes with --rate-hz"):
        command(["check", str(clean), "--columns", "x"])


@pytest.mark.parametrize("states", [1, 2, 3, 7])
def test_a_recording_of_next_to_nothing_is_refused_and_drawn(tmp_path: Path, states: int) -> None:
    recording = made()
    recording.lost |= set(range(states, N))
    bag = write(tmp_path / "walk", recording)
    assert command(["check", str(bag), "-o", str(tmp_path / "page.html")]) == 1
    assert "do not train on this" in (tmp_path / "page.html").read_text()


def test_a_robot_that_was_never_armed_gives_nothing_to_train_on(tmp_path: Path) -> None:
    idle = swaying(200)
    idle["modes"] = [topics.DISARMED] * 200
    checked = check([make_bag(tmp_path / "b", [idle], Interface())], STAND)
    assert checked.level == Level.REFUSE
    assert found(checked)["amount"] == Level.REFUSE


@pytest.mark.skipif(not REAL_LOG.is_dir(), reason="the real robot's log (../shared/data/robot_log) is not here")
def test_the_real_robots_log_is_usable_with_care_and_why() -> None:
    log = LogFormat(("x", "v", "theta", "theta_dot", "tau", "done"), Interface())
    checked = check([REAL_LOG / f"standing_{part}.txt.gz" for part in "ab"], STAND, log)
    assert found(checked) == {"jumps": Level.CARE, "pitch": Level.CARE, "over limit": Level.CARE}
    # Known of it: the action shows after one step in v and after two in theta_dot; x and v agree, theta_dot does not.
    v, theta_dot = checked.lags
    assert v.lag_s == pytest.approx(0.005, abs=0.0025) and theta_dot.lag_s == pytest.approx(0.010, abs=0.005)
    x, theta = checked.consistencies
    assert x.gain == pytest.approx(0.998, abs=0.003) and x.computed
    assert 1.12 < theta.gain < 1.4 and not theta.computed


def test_the_lag_of_an_emulated_robot_is_that_of_its_file(tmp_path: Path) -> None:
    # `worn`: delay 5 ms, lag of the motors 5 ms, of the speed 4 ms.
    drive(load_robot("worn"), STAND, 20.0, seed=0).save(tmp_path / "d.h5")
    v, theta_dot = check([tmp_path / "d.h5"], STAND).lags
    assert v.lag_s == pytest.approx(0.014, abs=0.003)
    assert theta_dot.lag_s == pytest.approx(0.010, abs=0.003)


@pytest.mark.parametrize("delay", [0, 1, 3, 6])
def test_the_lag_is_the_delay_that_was_put_in(delay: int) -> None:
    states, torques = run(1.0)
    shifted = np.append(torques[delay:], np.zeros(delay))
    flags = np.zeros(N - 1, dtype=bool)
    data = Dataset.from_states(
        states[:-1], states[1:], shifted[:-1], flags, flags, Interface(rate_hz=RATE_HZ), STAND, {}
    )
    for response, expected in (("v", 1), ("theta_dot", -1)):
        estimate = action_lag(data, response)
        assert estimate.told, estimate.reason
        assert estimate.lag_s == pytest.approx(delay * DT, abs=0.3 * DT)
        assert estimate.spread_s < 0.3 * DT
        assert estimate.sign == expected


def test_without_torque_beyond_the_feedback_no_lag_is_told() -> None:
    # The loop alone, and what its sensors are off by: the torque is a function of the state that was measured.
    rng = np.random.default_rng(0)
    states, torques = run(0.0)
    states = states + rng.normal(0.0, [1e-4, 0.01, 1e-3, 0.02], states.shape)
    torques = states @ np.array([0.5, 1.0, 20.0, 2.0])
    flags = np.zeros(N - 1, dtype=bool)
    data = Dataset.from_states(
        states[:-1], states[1:], torques[:-1], flags, flags, Interface(rate_hz=RATE_HZ), STAND, {}
    )
    assert not any(action_lag(data, response).told for response in ("v", "theta_dot"))


@pytest.mark.parametrize("name", ["policy", "hold"])
def test_the_lag_of_a_policy_is_not_told(name: str) -> None:
    # Of `worn` (14 ms in v, 9 ms in theta_dot), without exploration.
    lags = [action_lag(build_dataset([GOLDEN / name], STAND), response) for response in ("v", "theta_dot")]
    assert not any(lag.told for lag in lags)


def test_a_page_overwrites_nothing_but_an_earlier_page(tmp_path: Path, clean: Path) -> None:
    bag = tmp_path / "walk"
    shutil.copytree(clean, bag)
    notes = tmp_path / "notes.html"
    notes.write_text("<p>mine</p>")
    for output in (notes, bag / "metadata.yaml", bag / "new.html", bag):
        with pytest.raises(DataError, match=r"no page of h2o-robot|lies in the input|input of this command"):
            command(["check", str(bag), "-o", str(output)])
    for output in (bag / "metadata.yaml", bag / "new.html"):
        with pytest.raises(DataError, match="lies in the input"):
            command(["check", str(bag / "walk_0.mcap"), "-o", str(output)])
    assert command(["check", str(bag / "walk_0.mcap")]) == 0
    assert (tmp_path / "walk-walk_0.mcap-check.html").is_file()
    assert notes.read_text() == "<p>mine</p>" and not (bag / "new.html").exists()
    for _ in range(2):
        assert command(["check", str(bag), "-o", str(tmp_path / "page.html")]) == 0


def test_a_log_that_is_there_twice_is_told_however_it_is_stored(tmp_path: Path) -> None:
    states, torques = run(1.0)
    rows = np.column_stack((states, torques))[:300]
    np.savetxt(tmp_path / "a.txt", rows)
    np.savetxt(tmp_path / "b.csv", rows, delimiter=",", header="x,v,theta,theta_dot,tau")
    np.savetxt(tmp_path / "part.txt.gz", rows[100:200])
    form = LogFormat(("x", "v", "theta", "theta_dot", "tau"), Interface(rate_hz=RATE_HZ))
    # The first of the 299 begins at perfect rest, and does not count.
    for copy, shared in (("b.csv", 298), ("part.txt.gz", 99)):
        checked = check([tmp_path / "a.txt", tmp_path / copy], STAND, form)
        assert found(checked)["copies"] == Level.REFUSE
        assert f"{copy} shares {shared} transitions with a.txt" in next(
            f.text for f in checked.problems if f.rule.name == "copies"
        )
    with pytest.raises(DataError, match="holds the same rows as"):
        import_logs([tmp_path / "a.txt", tmp_path / "b.csv"], form.columns, form.interface, STAND)


def test_gains_and_cells_are_those_computed_by_hand() -> None:
    # At 0.2 m/s and 0.05 rad/s throughout, while x says 0.3 m/s: 0.3 / 0.2; theta agrees.
    k = np.arange(201)
    states = np.stack((0.3 * DT * k, np.full(201, 0.2), 0.05 * DT * k, np.full(201, 0.05)), axis=1)
    flags = np.zeros(200, dtype=bool)
    data = Dataset.from_states(
        states[:-1], states[1:], np.full(200, 0.5), flags, flags, Interface(rate_hz=RATE_HZ), STAND, {}
    )
    assert consistency(data, "x").gain == pytest.approx(1.5, rel=1e-4)
    assert consistency(data, "theta").gain == pytest.approx(1.0, rel=1e-4)
    v_theta = planes(data)[0]
    assert v_theta.inside.sum() == 80
    # 2 s at v = 0.2, theta from 0 to 0.1 rad in cells of 0.02 rad.
    assert v_theta.seconds.sum() == pytest.approx(2.0)
    assert np.count_nonzero(v_theta.seconds) == 5
