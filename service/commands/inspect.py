"""`flexihash inspect`: one checkpoint in full, or the list of those in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexihash.service.commands.outcome import EXIT_FINDING, AsJson, Outcome, fail, say, show

if TYPE_CHECKING:
    from rich.console import Console

    from flexihash.model.checkpoint.manifest import Manifest
    from flexihash.model.checkpoint.store import CheckpointInfo


MAX_PLACES = 3  # of a checkpoint in a list


@dataclass(frozen=True)
class Tensor:
    """Shape, type and size of one tensor."""

    shape: list[int]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Sound(Outcome):
    """A checkpoint, every byte of it verified; `occupancy` is the share of rows that an event ever moved."""

    path: str
    manifest: Manifest
    occupancy: float
    tensors: dict[str, Tensor]

    problem = None

    @property
    def size_bytes(self) -> int:
        """Of all its files but the manifest."""
        return sum(file.size_bytes for file in self.manifest.files.values())

    def describe(self) -> dict[str, Any]:
        """What it is, everything in its manifest, and its tensors."""
        import msgspec

        return {
            "path": self.path,
            "problem": None,
            "size_bytes": self.size_bytes,
            "occupancy": self.occupancy,
            **msgspec.to_builtins(self.manifest),
            "tensors": msgspec.to_builtins(self.tensors),
        }

    def show(self, console: Console) -> None:
        """A row for each thing in it."""
        from rich.table import Table

        table = Table(show_header=False, box=None, highlight=True)
        console.print(f"{self.path} is whole: every byte is as it was written", soft_wrap=True, markup=False)
        for row in self._rows():
            table.add_row(*row)
        console.print(table)

    def _rows(self) -> Iterator[tuple[str, str]]:
        manifest = self.describe()
        yield "events", f"{manifest['events']:,}"
        yield "created", manifest["created_at"]
        yield "size", describe_bytes(self.size_bytes)
        yield "rows in use", f"{self.occupancy:.1%} of {self.tensors['touched'].shape[0]:,}"
        for partition, position in sorted(manifest["positions"].items()):
            yield "position", f"{partition} next offset {position:,}"
        yield "cluster", manifest["cluster_id"] or "none: learned from a file"
        for place, ranges in manifest["metrics"].get("history", {}).get("skipped", {}).items():
            for first, until in ranges:
                yield "skipped", f"{place} offsets {first:,} to {until - 1:,}"
        for name, value in manifest["configuration"].items():
            yield name, str(value)
        yield from _list_metrics(manifest["metrics"])
        for target, report in manifest["metrics"].get("targets", {}).items():
            yield from _list_metrics(report, f"{target}: ")
        yield from _list_classes(manifest["metrics"].get("classes", {}))
        for name, tensor in self.tensors.items():
            shape = " x ".join(f"{size:,}" for size in tensor.shape)
            yield name, f"{shape} {tensor.dtype}, {describe_bytes(tensor.bytes)}"


def _list_metrics(report: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in report.items():
        if isinstance(value, float) and name != "weight":
            yield prefix + name.replace("_", " "), f"{value:.4f}"


def _list_classes(classes: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The most frequent ones, with their events."""
    from flexihash.model.rates import most_frequent

    shown = most_frequent(classes)
    for name in shown:
        yield "class", f"{name}: {classes[name]['count']:,} events"
    if len(shown) < len(classes):
        yield "classes", f"{len(classes):,}"


@dataclass(frozen=True)
class Damaged(Outcome):
    """A checkpoint that is not sound."""

    path: str
    problem: str

    def show(self, console: Console) -> None:
        """What is wrong with it."""
        say(console, f"{self.path}\ndamaged: {self.problem}", "red")


