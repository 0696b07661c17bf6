"""Destinations by their vectors alone, each with the colour of its longitude."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")  # before pyplot: no display is needed
from matplotlib import pyplot

from bench.likeness import Field, airports


def flatten_to_plane(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two directions in which unit vectors differ most, (n, 2)."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    _, _, directions = np.linalg.svd(units - units.mean(0), full_matrices=False)
    plane: NDArray[np.float64] = units @ directions[:2].T
    return plane


def draw(field: Field, vectors: NDArray[np.float64], path: Path) -> None:
    """A mark for each destination, as PNG."""
    places = airports()
    longitudes = [places[value][1] for value in field.values]
    x, y = flatten_to_plane(vectors).T
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    marks = axes.scatter(x, y, c=longitudes, cmap="turbo", s=26, vmin=-125, vmax=-65)
    for text, *at in zip(field.values, x, y, strict=True):
        axes.annotate(text, at, xytext=(3, 2), textcoords="offset points", fontsize=6)
    figure.colorbar(marks, label="longitude, which no event has", extend="min")
    axes.set_xticks([])
    axes.set_yticks([])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
