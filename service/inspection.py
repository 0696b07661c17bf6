"""What `flexihash inspect` shows: one checkpoint in full, or the list of those in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from flexihash.model.checkpoint.checkpoint_errors import CheckpointDamaged
from flexihash.model.checkpoint.store import CheckpointStore
from flexihash.model.checkpoint.tensors import read


def inspect_checkpoint(path: Path) -> dict[str, Any]:
    """Everything about one checkpoint, every byte of it verified; plain values, as JSON has them.

    Returns:
        The manifest, ``size_bytes``, ``tensors`` (name -> shape, dtype, bytes) and ``occupancy`` (share of rows
        that an event ever moved); only ``path`` and ``problem`` where the checkpoint is not sound.
    """
    try:
        tensors, manifest = read(path)
    except CheckpointDamaged as damage:
        return {"path": str(path), "problem": damage.reason}
    touched = tensors["touched"]
    return {
        "path": str(path),
        "problem": None,
        "size_bytes": sum(file.size_bytes for file in manifest.files.values()),
        "occupancy": int((touched != 0).sum()) / len(touched),
        **msgspec.to_builtins(manifest),
        "tensors": {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "bytes": tensor.nbytes,
            }
            for name, tensor in sorted(tensors.items())
        },
    }


def list_checkpoints(directory: Path) -> dict[str, Any]:
    """The checkpoints in a folder, newest first. Only manifests and sizes are checked, so this is quick.

    Returns:
        ``path``, ``checkpoints`` (path, events, created_at, size_bytes, problem), and ``problem`` where there is none.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    found = [
        {
            "path": str(info.path),
            "events": info.manifest.events if info.manifest else None,
            "created_at": info.manifest.created_at.isoformat(timespec="seconds") if info.manifest else None,
            "size_bytes": info.size_bytes,
            "problem": info.problem,
        }
        for info in CheckpointStore(directory, keep=1).list()
    ]
    problem = None if found else "there are no checkpoints in this folder"
    return {"path": str(directory), "checkpoints": found, "problem": problem}


def show_checkpoint(found: dict[str, Any]) -> None:
    """Print what `inspect_checkpoint` found, for people."""
    console = Console()
    if found["problem"]:
        console.print(
            f"{found['path']}\ndamaged: {found['problem']}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return
    table = Table(show_header=False, box=None, highlight=True)
    console.print(f"{found['path']} is whole: every byte is as it was written", soft_wrap=True, markup=False)
    table.add_row("events", f"{found['events']:,}")
    table.add_row("created", found["created_at"])
    table.add_row("size", describe_bytes(found["size_bytes"]))
    table.add_row("rows in use", f"{found['occupancy']:.1%} of {found['tensors']['touched']['shape'][0]:,}")
    for partition, position in sorted(found["positions"].items()):
        table.add_row("position", f"{partition} next offset {position:,}")
    table.add_row("cluster", found["cluster_id"] or "none: learned from a file")
    for name, value in found["configuration"].items():
        table.add_row(name, str(value))
    for name, value in found["metrics"].items():
        if isinstance(value, float) and name != "weight":
            table.add_row(name.replace("_", " "), f"{value:.4f}")
    for name, tensor in found["tensors"].items():
        shape = " x ".join(f"{size:,}" for size in tensor["shape"])
        table.add_row(name, f"{shape} {tensor['dtype']}, {describe_bytes(tensor['bytes'])}")
    console.print(table)


def show_list(found: dict[str, Any]) -> None:
    """Print what `list_checkpoints` found, for people."""
    console = Console()
    if found["problem"]:
        console.print(
            f"{found['path']}: {found['problem']}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return
    table = Table(box=None)
    for heading in ("checkpoint", "events", "created, UTC", "size"):
        table.add_column(heading, no_wrap=True)
    table.add_column("problem", overflow="fold")
    for one in found["checkpoints"]:
        table.add_row(
            Path(one["path"]).name,
            "" if one["events"] is None else f"{one['events']:,}",
            (one["created_at"] or "").removesuffix("+00:00").replace("T", " "),
            "" if one["size_bytes"] is None else describe_bytes(one["size_bytes"]),
            one["problem"] or "",
        )
    console.print(table)


def describe_bytes(n_bytes: int) -> str:
    """A size for people, in binary units: ``36.1 MiB``."""
    size, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024.0:
            break
        size, unit = size / 1024.0, larger
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
