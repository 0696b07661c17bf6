"""Progressive metrics as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def draw_metrics(report: Mapping[str, Any]) -> Iterator[Table]:
    """Each metric beside its baseline, over all events and the last ones; then the classes, or a table a target."""
    for target, of_target in report.get("targets", {}).items():
        yield _draw_overall(of_target, target)
    if "targets" not in report:
        yield _draw_overall(report)
    if report.get("classes"):
        yield _draw_classes(report)


def _draw_overall(report: Mapping[str, Any], title: str = "") -> Table:
    window = report["window"]
    table = _make_table(title, "all events", "baseline", f"last {window['events']:,}", "baseline")
    for name in report:
        if name not in ("events", "weight", "window", "embeddings", "classes") and not name.startswith("baseline_"):
            cells = [part.get(key) for part in (report, window) for key in (name, f"baseline_{name}")]
            table.add_row(name.replace("_", " "), *map(_round, cells))
    return table


def _draw_classes(report: Mapping[str, Any]) -> Table:
    from flexihash.model.rates import OF_A_CLASS, most_frequent

    classes, window = report["classes"], report["window"]
    shown = most_frequent(classes)
    n_more = sum(one["count"] > 0 for one in classes.values()) - len(shown)
    table = _make_table("class", *OF_A_CLASS, f"last {window['events']:,}", "f1")
    for name in shown:
        lately = window["classes"][name]
        table.add_row(name, *map(_round, (*classes[name].values(), lately["count"], lately["f1"])))
    if n_more:
        table.add_row(f"{n_more:,} more")
    return table


def _make_table(first: str, *headings: str) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _round(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
