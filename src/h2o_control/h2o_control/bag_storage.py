# SPDX-License-Identifier: Apache-2.0
"""What the recorder needs of whatever writes its bag."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from h2o_control.bag_metadata import EpisodeInfo
from h2o_control.contract import Interface


class BagStorage(Protocol):
    """Takes one episode after another; see `bag_writer.BagWriter`, whose methods these are.

    Attributes:
        path: of the bag.
        episodes: finished ones.
        episode: the running one.
        latest: the running one, else the one before; None where that was discarded or none has been started.
    """

    path: Path
    episodes: list[EpisodeInfo]
    episode: EpisodeInfo | None
    latest: EpisodeInfo | None

    @property
    def free_bytes(self) -> int:
        """Free space where the bag is written; UserError where that is gone."""

    def start_episode(self, label: str = "", note: str = "") -> EpisodeInfo:
        """Begin an episode; a running one is ended first."""

    def write(self, topic: str, data: bytes, stamp_ns: int, sequence: int = 0) -> None:
        """Append one serialized message received at `stamp_ns`; `sequence` is its publisher's number for it."""

    def flush(self, now_ns: int | None = None) -> None:
        """Hand over what has come, or what is old enough at `now_ns`; raise what the disk has refused since."""

    def end_episode(self, reason: str = "stopped") -> EpisodeInfo | None:
        """End the running episode; returns it, None where none was running."""

    def describe(self, label: str | None = None, note: str | None = None) -> EpisodeInfo:
        """Label the latest episode, or give it a note."""

    def discard_episode(self) -> EpisodeInfo:
        """Delete the latest episode."""

    def set_interface(self, interface: Interface) -> None:
        """Store the robot's interface once it is known; DataError where it changed."""

    def close(self) -> None:
        """End a running episode and leave a complete bag, or none where it holds no episode."""
