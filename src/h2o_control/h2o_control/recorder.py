# SPDX-License-Identifier: Apache-2.0
"""When to record what, without ROS: episodes of a bag, latched messages repeated in each, automatic start and stop."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from h2o_control import topics
from h2o_control.bag_metadata import LABEL_FALL, TYPESTORE, EpisodeInfo
from h2o_control.bag_storage import BagStorage
from h2o_control.contract import Interface, get_task, pitch_rad
from h2o_control.errors import DataError, UserError
from h2o_control.losses import FrameCounter, LossCounter

#: Recording goes on this long after the robot is disarmed or fell, so that the fall itself is in the bag.
GRACE_NS = 500_000_000
#: Topics that a driver always publishes; without them an episode is worth nothing.
ESSENTIAL = (topics.ODOM, topics.JOINT_STATES, topics.WHEEL_COMMAND, topics.MODE, topics.INTERFACE)
#: What the recorder itself must hear: when to record, whether the robot fell, and which robot it is.
NEEDED = (topics.MODE, topics.ODOM, topics.INTERFACE)
#: A robot that a fault took the torque from falls within this time; it takes longer than GRACE_NS.
FALLING_NS = 1_000_000_000
#: What the tasks count as fallen.
FALL_PITCH_RAD = get_task("stand").fall_pitch_rad


class Recorder:
    """Writes what it is given while an episode runs.

    Args:
        writer: takes the episodes.
        names: full name of each topic that it is given messages of, keyed by the name in h2o_control.topics.
        auto_start: begin an episode when /mode shows the robot armed, end it when it is disarmed, in fault or fallen.
        log: called with a line for the operator.
        fall_pitch_rad: an armed robot that leans further than this, rad, fell, and so did one that does within
            FALLING_NS after a fault. That, or a fault of the driver for that reason, labels the episode, whoever began
            it.
        recorded: which of `names` go into the bag; all where None.
    """

    def __init__(
        self,
        writer: BagStorage,
        names: Mapping[str, str],
        auto_start: bool,
        log: Callable[[str], None],
        fall_pitch_rad: float = FALL_PITCH_RAD,
        recorded: Container[str] | None = None,
    ) -> None:
        self.writer = writer
        self._names = dict(names)
        self._recorded = self._names if recorded is None else recorded
        self._latched: dict[str, tuple[bytes, int]] = {}
        self._auto_start = auto_start
        self._log = log
        self._fall_pitch_rad = fall_pitch_rad
        self._losses = {name: LossCounter() for name in names}
        self._frames = FrameCounter()
        self._armed = False
        self._odom = b""
        self._leans = False
        self._fall_noted = False
        self._stop_at_ns: int | None = None
        self._stop_reason = ""
        # A robot without torque goes on falling after its episode has ended.
        self._fault_at_ns: int | None = None
        self._falling: EpisodeInfo | None = None
        # After a stop by hand or a full disk, the next automatic start waits for the robot to be armed anew.
        self._auto_held_back = False
        self._next_note = ""

    @property
    def recording(self) -> bool:
        """Whether an episode runs."""
        return self.writer.episode is not None

    def lacking(self, matched: Callable[[str], bool]) -> list[str]:
        """Return essential topics (full names) without a matched publisher, or that still owe their latched message."""
        return [
            full
            for name, full in self._names.items()
            if name in ESSENTIAL and (not matched(name) or (name in topics.LATCHED and name not in self._latched))
        ]

    def take(self, name: str, data: bytes, stamp_ns: int, number: int | None = None, publisher: bytes = b"") -> None:
        """Take one serialized message of topic `name` (as in h2o_control.topics), received at `stamp_ns`.

        Args:
            name: of the topic.
            data: the message, CDR.
            stamp_ns: when it was received.
            number: what its publisher numbered it; None where the middleware does not say.
            publisher: what tells it from others.

        Raises:
            UserError: the disk is full, or the interface changed under way; the episode has been ended.
        """
        missing = 0 if number is None else self._losses[name].update(publisher, number)
        frames = 0
        if name == topics.ODOM:
            self._odom = data
        elif name == topics.DEVICE_TIME:
            time = TYPESTORE.deserialize_cdr(data, topics.TYPES[name])
            frames = self._frames.update(time.source, missing)  # type: ignore[attr-defined]
        elif name in topics.LATCHED:
            self._latched[name] = data, number or 0
            self._look_at(name, data, stamp_ns)
        episode = self.writer.episode
        if episode is None or name not in self._recorded:
            return
        full = self._names[name]
        if number is not None:
            episode.lost[full] = episode.lost.get(full, 0) + missing
        episode.frames_missing += frames
        self.writer.write(full, data, stamp_ns, number or 0)

    def tick(self, stamp_ns: int, matched: Callable[[str], bool]) -> None:
        """Do what is due: hand chunks on, notice a fall, start or stop by itself; call several times a second.

        Args:
            stamp_ns: now.
            matched: tells whether somebody publishes a topic (name as in h2o_control.topics) and reaches this recorder.

        Raises:
            UserError: as `take`.
        """
        self.writer.flush(stamp_ns)
        self._look_at_pitch(stamp_ns)
        if self._stop_at_ns is not None and stamp_ns >= self._stop_at_ns:
            self.stop(self._stop_reason, by_hand=False)
        due = self._auto_start and self._armed and not self._leans and not self.recording and not self._auto_held_back
        if due and not self.lacking(matched):
            try:
                self.start(stamp_ns)
            except UserError:
                self._auto_held_back = True
                raise

    def start(self, stamp_ns: int) -> EpisodeInfo:
        """Begin an episode with the latched messages, so that its file stands alone; a running one is ended first."""
        self.stop("next episode", by_hand=False)
        self._fall_noted, self._falling = False, None
        episode = self.writer.start_episode(note=self._next_note)
        self._next_note = ""
        for name, (data, number) in self._latched.items():
            if name in self._recorded:
                self.writer.write(self._names[name], data, stamp_ns, number)
        self.writer.flush()
        self._log(f"recording {self.writer.path / episode.file}")
        return episode

    def stop(self, reason: str = "stopped", by_hand: bool = True) -> EpisodeInfo | None:
        """End the episode; returns it, None where none ran."""
        self._stop_at_ns = None
        self._auto_held_back = by_hand and self._armed
        episode = self.writer.end_episode(reason)
        if episode is not None:
            self._falling = None if by_hand else episode
            self._log(summary(episode))
        return episode

    def discard(self) -> EpisodeInfo:
        """Delete the running episode, or else the one before; raises UserError where there is none."""
        if self.recording:
            self._stop_at_ns, self._auto_held_back = None, self._armed
        episode = self.writer.discard_episode()
        self._log(f"{episode.file} is discarded")
        return episode

    def label(self, label: str) -> EpisodeInfo:
        """Label the running episode, or else the one before; raises UserError where there is none."""
        return self.writer.describe(label=label)

    def note(self, text: str) -> EpisodeInfo | None:
        """Add a note to the running episode, or else the one before; where there is none it waits for the next.

        Returns:
            the episode that it is about; None where it waits.

        Raises:
            DataError: there is no text.
        """
        if not text.strip():
            raise DataError("the note is empty; notes are added to one another, none is taken back")
        latest = self.writer.latest
        if latest is None:
            self._next_note = _appended(self._next_note, text)
            return None
        return self.writer.describe(note=_appended(latest.note, text))

    def close(self, reason: str = "recorder stopped") -> None:
        """End what runs and leave a complete bag, or none where nothing was recorded."""
        try:
            self.stop(reason)
        finally:
            self.writer.close()

    def _look_at(self, name: str, data: bytes, stamp_ns: int) -> None:
        text = TYPESTORE.deserialize_cdr(data, topics.TYPES[name]).data  # type: ignore[attr-defined]
        if name == topics.INTERFACE:
            try:
                self.writer.set_interface(Interface.from_json(text, f"/{name}"))
            except UserError:
                self.stop("interface changed")
                raise
        elif name == topics.MODE:
            self._on_mode(text, stamp_ns)

    def _on_mode(self, text: str, stamp_ns: int) -> None:
        mode, reason = (part.strip() for part in text.partition(":")[::2])
        was_armed, self._armed = self._armed, mode in topics.ARMED
        if self._armed:
            self._fault_at_ns = self._falling = None
            if not was_armed and self._stop_at_ns is not None:
                # Armed again within the grace: no episode spans that.
                self.stop(self._stop_reason, by_hand=False)
            return
        self._auto_held_back = False
        if was_armed and mode == topics.FAULT:
            # A person who disarms holds the robot, and may lay it down.
            self._fault_at_ns = stamp_ns
        if mode == topics.FAULT and reason.startswith(topics.FALLEN):
            self._note_fall(stamp_ns, reason)
        self._stop_soon(stamp_ns, text)

    def _look_at_pitch(self, stamp_ns: int) -> None:
        falling = self._fault_at_ns is not None and stamp_ns - self._fault_at_ns <= FALLING_NS
        if not (self._armed or falling) or not self._odom:
            return
        q = TYPESTORE.deserialize_cdr(self._odom, topics.TYPES[topics.ODOM]).pose.pose.orientation  # type: ignore[attr-defined]
        pitch = pitch_rad(q.w, q.x, q.y, q.z)
        self._leans = abs(pitch) > self._fall_pitch_rad
        if self._leans:
            self._note_fall(stamp_ns, f"fallen: pitch {pitch:+.2f} rad is beyond {self._fall_pitch_rad:g} rad")

    def _note_fall(self, stamp_ns: int, reason: str) -> None:
        of = self.writer.episode or self._falling
        if of is None or of is not self.writer.latest or self._fall_noted:
            return
        self._fall_noted = True
        episode = self.writer.describe(label=LABEL_FALL)
        self._log(f"{episode.file}: {reason}")
        self._stop_soon(stamp_ns, reason)

    def _stop_soon(self, stamp_ns: int, reason: str) -> None:
        if self._auto_start and self.recording and self._stop_at_ns is None:
            self._stop_at_ns, self._stop_reason = stamp_ns + GRACE_NS, reason


def _appended(notes: str, text: str) -> str:
    return f"{notes}; {text}" if notes else text


def summary(episode: EpisodeInfo) -> str:
    """One line about a finished episode."""
    seconds = (episode.end_ns - episode.start_ns) * 1e-9
    label = f" ({episode.label})" if episode.label else ""
    return (
        f"{episode.file}{label}: {seconds:.1f} s, {episode.message_count} messages, {losses(episode)}, ended: "
        f"{episode.end_reason}"
    )


def losses(episode: EpisodeInfo) -> str:
    """What is missing in an episode, in words."""
    lost = {topic: count for topic, count in episode.lost.items() if count > 0}
    words = [f"{sum(lost.values())} lost" + (f" ({', '.join(f'{t} {n}' for t, n in lost.items())})" if lost else "")]
    if episode.frames_missing:
        words.append(f"{episode.frames_missing} frames missing from the robot")
    return ", ".join(words) if episode.lost else "losses not known"
