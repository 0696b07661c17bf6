"""The page on files as it stands: its five commands, from a table to a served prediction."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.pasted import ACTIVATED, BROKER, SERVE_AND_ASK, paste_blocks, read_blocks

TERMINALS = f"""
bash make.sh; bash learn.sh >learn.txt 2>&1; echo learn $?
{BROKER}
{SERVE_AND_ASK}
"""


def test_from_a_table_to_a_prediction(tmp_path: Path) -> None:
    blocks = read_blocks("docs/files.md", "From a table to a prediction")
    named = dict(zip(("make", "learn", "broker", "serve", "ask"), blocks, strict=True))
    ended, said = paste_blocks(named, TERMINALS, tmp_path, ACTIVATED)
    assert ended.stdout == "learn 0\nask 0\nserve 0\nbroker 0\n", (ended.stderr, said)
    assert "5,000 events learned in" in said["learn.txt"]
    answer = json.loads(said["ask.txt"])
    assert answer["version"]["events"] == 5_000
    assert answer["predictions"][0]["value"] > 0.75, "0.9 is true of those at night about invoices, 0.3 of all"
    rows = [line.strip("│").split("│") for line in said["learn.txt"].splitlines()]
    kinds = {cells[0].strip(): cells[1].strip() for cells in rows if len(cells) == 2}
    assert kinds == {
        "numbers": "size",
        "categories": "priority",
        "times": "opened",
        "texts": "subject",
        "label": "late",
    }
