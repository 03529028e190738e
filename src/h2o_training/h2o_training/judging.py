# SPDX-License-Identifier: Apache-2.0
"""What `evaluate` and `replay` share: loading the policy, where results go, and JSON that holds no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h2o_control.atomic_file import write_atomically
from h2o_control.errors import ContractError, DataError
from h2o_control.policy import Policy
from h2o_control.provenance import files_sha256, now_utc, software


def policy_for(path: str, task: str | None) -> Policy:
    """Load a policy; raises ContractError where it was made for another task than `task` (None: any)."""
    policy = Policy(path)
    made_for = policy.contract.task.name
    if task is not None and task != made_for:
        raise ContractError(
            f"{path} was made for task {made_for!r}, not {task!r}; leave --task out to judge it by its own"
        )
    return policy


def origin(policy: Policy, **more: Any) -> dict[str, Any]:
    """Provenance of a judgement: the policy's hash, contract and own provenance, versions and time."""
    return {
        "policy": policy.path.name,
        "policy sha256": files_sha256([policy.path]),
        "contract": policy.contract.hash,
        **more,
        "created": now_utc(),
        "software": software(),
        "how the policy was made": policy.provenance,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in one step, numbers that are not finite as null; raises DataError where it cannot be written."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
