# SPDX-License-Identifier: Apache-2.0
"""A disk that will not take what is written, for tests."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files(limit_bytes: int) -> Iterator[None]:
    """Let the operating system refuse whatever goes beyond this size in one file (OSError, File too large)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
