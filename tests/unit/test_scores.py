"""The tables of metrics that `flexihash learn` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console

from flexihash.model.class_metrics import ClassMetrics
from flexihash.model.metrics import Layout
from flexihash.model.target_metrics import TargetMetrics
from flexihash.service.commands.scores import draw_metrics


def zeros(layout: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def show(report: Mapping[str, Any]) -> list[list[str]]:
    """The cells of all lines."""
    console = Console(width=200)
    with console.capture() as capture:
        for table in draw_metrics(report):
            console.print(table)
    lines = [line.replace("┃", "│") for line in capture.get().splitlines()]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]


def test_classes_stand_below_the_metrics_the_most_frequent_first() -> None:
    labels = np.repeat(np.arange(22.0), np.arange(22) + 1)
    metrics = ClassMetrics(40, zeros(ClassMetrics.layout(40)))
    predictions = np.stack([np.full(len(labels), 0.5), np.maximum(labels, 20.0)], axis=1)
    metrics.update(predictions, labels, np.ones(len(labels)))
    rows = show(metrics.report([f"class {k}" for k in range(40)]))
    assert rows[0] == ["", "all events", "baseline", f"last {len(labels)}", "baseline"]
    assert rows[1][:2] == ["log loss", "0.6931"]
    assert rows[4][0] == "kappa temporal"
    assert rows[4][2] == ""
    begin = rows.index(["class", "count", "precision", "recall", "f1", f"last {len(labels)}", "f1"])
    assert rows[begin + 1] == ["class 21", "22", "1.0000", "1.0000", "1.0000", "22", "1.0000"]
    assert rows[begin + 2][:3] == ["class 20", "21", f"{21 / 231:.4f}"]
    assert rows[begin + 3][:5] == ["class 19", "20", "", "0.0000", "0.0000"]
    assert [row[0] for row in rows[begin + 1 :]] == [*(f"class {k}" for k in range(21, 1, -1)), "2 more"]


def test_each_target_has_a_table() -> None:
    targets = {"late": "binary", "delay": "regression"}
    metrics = TargetMetrics(targets, zeros(TargetMetrics.layout(targets)))
    metrics.update(np.array([[0.9, 3.0]]), np.array([[1.0, 5.0]]), np.ones(1))
    rows = show(metrics.report())
    assert rows[0] == ["late", "all events", "baseline", "last 1", "baseline"]
    assert rows[1][:2] == ["log loss", "0.1054"]
    delay = rows.index(["delay", "all events", "baseline", "last 1", "baseline"])
    assert rows[delay + 1] == ["mae", "2.0000", "5.0000", "2.0000", "5.0000"]
