# SPDX-License-Identifier: Apache-2.0
"""Columns read by numpy are those that rosbags reads, message by message, however the file was written or damaged."""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.serde import SerdeError
from rosbags.typesys import get_types_from_msg

from bag_tools import START_NS, STEP_NS, header, joint_torques, make_bag, message, odometry, swaying
from h2o_control import mcap_batches, topics
from h2o_control.bag_columns import MAX_LAYOUTS, Group, read_groups
from h2o_control.bag_messages import bag_files, read_messages
from h2o_control.bag_metadata import TYPESTORE
from h2o_control.bag_reader import Episode, read_bag
from h2o_control.bag_writer import BagWriter
from h2o_control.cdr_columns import Wanted
from h2o_control.contract import Interface, pitch_rad
from h2o_control.errors import DataError
from h2o_control.mcap_batches import StoredFile

#: Every base type, alone and in arrays, at every alignment that the lengths before it lead to.
EVERYTHING = "columns_test_msgs/msg/Everything"
INNER = "uint8 a\nfloat64 b\nstring c\nint16 d\n"
OUTER = (
    "bool flag\nstring text\nfloat64 wide\nint8 small\nuint64 large\nstring[] names\nuint16[3] three\nInner inner\n"
    "float32 narrow\nInner[] inners\nchar letter\nfloat64[] many\nbyte raw\nint32[<=5] few\nbool[] flags\nstring last\n"
)
COLUMNS = (
    *("flag", "text", "wide", "small", "large", "three", "inner.a", "inner.b", "inner.d"),
    *("narrow", "letter", "many", "raw", "few", "flags"),
)
TYPESTORE.register(
    {
        **get_types_from_msg(INNER, "columns_test_msgs/msg/Inner"),
        **get_types_from_msg(OUTER, EVERYTHING),
    }
)
WANTED = Wanted(EVERYTHING, COLUMNS, ("names", "last"))

ODOM = Wanted(topics.TYPES[topics.ODOM], ("pose.pose.position.x",))

doubles = st.floats(width=64) | st.integers(0, 2**64 - 1).map(lambda i: struct.unpack("<d", struct.pack("<Q", i))[0])
texts = st.sampled_from(["", "a", "base", "torque", "größe", "日本", "x\0y"])


@st.composite
def everything(draw: st.DrawFn) -> bytes:
    """One serialized message of random lengths and values, in either byte order."""

    def inner() -> Any:
        values = {"a": draw(st.integers(0, 255)), "b": draw(doubles), "c": draw(texts), "d": draw(st.integers(-9, 9))}
        return message("columns_test_msgs/msg/Inner", **values)

    value = message(
        EVERYTHING,
        flag=draw(st.booleans()),
        text=draw(texts),
        wide=draw(doubles),
        small=draw(st.integers(-128, 127)),
        large=draw(st.integers(0, 2**64 - 1)),
        names=draw(st.lists(texts, max_size=2)),
        three=np.array(draw(st.lists(st.integers(0, 65535), min_size=3, max_size=3)), dtype=np.uint16),
        inner=inner(),
        narrow=draw(st.floats(width=32)),
        inners=[inner() for _ in range(draw(st.integers(0, 2)))],
        letter=draw(st.integers(0, 255)),
        many=np.array(draw(st.lists(doubles, max_size=3)), dtype=np.float64),
        raw=draw(st.integers(-128, 127)),
        few=np.array(draw(st.lists(st.integers(-5, 5), max_size=2)), dtype=np.int32),
        flags=np.array(draw(st.lists(st.booleans(), max_size=2)), dtype=np.bool_),
        last=draw(texts),
    )
    return bytes(TYPESTORE.serialize_cdr(value, EVERYTHING, little_endian=draw(st.booleans())))


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """The message with up to three bytes changed, or cut off, or with bytes behind it."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.just(0) | st.integers(-4, 4))
    return bytes(data[:cut] if cut < 0 else data + bytes(cut))


def write_mcap(path: Path, messages: Sequence[tuple[str, bytes]], kinds: dict[str, str], **options: Any) -> Path:
    """An MCAP file with these messages, a microsecond apart."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, **options)
        writer.start(profile="ros2", library="test")
        channels = {}
        for topic, kind in kinds.items():
            schema = writer.register_schema(kind, "ros2msg", b"")
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        for k, (topic, data) in enumerate(messages):
            writer.add_message(channels[topic], START_NS + 1000 * k, data, START_NS + 1000 * k)
        writer.finish()
    return path


