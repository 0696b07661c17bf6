"""Runs the benchmarks and writes what they find.

    python -m bench                            # everything, in bench/results
    python -m bench --only learning,http       # some sections, printed; nothing is written
    python -m bench --check                    # everything, compared with the committed bench/results/latest.json
    python -m bench --check FILE               # the results in FILE compared with the committed ones; runs nothing

Exits 1 where a section fails, or where --check finds something worse.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench.comparison import compare
from bench.report import save, show
from bench.results import load
from bench.sections import SECTIONS, run

RESULTS = Path(__file__).parent / "results"


def chosen(names: str) -> list[str]:
    """The sections of a list of names split by commas, in their usual order.

    Raises:
        argparse.ArgumentTypeError: one is not known.
    """
    wanted = names.split(",")
    unknown = sorted(set(wanted) - SECTIONS.keys())
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in wanted]


def main() -> int:
    """Runs, prints, writes or compares; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=chosen, metavar="A,B", help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the results there")
    parser.add_argument(
        "--check",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="FILE",
        help="compare with the committed results: this file's, or without one those of a run",
    )
    arguments = parser.parse_args()
    names = arguments.only or list(SECTIONS)
    is_file = arguments.check is not None and arguments.check != Path()
    committed = load(RESULTS / "latest.json") if arguments.check is not None else None
    found = load(arguments.check) if is_file else run(names)
    if not is_file:
        show(found, Console())
    out = arguments.out or (RESULTS if arguments.only is None and committed is None else None)
    if out is not None:
        save(found, out)
        if "learning" in found.seconds:
            from bench.plot import draw  # matplotlib

            draw(found.rows, out / "quality-speed.png")
        print(f"written: {out}", file=sys.stderr)
    if committed is None:
        return 1 if found.failed else 0
    complaints = compare(committed.rows, found.rows, names if arguments.only else list(found.seconds))
    print("\n".join(complaints) or "nothing is worse than the committed results")
    return 1 if complaints or found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
