# SPDX-License-Identifier: Apache-2.0
"""Where a replay's files go: never over those of another bag, policy or twin."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h2o_control.bag_reader import Bag
from h2o_control.errors import UserError
from h2o_control.policy import Policy
from h2o_control.provenance import files_sha256
from wheel_leg_driver.robot import Robot

JSON_FILE, TORQUES_FILE, PAGE_FILE = "replay.json", "replay.npz", "report.html"


def inputs(bag: Bag, policies: Mapping[str, Policy], answers: Bag | None, twin: Robot | None) -> dict[str, Any]:
    """Return hashes of all that a replay computes from, JSON-ready: where these are equal, so is the result."""
    return {
        "bag": files_sha256(bag.files),
        "policies": {name: files_sha256([policy.path]) for name, policy in policies.items()},
        "answers": files_sha256(answers.files) if answers else "",
        # What the description says, wherever it was read.
        "twin": hashlib.sha256(repr(twin).encode()).hexdigest() if twin else "",
    }


def choose_folder(given: str | None, default: Path, wanted: Mapping[str, Any]) -> Path:
    """Return the folder to write into: `given`, or else `default` or the first of its numbers that is free.

    A folder is free where it holds no result yet, or one of the same inputs, which is replaced.

    Raises:
        UserError: `given` holds a result of other inputs, or is a file.
    """
    if given is None:
        numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
        return next(folder for folder in itertools.chain([default], numbered) if not _taken(folder, wanted))
    if taken := _taken(Path(given), wanted):
        raise UserError(f"{given} {taken}: name another folder with -o, or delete it first")
    return Path(given)


def _taken(folder: Path, wanted: Mapping[str, Any]) -> str:
    """Say what in this folder would be lost, "" where nothing."""
    if folder.exists() and not folder.is_dir():
        return "is a file"
    there = [name for name in (JSON_FILE, TORQUES_FILE, PAGE_FILE) if (folder / name).exists()]
    if not there:
        return ""
    try:
        found = json.loads((folder / JSON_FILE).read_text("utf-8"))["inputs"]
        differing = [name for name in wanted if found[name] != wanted[name]]
    except (OSError, ValueError, KeyError, TypeError):
        return f"holds {there[0]} of something else"
    return f"holds a replay with other inputs ({', '.join(differing)})" if differing else ""
