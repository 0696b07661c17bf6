"""A file's bytes, unpacked where they are gzipped or packed by zstd; ``-`` is standard input."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import zstandard

STDIN = Path("-")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # what such bytes begin with
SUFFIXES = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
UNREADABLE = (OSError, EOFError, zlib.error, zstandard.ZstdError)  # all that reading damaged bytes raises
BUFFER_BYTES = 1 << 16
PACKED_BYTES = 1 << 13  # unpacked at once: zstd makes up to 250 MiB of them, and mostly 30 KiB
BLOCK_BYTES = 1 << 20  # passed at once


class Unpacked:
    """The bytes of a file from its beginning on.

    Attributes:
        stream: unpacked; has `peek` and `readline`.
        size_bytes: of the file as it is on the disk; 0 where that is not known.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = io.BufferedReader(_Borrowed(sys.stdin.buffer)) if path == STDIN else path.open("rb")
        self.size_bytes = path.stat().st_size if path.is_file() else 0
        magic = SUFFIXES.get(path.suffix.lower()) or self._raw.peek(1)[:4]
        self._spooled: IO[bytes] | None = None
        self.is_packed = True
        if magic.startswith(GZIP):
            self.stream: io.BufferedReader[Any] = io.BufferedReader(
                _Borrowed(gzip.GzipFile(fileobj=self._raw)), BUFFER_BYTES
            )
        elif magic == ZSTD:
            self.stream = io.BufferedReader(_ZstdFrames(self._raw), BUFFER_BYTES)
        else:
            self.is_packed = False
            self.stream = self._raw

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, as `size_bytes` counts them; 0 where these are not known."""
        return self._raw.tell() if self.size_bytes else 0

    def skip(self, n_bytes: int) -> bool:
        """Passes so many unpacked bytes; whether there were as many."""
        if self.size_bytes and not self.is_packed:
            return self.stream.seek(n_bytes, io.SEEK_CUR) <= self.size_bytes
        while n_bytes and (block := self.stream.read(min(n_bytes, BLOCK_BYTES))):
            n_bytes -= len(block)
        return not n_bytes

    def spool(self) -> IO[bytes]:
        """All of the bytes as a file that can be read anywhere: a temporary one, but where this is such a file."""
        if self.size_bytes and not self.is_packed:
            return self.stream
        self._spooled = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115, `close` closes it
        shutil.copyfileobj(self.stream, self._spooled, BLOCK_BYTES)
        return self._spooled

    def close(self) -> None:
        """Closes the file; standard input stays open."""
        for file in (self.stream, self._raw, self._spooled):
            if file is not None:
                file.close()


class _Borrowed(io.RawIOBase):
    """A file that somebody else closes, of which each read gives what is there, before it waits or fails."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = cast(Any, file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto1(buffer))


class _ZstdFrames(io.RawIOBase):
    """What frames of zstd hold, one behind the other; zstandard's own reader takes one that was cut for a whole one."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._left = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked and self._unpack():
            pass
        n_bytes = min(len(buffer), len(self._unpacked))
        buffer[:n_bytes] = self._unpacked[:n_bytes]
        self._unpacked = self._unpacked[n_bytes:]
        return n_bytes

    def _unpack(self) -> bool:
        """Unpacks some bytes, which may give none yet; whether there were any."""
        packed = self._left or self._packed.read(PACKED_BYTES)
        if not packed:
            if self._frame is not None:
                raise EOFError("Compressed file ended before the end of a frame")
            return False
        frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._unpacked = memoryview(frame.decompress(packed))
        self._left = frame.unused_data
        self._frame = None if frame.eof else frame
        return True


def count_lines(path: Path, n_bytes: int) -> int:
    """How many lines end within the first unpacked bytes of a file."""
    file, n_lines = Unpacked(path), 0
    try:
        while n_bytes > 0 and (block := file.stream.read(min(n_bytes, BLOCK_BYTES))):
            n_lines += block.count(b"\n")
            n_bytes -= len(block)
    finally:
        file.close()
    return n_lines
