"""The shape of the code: short functions, files of a bearable length, and one name for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[2]
PACKAGES = ("flexi_hash_embedding", "model", "consumer", "producer", "service")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function)]


def code_lines(function: Function) -> int:
    """Of the whole function, but for its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def is_compiled(function: Function) -> bool:
    """Compiled stages read from top to bottom too, but a call between them is not free everywhere."""
    names = {
        node.id for decorator in function.decorator_list for node in ast.walk(decorator) if isinstance(node, ast.Name)
    }
    return bool(names & {"njit", "compiled", "inlined"})


def test_functions_are_short() -> None:
    lengths = [code_lines(function) for file in FILES for function in functions(file) if not is_compiled(function)]
    assert len(lengths) > 500
    assert median(lengths) <= 6
    assert quantiles(lengths, n=10)[-1] <= 16
    assert max(lengths) <= MAX_FUNCTION_LINES


def test_files_are_of_a_bearable_length() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {file: n_lines for file, n_lines in lengths.items() if n_lines > MAX_FILE_LINES} == {}


def test_no_two_files_have_one_name() -> None:
    named = defaultdict(list)
    for file in FILES:
        if file.name != "__init__.py":
            named[file.name].append(str(file.relative_to(ROOT)))
    assert [files for files in named.values() if len(files) > 1] == []
