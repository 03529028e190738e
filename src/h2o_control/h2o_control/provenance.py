# SPDX-License-Identifier: Apache-2.0
"""Where an artefact comes from: versions, commit and file hashes, for every bag, dataset, policy and report."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import lru_cache
from importlib import metadata
from pathlib import Path

#: Libraries whose version can change a number in an artefact; those not installed are left out.
LIBRARIES = (
    "h2o_control",
    "wheel_leg_driver",
    "h2o_training",
    "numpy",
    "torch",
    "mujoco",
    "onnxruntime",
    "mcap",
    "rosbags",
)


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of the clone this package runs from, with "+changes" where files differ; "unknown" outside a clone."""
    folder = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        result = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def software() -> dict[str, str]:
    """Return Python's, the libraries' and this project's versions, and the git commit where there is one."""
    versions = {"python": platform.python_version(), "machine": platform.machine(), "git_commit": git_commit()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def now_utc() -> str:
    """Wall time as ISO 8601, to the second, in UTC: a label, never used to compute."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def files_sha256(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of these files in the given order, hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                total.update(block)
    return total.hexdigest()
