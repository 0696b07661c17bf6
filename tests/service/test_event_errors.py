"""POST /v1/events: what is refused before anything is published, and a broker that is away."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from flexihash.service.parts import MAX_PUBLISHING

GOOD = '{"features": {"carrier": "UA"}, "label": 1}'
NDJSON = "application/x-ndjson"


def check_problem(response: Any, status: int, **members: Any) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert {name: body.get(name) for name in members} == members
    detail: str = body["detail"]
    return detail


@pytest.fixture
def published(api: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would reach the broker. Reaching a real one is tested in tests/integration."""
    values: list[Any] = []

    def record(events: list[bytes]) -> list[tuple[int, int]]:
        values.extend(events)
        return [(0, 41 + index) for index in range(len(events))]

    monkeypatch.setattr(api.app.state.parts.publisher, "publish", record)
    return values


BAD_EVENTS = [
    ('{"label": 1}', "features", "no_features", 'the event has no "features"'),
    ('{"features": [1], "label": 1}', None, "no_features", "the features are an array, not an object"),
    ('{"features": {"a": 1}, "label": 2}', "label", "bad_label", "label 2 is not 0 or 1 (task=binary)"),
    ('{"features": {"a": 1}, "label": "yes"}', "label", "bad_label", 'label "yes" is not a number (task=binary)'),
    ('{"features": {"a": 1}, "weight": -1}', "weight", "bad_weight", "weight -1 is not from 0 to 1e+06"),
    ('{"features": {"price": NaN}}', "price", "non_finite_number", '"price" is not a finite number'),
    ('{"features": {"price": 1e999}}', "price", "non_finite_number", '"price" is not a finite number'),
    ("7", None, "not_an_object", "the event is a number, not an object"),
]


@pytest.mark.parametrize(("bad", "key", "reason", "what"), BAD_EVENTS)
@pytest.mark.parametrize(
    ("template", "content_type", "index"),
    [
        ("%s", "application/json", 0),
        (f"[{GOOD}, {GOOD}, %s, {GOOD}]", "application/json", 2),
        (f"{GOOD}\n\n{GOOD}\r\n%s\n{GOOD}\n", NDJSON, 2),
    ],
)
def test_one_bad_event_is_named_and_nothing_is_published(
    api: Any,
    published: list[Any],
    bad: str,
    key: str | None,
    reason: str,
    what: str,
    template: str,
    content_type: str,
    index: int,
) -> None:
    response = api.post_text("/v1/events", template % bad, content_type)
    detail = check_problem(response, 422, where=f"events[{index}]", key=key, reason=reason)
    assert detail == f"events[{index}]: {what}"
    assert published == []


def test_events_are_published_as_they_were_sent(api: Any, published: list[Any]) -> None:
    odd = '{"label":0 , "features":{"n": 1.50, "extra": null}, "unknown": [1]}'
    assert api.post_text("/v1/events", f" [{GOOD},{odd}] ").json() == {"events": 2, "positions": {"flights:0": 43}}
    assert api.post_text("/v1/events", odd).json() == {"events": 1, "positions": {"flights:0": 42}}
    assert api.post_text("/v1/events", f"{odd}\n{GOOD}", NDJSON).json()["events"] == 2
    assert published == [event.encode() for event in (GOOD, odd, odd, odd, GOOD)]


def test_an_event_without_a_label_is_published_too(api: Any, published: list[Any]) -> None:
    assert api.post("/v1/events", json={"features": {"a": 1}}).status_code == 200
    assert [json.loads(value) for value in published] == [{"features": {"a": 1}}]


@pytest.mark.parametrize(
    ("text", "content_type"), [("", "application/json"), ("[]", "application/json"), ("", NDJSON), ("\n \r\n", NDJSON)]
)
def test_no_events_are_a_422(api: Any, published: list[Any], text: str, content_type: str) -> None:
    assert check_problem(api.post_text("/v1/events", text, content_type), 422) == "there are no events in the body"


