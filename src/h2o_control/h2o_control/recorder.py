# SPDX-License-Identifier: Apache-2.0
"""When to record what, without ROS: episodes of a bag, latched messages repeated in each, automatic start and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from h2o_control import topics
from h2o_control.bag_metadata import TYPESTORE, EpisodeInfo
from h2o_control.bag_writer import BagWriter
from h2o_control.contract import Interface
from h2o_control.errors import UserError

#: Recording goes on this long after the robot is disarmed, so that the fall itself is in the bag.
GRACE_NS = 500_000_000
#: Topics that a driver always publishes; without them an episode is worth nothing.
ESSENTIAL = (topics.ODOM, topics.JOINT_STATES, topics.WHEEL_COMMAND, topics.MODE, topics.INTERFACE)


class Recorder:
    """Writes what it is given while an episode runs.

    Args:
        path: bag directory to create.
        names: full topic name of each recorded topic, keyed by the name in h2o_control.topics.
        auto_start: begin an episode when /mode shows the robot armed, end it when it is disarmed or in fault.
        label: stored with each episode; set the attribute to change it for the next one.
        log: called with a line for the operator.
    """

    def __init__(
        self, path: str | Path, names: Mapping[str, str], auto_start: bool, label: str, log: Callable[[str], None]
    ) -> None:
        self._writer = BagWriter(path, {full: topics.TYPES[name] for name, full in names.items()})
        self._names = dict(names)
        self._latched: dict[str, bytes] = {}
        self._auto_start = auto_start
        self._log = log
        self._armed = False
        self._stop_at_ns: int | None = None
        # After a stop by hand or a full disk, the next automatic start waits for the robot to be armed anew.
        self._auto_held_back = False
        self.label = label

    @property
    def recording(self) -> bool:
        """Whether an episode runs."""
        return self._writer.episode is not None

    @property
    def episodes(self) -> list[EpisodeInfo]:
        """Finished episodes."""
        return self._writer.episodes

    def lacking(self, published: Callable[[str], bool]) -> list[str]:
        """Return essential topics (full names) that nobody publishes, or that still owe their latched message."""
        return [
            full
            for name, full in self._names.items()
            if name in ESSENTIAL and (not published(full) or (name in topics.LATCHED and name not in self._latched))
        ]

    def take(self, name: str, data: bytes, stamp_ns: int) -> None:
        """Take one serialized message of topic `name` (as in h2o_control.topics), received at `stamp_ns`.

        Raises:
            UserError: the disk is full, or the interface changed under way; the episode has been ended.
        """
        if name in topics.LATCHED:
            self._take_latched(name, data, stamp_ns)
        if self.recording:
            self._writer.write(self._names[name], data, stamp_ns)

    def tick(self, stamp_ns: int, published: Callable[[str], bool]) -> None:
        """Do what is due: hand chunks on, start or stop by itself; call several times a second.

        Raises:
            UserError: as `take`.
        """
        self._writer.flush()
        if self._stop_at_ns is not None and stamp_ns >= self._stop_at_ns:
            self._stop_at_ns = None
            self.stop("disarmed", by_hand=False)
        due = self._auto_start and self._armed and not self.recording and not self._auto_held_back
        if due and not self.lacking(published):
            try:
                self.start(stamp_ns)
            except UserError:
                self._auto_held_back = True
                raise

    def start(self, stamp_ns: int) -> EpisodeInfo:
        """Begin an episode with the latched messages, so that its file stands alone."""
        episode = self._writer.start_episode(self.label)
        for name, data in self._latched.items():
            self._writer.write(self._names[name], data, stamp_ns)
        self._writer.flush()
        self._log(f"recording {self._writer.path / episode.file}")
        return episode

    def stop(self, reason: str = "stopped", by_hand: bool = True) -> EpisodeInfo | None:
        """End the episode; returns it, None where none ran."""
        self._stop_at_ns = None
        self._auto_held_back = by_hand and self._armed
        episode = self._writer.end_episode(reason)
        if episode is not None:
            self._log(summary(episode))
        return episode

    def close(self, reason: str = "recorder stopped") -> None:
        """End what runs and leave a complete bag, or none where nothing was recorded."""
        self.stop(reason)
        self._writer.close()

    def _take_latched(self, name: str, data: bytes, stamp_ns: int) -> None:
        self._latched[name] = data
        text = TYPESTORE.deserialize_cdr(data, topics.TYPES[name]).data  # type: ignore[attr-defined]
        if name == topics.INTERFACE:
            try:
                self._writer.set_interface(Interface.from_json(text, f"/{name}"))
            except UserError:
                self.stop("interface changed")
                raise
            return
        self._armed = text.partition(":")[0].strip() in topics.ARMED
        if self._armed:
            self._stop_at_ns = None
            return
        self._auto_held_back = False
        if self._auto_start and self.recording:
            self._stop_at_ns = stamp_ns + GRACE_NS


def summary(episode: EpisodeInfo) -> str:
    """One line about a finished episode."""
    seconds = (episode.end_ns - episode.start_ns) * 1e-9
    return f"{episode.file}: {seconds:.1f} s, {episode.message_count} messages, ended: {episode.end_reason}"
