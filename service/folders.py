"""The folders that one process holds at a time: that of the memory, which must be ours alone, and the checkpoints'.

<memory folder>/    0700, its files 0600
    serve.lock      held by `flexihash serve`
    learner.lock    held by the learner; there is one in the checkpoints' folder too
    status.json     the learner's last word
    tables-<n>/     the tables of one learner
    prometheus/     the request metrics of several API workers
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flexihash.service.service_errors import FolderError, LearnerBusy

SERVE_LOCK = "serve.lock"
LEARNER_LOCK = "learner.lock"
TABLES_PREFIX = "tables-"
METRICS_FOLDER = "prometheus"
FOLDER_MODE = 0o700
FILE_MODE = 0o600
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def hold_memory(directory: Path, lock_file: str) -> int:
    """Takes the memory folder for this process's life, made if it is absent; returns the lock's file descriptor.

    What is looked at is what is used: the folder is open when it is judged, and the lock is opened in it.

    Raises:
        FolderError: it is not ours alone, or cannot be written.
        LearnerBusy: another process holds this lock.
    """
    with _explaining(directory, "memory_dir"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(FOLDER_MODE)
        check_memory(directory)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _judge(directory, os.fstat(folder))
            file = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE, dir_fd=folder)
        finally:
            os.close(folder)
    return _lock(file, directory, "memory_dir")


def hold_checkpoints(directory: Path) -> int:
    """Takes the checkpoints' folder in the same way; it may be whatever the user made it.

    Raises:
        FolderError: it cannot be written.
        LearnerBusy: another learner holds it.
    """
    with _explaining(directory, "checkpoint_dir"):
        directory.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        file = os.open(directory / LEARNER_LOCK, os.O_RDWR | os.O_CREAT, FILE_MODE)
    return _lock(file, directory, "checkpoint_dir")


def check_memory(directory: Path) -> None:
    """Looks whether what is in the memory folder may be believed.

    Raises:
        FolderError: it is a link, another user's, or others may write in it.
        OSError: there is none, or it cannot be looked at.
    """
    _judge(directory, directory.lstat())


def explain_exposure(directory: Path) -> str | None:
    """Why others could put another folder in the place of this one, for people; None where they cannot."""
    parent = directory.absolute().parent
    found = parent.stat()
    if found.st_uid not in (0, os.geteuid()):
        return f"user {found.st_uid}, who owns {parent}, could put another folder in its place"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return f"whoever may write in {parent} could put another folder in its place: chmod +t {parent}"
    return None


def make_metrics_folder(memory: Path) -> Path:
    """An empty folder for the workers' metrics, in a memory folder that is held.

    Raises:
        FolderError: it cannot be made.
    """
    folder = memory / METRICS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    with _explaining(memory, "memory_dir"):
        folder.mkdir(FOLDER_MODE)
    return folder


def remove_tables(memory: Path, but: Path | None = None) -> bool:
    """Removes the tables in a memory folder that is held; who has them mapped keeps them. Whether there were any."""
    found = [path for path in memory.glob(f"{TABLES_PREFIX}*") if path != but]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return bool(found)


def give_back(memory: Path) -> None:
    """Frees what a service that has ended left in its memory folder; a learner that still works there keeps its own."""
    with suppress(OSError, FolderError, LearnerBusy):
        lock = hold_memory(memory, LEARNER_LOCK)
        try:
            remove_tables(memory)
        finally:
            os.close(lock)
    shutil.rmtree(memory / METRICS_FOLDER, ignore_errors=True)


def _judge(directory: Path, found: os.stat_result) -> None:
    if objection := _object(found):
        raise FolderError(
            f"the memory folder {directory} {objection}: others could read or change what is learned; remove it, or"
            " name a folder of your own in FLEXIHASH_MEMORY_DIR"
        )


def _object(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if not stat.S_ISDIR(found.st_mode):
        return "is a file"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to user {os.geteuid()}"
    if found.st_mode & OTHERS_WRITE:
        return f"may be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


@contextmanager
def _explaining(directory: Path, setting: str) -> Iterator[None]:
    """Has what the system refuses told as an error of the folder, by its setting."""
    try:
        yield
    except OSError as cause:
        raise FolderError(
            f"cannot write in {setting} {directory}: {cause.strerror}; make it writable for user {os.geteuid()},"
            f" or set FLEXIHASH_{setting.upper()}"
        ) from cause


def _lock(file: int, directory: Path, setting: str) -> int:
    """The kernel lets go of it when the process dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise LearnerBusy(
            f"another learner works in {directory}: stop it, or give this one another FLEXIHASH_{setting.upper()}"
        ) from None
    return file
