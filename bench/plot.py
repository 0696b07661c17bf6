"""Quality against speed, one mark a learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
from matplotlib import pyplot

from bench.results import Row, learners

MARKS = {"flexihash": ("*", "C3", 240), "VW": ("o", "C0", 50), "River": ("s", "C2", 50)}
OTHER = {"CapyMOA": ("^", "C4", 50), "scikit-learn": ("D", "C1", 50)}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Log loss on flights against events/s on one core, as PNG."""
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    marks = MARKS | OTHER
    labelled: set[str] = set()
    for case, found in learners(rows).items():
        library = case.split()[0]
        mark, color, size = marks[library]
        label = None if library in labelled else library
        labelled.add(library)
        x, y = found["speed"].value, found["log loss"].value
        axes.scatter(x, y, s=size, marker=mark, color=color, label=label, zorder=3)
        text = case.removeprefix(library).strip()
        events = found["speed"].note
        if events != "all":
            text += f" ({events})"
        axes.annotate(text, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
    axes.set_xscale("log")
    axes.set_xlabel("events/s on one core, from JSON bytes to the updated model")
    axes.set_ylabel("progressive log loss on flights (lower is better)")
    axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))  # what is worse is off the chart, and in the table
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
