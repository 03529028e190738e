# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: the command line prints them on one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong; the message says what, with the value, and what to do."""


class ConfigError(UserError):
    """A configuration file or an override is wrong."""


class ContractError(UserError):
    """Two artefacts (robot, bag, dataset, policy) do not speak about the same robot or task."""


class DataError(UserError):
    """A bag, a log or a dataset cannot be used as it is."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest valid word, or the list of valid words."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid here: {', '.join(words)}."
