"""How well the model predicts public streams, each event predicted before it is learned from.

    python -m bench.quality                         # every stream, no peers: does each figure reach its target?
    python -m bench.quality --peers all             # beside Vowpal Wabbit, River and scikit-learn on the same events
    python -m bench.quality --streams agrawal,friedman --peers fast --out table.md

Ours is the real command, `flexihash learn FILE --task T --json`, in its default configuration, in a process of its own.
Exits 1 where a figure misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.peers import PEERS, Peer
from bench.streams import STREAMS, Event, Stream, write_events
from model.config import Task
from model.metrics import PROBABILITY_CLIP

# What the model must reach: log loss (binary) or mean absolute error (regression) over a whole stream, each event
# predicted before it is learned from. These are the figures that the learner's design was accepted with.
TARGETS = {
    "flights": 0.4200,
    "phishing": 0.2371,
    "bananas": 0.2678,
    "agrawal": 0.0969,
    "hyperplane": 0.2401,
    "trump-approval": 0.305,
    "chick-weights": 13.1,
    "friedman": 0.916,
    "friedman-drift": 1.063,
}
AUC_TARGETS = {"flights": 0.807}
BINARY_TOLERANCE = 0.002  # absolute: what another seed may move
REGRESSION_TOLERANCE = 0.01  # of the target
LEARN_TIMEOUT_S = 600


@dataclass(frozen=True)
class Score:
    """One learner on one stream: log loss or mean absolute error, and the seconds it took."""

    library: str
    name: str
    value: float
    seconds: float
    auc: float | None = None


@dataclass(frozen=True)
class Row:
    """One stream's results: ours, every peer's, and the names of the peers left out because the stream is too long."""

    stream: str
    metric: str
    n_events: int
    target: float
    ours: Score
    peers: list[Score]
    left_out: list[str]

    @property
    def misses(self) -> list[str]:
        """What falls short of its target, in words; empty where all is well."""
        limit = (
            self.target + BINARY_TOLERANCE if self.metric == "log loss" else self.target * (1 + REGRESSION_TOLERANCE)
        )
        misses = []
        if not self.ours.value <= limit:  # NaN misses too
            misses.append(f"{self.stream}: {self.metric} {self.ours.value:.4f} is above {limit:.4f}")
        auc_target = AUC_TARGETS.get(self.stream)
        if auc_target is not None:
            least = auc_target - BINARY_TOLERANCE
            if self.ours.auc is None or not self.ours.auc >= least:
                misses.append(f"{self.stream}: AUC {self.ours.auc} is below {least:.4f}")
        return misses

    def best(self, library: str) -> Score | None:
        """The library's best configuration on this stream; None where it was not run or never gave a finite figure."""
        finite = [peer for peer in self.peers if peer.library == library and np.isfinite(peer.value)]
        return min(finite, key=lambda peer: peer.value, default=None)


