"""A row of a table as the JSON of a flat event: each cell by itself, whatever stands in the others.

So what is learned of a row does not depend on where in the file a learner began.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flexihash.consumer.consumer_errors import FileUnreadable

NULLS = frozenset(("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL"))
BOOLEANS = {word: word.lower().encode() for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
SHORT_NUMBER = re.compile(r"-?(?:(?:0|[1-9]\d*)\.|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)  # 5. and .5
KEPT_CHARACTERS = 64  # of a cell that is kept; longer ones seldom come again
KEPT_CELLS = 1 << 14


def write_cell(text: str) -> bytes:
    """A cell as JSON: null, true, false, a number where it is plainly one, else a string; without the spaces around it.

    Raises:
        UnicodeEncodeError: it holds what was not UTF-8.
    """
    text = text.strip()
    if text in NULLS:
        return b"null"
    if text in BOOLEANS:
        return BOOLEANS[text]
    if JSON_NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return text.encode()
    if SHORT_NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return repr(float(text)).encode()
    return msgspec.json.encode(text)


class CellBook(dict[str, bytes]):
    """The JSON of cells by their text, those met before at hand."""

    def __missing__(self, text: str) -> bytes:
        cell = write_cell(text)
        if len(text) <= KEPT_CHARACTERS:
            if len(self) >= KEPT_CELLS:
                self.clear()
            self[text] = cell
        return cell


def write_template(path: Path, names: Sequence[str]) -> bytes:
    """What gives a row's JSON when its cells' JSON is put in by ``%``.

    Raises:
        FileUnreadable: two columns have one name.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileUnreadable(
            f"{path} has several columns with the name {twice[0]!r}; does its first line name the columns, each by a"
            " name of its own?"
        )
    keys = (msgspec.json.encode(name).replace(b"%", b"%%") for name in names)
    return b"{" + b",".join(key + b":%b" for key in keys) + b"}"
