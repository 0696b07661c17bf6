"""What a benchmark finds: rows with a value, a unit and a ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

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


def learners(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """The measures of each learner in the section `learning`, by case and measure; only cases with speed and loss."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.section == "learning":
            cases.setdefault(row.case, {})[row.measure] = row
    return {case: found for case, found in cases.items() if {"speed", "log loss"} <= found.keys()}
