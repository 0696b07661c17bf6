"""The API in this process, over real tables that this process also teaches."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from flexihash.consumer.status import LearnerStatus, write_status
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.model.online import OnlineModel
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.api import create_app
from flexihash.service.memory import Memory
from flexihash.service.settings import Settings, load_settings

TOPIC = "flights"
WARM_UP_S = 120.0  # compiling the kernels on a slow machine


class Learner:
    """A learner without a topic: real tables in the memory folder, taught by hand."""

    def __init__(self, directory: Path, settings: Settings, tables: str = "tables-1") -> None:
        self.directory = directory
        self.position = 0
        self.status = LearnerStatus(
            state="learning", topic=TOPIC, tables=tables, pid=os.getpid(), started_at=time.time()
        )
        directory.mkdir(parents=True, exist_ok=True)
        self.model = OnlineModel(Tables.create(settings.model, directory / tables))
        self.report()

    def learn(self, features: dict[str, Any], label: float, times: int = 1) -> None:
        batch = hash_features([flatten(features, FeatureRules())] * times, self.model.config.n_rows)
        offsets = self.position + 1 + np.arange(times)
        self.model.learn(batch, np.full(times, float(label)), partition=0, next_offsets=offsets)
        self.position += times
        self.report(events=self.model.n_events)

    def report(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.status, name, value)
        write_status(self.directory, self.status)

    def close(self) -> None:
        self.model.tables.close()


class Api:
    """The app with its lifespan, called without a socket."""

    def __init__(self, settings: Settings) -> None:
        self.app: FastAPI = create_app(settings)
        self.memory: Memory = self.app.state.parts.memory
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api")

    def __enter__(self) -> Api:
        self._runner = asyncio.Runner()
        self._runner.run(self._lifespan.__aenter__())
        deadline = time.monotonic() + WARM_UP_S
        while "compiled" in (self.memory.explain_unready() or "") and time.monotonic() < deadline:
            self._runner.run(asyncio.sleep(0.01))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.run(self._client.aclose())
        self._runner.close()

    def run(self, work: Any) -> Any:
        """The result of a coroutine on the app's loop."""
        return self._runner.run(work)

    def call(self, method: str, path: str, **how: Any) -> httpx.Response:
        """One request; sees what the learner reported last."""
        self.memory.refresh()
        response: httpx.Response = self._runner.run(self._client.request(method, path, **how))
        return response

    def get(self, path: str, **how: Any) -> httpx.Response:
        return self.call("GET", path, **how)

    def post(self, path: str, **how: Any) -> httpx.Response:
        return self.call("POST", path, **how)

    def post_text(self, path: str, text: str | bytes, content_type: str = "application/json") -> httpx.Response:
        """A body exactly as it is given."""
        return self.post(path, content=text, headers={"content-type": content_type})


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("FLEXIHASH_", "PROMETHEUS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        memory_dir=tmp_path / "memory",
        checkpoint_dir=tmp_path / "checkpoints",
        topic=TOPIC,
        task=Task.BINARY,
        n_rows=1 << 10,
        max_body_bytes=100_000,
        max_instances=1_000,
        bootstrap_servers="127.0.0.1:9",  # "discard": nobody listens
    )


@pytest.fixture
def learner(settings: Settings) -> Iterator[Learner]:
    learner = Learner(settings.memory, settings)
    yield learner
    learner.close()


@pytest.fixture
def open_api(settings: Settings) -> Iterator[Callable[..., Api]]:
    """Opens the API with some settings changed; without the `learner` fixture, no learner has ever been."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(Api(settings.model_copy(update=changes)))


@pytest.fixture
def api(learner: Learner, open_api: Callable[..., Api]) -> Api:
    return open_api()
