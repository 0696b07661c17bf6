"""A learner that is stopped while it holds the tables: the API says so and goes on, and answers when it may."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flexihash.model.model_errors import TablesHeld
from flexihash.model.tables import Tables
from flexihash.service.memory import READ_S

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from flexihash.model.tables import Tables
with Tables.attach(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""
INSTANCES = {"instances": [{"carrier": "UA"}]}


class Holder:
    """A process that has the tables' lock, stopped as by SIGSTOP, until it is let go."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def let_go(self) -> None:
        """Goes on working, and ends."""
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate()


@pytest.fixture
def holder(api: Any, learner: Any) -> Iterator[Holder]:
    learner.learn({"carrier": "UA"}, 1, times=3)
    assert api.get("/readyz").status_code == 200
    holder = Holder(learner.model.tables.directory)
    yield holder
    holder.process.kill()
    holder.process.communicate()


def test_a_reader_gives_up_in_time(holder: Holder, learner: Any) -> None:
    tables = Tables.attach(learner.model.tables.directory)
    for patience_s in (0.0, 0.01):
        with pytest.raises(TablesHeld, match=str(learner.model.tables.directory)), tables.reading(patience_s):
            raise AssertionError("read while it was written")
    holder.let_go()
    with tables.reading():
        assert learner.model.n_events == 3
    tables.close()


def test_what_needs_no_tables_is_answered_while_the_rest_waits(api: Any, learner: Any, holder: Holder) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            calls = [client.post(f"/v1/{name}", json=INSTANCES) for name in ("predictions", "embeddings") * 20]
            waiting = [asyncio.create_task(call) for call in (*calls, client.get("/v1/model"))]
            while not all(done.done() for done in waiting):
                await asyncio.sleep(0.01)
                assert (await client.get("/livez")).status_code == 200
                assert (await client.get("/readyz")).status_code in (200, 503)
                assert (await client.get("/metrics")).status_code == 200
            return [await done for done in waiting]

    for response in api.run(asyncio.wait_for(ask(), 30 * READ_S)):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["reason"] == "tables_held"
        assert "did not let go within 2 s" in response.json()["detail"]
    unready = api.get("/readyz")
    assert unready.status_code == 503
    assert "the learner has held its tables for" in unready.json()["detail"]

    holder.let_go()
    learner.report()  # as it does when it goes on; on a busy machine its last word is old by now
    assert api.get("/readyz").status_code == 200
    assert api.post("/v1/predictions", json=INSTANCES).json()["version"]["events"] == 3


def test_what_waits_is_answered_when_the_learner_lets_go(api: Any, holder: Holder) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            waiting = asyncio.create_task(client.post("/v1/predictions", json=INSTANCES))
            done, _ = await asyncio.wait([waiting], timeout=READ_S / 10)
            assert not done
            await asyncio.to_thread(holder.let_go)
            return await waiting

    response = api.run(ask())
    assert response.status_code == 200
    assert response.json()["version"]["events"] == 3


def test_a_holder_that_is_killed_lets_go(api: Any, holder: Holder) -> None:
    holder.process.kill()
    holder.process.wait()
    assert api.post("/v1/predictions", json=INSTANCES).json()["version"]["events"] == 3
