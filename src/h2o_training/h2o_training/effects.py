# SPDX-License-Identifier: Apache-2.0
"""What a real robot has and its description lacks: motors that lose torque, floors that brake, sensors that err.

One list of names serves the emulated robot (plant.py), the twins (twin.py), identification (sysid.py), blends between
robots and populations, so that a number found by one of them can be given to any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from h2o_control.config import from_mapping
from h2o_control.errors import ConfigError, nearest
from wheel_leg_driver.robot import Body, Robot


def _effect(default: float, low: float, high: float, unit: str) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "unit": unit})


@dataclass(frozen=True)
class Effects:
    """Where a robot differs from its description; every default is "it does not".

    Motors, a wheel: commanded torque u becomes k_t·sign(u)·max(|u| − d, 0), delayed, then low-passed.

    Attributes:
        torque_factor: k_t, produced over commanded torque.
        dead_zone_nm: d, commanded torque that produces nothing.
        actuation_delay_s, torque_lag_s: pure delay, and time constant of the first-order lag after it.
        coulomb_nm, viscous_nms: friction between wheels and body, both wheels together, on top of the description's.
        rolling_friction_m: rolling resistance of the floor: moment over normal force.
        rolling_drag_nspm: rolling resistance that grows with speed, force over speed of the whole robot.
        sliding_friction: coefficient between wheel and floor.
        floor_time_constant_s, floor_damping_ratio: how soft the floor is (MuJoCo solref).
        payload_kg, payload_forward_m, payload_height_m: a mass nobody weighed, place from the axle.
        com_forward_m: how far the centre of mass lies ahead of where the description has it.
        pitch_bias_rad, pitch_noise_rad, pitch_lag_s: attitude as the IMU reports it; lag of its filter.
        gyro_scale, gyro_bias_radps, gyro_noise_radps, gyro_lag_s: pitch rate as the IMU reports it.
        observation_delay_s: of all sensors, in whole control steps.
        encoder_step_rad: resolution of the wheels' angle (0: exact).
        velocity_lag_s, velocity_noise_mps: low-pass on the wheels' speed, and its noise.
        odometry_scale: reported over true wheel angle and speed.
        odometry_pitch: share of the body's pitch that odometry takes out of the wheels' angle (0: wheels as they are).

    Raises:
        ValueError: a value outside the range in the field's metadata.
    """

    torque_factor: float = _effect(1.0, 0.05, 5.0, "1")
    dead_zone_nm: float = _effect(0.0, 0.0, 5.0, "Nm")
    actuation_delay_s: float = _effect(0.0, 0.0, 0.1, "s")
    torque_lag_s: float = _effect(0.0, 0.0, 0.2, "s")
    coulomb_nm: float = _effect(0.0, 0.0, 5.0, "Nm")
    viscous_nms: float = _effect(0.0, 0.0, 5.0, "Nm s")
    rolling_friction_m: float = _effect(0.0, 0.0, 0.1, "m")
    rolling_drag_nspm: float = _effect(0.0, 0.0, 200.0, "N s/m")
    sliding_friction: float = _effect(1.0, 0.05, 5.0, "1")
    floor_time_constant_s: float = _effect(0.004, 0.002, 0.5, "s")
    floor_damping_ratio: float = _effect(1.0, 0.05, 5.0, "1")
    payload_kg: float = _effect(0.0, 0.0, 20.0, "kg")
    payload_forward_m: float = _effect(0.0, -0.5, 0.5, "m")
    payload_height_m: float = _effect(0.3, 0.0, 1.0, "m")
    com_forward_m: float = _effect(0.0, -0.1, 0.1, "m")
    pitch_bias_rad: float = _effect(0.0, -0.3, 0.3, "rad")
    pitch_noise_rad: float = _effect(0.0, 0.0, 0.2, "rad")
    pitch_lag_s: float = _effect(0.0, 0.0, 0.2, "s")
    gyro_scale: float = _effect(1.0, 0.2, 2.0, "1")
    gyro_bias_radps: float = _effect(0.0, -0.5, 0.5, "rad/s")
    gyro_noise_radps: float = _effect(0.0, 0.0, 2.0, "rad/s")
    gyro_lag_s: float = _effect(0.0, 0.0, 0.2, "s")
    observation_delay_s: float = _effect(0.0, 0.0, 0.1, "s")
    encoder_step_rad: float = _effect(0.0, 0.0, 0.5, "rad")
    velocity_lag_s: float = _effect(0.0, 0.0, 0.2, "s")
    velocity_noise_mps: float = _effect(0.0, 0.0, 1.0, "m/s")
    odometry_scale: float = _effect(1.0, 0.5, 2.0, "1")
    odometry_pitch: float = _effect(1.0, -0.5, 1.5, "1")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            low, high = field.metadata["low"], field.metadata["high"]
            if not low <= getattr(self, field.name) <= high:
                raise ValueError(f"{field.name} must lie in [{low}, {high}], got {getattr(self, field.name)}")

    @property
    def changed(self) -> dict[str, float]:
        """Those that are not at their default, by name: what belongs into a file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}


#: Ranges within which a description's own numbers may be fitted or drawn, as factors on the nominal value.
BODY_FACTORS = (0.3, 3.0)
_EFFECTS = {field.name: field for field in dataclasses.fields(Effects)}
_BODY = {f"body.{field.name}" for field in dataclasses.fields(Body)}


@dataclass(frozen=True)
class Parameter:
    """One number of a robot, by the name under which it is fitted, drawn and randomised.

    Attributes:
        name: of an effect as it is, of the description with "body." before it.
        unit: SI, "" where the description's name says it.
        low, high: range that makes sense.
    """

    name: str
    unit: str
    low: float
    high: float


def parameter(name: str, robot: Robot) -> Parameter:
    """Look a parameter up; raises ConfigError naming the nearest valid one."""
    if name in _EFFECTS:
        meta = _EFFECTS[name].metadata
        return Parameter(name, meta["unit"], meta["low"], meta["high"])
    if name in _BODY:
        nominal = abs(getattr(robot.body, name.removeprefix("body.")))
        if nominal == 0.0:
            raise ConfigError(f"{name} is 0 in robot {robot.name!r}: give it a value there, or use the effect instead")
        return Parameter(name, "", BODY_FACTORS[0] * nominal, BODY_FACTORS[1] * nominal)
    raise ConfigError(f"no parameter named {name!r}.{nearest(name, [*_EFFECTS, *sorted(_BODY)])}")


def effects_from(options: Mapping[str, Any], where: str) -> Effects:
    """Read effects from a robot's file or a configuration; raises ConfigError naming key and range."""
    return from_mapping(Effects, options, where)


def value_of(name: str, robot: Robot, effects: Effects) -> float:
    """Return the present value of a parameter."""
    return float(getattr(robot.body, name.removeprefix("body.")) if name in _BODY else getattr(effects, name))


def with_values(robot: Robot, effects: Effects, values: Mapping[str, float]) -> tuple[Robot, Effects]:
    """Return robot and effects with these parameters changed.

    Raises:
        ConfigError: a value out of range, or one that is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, got {value}")
    body = {name.removeprefix("body."): value for name, value in values.items() if name in _BODY}
    try:
        return (
            dataclasses.replace(robot, body=dataclasses.replace(robot.body, **body)),
            dataclasses.replace(effects, **{name: value for name, value in values.items() if name not in _BODY}),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"robot {robot.name!r}: {error}") from error
