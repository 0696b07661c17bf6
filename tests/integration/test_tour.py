"""The README's tour as it stands: its blocks, pasted into terminals, twice in a row and once more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.integration.pasted import PATIENCE_S, paste_blocks, read_blocks

# The last two blocks are pasted twice while the service runs, and all of it once more after the broker has forgotten
# everything.
TERMINALS = f"""
for round in 1 2; do
    bash broker.sh >broker-$round.txt 2>&1 & broker=$!
    bash serve.sh >serve-$round.txt 2>&1 & serve=$!
    for paste in 1 2; do
        timeout {PATIENCE_S} bash tour.sh 2>&1 >tour-$round-$paste.txt | cat >tour-$round-$paste.err || break
    done
    kill -INT -- -$serve; wait $serve; echo serve $?
    kill -INT -- -$broker; wait $broker; echo broker $?
    bash file.sh >file-$round.txt 2>&1; echo file $?
done
"""


def test_the_tour_can_be_pasted_again_and_again(tmp_path: Path) -> None:
    broker, serve, asked, more, file = read_blocks("README.md", "A tour with curl")
    blocks = {"broker": broker, "serve": serve, "tour": asked + more, "file": file}
    for block in blocks.values():
        assert "#" not in block, "a comment is no comment in every shell that people paste into"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    ended, said = paste_blocks(blocks, TERMINALS, tmp_path, {})
    assert ended.stdout == "serve 0\nbroker 0\nfile 0\n" * 2, (ended.stderr, said)

    for number in (1, 2):
        for paste in (1, 2):
            before, after, embedded, model, saved = map(json.loads, said[f"tour-{number}-{paste}.txt"].splitlines())
            assert before["version"]["events"] == paste - 1, "the second broker has forgotten the first one's events"
            assert after["version"] == {"events": paste, "positions": {"flights:0": paste}}
            assert after["predictions"][0]["value"] > before["predictions"][0]["value"]
            assert len(embedded["embeddings"]) == 1
            assert model["version"]["events"] == saved["events"] == paste
            waited = (tmp_path / f"tour-{number}-{paste}.err").read_text().splitlines()
            ready, published = map(json.loads, waited[-2:])  # before that it says what it waits for
            assert ready["status"] == "ready"
            assert published["positions"] == {"flights:0": paste}
        assert "327,346 events learned in" in said[f"file-{number}.txt"]
    assert "a fresh model is started, as chosen" in said["serve-2.txt"]
