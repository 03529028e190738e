# SPDX-License-Identifier: Apache-2.0
"""Substitutions in launch files, `$(name argument …)`, as ROS 2's launch reads them; only those that our files use.

`$(eval …)` is not Python here: it compares two quoted texts and nothing else.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from h2o_control.errors import ConfigError, nearest

_COMPARISON = re.compile(r"'([^']*)' *(==|!=) *'([^']*)'")


@dataclass
class Scope:
    """What substitutions can see: the file they stand in and the launch arguments and variables set so far."""

    path: Path
    variables: dict[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


def expand(text: str, scope: Scope) -> str:
    """Replace every substitution in `text`, innermost first.

    Raises:
        ConfigError: a substitution that is not supported, malformed, or names a variable that is not set.
    """
    return _Reader(text, scope).text_until("")


def expand_words(text: str, scope: Scope) -> list[str]:
    """Split `text` into words as a shell would and expand them; what a substitution gives stays one word."""
    try:
        return shlex.split(_Reader(text, scope).text_until("", shlex.quote))
    except ValueError as error:
        raise ConfigError(f"{scope.path.name}: {text!r}: {error}") from error


class _Reader:
    """Recursive descent over one text; a quoted argument may hold spaces and further substitutions."""

    def __init__(self, text: str, scope: Scope) -> None:
        self._text = text
        self._scope = scope
        self._at = 0

    def text_until(self, stop: str, wrap: Callable[[str], str] = str) -> str:
        """Read up to (not over) one of the characters in `stop`, or to the end where `stop` is empty.

        Substitutions are expanded, and each result goes through `wrap`.
        """
        out = []
        while self._at < len(self._text):
            if self._text.startswith("$(", self._at):
                self._at += 2
                out.append(wrap(self._call()))
                continue
            char = self._text[self._at]
            if char in stop:
                return "".join(out)
            out.append(char)
            self._at += 1
        if stop:
            raise self._error(f"ends where one of {' '.join(repr(c) for c in stop)} was expected")
        return "".join(out)

    def _call(self) -> str:
        name = self.text_until(" )")
        arguments = []
        while self._text[self._at] == " ":
            self._at += 1
            quote = self._text[self._at : self._at + 1]
            if quote and quote in "'\"":
                self._at += 1
                arguments.append(self.text_until(quote))
                self._at += 1
                if self._text[self._at : self._at + 1] not in (" ", ")"):
                    raise self._error("has text right behind a closing quote")
            else:
                arguments.append(self.text_until(" )"))
        self._at += 1
        if name not in _SUBSTITUTIONS:
            raise self._error(f"uses $({name}), which is not supported.{nearest(name, _SUBSTITUTIONS)}")
        try:
            return _SUBSTITUTIONS[name](self._scope, arguments)
        except ConfigError as error:
            raise self._error(str(error)) from error

    def _error(self, what: str) -> ConfigError:
        return ConfigError(f"{self._scope.path.name}: {self._text!r} {what}")


def _var(scope: Scope, arguments: Sequence[str]) -> str:
    if len(arguments) != 1:
        raise ConfigError(f"gives $(var) {len(arguments)} arguments, it takes a name")
    if arguments[0] not in scope.variables:
        raise ConfigError(
            f"uses {arguments[0]!r}, which no arg or let has set.{nearest(arguments[0], scope.variables)}"
        )
    return scope.variables[arguments[0]]


def _env(scope: Scope, arguments: Sequence[str]) -> str:
    if len(arguments) not in (1, 2):
        raise ConfigError(f"gives $(env) {len(arguments)} arguments, it takes a name and a default")
    value = scope.environment.get(arguments[0], *arguments[1:])
    if value is None:
        raise ConfigError(f"uses environment variable {arguments[0]}, which is not set")
    return value


def _dirname(scope: Scope, arguments: Sequence[str]) -> str:
    if arguments:
        raise ConfigError("gives $(dirname) an argument, it takes none")
    return str(scope.path.parent)


def _eval(_scope: Scope, arguments: Sequence[str]) -> str:
    comparison = _COMPARISON.fullmatch(arguments[0]) if len(arguments) == 1 else None
    if comparison is None:
        raise ConfigError(f"evaluates {' '.join(arguments)}; only \"'text' == 'text'\" and != are supported")
    left, operator, right = comparison.groups()
    return str((left == right) == (operator == "=="))


_SUBSTITUTIONS: dict[str, Callable[[Scope, Sequence[str]], str]] = {
    "var": _var,
    "env": _env,
    "dirname": _dirname,
    "eval": _eval,
}


def condition(text: str, scope: Scope) -> bool:
    """Expand and read the value of `if` or `unless`, by launch's rule: true, 1, false, 0 in any case."""
    value = expand(text, scope).strip().lower()
    if value not in ("true", "1", "false", "0"):
        raise ConfigError(f"{scope.path.name}: condition {text!r} gives {value!r}, which is neither true nor false")
    return value in ("true", "1")
