"""What comes of a command: shown for people, or printed as one line of JSON for programs. And how commands end."""

from __future__ import annotations

import json
import sys
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FINDING = 1  # the command did its work, and what it found is bad
EXIT_USER = 2  # something that the user must change; any other code but 0 is a fault of ours
EXIT_INTERRUPTED = 130  # as a shell has it for Ctrl-C

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON, for programs.")]


class Outcome:
    """What came of a command. The subclasses are dataclasses, whose fields are the JSON unless `describe` differs."""

    def describe(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        import msgspec

        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def show(self, console: Console) -> None:
        """Print it for people."""
        raise NotImplementedError


def show(outcome: Outcome, as_json: bool, to: IO[str] | None = None) -> None:
    """Print an outcome on stdout, or `to` another stream."""
    from rich.console import Console

    if as_json:
        print(json.dumps(outcome.describe()), file=to, flush=True)
    else:
        outcome.show(Console(file=to))


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line as it is: neither wrapped nor read as markup, whatever stands in it."""
    from rich.text import Text

    console.print(Text(line, style), soft_wrap=True)


def fail(line: str, code: int = EXIT_USER) -> NoReturn:
    """End the command with a line that tells why."""
    print(f"flexihash: {line}", file=sys.stderr)
    raise typer.Exit(code)
