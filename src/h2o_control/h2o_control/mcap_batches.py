# SPDX-License-Identifier: Apache-2.0
"""Messages of an MCAP file, some thousand at a time: where each lies in one buffer, found without a loop over them.

The file is streamed from its beginning, so that one whose recorder was killed is read like any other, up to its last
whole chunk. Within a chunk, the message index that follows it says where the messages lie. It is believed only as far
as the records themselves bear it out; what it leaves out is looked for record by record, which gives the same result,
only slower.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, DataEnd, Header, Metadata, Schema
from mcap.stream_reader import get_chunk_data_stream
from mcap.writer import MCAP0_MAGIC
from numpy.typing import NDArray

from h2o_control.bag_index import FRAME, NOT_A_RECORD
from h2o_control.errors import DataError

#: Chunks are looked at together until they make this many bytes: enough to hide what a call of numpy costs.
BATCH_BYTES = 4 * 2**20
#: Records are small and many.
_BUFFER_BYTES = 2**20
#: A message's channel, sequence number, log time and publish time, before its data.
_MESSAGE_BYTES = 2 + 4 + 8 + 8
_DATA_AT = FRAME.size + _MESSAGE_BYTES
_INDEX_HEAD = struct.Struct("<HI")
_INDEX_ENTRY_BYTES = 16

#: Records between the chunks that hold no messages, and what parses them.
_BETWEEN = {
    Opcode.HEADER: Header,
    Opcode.METADATA: Metadata,
    Opcode.ATTACHMENT: Attachment,
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
}

IntArray = NDArray[np.int64]


class Batch(NamedTuple):
    """Messages in file order.

    Attributes:
        data: uint8 [bytes], in which the messages lie.
        channel: int64 [n], channel id of each. log_ns: int64 [n], when it was recorded.
        start, length: int64 [n], where in `data` its serialized message begins, and its bytes.
    """

    data: NDArray[np.uint8]
    channel: IntArray
    log_ns: IntArray
    start: IntArray
    length: IntArray


@dataclass
class StoredFile:
    """What one file of a bag declares; complete once all its messages have been read.

    Attributes:
        name: file name.
        channels: topic and message type by channel id.
        recovered: the file is cut off (its recorder was killed) or damaged; this is what came before.
    """

    name: str
    channels: dict[int, tuple[str, str]] = field(default_factory=dict)
    recovered: bool = False
    schemas: dict[int, str] = field(default_factory=dict)

    @property
    def topics(self) -> dict[str, str]:
        """Full topic name to message type, for all topics that the file declares."""
        return dict(self.channels.values())

    def declare(self, opcode: int, content: bytes) -> None:
        """Take a schema or channel record."""
        stream = ReadDataStream(BytesIO(content))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            known = self.schemas.setdefault(schema.id, schema.name) == schema.name
        else:
            channel = Channel.read(stream)
            described = (channel.topic, self.schemas.get(channel.schema_id, ""))
            known = self.channels.setdefault(channel.id, described) == described
        if not known:
            raise ValueError("a second definition under one number: something else, with a damaged opcode")


def mcap_batches(path: Path, stored: StoredFile) -> Iterator[Batch]:
    """Yield all messages of a file; `stored` takes what it declares.

    Raises:
        DataError: not an MCAP file, or compressed in a way that nobody here knows.
    """
    stored.recovered = True
    pending = _Chunks(stored)
    # One for all chunks: making it takes a good part of the time that it then works.
    zstd = zstandard.ZstdDecompressor()
    with path.open("rb", buffering=_BUFFER_BYTES) as stream:
        magic = stream.read(len(MCAP0_MAGIC))
        if magic != MCAP0_MAGIC:
            if MCAP0_MAGIC.startswith(magic):
                return  # killed before it had written anything
            raise DataError(f"{path} is not an MCAP file")
        try:
            for opcode, content in _records(stream, path.stat().st_size):
                _check_length(opcode, content)
                if opcode in (Opcode.CHUNK, Opcode.MESSAGE) and pending.size >= BATCH_BYTES:
                    yield pending.take()
                    if pending.broken:
                        return
                if opcode == Opcode.CHUNK:
                    pending.chunked = True
                    pending.add(_decompressed(path, content, zstd, first=pending.count == 0))
                elif opcode == Opcode.MESSAGE:  # outside chunks, as some recorders write them
                    if pending.chunked or int.from_bytes(content[:2], "little") not in stored.channels:
                        raise ValueError("something else, with a damaged opcode")
                    pending.add(FRAME.pack(opcode, len(content)) + content)
                elif opcode == Opcode.MESSAGE_INDEX:
                    pending.add_index(content)
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    stored.declare(opcode, content)
                elif opcode == Opcode.DATA_END:
                    stored.recovered = False
                elif opcode not in _BETWEEN:
                    # The format would have unknown kinds skipped; no recorder writes any, damage to a chunk does.
                    raise ValueError("something else, with a damaged opcode")
        except NOT_A_RECORD:
            pass
    yield pending.take()
    stored.recovered |= pending.broken


def _check_length(opcode: int, content: bytes) -> None:
    """Raise where the parts of a record do not add up to its length: damage, maybe of the opcode of a chunk."""
    read = len(content)
    if opcode in _BETWEEN:
        stream = ReadDataStream(BytesIO(content))
        _BETWEEN[Opcode(opcode)].read(stream)
        read = stream.count
    elif opcode == Opcode.MESSAGE_INDEX:
        read = _INDEX_HEAD.size + _INDEX_HEAD.unpack_from(content)[1]
    if read != len(content):
        raise ValueError("something else, with a damaged opcode")


def _records(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield opcode and content of the records that do not lie in chunks until the data ends; raises NOT_A_RECORD."""
    checksum = zlib.crc32(MCAP0_MAGIC)
    while True:
        head = stream.read(FRAME.size)
        opcode, length = FRAME.unpack(head)
        # A damaged length must not ask for more memory than the file could fill.
        content = stream.read(min(length, size))
        if len(content) < length:
            raise ValueError("the file ends within a record")
        if opcode == Opcode.DATA_END:
            if length != 4:
                raise ValueError("something else, with a damaged opcode")
            expected = DataEnd.read(ReadDataStream(BytesIO(content))).data_section_crc
            if expected not in (0, checksum):
                raise ValueError("the checksum of the file is wrong")
            yield opcode, content
            return
        checksum = zlib.crc32(content, zlib.crc32(head, checksum))
        yield opcode, content


