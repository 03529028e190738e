# SPDX-License-Identifier: Apache-2.0
"""Numbers out of messages of any type by a path: `pose.pose.position.x`, `data[0]`, `effort[left_wheel]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

#: Where messages list the joints that the entries of their arrays belong to.
NAME_LISTS = ("name", "names", "joint_names")
#: So many entries of an array are listed, all where they have names: images and scans have a million.
LISTED = 16
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[([^\[\]]+)\]")


class FieldError(LookupError):
    """This message has no such field, entry or joint; says which."""


def parse_path(text: str) -> tuple[str | int, ...]:
    """Split a path into steps: names of fields as they are, "=NAME" for an entry by joint, numbers for one by index.

    Raises:
        ValueError: not a path.
    """
    dotted = f".{text}"
    steps: list[str | int] = []
    position = 0
    while match := _STEP.match(dotted, position):
        name, entry = match.groups()
        steps.append(name or (int(entry) if entry.isdecimal() else f"={entry.strip()}"))
        position = match.end()
    if position < len(dotted):
        raise ValueError(f"{text!r} is no path to a field; write e.g. twist.linear.x, data[0] or effort[left_wheel]")
    return tuple(steps)


def value_at(message: Any, path: Sequence[str | int]) -> Any:
    """Follow a path into a message.

    An entry by joint is looked up in the list of names beside the array, or in a message further out.

    Raises:
        FieldError: it does not lead anywhere in this message.
    """
    node, outer = message, [message]
    for step in path:
        if isinstance(step, str) and not step.startswith("="):
            # Not hasattr: a numpy array has a size, and that is no field.
            if step not in getattr(node, "__dataclass_fields__", ()):
                raise FieldError(f"no field {step!r}")
            node = getattr(node, step)
            outer.append(node)
            continue
        if not isinstance(node, list | tuple | np.ndarray):
            raise FieldError(f"what [{str(step).removeprefix('=')}] stands behind is no list")
        index = step if isinstance(step, int) else _joint(step[1:], outer)
        if index >= len(node):
            raise FieldError(f"entry {index} of a list of {len(node)}")
        node = node[index]
        outer.append(node)
    return node


def number_at(text: str) -> Callable[[Any], float]:
    """Return a function that reads the number at a path out of a message, negated where the path begins with a minus.

    Raises:
        ValueError: not a path. The function itself raises FieldError where a message has no number there.
    """
    path, sign = parse_path(text.removeprefix("-")), -1.0 if text.startswith("-") else 1.0

    def read(message: Any) -> float:
        value = value_at(message, path)
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return sign * float(value)
        raise FieldError(f"{type(value).__name__} is no number")

    return read


def numeric_fields(message: Any, prefix: str = "", names: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """Yield path and value of the numbers in a message; entries by joint where joints are listed, else LISTED."""
    if isinstance(message, bool | int | float | np.number | np.bool_):
        yield prefix, float(message)
    elif isinstance(message, list | tuple | np.ndarray):
        named = len(names) == len(message)
        for i, value in enumerate(message if named else message[:LISTED]):
            yield from numeric_fields(value, f"{prefix}[{names[i] if named else i}]", names)
    elif is_dataclass(message):
        names = _names(message) or names
        for field in fields(message):
            if not field.name.startswith("__"):
                path = f"{prefix}.{field.name}" if prefix else field.name
                yield from numeric_fields(getattr(message, field.name), path, names)


def _joint(name: str, outer: Sequence[Any]) -> int:
    names = next((found for found in map(_names, reversed(outer)) if found), [])
    if not names:
        raise FieldError(f"no list of joint names to find {name!r} in; give a number")
    if name not in names:
        raise FieldError(f"no joint {name!r} among {', '.join(names)}")
    return names.index(name)


def _names(message: Any) -> list[str]:
    """Joint names that a message lists, none where it does not."""
    listed = (getattr(message, key, None) for key in NAME_LISTS)
    return next((v for v in listed if isinstance(v, list) and v and isinstance(v[0], str)), [])
