# SPDX-License-Identifier: Apache-2.0
"""Descriptions of emulated robots: blended, drawn around one, written as files and said in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from h2o_control.config import find_config, from_mapping, load_yaml, to_mapping
from h2o_control.contract import Interface, digest
from h2o_control.errors import ConfigError
from h2o_training.distribution import Distribution
from h2o_training.effects import Effects, effects_from, parameter, value_of, with_values
from wheel_leg_driver.plant import make_plant
from wheel_leg_driver.robot import PlantSpec, Robot

#: A draw that the model refuses (say, an inertia less than the legs' alone) is drawn again, at most this often.
ATTEMPTS = 100
_PAYLOAD_PLACE = ("payload_forward_m", "payload_height_m")

#: What an effect means, with its value; for people.
WORDS = {
    "torque_factor": "motors produce {:.0%} of the commanded torque",
    "dead_zone_nm": "the first {:g} Nm commanded of a wheel produce nothing",
    "actuation_delay_s": "torque comes {:g} s late",
    "torque_lag_s": "torque follows with a time constant of {:g} s",
    "coulomb_nm": "wheels resist with {:g} Nm more than described, both together",
    "viscous_nms": "wheels resist with {:g} Nm per rad/s more than described, both together",
    "rolling_friction_m": "the floor resists rolling: {:g} m (moment over normal force)",
    "rolling_drag_nspm": "the floor resists rolling with {:g} N per m/s",
    "sliding_friction": "friction coefficient between wheel and floor is {:g}",
    "floor_time_constant_s": "the floor gives way with a time constant of {:g} s",
    "floor_damping_ratio": "the floor's damping ratio is {:g}",
    "payload_kg": "carries {:g} kg that nobody weighed",
    "payload_forward_m": "that load lies {:g} m ahead of the axle",
    "payload_height_m": "that load lies {:g} m above the axle",
    "com_forward_m": "centre of mass lies {:g} m ahead of where it is described",
    "pitch_bias_rad": "reported pitch is off by {:g} rad",
    "pitch_noise_rad": "reported pitch has noise of {:g} rad",
    "pitch_lag_s": "reported pitch lags with a time constant of {:g} s",
    "gyro_scale": "reported pitch rate is {:.0%} of the true one",
    "gyro_bias_radps": "reported pitch rate is off by {:g} rad/s",
    "gyro_noise_radps": "reported pitch rate has noise of {:g} rad/s",
    "gyro_lag_s": "reported pitch rate lags with a time constant of {:g} s",
    "observation_delay_s": "all sensors are {:g} s late",
    "encoder_step_rad": "wheel angles come in steps of {:g} rad",
    "velocity_lag_s": "wheel speeds lag with a time constant of {:g} s",
    "velocity_noise_mps": "wheel speeds have noise of {:g} m/s",
    "odometry_scale": "reported wheel angles and speeds are {:.0%} of the true ones",
    "odometry_pitch": "odometry takes {:.0%} of the body's pitch out of the wheels' angle",
}


@dataclass(frozen=True)
class Spread:
    """How robots differ around a description: independent distributions over parameters (effects.parameter).

    Attributes:
        parameters: distribution of each, by the parameter's name.
        description: for people.
    """

    parameters: dict[str, Distribution]
    description: str = ""

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError("parameters is empty: every robot would be the same")


def load_spread(name_or_path: str) -> Spread:
    """Load `config/populations/<name>.yaml` or a path; raises ConfigError naming the file and the key."""
    path = find_config("populations", name_or_path)
    return from_mapping(Spread, load_yaml(path), str(path))


def blend_effects(first: Mapping[str, Any], second: Mapping[str, Any], gap: float) -> dict[str, float]:
    """Return the effects `gap` of the way from one set to another; what is absent in a set is at its default there.

    A load grows in the place where the side that carries one has it.

    Raises:
        ConfigError: a name that is no effect, or a value out of range.
    """
    a = effects_from(first, "blend: first robot's effects")
    b = effects_from(second, "blend: second robot's effects")
    values = {}
    for field in dataclasses.fields(Effects):
        low, high = getattr(a, field.name), getattr(b, field.name)
        if field.name in _PAYLOAD_PLACE and 0.0 in (a.payload_kg, b.payload_kg):
            values[field.name] = low if a.payload_kg > 0.0 else high
        else:
            values[field.name] = low if low == high else (1.0 - gap) * low + gap * high
    return Effects(**values).changed


def draw_robot(robot: Robot, spread: Spread, seed: int, index: int, spread_name: str) -> Robot:
    """Draw one robot around `robot`: effects go to its plant, numbers of the body to its body.

    It depends on seed and index alone, so that robot 3 of 10 is robot 3 of 50. What `balance` says stays: it is what
    the operator believes.

    Raises:
        ConfigError: no plant with effects as options, an unknown parameter, or a spread that the model always refuses.
    """
    if robot.plant is None:
        raise ConfigError(f"robot {robot.name!r} has no plant: only emulated robots can be drawn")
    effects = effects_from(robot.plant.options, f"robot {robot.name!r}: plant options")
    rng = np.random.default_rng([seed, index])
    parameters = {name: parameter(name, robot) for name in sorted(spread.parameters)}
    for name, p in parameters.items():
        spread.parameters[name].require_within(name, value_of(name, robot, effects), p.low, p.high)
    reason: ConfigError | None = None
    for _ in range(ATTEMPTS):
        values = {
            name: float(spread.parameters[name].sample(rng, 1, value_of(name, robot, effects), p.low, p.high)[0])
            for name, p in parameters.items()
        }
        try:
            body, drawn = with_values(robot, effects, values)
            candidate = dataclasses.replace(
                body,
                name=f"{robot.name}-{seed}-{index:03d}",
                description=f"robot {index} drawn around {robot.name}, seed {seed}, spread {spread_name}",
                plant=PlantSpec(robot.plant.path, drawn.changed),
                provenance={
                    "drawn_around": robot.name,
                    "spread": spread_name,
                    "spread_digest": digest(spread),
                    "seed": seed,
                    "index": index,
                    "drawn": sorted(values),
                },
            )
            make_plant(candidate, 0)
        except ConfigError as error:
            reason = error
            continue
        return candidate
    raise ConfigError(f"no valid robot in {ATTEMPTS} draws around {robot.name!r}; the last one: {reason}")


def words(robot: Robot) -> list[str]:
    """Say what this robot's plant does that its description does not; one line an effect."""
    if robot.plant is None:
        return ["real hardware: no plant plays it"]
    try:
        changed = effects_from(robot.plant.options, "plant").changed
    except ConfigError:
        return [f"played by {robot.plant.path} with its own options"]
    lines = [WORDS[name].format(value) for name, value in changed.items()]
    return lines or ["the plant is what the description says"]


def to_yaml(robot: Robot, head: str = "") -> str:
    """Write a robot as its file: everything resolved, `head` and the effects in words as comments above."""
    data = to_mapping(robot)
    for key in ("twin", "provenance"):
        if not data[key]:
            del data[key]
    if robot.plant is not None and ".py:" in robot.plant.path:
        # Such a path is relative to the robot's file, and this text may be put anywhere.
        data["plant"]["path"] = str(Path(robot.plant.path).resolve())
    # What this version fixes stands in the contract, not in every file.
    fixed = to_mapping(Interface())
    free = ("rate_hz", "torque_limit_nm", "wheel_radius_m")
    data["interface"] = {k: v for k, v in data["interface"].items() if k in free or v != fixed[k]}
    lines = [*head.splitlines(), *(f"- {text}" for text in words(robot))]
    comment = "".join(f"# {line}\n" for line in lines)
    return comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def shipped(folder: Path) -> list[str]:
    """Return the names of the robots in this folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
