"""What a benchmark finds: rows with a value, a unit and a ratio; as a table, as markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

Better = Literal["higher", "lower"]

HEADS = ("what", "value", "unit", "ratio", "of what", "note")


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        section, case, measure: together its name, unique within a run; a case may have several measures.
        ratio: against something else of the same run, which `ratio_of` names. Only ratios say much on another machine.
        better: which way the ratio is better; None where it is too noisy, or means too little, to be compared.
        allowed_loss: by how much a later run's value may be higher; None where the value itself is not compared.
    """

    section: str
    case: str
    measure: str
    value: float | None
    unit: str
    ratio: float | None = None
    ratio_of: str = ""
    better: Better | None = None
    allowed_loss: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """For people, and to find the same figure in another run."""
        return f"{self.section}: {self.case}, {self.measure}"

    @property
    def cells(self) -> tuple[str, ...]:
        """As a line of the tables that HEADS heads."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return f"{self.case}, {self.measure}", describe(self.value), self.unit, ratio, self.ratio_of, self.note


@dataclass(frozen=True)
class Run:
    """All figures of one run.

    Args:
        machine: facts by their names.
        seconds: of each section, by wall clock.
        skipped: what was left out, with the reason.
        failed: sections that ended with an error, with its words.
    """

    machine: dict[str, str]
    seconds: dict[str, float]
    rows: list[Row]
    skipped: list[str]
    failed: dict[str, str]


def describe(value: float | None) -> str:
    """A figure with the digits that mean something; JSON has no NaN, which becomes None."""
    if value is None:
        return "nan"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.4g}"


def load(path: Path) -> Run:
    """A run as `save` wrote it.

    Raises:
        SystemExit: there is none, or it is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise SystemExit(f"cannot read results in {path}: {error}") from error


def save(run: Run, folder: Path) -> None:
    """Writes latest.json and latest.md."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(run, enc_hook=float)  # for numpy's numbers
    (folder / "latest.json").write_bytes(msgspec.json.format(encoded, indent=1) + b"\n")
    (folder / "latest.md").write_text(to_markdown(run), encoding="utf-8")


def learners(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """The measures of each learner in the section `learning`, by case and measure; only cases with speed and loss."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.section == "learning":
            cases.setdefault(row.case, {})[row.measure] = row
    return {case: found for case, found in cases.items() if {"speed", "log loss"} <= found.keys()}


def to_markdown(run: Run) -> str:
    """The whole run as a page."""
    lines = ["# Results of `make bench`", ""]
    lines += ["How to read them: [bench/README.md](../README.md).", ""]
    lines += markdown_table(("machine", ""), run.machine.items())
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
    """Prints every row."""
    for section, rows in groupby(run.rows, key=lambda row: row.section):
        table = Table(title=f"{section} ({run.seconds[section]:.0f} s)", title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="right" if head in ("value", "ratio") else "left")
        for row in rows:
            table.add_row(*row.cells)
        console.print(table)
    for reason in run.skipped:
        console.print(f"left out: {reason}")
    for section, error in run.failed.items():
        console.print(f"[bold red]{section} failed:[/] {error}")
