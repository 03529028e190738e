# SPDX-License-Identifier: Apache-2.0
"""Where a dataset command may write: never over what it reads, and over what is there only if asked to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from h2o_control.errors import DataError

#: How the pages of this project begin.
PAGE_HEAD = b'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>'


def require_output(output: str | Path, inputs: Iterable[str | Path | None], force: bool) -> None:
    """Check that a dataset may be written, before anything is read.

    Args:
        output: file, or folder of a Minari dataset, to write.
        inputs: files and bags that the command reads; names that are no path, and None, are passed over.
        force: overwrite a file that exists.

    Raises:
        DataError: it is an input, or lies in an input bag, or is a folder, or exists and `force` is not set.
    """
    target = Path(output)
    _require_no_input(target, inputs)
    if target.is_dir():
        raise DataError(f"{target} exists already and is a folder, which is never overwritten: give another name")
    if target.exists() and not force:
        raise DataError(f"{target} exists already: give another name, or --force to overwrite it")


def require_page(output: str | Path, inputs: Iterable[str | Path | None]) -> None:
    """Check that a page may be written: to a new file, or over an earlier page of this project.

    Raises:
        DataError: it is an input, or lies in an input bag, or is a folder or any other file.
    """
    target = Path(output)
    _require_no_input(target, inputs)
    if not target.exists():
        return
    if target.is_dir():
        raise DataError(f"cannot write the page to {target}: it is a folder; give -o FILE.html")
    try:
        with target.open("rb") as stream:
            head = stream.read(len(PAGE_HEAD))
    except OSError as error:
        raise DataError(f"cannot write the page to {target}: {error.strerror}") from error
    if head != PAGE_HEAD:
        raise DataError(f"{target} exists already and is no page of h2o-robot: give another name with -o FILE.html")


def bag_folder(path: Path) -> Path | None:
    """Resolved folder that an input is, or that the bag is whose file it is; None for other files."""
    path = path.resolve()
    if path.is_dir():
        return path
    is_stored = path.suffix in (".mcap", ".db3") and (path.parent / "metadata.yaml").is_file()
    return path.parent if is_stored else None


def page_beside(path: Path) -> Path:
    """Where the page about an input goes: beside it, or beside the bag that it is a file of; for each its own."""
    path = path.resolve()
    place = bag_folder(path) or path
    name = path.name if place == path else f"{place.name}-{path.name}"
    return place.with_name(f"{name}-check.html")


def _require_no_input(target: Path, inputs: Iterable[str | Path | None]) -> None:
    resolved = target.resolve()
    for given in inputs:
        path = Path(given) if given is not None else None
        if path is None or not path.exists():
            continue
        if resolved == path.resolve() or (target.exists() and target.samefile(path)):
            raise DataError(f"{target} is an input of this command, which is never overwritten: give another name")
        bag = bag_folder(path)
        if bag is not None and resolved.is_relative_to(bag):
            raise DataError(f"{target} lies in the input {bag}, which is left as it is: give a place outside of it")
