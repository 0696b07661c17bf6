"""What survives a power cut: files and folders whose content is forced to the disk before anybody relies on it.

A file is replaced by one written beside it and renamed, so that whoever reads finds the old one or the new one whole.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

MODE = 0o666  # less the umask


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are absent."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir()
        sync(folder.parent)


def write(path: Path, content: bytes, mode: int = MODE, *, is_forced: bool = True) -> None:
    """Write a whole file. Its name is durable once its folder is synced.

    Args:
        is_forced: to the disk; else a power cut may take what is in it.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        _write_all(file, content)
        if is_forced:
            os.fsync(file)
    finally:
        os.close(file)


def append(path: Path, content: bytes, mode: int = MODE, *, is_new: bool) -> None:
    """Append to a file, made if it is absent.

    Args:
        is_new: whether the file's name may not be on the disk yet.

    Raises:
        OSError: the file is as long as it was.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        size = os.fstat(file).st_size
        try:
            _write_all(file, content)
            os.fsync(file)
            if is_new:
                sync(path.parent)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def truncate(file: IO[bytes], size: int) -> None:
    """Cut an open file off at `size` bytes."""
    file.truncate(size)
    os.fsync(file.fileno())


def replace(path: Path, content: bytes, beside: Path, mode: int = MODE, *, is_forced: bool = True) -> None:
    """Replace a file, or make it. That it is the new one is durable once its folder is synced.

    Args:
        beside: where the new one is written, in the same folder.
        is_forced: see `write`.

    Raises:
        OSError: the file is what it was.
    """
    try:
        write(beside, content, mode, is_forced=is_forced)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
