# SPDX-License-Identifier: Apache-2.0
"""One MCAP file as it lies on the disk, whole, cut off or damaged: every whole chunk of it, and what is lost.

The format puts a checksum on each chunk and on the index at the end, nothing on the lengths between them. So whatever
does not fit is taken for damage, and behind it the next chunk whose checksum is right is looked for; nothing that was
not written gets through. One pass, a chunk at a time in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, Header, Message, Metadata, Schema
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC

from h2o_control.bag_index import FRAME, NOT_A_RECORD, read_index
from h2o_control.errors import DataError

#: Times of the first and last message, uncompressed size, checksum, length of the compression's name.
_CHUNK_HEAD = struct.Struct("<QQQII")
_LONGEST_NAME = 16
_WINDOW_BYTES = 1 << 20
#: Messages outside chunks are handed on in groups of this many.
_GROUP = 500
#: Kinds of records that the format leaves to others are damage, too: no recorder writes them, and one wrong byte makes
#: one of any chunk.
_OUTSIDE_CHUNKS = {
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
    Opcode.ATTACHMENT: Attachment,
}

Part: TypeAlias = "Metadata | Attachment | list[Message]"


@dataclass(frozen=True)
class Damage:
    """Bytes of a file that hold no whole record.

    Attributes:
        offset, size: where, bytes.
        reason: what is wrong there.
        after_ns: stamp of the last whole message before, None where there is none.
        before_ns: stamp of the first whole message behind; at the end of the file, the last stamp that the head of the
            cut-off chunk announces; None where neither is known.
    """

    offset: int
    size: int
    reason: str
    after_ns: int | None = None
    before_ns: int | None = None

    @property
    def seconds(self) -> float | None:
        """Time without a message because of this, s; None where the file does not say."""
        if self.after_ns is None or self.before_ns is None:
            return None
        return max(0, self.before_ns - self.after_ns) * 1e-9


class McapScan:
    """One pass over a file; the attributes are complete once `parts` is exhausted.

    Attributes:
        header: None where it is lost.
        schemas, channels: all definitions found so far, by id; those of a good index are there from the beginning.
        finished: the file has its end, and an index that fits its checksum or none at all.
        ended: all data was written, whatever became of the index.
        damages: what is lost, in order.
        message_count: of `parts` so far.
        longest_chunk_ns: the longest time from the first to the last message of one chunk.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header | None = None
        self.damages: list[Damage] = []
        self.message_count = 0
        self.longest_chunk_ns = 0
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        self.index = read_index(path)
        self.finished = self.ended = self.index is not None
        self.schemas = dict(self.index.schemas) if self.index else {}
        self.channels = dict(self.index.channels) if self.index else {}
        self._end = self.index.data_end if self.index else self.size
        statistics = self.index.statistics if self.index else None
        self._chunked = statistics is not None and statistics.chunk_count > 0
        self._last_ns: int | None = None
        self._begins = False

    @property
    def data_end(self) -> int:
        """Byte at which the data ends, as far as known."""
        return self._end

    @property
    def is_mcap(self) -> bool:
        """Whether anything speaks for an MCAP file; an empty file is one whose recorder was killed at once."""
        return self._begins or self.message_count > 0

    @property
    def lost_count(self) -> int | None:
        """Messages that the index counts and `parts` did not yield; None where no index says."""
        if self.index is None or self.index.statistics is None:
            return None
        return int(self.index.statistics.message_count) - self.message_count

    def parts(self) -> Iterator[Part]:
        """Yield what is whole in file order: metadata and attachments, and messages by the chunk.

        Raises:
            DataError: the disk does not give the file's bytes.
        """
        try:
            with self.path.open("rb") as self._stream:
                yield from self._parts()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error

    def _parts(self) -> Iterator[Part]:
        loose: list[Message] = []
        position, reason = self._head()
        while True:
            part: Part | None = None
            start = position
            if not reason:
                if position >= self._end:
                    break
                try:
                    position, part = self._record(position)
                except NOT_A_RECORD as error:
                    reason = str(error) or type(error).__name__
            if reason:
                position = self._next_chunk(start + 1)
                self._lose(start, position, reason)
                reason = ""
            if isinstance(part, Message):
                loose.append(part)
            if loose and (not isinstance(part, Message) or len(loose) >= _GROUP):
                yield self._take(loose)
                loose = []
            if isinstance(part, list):
                yield self._take(part)
            elif part is not None and not isinstance(part, Message):
                yield part
        if loose:
            yield self._take(loose)
        if self.ended and not self.finished:
            self._look_behind_end()
        if self.lost_count and not self.damages:
            self.damages.append(Damage(self._end, 0, f"{self.lost_count} messages fewer than the index counts"))

    def _head(self) -> tuple[int, str]:
        """Read magic and header; returns where the data begins and what is wrong there."""
        self._stream.seek(0)
        magic = self._stream.read(8)
        self._begins = MCAP0_MAGIC.startswith(magic)
        if magic != MCAP0_MAGIC:
            return 0, "the file does not begin as an MCAP file" if magic else "the file is empty"
        try:
            opcode, length = self._frame(8)
            if opcode != Opcode.HEADER or length > _WINDOW_BYTES:
                raise ValueError("no header")
            self.header = Header.read(self._body(8, length))
        except NOT_A_RECORD:
            return 8, "the header is damaged"
        return 8 + FRAME.size + length, ""

    def _frame(self, position: int) -> tuple[int, int]:
        self._stream.seek(position)
        head = self._stream.read(FRAME.size)
        if len(head) < FRAME.size:
            raise ValueError("cut off in a record's head")
        opcode, length = FRAME.unpack(head)
        if position + FRAME.size + length > self._end:
            raise ValueError("cut off" if not self.finished else "a record longer than the file")
        return opcode, length

    def _body(self, position: int, length: int) -> ReadDataStream:
        self._stream.seek(position + FRAME.size)
        body = self._stream.read(length)
        if len(body) < length:
            raise ValueError("cut off")
        return ReadDataStream(BytesIO(body))

    def _record(self, position: int) -> tuple[int, Part | Message | None]:
        """Parse the record at `position`; returns where the next one begins. Raises NOT_A_RECORD."""
        opcode, length = self._frame(position)
        following = position + FRAME.size + length
        if opcode == Opcode.CHUNK:
            return following, self._chunk(position, length)
        if opcode == Opcode.MESSAGE_INDEX:
            self._stream.seek(position + FRAME.size)
            if length < 6 or struct.unpack("<HI", self._stream.read(6))[1] != length - 6:
                raise ValueError("a message index of a wrong length")
            return following, None
        if opcode == Opcode.DATA_END and length == 4 and not self.finished:
            # All data is there, the index is not.
            self._end, self.ended = position, True
            return position, None
        body = self._body(position, length)
        if opcode == Opcode.MESSAGE and not self._chunked and length >= 22:
            message = Message.read(body, length)
            if message.channel_id not in self.channels:
                raise ValueError("a message of a topic whose definition is lost")
            return following, message
        if opcode not in _OUTSIDE_CHUNKS:
            raise ValueError(f"a record of kind {opcode} that does not belong there")
        record = _OUTSIDE_CHUNKS[opcode].read(body)
        if body.count != length:
            raise ValueError("a record of a wrong length")
        if isinstance(record, Metadata | Attachment):
            return following, record
        self._define(record)
        return following, None

    def _define(self, definition: Schema | Channel) -> None:
        known = self.schemas if isinstance(definition, Schema) else self.channels
        if known.setdefault(definition.id, definition) != definition:
            raise ValueError(f"a second definition of {type(definition).__name__.lower()} {definition.id}")

    def _chunk(self, position: int, length: int) -> list[Message]:
        self._stream.seek(position + FRAME.size)
        head = self._stream.read(_CHUNK_HEAD.size + _LONGEST_NAME + 8)
        if not _chunk_length_fits(head, length):
            raise ValueError("a chunk of a wrong length")
        chunk = Chunk.read(self._body(position, length))
        if chunk.compression not in ("", "zstd", "lz4"):
            raise ValueError(f"a chunk with compression {chunk.compression!r}")
        if chunk.compression == "zstd":
            # A damaged size must not ask for more memory than the chunk says it needs.
            announced = zstandard.frame_content_size(chunk.data)
            if announced not in (-1, chunk.uncompressed_size):
                raise ValueError("a chunk of two sizes")
        messages, lost = [], 0
        for record in breakup_chunk(chunk, validate_crc=True):
            if isinstance(record, Schema | Channel):
                self._define(record)
            elif record.channel_id in self.channels:
                messages.append(record)
            else:
                lost += 1
        self._chunked = True
        if lost:
            size = FRAME.size + length
            self.damages.append(Damage(position, size, f"{lost} messages of topics whose definition is lost"))
        return messages

    def _look_behind_end(self) -> None:
        """Say so where something follows the file's last bytes, for example a second file."""
        position, opcode = self._end, 0
        while opcode != Opcode.FOOTER:
            self._stream.seek(position)
            head = self._stream.read(FRAME.size)
            if len(head) < FRAME.size:
                return
            opcode, length = FRAME.unpack(head)
            position += FRAME.size + length
            if position > self.size:
                return
        self._stream.seek(position)
        end = position + len(MCAP0_MAGIC)
        if self._stream.read(len(MCAP0_MAGIC)) == MCAP0_MAGIC and end < self.size:
            extra = self.size - end
            self.damages.append(
                Damage(end, extra, f"{extra} bytes behind the end of the recording do not belong to it")
            )

    def _take(self, messages: list[Message]) -> list[Message]:
        if messages:
            stamps = [m.log_time for m in messages]
            first, last = min(stamps), max(stamps)
            self.longest_chunk_ns = max(self.longest_chunk_ns, last - first)
            if self.damages and self.damages[-1].before_ns is None:
                lost = self.damages[-1]
                self.damages[-1] = Damage(lost.offset, lost.size, lost.reason, lost.after_ns, first)
            self._last_ns = max(last, self._last_ns or last)
            self.message_count += len(messages)
        return messages

    def _lose(self, start: int, end: int, reason: str) -> None:
        announced = None
        if end >= self._end:
            self._stream.seek(start + FRAME.size)
            head = self._stream.read(16)
            if len(head) == 16 and self._last_ns is not None:
                first, last = struct.unpack("<QQ", head)
                # Of a chunk that was cut off the head may be there; of anything else these are no times.
                announced = last if self._last_ns <= first <= last < self._last_ns + 3600 * 10**9 else None
        self.damages.append(Damage(start, end - start, reason, self._last_ns, announced))

    def _next_chunk(self, position: int) -> int:
        """Find the next whole chunk, at `position` or behind it; the end of the data where there is none."""
        while position < self._end:
            self._stream.seek(position)
            window = self._stream.read(_WINDOW_BYTES)
            at = window.find(Opcode.CHUNK)
            while at >= 0:
                if self._is_chunk(position + at, window[at : at + 64]):
                    return position + at
                at = window.find(Opcode.CHUNK, at + 1)
            position += len(window) or _WINDOW_BYTES
        return self._end

    def _is_chunk(self, position: int, seen: bytes) -> bool:
        # Nearly every candidate falls here, before anything more is read; at the end of the window, nothing is seen.
        if len(seen) >= 9 and seen[6:9] != b"\0\0\0":
            return False
        before = len(self.damages), self._chunked, dict(self.schemas), dict(self.channels)
        try:
            _, length = self._frame(position)
            self._chunk(position, length)
        except NOT_A_RECORD:
            return False
        finally:
            del self.damages[before[0] :]
            self._chunked, self.schemas, self.channels = before[1:]
        return True


def _chunk_length_fits(head: bytes, length: int) -> bool:
    """Tell whether the lengths within a chunk's head add up to the record's."""
    if len(head) < _CHUNK_HEAD.size:
        return False
    name = _CHUNK_HEAD.unpack_from(head)[4]
    at = _CHUNK_HEAD.size + name
    if name > _LONGEST_NAME or len(head) < at + 8:
        return False
    return bool(at + 8 + struct.unpack_from("<Q", head, at)[0] == length)
