# SPDX-License-Identifier: Apache-2.0
"""How a bag is written."""

from __future__ import annotations

from dataclasses import dataclass

from mcap.writer import CompressionType

from h2o_control.errors import ConfigError, nearest

COMPRESSION = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}
CHUNK_BYTES = 96 * 1024
CHUNK_TIME_NS = 200_000_000
#: An episode ends while this much of the disk is still free, so that its index and metadata.yaml can be written.
RESERVE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class BagSettings:
    """How a bag is written.

    Attributes:
        compression: of the chunks, a key of COMPRESSION.
        chunk_bytes, chunk_time_ns: a chunk is closed at whichever comes first, by the stamps of its messages.
        reserve_bytes: an episode ends while this much of the disk is still free.
        fsync: every chunk is on the disk before the next one is written, and so are the names of new files: a power cut
            then costs no more than a crash.
        background: write in a thread; errors of the disk are then raised by a later call.

    Raises:
        ConfigError: a compression that is not known.
    """

    compression: str = "zstd"
    chunk_bytes: int = CHUNK_BYTES
    chunk_time_ns: int = CHUNK_TIME_NS
    reserve_bytes: int = RESERVE_BYTES
    fsync: bool = False
    background: bool = False

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSION:
            raise ConfigError(f"compression is {self.compression!r}.{nearest(self.compression, COMPRESSION)}")
