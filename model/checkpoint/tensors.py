"""A checkpoint's model.safetensors: every tensor, written and read without a copy in between."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flexihash.model.checkpoint.checkpoint_errors import CheckpointDamaged, CheckpointMismatch, raise_read_error
from flexihash.model.checkpoint.manifest import (
    BLOCK_BYTES,
    MODEL_FILE,
    UNREADABLE,
    FileRecord,
    Manifest,
    changed,
    check_file,
    check_files,
    check_sizes,
    find_differences,
    read_manifest,
)

# safetensors' own limit; ours takes 2 KiB.
_MAX_HEADER_BYTES = 100_000_000
# All that a model remembers is of these.
_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32, "I64": torch.int64, "U8": torch.uint8}


def read(path: Path, into: Mapping[str, torch.Tensor] | None = None) -> tuple[dict[str, torch.Tensor], Manifest]:
    """Verify the checkpoint at `path` and read its tensors.

    Args:
        into: contiguous CPU tensors to fill; their names, shapes and dtypes must be the checkpoint's. Each block is
            hashed where it will stay, so CheckpointDamaged leaves damaged values in them: fill them anew, or drop them.

    Returns:
        The tensors (those of `into` where given; else private copy-on-write maps of the file), and the manifest.

    Raises:
        CheckpointMismatch: also where `into` has other names, shapes or dtypes; nothing was written then.
        CheckpointDamaged, CheckpointUnreadable: see `verify`.
    """
    manifest = read_manifest(path)
    try:
        return (_load(path, manifest) if into is None else _fill(path, manifest, into)), manifest
    except OSError as cause:
        raise_read_error(path, MODEL_FILE, cause)
    except SafetensorError as cause:
        raise CheckpointDamaged(path, f"{MODEL_FILE} is not a safetensors file: {cause}") from cause


def _load(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    check_files(path, manifest)
    return load_file(path / MODEL_FILE)


def _fill(path: Path, manifest: Manifest, into: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Reads the tensors into `into`, and hashes them there: every byte once, and the bytes that will be used."""
    check_sizes(path, manifest)
    record = manifest.files[MODEL_FILE]
    with (path / MODEL_FILE).open("rb", buffering=0) as stream:
        head, entries = _read_header(stream)
        layout = {name: entry.layout for name, entry in entries.items()}
        if differences := list(find_differences(_layout(into), layout)):
            check_file(path, MODEL_FILE, record)  # a damaged header describes anything
            raise CheckpointMismatch(path, [one._replace(field=f"tensor {one.field}") for one in differences])
        in_order = sorted(entries, key=lambda name: entries[name].data_offsets)
        blocks = [block for name in in_order for block in _blocks(into[name])]
        if _read_blocks(stream, head, blocks) != record:
            raise changed(path, MODEL_FILE)
    return dict(into)


def _read_blocks(stream: io.RawIOBase, head: bytes, blocks: Sequence[memoryview]) -> FileRecord:
    """Fills the blocks with what follows the head; returns what the file is.

    One thread reads ahead of the one that hashes; both work outside of the interpreter lock.
    """
    digest = hashlib.sha256(head)
    n_bytes = len(head)
    with ThreadPoolExecutor(1, thread_name_prefix="restore") as reader:
        for block, n_read in zip(blocks, reader.map(lambda block: _read_fully(stream, block), blocks), strict=True):
            digest.update(block[:n_read])
            n_bytes += n_read
    return FileRecord(n_bytes, digest.hexdigest())


class _Entry(msgspec.Struct):
    """What the head of a safetensors file says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def layout(self) -> str:
        return f"{self.shape} {_DTYPES.get(self.dtype, self.dtype)}"


def _read_header(stream: io.RawIOBase) -> tuple[bytes, dict[str, _Entry]]:
    """The head's bytes, and what they say; nothing where they say nothing."""
    length = stream.read(8) or b""
    head = length + (stream.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES)) or b"")
    try:
        entries = msgspec.json.decode(head[8:], type=dict[str, _Entry])
    except UNREADABLE:
        entries = {}
    return head, entries


def _blocks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's memory, piece by piece."""
    content = tensor.view(-1).view(torch.uint8).numpy().data
    return (content[begin : begin + BLOCK_BYTES] for begin in range(0, len(content), BLOCK_BYTES))


def _read_fully(stream: io.RawIOBase, block: memoryview) -> int:
    """Fills `block`; returns how many bytes there were, fewer at the end of the file only."""
    n_bytes = 0
    while n_bytes < len(block) and (n_read := stream.readinto(block[n_bytes:])):
        n_bytes += n_read
    return n_bytes


def _layout(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()}
