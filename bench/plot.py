"""Quality against speed, one mark a learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
from matplotlib import pyplot

from bench.results import Row, learners

MARKS = {
    "flexihash": ("*", "C3", 240),
    "VW": ("o", "C0", 50),
    "River": ("s", "C2", 50),
    "CapyMOA": ("^", "C4", 50),
    "LightGBM": ("P", "C5", 50),
    "scikit-learn": ("D", "C1", 50),
}
WORST_LOSS = 0.8  # what is worse is off the chart, and in the table
LINE = 0.011  # of loss, which a text is high
POINTS_A_LOSS = 800
OWN_PARSER = ", own JSON parser"  # marked hollow, without a text: the same learner faster, several marks in one place


def draw(rows: Sequence[Row], path: Path) -> None:
    """Log loss on flights against events/s on one core, as PNG."""
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    labelled: set[str] = set()
    crowded: list[tuple[float, float, str]] = []
    for case, found in learners(rows).items():
        library = case.split()[0]
        mark, color, size = MARKS[library]
        x, y = found["speed"].value, found["log loss"].value
        if OWN_PARSER in case:
            axes.scatter(x, y, s=size, marker=mark, facecolors="none", edgecolors=color, zorder=3)
            continue
        label = None if library in labelled else library
        labelled.add(library)
        axes.scatter(x, y, s=size, marker=mark, color=color, label=label, zorder=3)
        text = case.removeprefix(library).strip()
        events = found["speed"].note
        if events != "all":
            text += f" ({events})"
        if library == "VW":
            crowded.append((y, x, text))
        else:
            axes.annotate(text, (x, y), xytext=(6, -11), textcoords="offset points", fontsize=7.5)
    lowest = WORST_LOSS
    # Beside each other at one speed: texts to the left, none on another.
    for y, x, text in sorted(crowded, reverse=True):
        lowest = min(y, lowest - LINE)
        place = (-7, -3 + (lowest - y) * POINTS_A_LOSS)
        axes.annotate(text, (x, y), xytext=place, ha="right", textcoords="offset points", fontsize=7.5)
    axes.set_xscale("log")
    axes.set_xlabel("events/s on one core, from JSON bytes to the updated model")
    axes.set_ylabel("progressive log loss on flights (lower is better)")
    axes.set_ylim(0.38, WORST_LOSS)
    axes.set_title(f"hollow: VW's own JSON parser; not shown: losses above {WORST_LOSS}", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