def groups(path: Path, wanted: Wanted = WANTED, name: str = "thing") -> list[Group]:
    return list(read_groups(path, {name: wanted}, StoredFile(path.name)))


def bits(value: Any, like: np.ndarray) -> bytes:
    if isinstance(value, str):
        return np.array(value, dtype=np.str_).tobytes()
    if like.dtype == np.bool_:  # a damaged one may be neither 0 nor 1 to rosbags, and is true here
        return (np.asarray(value).view(np.uint8) != 0).tobytes()
    return np.asarray(value, dtype=like.dtype).tobytes()


def assert_same(found: Sequence[Group], messages: Sequence[bytes], wanted: Wanted = WANTED) -> None:
    """Each message was read once, and each column holds, bit for bit, what rosbags reads of it."""
    assert sorted(row for group in found for row in group.rows) == list(range(len(messages)))
    for group in found:
        for k, row in enumerate(group.rows):
            expected = TYPESTORE.deserialize_cdr(messages[row], wanted.kind)
            for path in wanted.columns:
                value = attrgetter(path)(expected)
                column = group.columns[path]
                assert column.dtype.isnative
                if column.dtype.kind == "U":
                    assert column[k] == value.rstrip("\0")  # as numpy keeps text
                else:
                    assert column[k].tobytes() == bits(value, column), path
            for path in wanted.constants:
                assert group.constants[path] == attrgetter(path)(expected)