def learn(stream: Stream, events: Sequence[Event]) -> Score:
    """Ours, by the command that users run.

    Raises:
        SystemExit: the command failed; with its last words.
    """
    command = Path(sys.executable).with_name("flexihash")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{stream.name}.ndjson"
        write_events(events, path)
        run = subprocess.run(
            [command, "learn", path, "--task", stream.task, "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=LEARN_TIMEOUT_S,
            env={name: value for name, value in os.environ.items() if not name.startswith("FLEXIHASH_")},
        )
    if run.returncode != 0:
        raise SystemExit(f"flexihash learn failed on {stream.name}: {run.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    if result["events"] != len(events):
        raise SystemExit(f"flexihash learn took {result['events']} of the {len(events)} events of {stream.name}")
    value = result["log_loss"] if stream.task is Task.BINARY else result["mae"]
    return Score("flexihash", "default", value, len(events) / result["events_per_second"], result.get("auc"))


def run_peer(peer: Peer, stream: Stream, events: Sequence[Event]) -> Score:
    """One peer over one stream."""
    start = time.perf_counter()
    predictions = peer.predict(stream.task, events)
    seconds = time.perf_counter() - start
    return Score(peer.library, peer.name, loss(stream.task, predictions, [event["label"] for event in events]), seconds)


def loss(task: Task, predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Log loss of probabilities (binary) or mean absolute error; NaN where a prediction is."""
    predicted, actual = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if task is Task.BINARY:
        p = np.clip(predicted, PROBABILITY_CLIP, 1.0 - PROBABILITY_CLIP)  # as the model's own metric does
        return float(-np.log(np.where(actual == 1.0, p, 1.0 - p)).mean())
    return float(np.abs(predicted - actual).mean())


def measure(streams: Iterable[Stream], peers: Sequence[Peer], progress: Progress) -> Iterator[Row]:
    """Run everything on each stream in turn, one bar for all runs."""
    streams = list(streams)
    bar = progress.add_task("", total=len(streams) * (1 + len(peers)))
    for stream in streams:
        progress.update(bar, description=f"{stream.name}: events")
        events = list(stream.events())
        progress.update(bar, description=f"{stream.name}: flexihash")
        ours = learn(stream, events)
        progress.advance(bar)
        scores, left_out = [], []
        for peer in peers:
            progress.update(bar, description=f"{stream.name}: {peer.library} {peer.name}")
            if peer.n_events_max is None or len(events) <= peer.n_events_max:
                scores.append(run_peer(peer, stream, events))
            else:
                left_out.append(f"{peer.library} {peer.name}")
            progress.advance(bar)
        metric = "log loss" if stream.task is Task.BINARY else "MAE"
        yield Row(stream.name, metric, len(events), TARGETS[stream.name], ours, scores, left_out)


def markdown(rows: Sequence[Row]) -> str:
    """The results as a markdown table, with what missed and what was left out under it."""
    libraries = list(dict.fromkeys(peer.library for row in rows for peer in row.peers))
    heads = ["stream", "events", "metric", "ours", "target", *(f"best {library}" for library in libraries)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in rows:
        cells = [row.stream, f"{row.n_events:,}", row.metric, ours_cell(row), f"{row.target:g}"]
        cells += [peer_cell(row.best(library)) for library in libraries]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [""]
    if libraries:
        lines += ["Peers: " + ", ".join(f"{name} {version(package)}" for name, package in packages(libraries)) + "."]
    lines += [f"Left out on {row.stream}, too slow for it: {', '.join(row.left_out)}." for row in rows if row.left_out]
    lines += [f"MISSED: {miss}" for row in rows for miss in row.misses] or ["Every figure reaches its target."]
    return "\n".join(lines) + "\n"


def packages(libraries: Sequence[str]) -> list[tuple[str, str]]:
    """Each library with the name of its package."""
    return [(library, "vowpalwabbit" if library == "VW" else library.lower()) for library in libraries]


def ours_cell(row: Row) -> str:
    """Our figure, in bold where it is the best of the row, and the seconds."""
    figure = f"{row.ours.value:.4f}"
    if row.peers and all(row.ours.value <= peer.value for peer in row.peers if np.isfinite(peer.value)):
        figure = f"**{figure}**"
    auc = "" if row.ours.auc is None else f"AUC {row.ours.auc:.3f}, "
    return f"{figure} ({auc}{row.ours.seconds:.1f} s)"


def peer_cell(score: Score | None) -> str:
    """A peer's figure, its configuration and its seconds."""
    return "" if score is None else f"{score.value:.4f} ({score.name}, {score.seconds:.1f} s)"


def chosen_streams(names: str) -> list[Stream]:
    """The streams of a list of names split by commas.

    Raises:
        argparse.ArgumentTypeError: one is not known.
    """
    unknown = sorted(set(names.split(",")) - set(STREAMS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no stream {', '.join(unknown)}; there are {', '.join(STREAMS)}")
    return [STREAMS[name] for name in names.split(",")]


def main() -> None:
    """Measure, print, and exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description="Progressive quality on public streams."
    )
    parser.add_argument(
        "--streams", type=chosen_streams, default=list(STREAMS.values()), metavar="A,B", help="names (default: all)"
    )
    parser.add_argument("--peers", choices=("none", "fast", "all"), default="none", help="whom to run beside ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write the table to this file")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if arguments.peers == "all" or (arguments.peers == "fast" and not peer.slow)]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        rows = list(measure(arguments.streams, peers, progress))
    table = markdown(rows)
    if arguments.out:
        arguments.out.write_text(table, encoding="utf-8")
    misses = [miss for row in rows for miss in row.misses]
    print(msgspec.json.encode({"streams": rows, "misses": misses}).decode() if arguments.json else table)
    raise SystemExit(1 if misses else 0)


if __name__ == "__main__":
    main()