def _decompressed(path: Path, content: bytes, zstd: zstandard.ZstdDecompressor, first: bool) -> bytes:
    chunk = Chunk.read(ReadDataStream(BytesIO(content)))
    if chunk.compression not in ("", "zstd", "lz4"):
        if first:
            raise DataError(
                f"cannot read {path}: its chunks are compressed with {chunk.compression!r}; "
                "zstd, lz4 and none are known: convert it, e.g. with `mcap compress --compression zstd`"
            )
        raise ValueError("damaged name of a compression")
    if chunk.compression == "zstd":
        chunk.data, chunk.compression = zstd.decompress(chunk.data, chunk.uncompressed_size), ""
    stream, size = get_chunk_data_stream(chunk, validate_crc=True)
    return bytes(stream.read(size))


class _Chunks:
    """Decompressed chunks that wait to be looked at together.

    Attributes:
        size: bytes waiting. count: chunks ever added. chunked: the file has chunks, so all its messages lie in them.
        broken: a chunk held something else than records; it and what follows is left out.
    """

    def __init__(self, stored: StoredFile) -> None:
        self.broken = False
        self.chunked = False
        self.count = 0
        self._stored = stored
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        self._data: list[bytes] = []
        self._ends: list[int] = []
        self._entries: list[bytes] = []
        #: Entries of each index record, and begin and end of its chunk.
        self._indexes: list[tuple[int, int, int]] = []
        self._index_whole = True

    def add(self, data: bytes) -> None:
        """Take the records of one chunk."""
        self._data.append(data)
        self.size += len(data)
        self._ends.append(self.size)
        self.count += 1

    def add_index(self, content: bytes) -> None:
        """Take the message index of one channel in the chunk added last."""
        if not self._data:
            return
        # Of which channel a message is, it says itself.
        _, length = _INDEX_HEAD.unpack_from(content)
        entries = content[_INDEX_HEAD.size : _INDEX_HEAD.size + length]
        if len(entries) != length or length % _INDEX_ENTRY_BYTES:
            self._index_whole = False
            return
        self._entries.append(entries)
        begin = self.size - len(self._data[-1])
        self._indexes.append((length // _INDEX_ENTRY_BYTES, begin, self.size))

    def take(self) -> Batch:
        """Hand on the messages of all chunks added since the last time."""
        raw = b"".join(self._data)
        data = np.frombuffer(raw, dtype=np.uint8)
        ends = np.array(self._ends, dtype=np.int64)
        start = self._indexed(data)
        found, whole = self._walked(raw, data, start, ends)
        if found:
            start = np.sort(np.append(start, found))
        start = start[start < whole]
        self._clear()
        return Batch(
            data,
            _read(data, start + FRAME.size, "<u2"),
            _read(data, start + FRAME.size + 6, "<i8"),
            start + _DATA_AT,
            _read(data, start + 1, "<i8") - _MESSAGE_BYTES,
        )

    def _indexed(self, data: NDArray[np.uint8]) -> IntArray:
        """Where messages begin [n], increasing, by the index; none where the records do not bear it out."""
        nothing = np.empty(0, dtype=np.int64)
        if not self._indexes or not self._index_whole:
            return nothing
        count, begin, end = np.array(self._indexes, dtype=np.int64).T
        begin, end = np.repeat(begin, count), np.repeat(end, count)
        offset = np.frombuffer(b"".join(self._entries), dtype="<u8")[1::2]
        if not (offset < (end - begin).astype(np.uint64)).all():
            return nothing
        # Sorted by place, each with the end of its chunk.
        start, end = np.sort(begin + offset.astype(np.int64)), np.sort(end)
        if not (start + _DATA_AT <= end).all() or not (data[start] == Opcode.MESSAGE).all():
            return nothing
        length = _read(data, start + 1, "<i8")
        stop = start + FRAME.size + length
        borne_out = (
            (length >= _MESSAGE_BYTES).all()
            and (length <= len(data)).all()
            and (stop <= end).all()
            and (stop[:-1] <= start[1:]).all()
        )
        return start if borne_out else nothing

    def _walked(self, raw: bytes, data: NDArray[np.uint8], start: IntArray, ends: IntArray) -> tuple[list[int], int]:
        """Walk the records between indexed messages; returns messages found there and where the whole chunks end."""
        found: list[int] = []
        stop = start + FRAME.size + _read(data, start + 1, "<i8")
        left, right = np.append(0, stop), np.append(start, len(raw))
        for gap in np.flatnonzero(left < right):
            inner = ends[(ends > left[gap]) & (ends < right[gap])]
            edges = [int(left[gap]), *inner.tolist(), int(right[gap])]
            for begin, end in itertools.pairwise(edges):
                try:
                    self._walk(raw, begin, end, found)
                except NOT_A_RECORD:
                    self.broken = True
                    chunk = int(np.searchsorted(ends, begin, side="right"))
                    return found, int(ends[chunk - 1]) if chunk else 0
        return found, len(raw)

    def _walk(self, raw: bytes, begin: int, end: int, found: list[int]) -> None:
        while begin < end:
            opcode, length = FRAME.unpack_from(raw, begin)
            following = begin + FRAME.size + length
            if following > end or (opcode == Opcode.MESSAGE and length < _MESSAGE_BYTES):
                raise ValueError("a record does not fit into its chunk")
            if opcode == Opcode.MESSAGE:
                found.append(begin)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._stored.declare(opcode, raw[begin + FRAME.size : following])
            begin = following


def _read(data: NDArray[np.uint8], at: IntArray, kind: str) -> IntArray:
    """Numbers [n] of a kind that begin at these bytes."""
    size = np.dtype(kind).itemsize
    if len(at) == 0:
        return np.empty(0, dtype=np.int64)
    view: NDArray[np.int64] = np.ndarray((len(data) - size + 1,), dtype=kind, buffer=data, strides=(1,))
    return view[at].astype(np.int64)
