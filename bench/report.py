"""A run as a page, as JSON, and on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import goals
from bench.results import HEADS, Row, Run, describe, learners


def save(run: Run, folder: Path) -> None:
    """Writes latest.json and latest.md."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(run, enc_hook=float)  # for numpy's numbers
    (folder / "latest.json").write_bytes(msgspec.json.format(encoded, indent=1) + b"\n")
    (folder / "latest.md").write_text(to_markdown(run), encoding="utf-8")


def to_markdown(run: Run) -> str:
    """The whole run as a page."""
    lines = ["# Results of `make bench`", ""]
    lines += ["How to read them: [bench/README.md](../README.md).", ""]
    lines += markdown_table(("machine", ""), run.machine.items())
    lines += ["", "## Goals", ""]
    lines += markdown_table(goals.HEADS, (goal.cells(run.rows) for goal in goals.GOALS))
    for section, seconds in run.seconds.items():
        lines += ["", f"## {section} ({seconds:.0f} s)", ""]
        rows = [row for row in run.rows if row.section == section]
        if section in run.failed:
            lines += [f"FAILED: {run.failed[section]}", ""]
        if section == "learning" and rows:
            lines += [*learner_table(rows), "", "![log loss against events/s](quality-speed.png)", ""]
            shown = [row for row in rows if row.case not in learners(rows)]
        else:
            shown = rows
        lines += markdown_table(HEADS, (row.cells for row in shown))
    if run.skipped:
        lines += ["", "Left out:", "", *(f"- {reason}" for reason in run.skipped)]
    return "\n".join(lines) + "\n"


def learner_table(rows: Sequence[Row]) -> list[str]:
    """Quality and speed of each learner on flights, side by side."""
    heads = ("learner", "events", "events/s", "ours / its speed", "log loss", "ours, same events")
    body = []
    for case, found in learners(rows).items():
        speed, loss = found["speed"], found["log loss"]
        ratio = "" if speed.ratio is None else f"{speed.ratio:.1f}"
        same = found.get("log loss of ours")
        body.append(
            (case, speed.note, describe(speed.value), ratio, f"{loss.value:.4f}", f"{same.value:.4f}" if same else "")
        )
    return markdown_table(heads, body)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def show(run: Run, console: Console) -> None:
    """Prints every row, and the goals that were measured."""
    for section, rows in groupby(run.rows, key=lambda row: row.section):
        table = Table(title=f"{section} ({run.seconds[section]:.0f} s)", title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="right" if head in ("value", "ratio") else "left")
        for row in rows:
            table.add_row(*row.cells)
        console.print(table)
    table = Table(*goals.HEADS, title="goals", title_justify="left")
    for goal in goals.GOALS:
        if goal.find(run.rows) is not None:
            table.add_row(*goal.cells(run.rows))
    if table.row_count:
        console.print(table)
    for reason in run.skipped:
        console.print(f"left out: {reason}")
    for section, error in run.failed.items():
        console.print(f"[bold red]{section} failed:[/] {error}")