def test_a_broken_array_is_a_400(api: Any, published: list[Any]) -> None:
    detail = check_problem(api.post_text("/v1/events", f"[{GOOD}, {GOOD}"), 400, reason="not_json")
    assert detail.startswith("the body is not JSON: ")
    assert published == []


def test_a_broken_event_is_named(api: Any, published: list[Any]) -> None:
    response = api.post_text("/v1/events", f"{GOOD}\n{{\n", NDJSON)
    assert check_problem(response, 422, where="events[1]", reason="not_json").startswith("events[1]: not JSON: ")


def test_the_limits_hold_for_events(open_api: Any, learner: Any) -> None:
    api = open_api(max_instances=2, max_body_bytes=500, max_event_bytes=100)
    check_problem(api.post_text("/v1/events", "\n".join([GOOD] * 3), NDJSON), 413, reason="too_many")
    check_problem(api.post_text("/v1/events", " " * 501), 413, reason="too_large")
    large = json.dumps({"features": {"a": "x" * 200}})
    check_problem(api.post_text("/v1/events", large), 422, where="events[0]", reason="too_large")


def test_other_content_types_are_refused(api: Any, published: list[Any]) -> None:
    detail = check_problem(api.post_text("/v1/events", GOOD, "text/plain"), 415, reason="content_type")
    assert detail == 'content type "text/plain" is not read here; send application/json or application/x-ndjson'


def test_a_broker_that_is_away_is_a_503_that_asks_to_come_back(api: Any) -> None:
    response = api.post_text("/v1/events", GOOD)
    detail = check_problem(response, 503, reason="broker")
    assert detail.startswith("the events were not published: ")
    assert "127.0.0.1:9" in detail
    assert response.headers["retry-after"] == "1"


def test_predictions_need_no_broker(api: Any) -> None:
    assert api.post_text("/v1/predictions", '{"instances": [{}]}').status_code == 200


def test_no_more_requests_wait_for_the_broker_than_have_a_thread(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = api.app.state.parts
    release = threading.Event()

    def wait(events: list[bytes]) -> list[tuple[int, int]]:
        assert release.wait(30)
        return [(0, 7)]

    monkeypatch.setattr(parts.publisher, "publish", wait)

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            headers = {"content-type": "application/json"}
            calls = [
                asyncio.create_task(client.post("/v1/events", content=GOOD, headers=headers))
                for _ in range(MAX_PUBLISHING + 1)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            release.set()
            return await asyncio.gather(*calls)

    responses = api.run(crowd())
    assert sorted(response.status_code for response in responses) == [200] * MAX_PUBLISHING + [503]
    (refused,) = [response for response in responses if response.status_code == 503]
    check_problem(refused, 503, reason="busy")


@pytest.mark.parametrize(
    ("body", "content_type", "n_unlabelled"),
    [
        ('{"features": {"a": 1}, "lable": 1}', "application/json", 1),
        (f'[{GOOD}, {{"features": {{}}, "label": null}}, {GOOD}, {{"features": {{}}}}]', "application/json", 2),
        (f'{GOOD}\n{{"features": {{}}}}\n', NDJSON, 1),
    ],
)
def test_events_without_a_label_are_published_and_the_answer_says_that_they_teach_nothing(
    api: Any, published: list[Any], body: str, content_type: str, n_unlabelled: int
) -> None:
    answer = api.post_text("/v1/events", body, content_type).json()
    assert answer["events"] == len(published) >= n_unlabelled
    assert answer["unlabelled"] == n_unlabelled
    assert answer["warnings"] == [
        f'predictions learn nothing from {n_unlabelled} of {len(published)} events: no "label" in them'
    ]


def test_events_with_labels_are_answered_without_a_warning(api: Any, published: list[Any]) -> None:
    assert set(api.post_text("/v1/events", f"[{GOOD}, {GOOD}]").json()) == {"events", "positions"}


def test_events_in_another_charset_are_refused(api: Any, published: list[Any]) -> None:
    response = api.post_text("/v1/events", GOOD, f"{NDJSON}; charset=utf-16")
    assert check_problem(response, 415, reason="charset") == 'charset "utf-16" is not read here; send UTF-8'
    assert published == []
