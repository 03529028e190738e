# SPDX-License-Identifier: Apache-2.0
"""The MCAP file of one episode on disk: grows by whole chunks, cut back to the last one when writing fails."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mcap.data_stream import RecordBuilder
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC

from h2o_control.bag_metadata import EpisodeInfo


class ChunkBuffer:
    """What `mcap` writes to: collects records until they are handed to the disk together, a chunk with its index."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self._parts.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how many bytes have been written in all: the position in the file."""
        return self._position

    def flush(self) -> None:
        """Do nothing: `take` hands over."""

    def take(self) -> bytes:
        """Return what has come since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class EpisodeFile:
    """A new file; raises OSError where it cannot be made.

    Its methods are jobs for a `Disk` and may run in its thread. None raises OSError: the first one is kept, and what
    comes after it is left out.

    Attributes:
        error: why writing ended.
        done: it is closed, as it should be.
    """

    def __init__(self, path: Path, sync: bool) -> None:
        """Create the file; with `sync`, what was appended is on the disk before the next job begins."""
        self.error: OSError | None = None
        self.done = False
        self._sync = sync
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._good_end = 0
        self._good = EpisodeInfo(-1, path.name, "", "")
        self._footer = False

    def append(self, data: bytes, so_far: EpisodeInfo) -> None:
        """Write whole chunks; `so_far` says what is in the file with them."""
        if self.error is not None:
            return
        try:
            self._write(data)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            self._cut(error)
            return
        self._good_end += len(data)
        self._good = so_far

    def finish(self, data: bytes, episode: EpisodeInfo) -> None:
        """Write the rest and close; `episode` is told whether it can be read, and what is in it where this fails."""
        if self.error is None:
            try:
                self._write(data)
                # Not only with `sync`: a finished episode is worth the wait, and nobody waits.
                os.fsync(self._fd)
                os.close(self._fd)
            except OSError as error:
                self._cut(error)
        if self.error is None:
            episode.readable = self.done = True
        else:
            self.settle(episode)

    def settle(self, episode: EpisodeInfo) -> None:
        """Make `episode` say what is left of it after an error."""
        good = self._good
        episode.counts, episode.lost = dict.fromkeys(episode.counts, 0) | good.counts, dict(good.lost)
        episode.start_ns, episode.end_ns, episode.frames_missing = good.start_ns, good.end_ns, good.frames_missing
        assert self.error is not None
        episode.end_reason = f"write error: {self.error.strerror}"
        episode.readable = self._footer
        if not self._footer:
            episode.end_reason += ", file without footer"

    def abandon(self) -> None:
        """Close the file as it is."""
        if self.error is None:
            os.close(self._fd)
        self.done = True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _cut(self, error: OSError) -> None:
        """Cut behind the last whole chunk and close without an index; readers then scan the file."""
        tail = RecordBuilder()
        DataEnd(0).write(tail)
        Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(tail)
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._good_end)
            os.lseek(self._fd, self._good_end, os.SEEK_SET)
            self._write(tail.end() + MCAP0_MAGIC)
            self._footer = True
        with contextlib.suppress(OSError):
            os.close(self._fd)
        # Last: whoever sees it may look at the file.
        self.error = error
