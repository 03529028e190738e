# SPDX-License-Identifier: Apache-2.0
"""Packages that only some commands need: imported when they are, and named with their extra where they are absent."""

from __future__ import annotations

import importlib
from typing import Any

from h2o_control.errors import UserError


def require(module: str, extra: str = "formats") -> Any:
    """Import a module of an optional package.

    Raises:
        UserError: it is not installed; says which extra of h2o_training brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"this needs {package}, which is not installed here: pip install {package}, or h2o_training[{extra}]"
        ) from error
