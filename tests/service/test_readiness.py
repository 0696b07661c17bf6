"""Liveness, readiness with its reasons, and what follows when the learner comes, goes and comes back."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest

from flexihash.consumer.status import STALE_AFTER_S, STATUS_FILE, CheckpointStatus, DeadLettersStatus

FEATURES = {"carrier": "UA"}


def why_unready(api: Any) -> str:
    response = api.get("/readyz")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    detail: str = response.json()["detail"]
    return detail.removeprefix("not ready: ")


def predict(api: Any) -> Any:
    return api.post("/v1/predictions", json={"instances": [FEATURES]})


def test_ready_while_the_learner_learns(api: Any) -> None:
    assert api.get("/readyz").json() == {"status": "ready"}
    assert api.get("/livez").json() == {"status": "alive"}


def test_ready_with_what_needs_somebody_s_eyes(api: Any, learner: Any) -> None:
    checkpoint = CheckpointStatus(saved_at=1.0, failed_at=2.0, error="disk full", set_aside=["/c/1.damaged: torn"])
    letters = DeadLettersStatus(spilled=3, error="broker unreachable")
    learner.report(checkpoint=checkpoint, dead_letters=letters)
    assert api.get("/readyz").json() == {
        "status": "ready",
        "warnings": [
            "a checkpoint was damaged and is set aside: /c/1.damaged: torn",
            "the last checkpoint was not saved: disk full",
            "3 dead letters wait on the disk: broker unreachable",
        ],
    }
    learner.report(checkpoint=CheckpointStatus(saved_at=3.0, failed_at=2.0), dead_letters=DeadLettersStatus())
    assert api.get("/readyz").json() == {"status": "ready"}


def test_without_a_learner_it_lives_and_says_what_is_missing(open_api: Any, settings: Any) -> None:
    api = open_api()
    assert api.get("/livez").status_code == 200
    assert why_unready(api) == f"no learner has reported yet in {settings.memory / STATUS_FILE}"
    response = predict(api)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["detail"].startswith("there is no model to answer with yet: no learner has reported yet")


@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        ("starting", None, "the learner is starting"),
        ("restoring", None, "the learner is restoring a checkpoint"),
        (
            "connecting",
            "broker unreachable at localhost:9092",
            "the learner is connecting to the broker: broker unreachable at localhost:9092",
        ),
        ("stopping", None, "the learner is stopping"),
        ("stopped", None, "the learner has stopped"),
        ("failed", "topic absent", "the learner has failed and waits for someone to mend the cause: topic absent"),
    ],
)
def test_a_learner_that_does_not_learn_is_a_reason_but_the_answers_go_on(
    api: Any, learner: Any, state: str, error: str | None, reason: str
) -> None:
    learner.report(state=state, error=error)
    assert why_unready(api) == reason
    assert predict(api).status_code == 200


def test_a_learner_that_says_nothing_is_a_reason(api: Any, learner: Any) -> None:
    learner.status.updated_at = time.time() - STALE_AFTER_S - 7
    write_as_it_is(learner)
    assert why_unready(api) == f"the learner has not reported for {STALE_AFTER_S + 7:.0f} s; it was learning"
    assert predict(api).status_code == 200


def test_no_tables_yet_is_a_reason(open_api: Any, learner: Any) -> None:
    learner.report(tables=None)
    api = open_api()
    assert why_unready(api) == "the learner has made no tables yet"
    assert predict(api).status_code == 503


def test_tables_that_are_gone_are_a_reason(open_api: Any, learner: Any) -> None:
    learner.report(tables="tables-7")
    api = open_api()
    assert "tables-7" in why_unready(api)
    assert predict(api).status_code == 503


def test_a_status_that_cannot_be_read_is_a_reason_until_it_can(api: Any, learner: Any) -> None:
    (learner.directory / STATUS_FILE).write_text("{")
    assert f"{learner.directory / STATUS_FILE} cannot be read" in why_unready(api)
    assert predict(api).status_code == 200
    learner.report()
    assert api.get("/readyz").status_code == 200


def test_the_next_generation_of_tables_is_taken_when_it_is_named(api: Any, learner: Any, settings: Any) -> None:
    learner.learn(FEATURES, 1, times=9)
    restored = make_learner(learner, settings, "tables-2")
    learner.report(state="restoring")
    assert predict(api).json()["version"] == {"events": 9, "positions": {"flights:0": 9}}
    restored.learn(FEATURES, 0, times=4)
    restored.report(state="learning")
    body = predict(api).json()
    assert body["version"] == {"events": 4, "positions": {"flights:0": 4}}
    assert body["predictions"][0]["value"] < 0.5
    restored.close()


def test_a_folder_that_was_made_anew_is_another_generation(api: Any, learner: Any, settings: Any) -> None:
    learner.learn(FEATURES, 1, times=9)
    assert predict(api).json()["version"]["events"] == 9
    shutil.rmtree(learner.directory)
    assert predict(api).json()["version"]["events"] == 9  # the mapped memory outlives its names
    anew = make_learner(learner, settings, "tables-1")
    anew.learn(FEATURES, 1, times=2)
    assert predict(api).json()["version"]["events"] == 2
    anew.close()


def test_the_learner_is_followed_without_being_asked(api: Any, learner: Any) -> None:
    import asyncio

    learner.report(state="restoring")
    deadline = time.monotonic() + 10
    while api.memory.explain_unready() is None and time.monotonic() < deadline:
        api.run(asyncio.sleep(0.02))
    assert api.memory.explain_unready() == "the learner is restoring a checkpoint"


def make_learner(learner: Any, settings: Any, tables: str) -> Any:
    return type(learner)(learner.directory, settings, tables)


def write_as_it_is(learner: Any) -> None:
    """The status with the time that it bears."""
    import msgspec

    path = learner.directory / STATUS_FILE
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_bytes(msgspec.json.encode(learner.status))
    beside.replace(path)