@dataclass(frozen=True)
class Entry:
    """One checkpoint in a list; `problem` says why it cannot be used, and then the rest is None."""

    path: str
    events: int | None
    positions: dict[str, int] | None
    created_at: str | None
    size_bytes: int | None
    problem: str | None

    @property
    def places(self) -> str:
        """The positions as ``--skip-until`` takes them, of the first few partitions."""
        positions = [f"{place.rpartition(':')[2]}:{position}" for place, position in (self.positions or {}).items()]
        rest = f" and {len(positions) - MAX_PLACES} more" if len(positions) > MAX_PLACES else ""
        return ",".join(positions[:MAX_PLACES]) + rest

    def describe(self) -> tuple[str, ...]:
        """Its cells in a list."""
        return (
            Path(self.path).name,
            "" if self.events is None else f"{self.events:,}",
            (self.created_at or "").removesuffix("+00:00").replace("T", " "),
            "" if self.size_bytes is None else describe_bytes(self.size_bytes),
            self.places,
            self.problem or "",
        )


@dataclass(frozen=True)
class Listing(Outcome):
    """The checkpoints in a folder, newest first; a `problem` where there are none."""

    path: str
    checkpoints: list[Entry]
    problem: str | None

    def show(self, console: Console) -> None:
        """A line for each."""
        from rich.table import Table

        if self.problem:
            say(console, f"{self.path}: {self.problem}", "red")
            return
        table = Table(box=None)
        for heading in ("checkpoint", "events", "created, UTC", "size"):
            table.add_column(heading, no_wrap=True)
        for heading in (
            ("next offsets", "problem") if any(one.problem for one in self.checkpoints) else ("next offsets",)
        ):
            table.add_column(heading, overflow="fold")
        for one in self.checkpoints:
            table.add_row(*one.describe()[: len(table.columns)])
        console.print(table)


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="One checkpoint, or a folder of them.", metavar="CHECKPOINT")],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds and whether it is whole, or list those in a folder."""
    check_folder(checkpoint)
    is_one = (checkpoint / "manifest.json").exists() or (checkpoint / "model.safetensors").exists()
    found = inspect_checkpoint(checkpoint) if is_one else list_checkpoints(checkpoint)
    show(found, as_json)
    if found.problem:
        raise typer.Exit(EXIT_FINDING)


def check_folder(checkpoint: Path) -> None:
    """Ends the command where there is no such folder."""
    if not checkpoint.is_dir():
        fail(f"{checkpoint}: there is no such folder; a checkpoint is a folder in checkpoint_dir")


def inspect_checkpoint(path: Path) -> Sound | Damaged:
    """Everything about one checkpoint, after all of it was read."""
    from flexihash.model.checkpoint.checkpoint_errors import CheckpointDamaged
    from flexihash.model.checkpoint.tensors import read

    try:
        tensors, manifest = read(path)
    except CheckpointDamaged as damage:
        return Damaged(str(path), damage.reason)
    touched = tensors["touched"]
    return Sound(
        str(path),
        manifest,
        occupancy=int((touched != 0).sum()) / len(touched),
        tensors={
            name: Tensor(list(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.nbytes)
            for name, tensor in sorted(tensors.items())
        },
    )


def list_checkpoints(directory: Path) -> Listing:
    """The checkpoints in a folder. Only manifests and sizes are checked, so this is quick.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    from flexihash.model.checkpoint.store import CheckpointStore

    found = [_describe_entry(info) for info in CheckpointStore(directory, keep=1).list()]
    return Listing(str(directory), found, None if found else _explain_absence(directory))


def _explain_absence(directory: Path) -> str:
    """Where to look instead: each topic has a folder of its own."""
    from flexihash.model.checkpoint.checkpoint_errors import CheckpointError
    from flexihash.model.checkpoint.store import CheckpointStore

    inner = []
    for path in sorted(directory.iterdir()):
        with suppress(CheckpointError):
            if path.is_dir() and CheckpointStore(path, keep=1).list():
                inner.append(str(path))
    return "there are no checkpoints in this folder" + (f"; there are in {' and '.join(inner)}" if inner else "")


def _describe_entry(info: CheckpointInfo) -> Entry:
    manifest = info.manifest
    return Entry(
        path=str(info.path),
        events=manifest.events if manifest else None,
        positions=manifest.positions if manifest else None,
        created_at=manifest.created_at.isoformat(timespec="seconds") if manifest else None,
        size_bytes=info.size_bytes,
        problem=info.problem,
    )


def describe_bytes(n_bytes: int) -> str:
    """A size for people, in binary units: ``36.1 MiB``."""
    size, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024.0:
            break
        size, unit = size / 1024.0, larger
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
