# SPDX-License-Identifier: Apache-2.0
"""Every limit of the driver, hit in lock-step: what it does, that it lasts, and that nothing but disarm ends it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from h2o_control import topics
from h2o_control.errors import ConfigError
from lockstep import LockStep
from test_driver_core import commanded, law
from wheel_leg_driver.core import RefusedError
from wheel_leg_driver.limits import Limits, StuckWatch
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Fault, Status, Telemetry

UPRIGHT = SensorReadings(
    accel_mps2=(0.0, 0.0, 9.81),
    gyro_radps=(0.0, 0.0, 0.0),
    quaternion_wxyz=(1.0, 0.0, 0.0, 0.0),
    wheel_pos_rad=(0.0, 0.0),
    wheel_vel_radps=(0.0, 0.0),
    leg_pos_rad=(1.0, -1.5, 1.0, -1.5),
    leg_vel_radps=(0.0, 0.0, 0.0, 0.0),
    battery_v=24.0,
    temperatures_c=(30.0, 30.0, 30.0),
)


class Tampered:
    """Changes what the sensors of a plant report, from a step on."""

    def __init__(self, rig: LockStep, change: Callable[[SensorReadings], SensorReadings]) -> None:
        self._sense = rig.plant.sense
        self._change = change
        rig.plant.sense = self  # type: ignore[method-assign, assignment]

    def __call__(self) -> SensorReadings:
        return self._change(self._sense())


def replaced(**values: Any) -> Callable[[SensorReadings], SensorReadings]:
    return lambda reading: dataclasses.replace(reading, **values)


def hot(reading: SensorReadings) -> SensorReadings:
    return dataclasses.replace(reading, temperatures_c=(30.0, 85.0, 30.0))


def no_number(reading: SensorReadings) -> SensorReadings:
    return dataclasses.replace(reading, gyro_radps=(0.0, math.nan, 0.0))


def assert_latched(rig: LockStep, mode: str) -> None:
    """In this mode, no request but disarm is granted, and only arming afterwards gives the robot back."""
    assert rig.core.mode == mode, rig.core.reason
    with pytest.raises(RefusedError, match="disarm"):
        rig.core.torque_mode(True)
    with pytest.raises(RefusedError, match="disarm first"):
        rig.core.arm()
    rig.core.torque_mode(False)
    assert rig.core.mode == mode
    rig.core.disarm()
    rig.step(3)
    assert rig.core.mode == topics.DISARMED
    assert not rig.firmware.armed


CASES: dict[str, tuple[dict[str, float], Callable[[LockStep], object], str]] = {
    "tilt": ({"tilt_rad": 0.1}, lambda rig: setattr(rig, "answer", lambda _t, _k: 1.0), "pitch"),
    "speed": ({"speed_mps": 0.3}, lambda rig: setattr(rig, "answer", law(rig, 0.8)), "speed"),
    "distance": ({"distance_m": 0.2}, lambda rig: setattr(rig, "answer", law(rig, 0.4)), "from where it was armed"),
    "staleness": ({}, lambda rig: setattr(rig, "answer", lambda _t, _k: None), "no fresh torque"),
    "voltage": ({}, lambda rig: Tampered(rig, replaced(battery_v=18.5)), "18.5 V is below 19.0 V"),
    "temperature": ({}, lambda rig: Tampered(rig, hot), "85 °C is above 80.0 °C"),
    "not a number": ({}, lambda rig: setattr(rig, "answer", lambda _t, _k: math.nan), "not a number"),
    "sensor": ({}, lambda rig: Tampered(rig, no_number), "not a number"),
}
ACTION_OF = {"not a number": "nan_action"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("action", ["balance", "zero", "damp"])
def test_limit_under_a_commander_does_what_is_declared_and_lasts(name: str, action: str) -> None:
    values, misbehave, reason = CASES[name]
    field = ACTION_OF.get(name, f"{name}_action")
    choices = {f.name: f.metadata.get("choices", ()) for f in dataclasses.fields(Limits)}[field]
    if action not in choices:
        with pytest.raises(ConfigError, match=field):
            Limits(**{field: action})
        return
    rig = commanded(**values, **{field: action})
    misbehave(rig)
    for _ in range(1000):
        rig.step()
        if rig.core.mode != topics.TORQUE:
            break
    assert reason in rig.core.reason
    assert rig.core.monitor.hits[name] == 1
    if action == "balance":
        rig.seconds(2.0)
        assert not rig.firmware.faults
        assert abs(rig.plant.truth()[2]) < 0.15, "the driver's balance keeps it up"
        assert abs(rig.plant.truth()[1]) < 0.3, "and stops it"
        assert_latched(rig, topics.HOLD)
        return
    rig.step(2)
    assert rig.core.mode == topics.FAULT
    if action == "zero":
        assert rig.firmware.torque_nm == (0.0, 0.0)
        assert not rig.firmware.armed
    else:
        assert rig.firmware.armed, "damping needs torque"
        assert rig.telemetry is not None
        against = np.array(rig.firmware.torque_nm) * np.array(rig.telemetry.sensors.wheel_vel_radps)
        assert (against <= 0.0).all()
        rig.seconds(1.1)
        assert not rig.firmware.armed
        assert rig.firmware.torque_nm == (0.0, 0.0)
    assert_latched(rig, topics.FAULT)


def test_limits_of_the_robot_hold_while_the_driver_balances_too() -> None:
    for change, reason in ((replaced(battery_v=18.5), "below"), (hot, "above")):
        rig = LockStep()
        rig.balance()
        Tampered(rig, change)
        rig.seconds(0.05)
        assert rig.core.mode == topics.BALANCE, "a dip of the voltage is no empty battery"
        rig.seconds(0.1)
        assert rig.core.mode == topics.HOLD
        assert reason in rig.core.reason
        rig.core.disarm()
        rig.seconds(1.5)
        with pytest.raises(RefusedError, match=reason):
            rig.core.arm()


def test_hold_ignores_speed_commands_and_the_legs() -> None:
    rig = commanded()
    rig.answer = lambda _t, _k: None
    rig.seconds(2.0)
    start = rig.plant.truth()[0]
    for _ in range(20):
        rig.core.on_speed(0.5, 0.5)
        rig.step(10)
    assert abs(rig.plant.truth()[0] - start) < 0.1
    with pytest.raises(RefusedError, match="legs move only"):
        rig.core.move_to(0.2)


def test_sensor_that_is_no_number_is_refused_at_arming() -> None:
    rig = LockStep()
    Tampered(rig, no_number)
    rig.step(2)
    with pytest.raises(RefusedError, match="not a number"):
        rig.core.arm()


def test_stuck_sensors_end_in_zero_torque_and_resting_ones_do_not() -> None:
    for names in (("gyro_radps", "accel_mps2", "quaternion_wxyz"), ("wheel_pos_rad", "wheel_vel_radps")):
        rig = LockStep()
        rig.balance()
        last = rig.plant.sense()
        Tampered(rig, replaced(**{name: getattr(last, name) for name in names}))
        rig.seconds(1.6)
        assert rig.core.mode == topics.FAULT, names
        assert "have sent the same" in rig.core.reason or "has sent the same" in rig.core.reason
        assert rig.firmware.torque_nm == (0.0, 0.0)
    watch = StuckWatch(0.05)
    still = [Telemetry(n, 5000 * n, 0, UPRIGHT, (0.0, 0.0), Status.ARMED, Fault(0)) for n in range(200)]
    assert not any(watch.update(frame, 0.0) for frame in still), "a robot at rest repeats itself"


def test_torque_and_its_rate_are_cut_and_counted() -> None:
    rig = commanded(torque_nm=1.0, torque_rate_nmps=20.0)
    rig.answer = lambda _t, _k: 5.0
    rig.step()
    first = rig.core.sent_nm
    rig.step()
    assert np.abs(np.array(rig.core.sent_nm) - np.array(first)).max() <= 20.0 * 0.005 + 1e-9
    rig.step(3)
    assert max(map(abs, rig.core.sent_nm)) <= 1.0
    assert rig.core.monitor.hits["torque"] >= 1
    assert rig.core.monitor.hits["torque rate"] >= 1


def test_switched_off_limit_is_named_and_does_nothing() -> None:
    limits = Limits(tilt_rad=0.05, tilt_action="off")
    assert limits.switched_off == ["tilt"]
    rig = commanded(tilt_rad=0.05, tilt_action="off", speed_mps=5.0)
    rig.answer = lambda _t, _k: 0.5
    seen = 0.0
    while rig.core.mode == topics.TORQUE:
        rig.step()
        seen = max(seen, abs(rig.plant.truth()[2]))
    assert seen > 0.3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"fall_rad": 9.0}, "fall_rad is 9.0"),
        ({"staleness_s": 0.05}, "between 0.002 and 0.029"),
        ({"tilt_action": "blance"}, "Did you mean 'balance'"),
        ({"staleness_action": "off"}, "staleness_action"),
        ({"speed_mps": math.nan}, "speed_mps is nan"),
    ],
)
def test_wrong_limit_is_refused_with_what_is_valid(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Limits(**values)


def test_every_limit_has_range_or_choices_unit_and_description() -> None:
    for field in dataclasses.fields(Limits):
        assert field.metadata["description"], field.name
        assert {"low", "high"} <= set(field.metadata) or len(field.metadata["choices"]) > 1, field.name
        if "low" in field.metadata:
            assert field.name.rpartition("_")[2] in {"rad", "mps", "m", "s", "nm", "nmps", "v", "c", "nms", "radps"}