@given(data=st.data(), shapes=st.lists(everything(), min_size=1, max_size=4), size=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_columns_are_what_rosbags_reads_for_random_lengths_alignments_and_byte_orders(
    data: st.DataObject, shapes: list[bytes], size: int
) -> None:
    messages = [data.draw(st.sampled_from(shapes)) for _ in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        path = write_mcap(Path(folder) / "f.mcap", [("/thing", m) for m in messages], {"/thing": EVERYTHING})
        found = groups(path)
    assert_same(found, messages)
    assert len(found) <= len(set(shapes))


@given(data=st.data(), shapes=st.lists(everything(), min_size=1, max_size=2))
@settings(max_examples=200, deadline=None)
def test_a_damaged_message_is_read_as_rosbags_reads_it_or_refused_as_rosbags_refuses_it(
    data: st.DataObject, shapes: list[bytes]
) -> None:
    messages = [*shapes, *(data.draw(damaged(data.draw(st.sampled_from(shapes)))) for _ in range(2)), *shapes]
    refused = False
    for raw in messages:
        try:
            TYPESTORE.deserialize_cdr(raw, EVERYTHING)
        except SerdeError:
            refused = True
    with tempfile.TemporaryDirectory() as folder:
        path = write_mcap(Path(folder) / "f.mcap", [("/thing", m) for m in messages], {"/thing": EVERYTHING})
        if refused:
            with pytest.raises(DataError, match=r"cannot read .*f\.mcap"):
                groups(path)
            return
        assert_same(groups(path), messages)


def test_messages_of_one_length_but_laid_out_differently_are_told_apart(tmp_path: Path) -> None:
    kind = topics.TYPES[topics.JOINT_STATES]
    wanted = Wanted(kind, ("position", "velocity", "effort"), ("name",))
    messages = []
    for k in range(6):
        lengths = ((1, 1, 2), (1, 2, 1), (2, 1, 1))[k % 3]
        fields = {path: np.full(n, float(k)) for path, n in zip(wanted.columns, lengths, strict=True)}
        state = message(kind, header=header(START_NS), name=["a", "bc"] if k < 3 else ["xyz", ""], **fields)
        messages.append(bytes(TYPESTORE.serialize_cdr(state, kind)))
    assert len(set(map(len, messages))) == 1
    path = write_mcap(tmp_path / "f.mcap", [("/thing", m) for m in messages], {"/thing": kind})
    found = groups(path, wanted)
    assert_same(found, messages, wanted)
    assert len(found) == 6


def test_byte_orders_are_told_apart_where_nothing_else_differs(tmp_path: Path) -> None:
    kind, wanted = "geometry_msgs/msg/Vector3", Wanted("geometry_msgs/msg/Vector3", ("x", "y", "z"))
    point = message(kind, x=1.0, y=2.0, z=math.nan)
    messages = [bytes(TYPESTORE.serialize_cdr(point, kind, little_endian=k % 2 == 0)) for k in range(6)]
    path = write_mcap(tmp_path / "f.mcap", [("/thing", m) for m in messages], {"/thing": kind})
    found = groups(path, wanted)
    assert_same(found, messages, wanted)
    assert [group.columns["x"].tolist() for group in found] == [[1.0] * 3, [1.0] * 3]


def test_messages_whose_lengths_all_differ_are_read_too_and_in_order(tmp_path: Path) -> None:
    kind, wanted = "std_msgs/msg/String", Wanted("std_msgs/msg/String", columns=("data",))
    expected = [f"number {k}" + k * "." for k in range(4 * MAX_LAYOUTS)]
    messages = [bytes(TYPESTORE.serialize_cdr(message(kind, data=text), kind)) for text in expected]
    path = write_mcap(tmp_path / "f.mcap", [("/thing", m) for m in messages], {"/thing": kind})
    found = groups(path, wanted)
    assert_same(found, messages, wanted)
    rows = sorted((int(row), str(text)) for g in found for row, text in zip(g.rows, g.columns["data"], strict=True))
    assert [text for _, text in rows] == expected


def test_a_field_that_a_type_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(LookupError, match="Header has no field 'time'; it has stamp, frame_id"):
        Wanted("nav_msgs/msg/Odometry", ("header.time",))
    with pytest.raises(LookupError, match="neither numbers nor text"):
        Wanted("nav_msgs/msg/Odometry", ("header.stamp",))
    with pytest.raises(LookupError, match="is no text"):
        Wanted("nav_msgs/msg/Odometry", constants=("pose.covariance",))


def mixed(n: int) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Messages on three topics, one of them not asked for."""
    messages = []
    for k in range(n):
        stamp = START_NS + k * STEP_NS
        messages.append(("/odom", odometry(stamp, (k, 0.5, 0.1, -0.2))))
        messages.append(("/imu", bytes(300 + k % 3)))
        messages.append(("/robot/wheel_torque", joint_torques(stamp, (k, -k) if k % 7 else (), "hash")))
    kinds = {name: topics.TYPES[name.rpartition("/")[2]] for name in ("/odom", "/imu", "/robot/wheel_torque")}
    return messages, kinds


def flat(episode: Episode) -> list[bytes]:
    requested = episode.requested
    arrays = (episode.stamp_ns, episode.received_ns, episode.states, requested.stamp_ns, requested.torque_nm)
    return [*(array.tobytes() for array in arrays), "".join(requested.frame_id).encode()]


def episode_of(path: Path) -> Episode:
    (episode,) = read_bag(path, require=[topics.ODOM]).episodes
    return episode


OPTIONS: dict[str, dict[str, Any]] = {
    "lz4": {"compression": CompressionType.LZ4},
    "uncompressed": {"compression": CompressionType.NONE},
    "no index": {"index_types": IndexType.NONE},
    "no chunks": {"use_chunking": False},
    "no checksums": {"enable_crcs": False},
    "checksum of the file": {"enable_data_crcs": True},
    "tiny chunks": {"chunk_size": 1},
    "no summary": {"repeat_channels": False, "repeat_schemas": False, "use_statistics": False},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_however_an_mcap_file_was_written_its_columns_are_the_same(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, kinds = mixed(100)
    plain = episode_of(write_mcap(tmp_path / "plain.mcap", messages, kinds))
    assert plain.states[:, 0].tolist() == list(range(100))
    assert np.isnan(plain.requested.torque_nm[::7]).all()
    other = write_mcap(tmp_path / "other.mcap", messages, kinds, **OPTIONS[option])
    for batch_bytes in (1, 10_000, mcap_batches.BATCH_BYTES):
        monkeypatch.setattr(mcap_batches, "BATCH_BYTES", batch_bytes)
        found = episode_of(other)
        assert flat(found) == flat(plain)
        assert not found.recovered


def test_a_bag_in_another_storage_gives_the_same_columns(tmp_path: Path) -> None:
    messages, kinds = mixed(50)
    plain = episode_of(write_mcap(tmp_path / "plain.mcap", messages, kinds))
    with Rosbag2Writer(tmp_path / "b", version=9) as writer:
        connections = {t: writer.add_connection(t, kind, typestore=TYPESTORE) for t, kind in kinds.items()}
        for k, (topic, data) in enumerate(messages):
            writer.write(connections[topic], START_NS + 1000 * k, data)
    assert flat(episode_of(tmp_path / "b")) == flat(plain)


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_message_index_that_lies_changes_nothing(changes: list[tuple[int, int]]) -> None:
    """The records themselves decide: an index may leave out messages, name them twice, or point anywhere."""
    messages, kinds = mixed(30)
    with tempfile.TemporaryDirectory() as folder:
        path = write_mcap(Path(folder) / "f.mcap", messages, kinds, compression=CompressionType.NONE, chunk_size=8000)
        before = flat(episode_of(path))
        data = bytearray(path.read_bytes())
        # Channel and entries; a length that is wrong is another matter.
        inside = [at for first, end in index_records(data) for at in (first, first + 1, *range(first + 6, end))]
        for place, value in changes:
            data[inside[place % len(inside)]] = value
        path.write_bytes(data)
        assert flat(episode_of(path)) == before


def test_a_message_index_that_names_messages_twice_or_not_at_all_changes_nothing(tmp_path: Path) -> None:
    messages, kinds = mixed(30)
    path = write_mcap(tmp_path / "f.mcap", messages, kinds, chunk_size=8000)
    before, sound = flat(episode_of(path)), path.read_bytes()
    records = index_records(sound)
    assert len(records) > 6
    for first, end in records:
        entries = [slice(at, at + 16) for at in range(first + 6, end, 16)]
        for one, other in itertools.pairwise(entries):
            data = bytearray(sound)
            data[other] = data[one]
            path.write_bytes(data)
            assert flat(episode_of(path)) == before
            assert sum(len(group.rows) for group in groups(path, ODOM, topics.ODOM)) == 30


def index_records(data: bytes) -> list[tuple[int, int]]:
    """From where to where the contents of all message index records lie."""
    found, at = [], 8
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 7:
            found.append((at + 9, at + 9 + length))
        at += 9 + length
    return found


def test_a_damaged_chunk_ends_the_episode_before_it_and_an_unknown_compression_is_named(tmp_path: Path) -> None:
    messages, kinds = mixed(100)
    path = write_mcap(tmp_path / "f.mcap", messages, kinds, compression=CompressionType.NONE, chunk_size=20_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = episode_of(path)
    assert found.recovered
    assert 10 < len(found.states) < 100
    assert found.states[:, 0].tolist() == list(range(len(found.states)))
    path.write_bytes(write_mcap(path, messages, kinds).read_bytes().replace(b"\4\0\0\0zstd", b"\4\0\0\0zip9"))
    with pytest.raises(DataError, match="its chunks are compressed with 'zip9'; zstd, lz4 and none are known"):
        read_bag(path)


def test_pitch_is_the_contracts_and_the_other_states_are_as_recorded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = rng.uniform(-1.5, 1.5, (200, 4))
    messages = [("/odom", odometry(START_NS + k, s, yaw=float(s[0]))) for k, s in enumerate(states)]
    found = episode_of(write_mcap(tmp_path / "f.mcap", messages, {"/odom": topics.TYPES[topics.ODOM]}))
    assert (found.states[:, [0, 1, 3]] == states[:, [0, 1, 3]]).all()
    decoded = [TYPESTORE.deserialize_cdr(data, topics.TYPES[topics.ODOM]) for _, data in messages]
    attitudes = [m.pose.pose.orientation for m in decoded]  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        found.states[:, 2], [pitch_rad(q.w, q.x, q.y, q.z) for q in attitudes], rtol=0, atol=1e-15
    )


def time_reference(stamp_ns: int, device_us: int, source: str) -> bytes:
    kind = topics.TYPES[topics.DEVICE_TIME]
    time_ref = header(device_us * 1000).stamp
    reference = message(kind, header=header(stamp_ns), time_ref=time_ref, source=source)
    return bytes(TYPESTORE.serialize_cdr(reference, kind))


def test_each_state_has_device_time_and_sequence_of_its_frame_or_none(tmp_path: Path) -> None:
    kinds = {f"/{name}": topics.TYPES[name] for name in (topics.ODOM, topics.DEVICE_TIME)}
    messages = []
    for k in range(10):
        stamp = START_NS + k * STEP_NS
        messages.append(("/odom", odometry(stamp, (0, 0, 0, 0))))
        source = "gps" if k == 7 else f"{4294967290 + k:010d}"
        if k != 4:
            messages.append(("/device_time", time_reference(stamp, 10**12 + 5000 * k, source)))
    found = episode_of(write_mcap(tmp_path / "f.mcap", messages, kinds))
    numbers = np.arange(10)
    assert found.sequence.tolist() == np.where((numbers == 4) | (numbers == 7), -1, 4294967290 + numbers).tolist()
    assert found.device_us.tolist() == np.where(numbers == 4, -1, 10**12 + 5000 * numbers).tolist()
    without = episode_of(write_mcap(tmp_path / "g.mcap", [m for m in messages if m[0] == "/odom"], kinds))
    assert without.sequence.tolist() == without.device_us.tolist() == [-1] * 10


def test_single_messages_are_read_from_a_file_that_was_cut_off(tmp_path: Path) -> None:
    messages, kinds = mixed(100)
    path = write_mcap(tmp_path / "f.mcap", messages, kinds, chunk_size=5000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = list(read_messages(path, [topics.WHEEL_TORQUE]))
    assert 10 < len(found) < 100
    expected = [(topic, TYPESTORE.deserialize_cdr(data, kinds[topic])) for topic, data in messages if "torque" in topic]
    assert [str((topic, m)) for topic, _, m in found] == [str(row) for row in expected[: len(found)]]
    assert [stamp for _, stamp, _ in found] == [START_NS + 1000 * (3 * k + 2) for k in range(len(found))]


def test_messages_out_of_order_are_sorted_and_the_first_of_one_stamp_counts(tmp_path: Path) -> None:
    order = [3, 1, 2, 2, 0, 3]
    messages = [("/odom", odometry(START_NS + s, (10 * s + k, 0, 0, 0))) for k, s in enumerate(order)]
    found = episode_of(write_mcap(tmp_path / "f.mcap", messages, {"/odom": topics.TYPES[topics.ODOM]}))
    assert (found.stamp_ns - START_NS).tolist() == [0, 1, 2, 3]
    assert found.states[:, 0].tolist() == [4, 11, 22, 30]


def test_shadow_torques_and_wheels_in_any_order_are_read_and_foreign_joints_are_named(tmp_path: Path) -> None:
    kinds = {f"/{name}": topics.TYPES[name] for name in (topics.ODOM, topics.SHADOW_TORQUE)}
    odom = ("/odom", odometry(START_NS, (0, 0, 0, 0)))
    names = ("extra", "right_wheel", "left_wheel")
    shadow = ("/shadow_torque", joint_torques(START_NS, (9.0, -1.0, 1.0), "hash", names))
    found = episode_of(write_mcap(tmp_path / "f.mcap", [odom, shadow], kinds)).shadow
    assert (found.torque_nm.tolist(), found.frame_id.tolist()) == ([[1.0, -1.0]], ["hash"])
    foreign = ("/shadow_torque", joint_torques(START_NS, (1.0, 2.0), "hash", ("a", "b")))
    with pytest.raises(DataError, match="joints a, b with 2 efforts; expected left_wheel and right_wheel"):
        episode_of(write_mcap(tmp_path / "g.mcap", [odom, foreign], kinds))


def test_reading_a_bag_is_several_times_as_fast_as_rosbags_reading_its_messages(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "b", [swaying(4000)], Interface())
    wanted = {"/odom", "/joint_states", "/wheel_command"}
    own, other = [], []
    for _ in range(3):
        start = time.process_time()
        (episode,) = read_bag(bag).episodes
        own.append(time.process_time() - start)
        assert len(episode.states) == 4000
        start = time.process_time()
        with AnyReader([bag]) as reader:
            count = 0
            for connection, _, raw in reader.messages([c for c in reader.connections if c.topic in wanted]):
                reader.deserialize(raw, connection.msgtype)
                count += 1
        other.append(time.process_time() - start)
        assert count == 12000
    assert min(other) / min(own) > 3


# getrusage would count the memory of the process that started this one.
PEAK = """
    import sys
    from pathlib import Path
    from h2o_control.bag_reader import read_bag
    read_bag(sys.argv[1], require=["odom"])
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_topics_that_are_not_asked_for(tmp_path: Path) -> None:
    image = "sensor_msgs/msg/Image"
    picture = np.random.default_rng(0).integers(0, 255, 500_000, dtype=np.uint8).tobytes()
    peaks, sizes = [], []
    for name, pictures in (("lean", 1), ("rich", 80)):
        writer = BagWriter(tmp_path / name, {"/odom": topics.TYPES[topics.ODOM], "/camera": image})
        writer.start_episode()
        for k in range(1000):
            writer.write("/odom", odometry(START_NS + k * STEP_NS, (k, 0, 0, 0)), START_NS + k * STEP_NS)
            if k < pictures:
                writer.write("/camera", picture, START_NS + k * STEP_NS)
        writer.close()
        program = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path / name)]
        peaks.append(int(subprocess.run(program, check=True, capture_output=True, text=True).stdout))
        sizes.append(sum(file.stat().st_size for file in bag_files(tmp_path / name)[0]))
    assert sizes[1] - sizes[0] > 35e6
    assert peaks[1] - peaks[0] < 0.5 * (sizes[1] - sizes[0])
