"""The page on files as it stands: its five commands, from a table to a served prediction."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from flexihash.service.environment import PREFIX
from tests.integration.test_tour import PATIENCE_S, find_network

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
TERMINALS = f"""
set -m -o pipefail
bash make.sh; bash learn.sh >learn.txt 2>&1; echo learn $?
bash broker.sh >broker.txt 2>&1 & broker=$!
bash serve.sh >serve.txt 2>&1 & serve=$!
timeout {PATIENCE_S} bash ask.sh >ask.txt 2>ask.err; echo ask $?
kill -INT -- -$serve; wait $serve; echo serve $?
kill -INT -- -$broker; wait $broker; echo broker $?
"""


def read_blocks() -> list[str]:
    section = PAGE.read_text().partition("## From a table to a prediction")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?m)(?:^    .*\n)+", section)]


def test_from_a_table_to_a_prediction(tmp_path: Path) -> None:
    for name, block in zip(("make", "learn", "broker", "serve", "ask"), read_blocks(), strict=True):
        (tmp_path / f"{name}.sh").write_text(block)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment[f"{PREFIX}MEMORY_DIR"] = str(tmp_path / "memory")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ended = subprocess.run(
        [*find_network(), "bash", "-c", TERMINALS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
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
