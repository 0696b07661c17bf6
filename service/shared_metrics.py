"""The request metrics of several API processes: files of a folder, which prometheus_client maps and adds up."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
from prometheus_client import values

from flexihash.model.tables import FILE_MODE

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own: a folder that all workers write to
SIZES = {"histogram": 1 << 19, "counter": 1 << 16}  # bytes, by the kind that a file's name begins with: 160 label sets

log = structlog.stdlib.get_logger("api")


def reserve_files() -> None:
    """Takes the room of this process's files before they are mapped: a full folder must show here, not as SIGBUS.

    Where there is none, this process counts for itself, and its /metrics tell of its own requests only.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return
    paths = {Path(folder) / f"{kind}_{os.getpid()}.db": n_bytes for kind, n_bytes in SIZES.items()}
    try:
        for path, n_bytes in paths.items():
            _reserve(path, n_bytes)
    except OSError as error:
        log.error(
            f"cannot share request metrics in {folder}: {error.strerror}; make room there. They are this worker's"
        )
        for path in paths:
            path.unlink(missing_ok=True)
        del os.environ[FOLDER_VARIABLE]
        values.ValueClass = values.MutexValue


def _reserve(path: Path, n_bytes: int) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        os.posix_fallocate(file, 0, n_bytes)
    finally:
        os.close(file)
