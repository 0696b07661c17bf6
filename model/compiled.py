"""How the product's functions are compiled, and when code that was compiled before is taken again.

Numba keeps compiled code on disk and takes it again as long as the one file of the function is what it was. But the
values of constants, and the functions called, are frozen into that code, and ours come from many files. So ours is
taken again only while no file that compiled code can read has changed. Where the code is kept stays Numba's choice:
the folder that NUMBA_CACHE_DIR names, `__pycache__` beside the function, or the user's own cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from numba import njit

# What compiled code can read: the packages that hold it, and what those may import. The others change more often.
PACKAGES = ("flexi_hash_embedding", "flexihash.model", "flexihash.consumer")


def entry(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles what Python calls; it runs without the interpreter lock, and is kept on disk.

    Args:
        options: more of `numba.njit`'s.
    """
    dispatcher = njit(function, cache=True, nogil=True, **options)
    # Numba writes this version at the head of an index, and on another one reads no further: what follows may name
    # classes that are gone. (It has a stamp for the sources as well, but behind those.)
    dispatcher._cache._cache_file._version += f"+{source_stamp()}"
    return dispatcher


def part(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles what entries call; inlined where LLVM finds that worth it."""
    return njit(function, **options)


def inlined(function: Callable[..., Any]) -> Any:
    """Compiles what entries call, into each place of a call."""
    return njit(function, forceinline=True)


@cache
def source_stamp() -> str:
    """A hash of all sources that compiled code can read, names and contents; taken once a process, in milliseconds."""
    stamp = hashlib.sha256()
    for package in PACKAGES:
        for folder in find_spec(package).submodule_search_locations or ():  # type: ignore[union-attr]
            for path in sorted(_sources(folder)):
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                    source = file.read()
                stamp.update(f"{package} {path.removeprefix(folder)} {len(source)}\n".encode())
                stamp.update(source)
    return stamp.hexdigest()


def _sources(folder: str) -> Iterator[str]:
    for path, _, names in os.walk(folder):
        yield from (f"{path}/{name}" for name in names if name.endswith(".py"))
