# SPDX-License-Identifier: Apache-2.0
"""What the end of a finished MCAP file says about it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Schema, Statistics
from mcap.stream_reader import StreamReader
from mcap.writer import MCAP0_MAGIC

from h2o_control.errors import DataError

#: What parsing something else than a record raises.
NOT_A_RECORD = (McapError, struct.error, zstandard.ZstdError, ValueError, RuntimeError, MemoryError, OverflowError)
#: A record's opcode and length.
FRAME = struct.Struct("<BQ")
_FOOTER_BYTES = FRAME.size + 20
_TAIL_BYTES = _FOOTER_BYTES + len(MCAP0_MAGIC)
_DATA_END = FRAME.pack(Opcode.DATA_END, 4)


@dataclass
class Index:
    """What the end of a finished file says: where its data ends, and, unless it has no index, what is in it."""

    data_end: int
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    statistics: Statistics | None = None


def read_index(path: Path) -> Index | None:
    """Read the end of a file; None where it is cut off or does not fit its checksum.

    Raises:
        DataError: the file cannot be read at all.
    """
    try:
        with path.open("rb") as stream:
            return _read_index(stream, path.stat().st_size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_index(stream: BinaryIO, size: int) -> Index | None:
    if size < _TAIL_BYTES + len(_DATA_END) + 4:
        return None
    stream.seek(size - _TAIL_BYTES)
    tail = stream.read(_TAIL_BYTES)
    if tail[:9] != FRAME.pack(Opcode.FOOTER, 20) or tail[-8:] != MCAP0_MAGIC:
        return None
    summary_start, _, checksum = struct.unpack("<QQI", tail[9:29])
    end = size - _TAIL_BYTES
    index = Index((summary_start or end) - len(_DATA_END) - 4)
    if not 0 < index.data_end < end:
        return None
    stream.seek(index.data_end)
    if stream.read(len(_DATA_END)) != _DATA_END:
        return None
    if not summary_start:
        return index
    stream.seek(summary_start)
    summary = stream.read(end - summary_start)
    if checksum and zlib.crc32(tail[:25], zlib.crc32(summary)) != checksum:
        return None
    try:
        for record in StreamReader(BytesIO(summary + tail), skip_magic=True, record_size_limit=len(summary)).records:
            if isinstance(record, Schema):
                index.schemas[record.id] = record
            elif isinstance(record, Channel):
                index.channels[record.id] = record
            elif isinstance(record, Statistics):
                index.statistics = record
    except NOT_A_RECORD:
        return None
    return index
