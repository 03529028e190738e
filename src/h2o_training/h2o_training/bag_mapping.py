# SPDX-License-Identifier: Apache-2.0
"""Which field of which topic of somebody else's bag is which of our quantities: the mapping file, strictly loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from h2o_control.config import find_config, from_mapping, load_yaml
from h2o_control.contract import STATE, pitch_rad
from h2o_control.errors import ConfigError
from h2o_training.bag_fields import FieldError, number_at

Interpolation = Literal["linear", "previous", "next"]
Stamp = Literal["header", "received"]


@dataclass(frozen=True)
class Signal:
    """One quantity: the mean of `fields` (or an angle made of them) times `scale` plus `offset`, in our unit.

    Attributes:
        topic: as in the bag.
        fields: paths into its messages; of several the mean, e.g. of both wheels. One with a minus in front counts the
            other way, as wheels that are mirrored do.
        convert: pitch or roll of an attitude quaternion instead of the mean; `fields` is then the quaternion (a message
            with w, x, y, z), or four numbers in that order.
        scale: unit and sign, e.g. the wheel radius with wheel angles, -1 where theirs counts the other way.
        offset: added after scaling, in our unit.
        stamp: instead of the mapping's.
        interpolation: value at a control step that lies between two messages. Default: linear for states; previous for
            torques, which hold until the next. `next` is for torques that are reported over the time that ends at
            the stamp.
        max_gap_s: instead of the mapping's, e.g. for commands that are sent only when they change.
    """

    topic: str
    fields: tuple[str, ...]
    convert: Literal["mean", "pitch", "roll"] = "mean"
    scale: float = 1.0
    offset: float = 0.0
    stamp: Stamp | None = None
    interpolation: Interpolation | None = None
    max_gap_s: float | None = None

    def __post_init__(self) -> None:
        if self.convert == "mean" and not self.fields:
            raise ValueError("fields is empty")
        if self.convert != "mean" and len(self.fields) not in (1, 4):
            raise ValueError(f"{self.convert} needs one quaternion or its w, x, y, z, got {len(self.fields)} fields")
        if self.scale == 0.0:
            raise ValueError("scale is 0: nothing of the signal would be left")
        if self.max_gap_s is not None and self.max_gap_s <= 0.0:
            raise ValueError(f"max_gap_s must be positive, got {self.max_gap_s:g}")
        for field in self.fields:
            number_at(field)

    @cached_property
    def read(self) -> Callable[[Any], float]:
        """Function that reads the quantity, in our unit, out of a message; raises FieldError where it is not there."""
        if self.convert == "mean":
            parts = [number_at(field) for field in self.fields]
            factor = self.scale / len(parts)
            return lambda message: factor * sum(part(message) for part in parts) + self.offset
        components = self.fields
        if len(components) == 1:
            components = tuple(f"{self.fields[0]}.{name}" for name in "wxyz")
        numbers = [number_at(field) for field in components]
        angle = pitch_rad if self.convert == "pitch" else roll_rad

        def read(message: Any) -> float:
            w, x, y, z = (number(message) for number in numbers)
            length = math.sqrt(w * w + x * x + y * y + z * z)
            if not 0.99 < length < 1.01:
                raise FieldError(f"an attitude quaternion of length {length:.3g} (is it measured at all?)")
            return self.scale * angle(w, x, y, z) + self.offset

        return read


@dataclass(frozen=True)
class BagMapping:
    """Content of a mapping file.

    Attributes:
        rate_hz: control steps a second that the bag is resampled to; must be the robot's.
        max_gap_s: where two neighbouring messages of a signal lie further apart, nothing is made up between them, and
            no transition spans it.
        x, v, theta, theta_dot: the state; m, m/s, rad, rad/s, forward and leaning forward positive.
        torque: of both wheels alike, Nm a wheel, positive drives forward; or
        torque_left, torque_right: of each.
        stamp: time of a message: of its header, or of when the recorder received it.
        definitions: files `PACKAGE/msg/NAME.msg`, or folders of them, for bags that bring no definitions of their own
            messages (SQLite before Iron); relative to the mapping file.
        description: for people.
    """

    rate_hz: float
    max_gap_s: float
    x: Signal
    v: Signal
    theta: Signal
    theta_dot: Signal
    torque: Signal | None = None
    torque_left: Signal | None = None
    torque_right: Signal | None = None
    stamp: Stamp = "header"
    definitions: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("rate_hz", "max_gap_s"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name):g}")
        each = (self.torque_left, self.torque_right)
        if not ((self.torque and each == (None, None)) or (self.torque is None and all(each))):
            raise ValueError("give either torque, or both torque_left and torque_right")
        shortest = min(self.gap_s(signal) for signal in self.signals.values())
        if shortest < 1.0 / self.rate_hz:
            raise ValueError(
                f"max_gap_s is {shortest:g} s, shorter than a control step ({1.0 / self.rate_hz:g} s): a gap could "
                "hide between two of them"
            )

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """The signals that are given, by name."""
        names = (*STATE, "torque", "torque_left", "torque_right")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def gap_s(self, signal: Signal) -> float:
        """Longest time between two messages of this signal that is bridged, s."""
        return self.max_gap_s if signal.max_gap_s is None else signal.max_gap_s


def load_mapping(name_or_path: str) -> tuple[BagMapping, Path]:
    """Load `config/mappings/<name>.yaml` or a path, and say which file it was.

    Raises:
        ConfigError: no such file, or wrong content; names the key.
    """
    path = find_config("mappings", name_or_path)
    return from_mapping(BagMapping, load_yaml(path), str(path)), path


def definition_files(mapping: BagMapping, path: Path) -> dict[str, Path]:
    """Files of message definitions by type (`package/msg/Name`).

    Raises:
        ConfigError: a file that is not there or does not lie in PACKAGE/msg, or a folder without any.
    """
    found: dict[str, Path] = {}
    for entry in mapping.definitions:
        place = path.parent / entry
        files = sorted(place.rglob("*.msg")) if place.is_dir() else [place]
        if not files or not files[0].is_file():
            raise ConfigError(f"{path}: definitions: no .msg file at {place}")
        for file in files:
            package = file.resolve().parent
            if package.name != "msg":
                raise ConfigError(f"{path}: definitions: {file} must lie in PACKAGE/msg, as in its ROS package")
            found[f"{package.parent.name}/msg/{file.stem}"] = file
    return found


def roll_rad(w: float, x: float, y: float, z: float) -> float:
    """Angle about the x axis in rad, from an attitude quaternion (world from body): pitch for an IMU on its side."""
    return math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
