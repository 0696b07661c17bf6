"""What can go wrong with a checkpoint.

CheckpointError                 (a model.model_errors.ModelError)
├── CheckpointDamaged           bytes are missing or are not the ones that were written
├── CheckpointMismatch          sound, but made by another configuration or format version
├── CheckpointUnreadable        the system does not let us read it: permissions, a file in its place
└── CheckpointWriteError        it could not be saved, removed or set aside: full disk, permissions
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from safetensors import SafetensorError

from flexihash.model.model_errors import ModelError

OTHER_PROGRAM = "run the version of this program that wrote it, or choose another checkpoint_dir"
EARLIER_PROGRAM = (
    "run the version of this program that wrote it, "
    "or choose an empty checkpoint_dir, where the model is learned again from the log"
)

# An errno that says that what was written is not there any more. Any other (no permission, too many open files, a
# network file system that is away) says nothing about the checkpoint, so it must not be set aside for it.
_DAMAGE_ERRNOS = (errno.ENOENT, errno.EISDIR, errno.EIO)


class CheckpointError(ModelError):
    """Root of everything that can go wrong with a checkpoint."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint's bytes are missing or are not the ones that were written.

    Args:
        path: the checkpoint's folder, or the folder of checkpoints where none of them is sound.
        reason: what was found, without the path.
        advice: what an operator can do.
    """

    def __init__(self, path: Path, reason: str, advice: str = "use another checkpoint") -> None:
        super().__init__(f"{path} is damaged: {reason}; {advice}")
        self.path = path
        self.reason = reason


class Difference(NamedTuple):
    """What a checkpoint has otherwise than it is asked for.

    Args:
        field: its name; dots lead into nested settings.
        expected: the value that the settings (or this program) ask for; None where they have no such field.
        found: the value in the checkpoint; None where it has no such field.
    """

    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.field} = {self.found!r}, but {self.expected!r} is asked for"


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint that this program, with these settings, must not go on from.

    Args:
        path: the checkpoint's folder.
        differences: all of them, one at least; the first is told as `field`, `expected` and `found` too.
        advice: what an operator can do.
    """

    def __init__(self, path: Path, differences: Sequence[Difference], advice: str = OTHER_PROGRAM) -> None:
        super().__init__(f"{path} has {'; '.join(map(str, differences))}: {advice}")
        self.path = path
        self.differences = differences
        self.field, self.expected, self.found = differences[0]


class CheckpointUnreadable(CheckpointError):
    """The system does not let us read a checkpoint. It may be sound, so it stays where it is."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(
            f"cannot read {path}: {_describe(cause.errno) or cause}; "
            f"make it readable for user {os.geteuid()} or choose another checkpoint_dir"
        )
        self.path = path
        self.errno = cause.errno


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be saved, removed or set aside. Those saved before are untouched."""

    def __init__(self, path: Path, cause: OSError | SafetensorError) -> None:
        self.path = path
        self.errno = _errno(cause)
        super().__init__(f"cannot write {path}: {_describe(self.errno) or cause}; {_advise(self.errno)}")


def raise_read_error(path: Path, name: str, cause: OSError) -> NoReturn:
    """Raise what a failed read of the file `name` says about the checkpoint at `path`.

    Raises:
        CheckpointDamaged: the file, or a part of it, is not there any more.
        CheckpointUnreadable: anything else.
    """
    if cause.errno not in _DAMAGE_ERRNOS:
        raise CheckpointUnreadable(path / name, cause) from cause
    reason = f"{name} is missing" if cause.errno == errno.ENOENT else f"{name}: {_describe(cause.errno)}"
    raise CheckpointDamaged(path, reason) from cause


def _advise(number: int | None) -> str:
    """What an operator can do about a write that failed so."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there or lower checkpoint_keep, checkpoint_keep_hourly or checkpoint_keep_daily"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"make it writable for user {os.geteuid()} or choose another checkpoint_dir"
    return "check that disk and path, or choose another checkpoint_dir"


def _errno(cause: OSError | SafetensorError) -> int | None:
    """safetensors reports a failed write in words only, such as "No space left on device (os error 28)"."""
    if isinstance(cause, OSError):
        return cause.errno
    match = re.search(r"\(os error (\d+)\)", str(cause))
    return int(match[1]) if match else None


def _describe(number: int | None) -> str:
    """Such as "No space left on device (errno 28, ENOSPC)"; empty where the number is not known."""
    return "" if number is None else f"{os.strerror(number)} (errno {number}, {errno.errorcode.get(number)})"
