# SPDX-License-Identifier: Apache-2.0
"""What the recorder says of itself, twice a second, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from h2o_control.bag_metadata import EpisodeInfo
from h2o_control.errors import UserError
from h2o_control.recorder import Recorder, losses

MIB = 1024 * 1024
#: Levels of diagnostic_msgs/DiagnosticStatus.
OK, WARN, ERROR = 0, 1, 2


@dataclass
class Watch:
    """What calls for a warning.

    Attributes:
        warn_free_bytes: below this much free space.
        keep_free_bytes: where recording stops.
    """

    warn_free_bytes: int
    keep_free_bytes: int
    _file: str = ""
    _seen: int = 0

    def new_losses(self, episode: EpisodeInfo | None) -> bool:
        """Tell whether anything was lost in this episode since the last call."""
        if episode is None:
            return False
        before = self._seen if episode.file == self._file else 0
        self._file, self._seen = episode.file, sum(episode.lost.values()) + episode.frames_missing
        return self._seen > before

    def space(self, free_bytes: int) -> str:
        """Return what to say about the free space; empty where there is enough."""
        if free_bytes >= self.warn_free_bytes:
            return ""
        return f"{free_bytes / MIB:.0f} MiB left on the disk; recording stops at {self.keep_free_bytes / MIB:.0f} MiB"


@dataclass(frozen=True)
class Report:
    """Level and message for /diagnostics, pairs of keys and values, and a warning about the free space or nothing."""

    level: int
    message: str
    values: dict[str, str]
    space: str


def report(recorder: Recorder, lacking: Sequence[str], watch: Watch, problem: str) -> Report:
    """Return what is to be said; `problem` is what ended the recording against the operator's will, or nothing."""
    try:
        free_bytes = recorder.writer.free_bytes
        space, free = watch.space(free_bytes), f"{free_bytes / MIB:.0f}"
    except UserError as error:
        space, free, problem = "", "unknown", str(error)
    episode = recorder.writer.episode
    latest = recorder.writer.latest
    values = {"free space (MiB)": free, "episodes": str(len(recorder.writer.episodes))}
    level, message = OK, "ready"
    if latest is not None:
        seconds = (latest.end_ns - latest.start_ns) * 1e-9
        values.update(
            {
                "latest episode": latest.file,
                "duration (s)": f"{seconds:.1f}",
                "messages": str(latest.message_count),
                "missing": losses(latest),
                "label": latest.label,
                "note": latest.note,
            }
        )
    if episode is not None:
        message = f"recording {episode.file}, {losses(episode)}"
        if any(count > 0 for count in episode.lost.values()) or episode.frames_missing:
            level = WARN
    elif lacking:
        message = f"waiting for {', '.join(lacking)}"
    if space:
        level, message = WARN, f"{message}; {space}"
    if problem and episode is None:
        level, message = ERROR, problem
    return Report(level, message, values, space)
