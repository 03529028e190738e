# SPDX-License-Identifier: Apache-2.0
"""Node that records the graph's topics as a rosbag2 directory: raw subscriptions straight into MCAP."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from h2o_control import rosbag2_backend, topics
from h2o_control.bag_metadata import LABEL_FALL, LABEL_SUCCESS
from h2o_control.bag_settings import COMPRESSION, BagSettings
from h2o_control.bag_storage import BagStorage
from h2o_control.bag_writer import BagWriteError, BagWriter
from h2o_control.clock import WallStamp
from h2o_control.errors import ConfigError, UserError, nearest
from h2o_control.node_tools import (
    STEADY_CLOCK,
    STREAM_QOS,
    Parameter,
    declare,
    path,
    publisher,
    run,
    steady_timer,
    value,
)
from h2o_control.played_time import END_WITH_CLOCK, end_with_clock
from h2o_control.reception import Reception
from h2o_control.recorder import ESSENTIAL, FALL_PITCH_RAD, NEEDED, Recorder, losses
from h2o_control.recorder_status import MIB, Watch, report

#: What writes the bag: the library mcap, or ROS's rosbag2.
MCAP = "mcap"
STORAGES = (MCAP, "rosbag2_py")
PARAMETERS = (
    Parameter("bag", "", "bag directory to create; an existing one is never overwritten"),
    Parameter("topics", list(topics.TYPES), "topics to record, names as in h2o_control.topics"),
    Parameter("auto_start", False, "record an episode whenever the robot is armed, end it when it is disarmed or fell"),
    Parameter("note", "", "text to add about the running episode, or else the one before; set it", read_only=False),
    Parameter("fall_pitch_rad", FALL_PITCH_RAD, "an armed robot that leans further fell, rad", 0.1, 1.5),
    Parameter("storage", MCAP, "mcap, or rosbag2_py where ROS brings it: what a crash costs is then up to rosbag2"),
    Parameter("compression", "zstd", f"of the chunks: {', '.join(COMPRESSION)}"),
    Parameter("chunk_kib", 96, "a chunk is written when it is this large, KiB", 16, 1024),
    Parameter("chunk_s", 0.2, "and when it is this old: what a crash costs at most, s", 0.02, 0.4),
    Parameter("fsync", False, "every chunk is on the disk before the next: a power cut costs no more than a crash"),
    Parameter("keep_free_mib", 32, "the episode ends while this much of the disk is still free, MiB", 4, 1_000_000),
    Parameter("warn_free_mib", 512, "below this much free space the recorder warns, MiB", 4, 1_000_000),
    END_WITH_CLOCK,
)
#: Chunks reach the file at least this often; a tick also starts and stops episodes.
TICK_S = 0.1
REPORT_S = 0.5
#: Discovery takes a second; after this long without publishers the operator hears what is missing.
PATIENCE_S = 5.0
#: How often the log says that something still lasts.
REMIND_S = 10.0
#: A second of a 1 kHz topic may wait while the processor is busy; reliable, so that nothing is dropped under way.
DEPTH = 1000


def message_class(kind: str) -> Any:
    """Import the class of a message type such as nav_msgs/msg/Odometry."""
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def qos_of(name: str) -> QoSProfile:
    """How a topic is subscribed to; of a latched one, too, every message counts."""
    latched = name in topics.LATCHED
    return QoSProfile(
        depth=DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    )


class RecorderNode(Node):
    """Services recorder/start_episode, stop_episode, discard_episode, success and fall around `Recorder`."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.exit_code = 0
        self.finished = False
        # A wall clock that is set during an episode must not reorder the bag.
        self._wall = WallStamp()
        declare(self, PARAMETERS)
        recorded = self._recorded_topics()
        names = {name: self.resolve_topic_name(name) for name in dict.fromkeys((*recorded, *NEEDED))}
        self._names = {full: name for name, full in names.items()}
        log = self.get_logger().info
        writer = self._storage(path(self, "bag"), {names[name]: topics.TYPES[name] for name in recorded})
        fall_pitch_rad: float = value(self, "fall_pitch_rad")
        self.recorder = Recorder(writer, names, value(self, "auto_start"), log, fall_pitch_rad, recorded)
        # A recording of answers is compared with its source, and no dataset is built of it.
        if not value(self, END_WITH_CLOCK.name) and (absent := [name for name in ESSENTIAL if name not in recorded]):
            self.get_logger().warning(f"no dataset can be built of this bag: 'topics' lacks {', '.join(absent)}")
        if value(self, "note"):
            self.recorder.note(value(self, "note"))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._watch = Watch(value(self, "warn_free_mib") * MIB, value(self, "keep_free_mib") * MIB)
        # Messages are taken in one thread, services and timers come in another.
        self._lock = threading.RLock()
        for name, action in {
            topics.START_EPISODE: self._start,
            topics.STOP_EPISODE: self._stop,
            topics.DISCARD_EPISODE: self._discard,
            topics.LABEL_SUCCESS: lambda: self._label(LABEL_SUCCESS),
            topics.LABEL_FALL: lambda: self._label(LABEL_FALL),
        }.items():
            self.create_service(Trigger, name, lambda _, answer, act=action: self._serve(act, answer))
        self._diagnostics = publisher(self, DiagnosticArray, topics.DIAGNOSTICS, STREAM_QOS)
        self._warned_s = time.monotonic()
        self._announced = False
        self._problem = ""
        steady_timer(self, TICK_S, self._tick)
        steady_timer(self, REPORT_S, self._report)
        end_with_clock(self)
        wanted = {name: (message_class(topics.TYPES[name]), qos_of(name)) for name in names}
        self._reception = Reception(self, wanted, self._take)
        self._reception.start()

    def make_safe(self) -> None:
        """End a running episode, so that the bag is complete."""
        self._reception.stop()
        self._guard(self.recorder.close)

    def _recorded_topics(self) -> list[str]:
        if not value(self, "bag"):
            raise ConfigError("parameter 'bag' is not set: give the bag directory to create, e.g. -p bag:=bags/walk")
        for name in value(self, "topics"):
            if name not in topics.TYPES:
                raise ConfigError(f"parameter 'topics': no topic {name!r}.{nearest(name, topics.TYPES)}")
        return list(value(self, "topics"))

    def _storage(self, bag: Path, types: dict[str, str]) -> BagStorage:
        settings = BagSettings(
            compression=value(self, "compression"),
            chunk_bytes=value(self, "chunk_kib") * 1024,
            chunk_time_ns=round(value(self, "chunk_s") * 1e9),
            reserve_bytes=value(self, "keep_free_mib") * MIB,
            fsync=value(self, "fsync"),
            background=True,
        )
        kind = value(self, "storage")
        if kind not in STORAGES:
            raise ConfigError(f"storage is {kind!r}.{nearest(kind, STORAGES)}")
        if kind == MCAP:
            return BagWriter(bag, types, settings=settings)
        return rosbag2_backend.Rosbag2Writer(bag, types, settings, rosbag2_backend.load())

    def _take(self, name: str, data: bytes, number: int | None, publisher_id: bytes) -> None:
        with self._lock:
            stamp_ns = self._wall.now_ns()
            self._guard(lambda: self.recorder.take(name, data, stamp_ns, number, publisher_id))
            if name == topics.MODE:
                self._tick_recorder()  # armed: the first steps count

    def _guard(self, action: Callable[[], object]) -> None:
        """Run an action; what stops the recording is logged, the node goes on."""
        try:
            with self._lock:
                action()
        except UserError as error:
            self._note_problem(error)

    def _note_problem(self, error: UserError) -> None:
        self.get_logger().error(str(error))
        # Control goes on, but whoever started this recording must learn that it is not whole.
        self.exit_code = 1
        self._problem = str(error)

    def _tick_recorder(self) -> None:
        self._guard(lambda: self.recorder.tick(self._wall.now_ns(), self._reception.matched))

    def _tick(self) -> None:
        self._tick_recorder()
        if self._announced:
            return
        lacking = self._lacking()
        if not lacking:
            self.get_logger().info("ready: all topics of the driver are there")
            self._announced = True
        elif time.monotonic() - self._warned_s > PATIENCE_S:
            self.get_logger().warning(f"waiting for {', '.join(lacking)}: is the driver running?")
            self._warned_s = time.monotonic()

    def _lacking(self) -> list[str]:
        """Essential topics that nobody is heard on, with what is known of the reason."""
        with self._lock:
            lacking = self.recorder.lacking(self._reception.matched)
        return [f"{full}{self._why_lacking(full)}" for full in lacking]

    def _why_lacking(self, full: str) -> str:
        if not self.count_publishers(full):
            return ""
        if self._reception.matched(self._names[full]):
            return " (published, its last message has not come)"
        return " (published, not matched: is it reliable, and latched where it should be?)"

    def _report(self) -> None:
        with self._lock:
            if self.recorder.recording:
                self._problem = ""
            lost = self._watch.new_losses(self.recorder.writer.episode)
            state = report(self.recorder, self._lacking(), self._watch, self._problem)
        throttled: dict[str, Any] = {"throttle_duration_sec": REMIND_S, "throttle_time_source_type": STEADY_CLOCK}
        episode = self.recorder.writer.episode
        if lost and episode is not None:
            self.get_logger().warning(f"messages are lost: {losses(episode)} so far in {episode.file}", **throttled)
        if state.space:
            self.get_logger().warning(state.space, **throttled)
        pairs = [KeyValue(key=key, value=text) for key, text in state.values.items()]
        status = DiagnosticStatus(level=bytes([state.level]), name="recorder", message=state.message, values=pairs)
        message = DiagnosticArray(status=[status])
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._wall.now_ns(), 10**9)
        self._diagnostics.publish(message)

    def _serve(self, action: Callable[[], str], response: Trigger.Response) -> Trigger.Response:
        """Answer a service by what `action` says; a UserError refuses."""
        try:
            with self._lock:
                response.success, response.message = True, action()
        except UserError as error:
            response.success, response.message = False, str(error)
            if isinstance(error, BagWriteError):
                self._note_problem(error)
        return response

    def _start(self) -> str:
        if lacking := self._lacking():
            raise UserError(f"nothing on {', '.join(lacking)} yet: is the driver running?")
        before = self.recorder.writer.episode
        said = f"recording {self.recorder.start(self._wall.now_ns()).file}"
        return f"{said}; that ended {before.file}, which is kept" if before else said

    def _stop(self) -> str:
        episode = self.recorder.stop()
        if episode is None:
            raise UserError("no episode is being recorded")
        return f"stopped {episode.file}: {losses(episode)}"

    def _discard(self) -> str:
        return f"{self.recorder.discard().file} is discarded"

    def _label(self, label: str) -> str:
        return f"{self.recorder.label(label).file}: {label}"

    def _on_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Take a note; the other parameters are read-only."""
        try:
            with self._lock:
                for parameter in parameters:
                    if parameter.name == "note":
                        episode = self.recorder.note(parameter.value)
                        about = episode.file if episode else "the next episode"
                        self.get_logger().info(f"note about {about}: {parameter.value}")
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def main() -> None:
    """Console script `recorder_node`."""
    sys.exit(run(RecorderNode))
