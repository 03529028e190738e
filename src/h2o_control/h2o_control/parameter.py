# SPDX-License-Identifier: Apache-2.0
"""What a node's parameter is: data only, so that modules without ROS may list parameters, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One ROS parameter: its default fixes the type, unless `any_type`; `low` and `high` bound a number."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    read_only: bool = True
    any_type: bool = False
