"""What is said about a wrong request for predictions or embeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

PATHS = ("/v1/predictions", "/v1/embeddings")


def check_problem(response: Any, status: int, **members: Any) -> dict[str, Any]:
    """An RFC 9457 problem with these members; its id is that of the response."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert {name: body.get(name) for name in members} == members
    assert "Traceback" not in response.text
    return body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("bad", "key", "reason", "detail"),
    [
        ("3", None, "no_features", "instances[3]: the features are a number, not an object"),
        ("null", None, "no_features", "instances[3]: the features are null, not an object"),
        ("[1]", None, "no_features", "instances[3]: the features are an array, not an object"),
        ('{"price": NaN}', "price", "non_finite_number", 'instances[3]: "price" is not a finite number'),
        ('{"a": {"b": -Infinity}}', "a.b", "non_finite_number", 'instances[3]: "a.b" is not a finite number'),
        ('{"price": 1e999}', "price", "non_finite_number", 'instances[3]: "price" is not a finite number'),
        ('{"n": %s}' % ("9" * 400), "n", "non_finite_number", 'instances[3]: "n" is not a finite number'),
    ],
)
def test_a_bad_instance_is_named_with_its_key(
    api: Any, path: str, bad: str, key: str | None, reason: str, detail: str
) -> None:
    response = api.post_text(path, f'{{"instances": [{{}}, {{"a": 1}}, {{"a": "x"}}, {bad}, {{"a": 2}}]}}')
    check_problem(response, 422, where="instances[3]", key=key, reason=reason, detail=detail)


def test_an_instance_beyond_the_first_chunk_is_named_by_its_place_in_the_request(api: Any) -> None:
    instances = ["{}"] * 700
    instances[600] = '{"price": 1e999}'
    response = api.post_text("/v1/predictions", f'{{"instances": [{", ".join(instances)}]}}')
    check_problem(response, 422, where="instances[600]", key="price")


def test_names_that_are_no_unicode_are_named(api: Any) -> None:
    response = api.post_text("/v1/predictions", '{"instances": [{"a": 1}, {"bad": "\\ud800"}]}')
    check_problem(response, 422, where="instances[1]", key="bad=\\ud800", reason="not_unicode")


@pytest.mark.parametrize(
    ("changes", "instance", "key", "reason"),
    [
        ({"max_features": 3}, {"a": "1", "b": "2", "c": "3", "d": "4"}, None, "too_many_features"),
        ({"max_depth": 2}, {"a": {"b": {"c": 1}}}, "a.b", "too_deep"),
        ({"max_key_length": 5}, {"abcdef": 1}, "abcdef", "key_too_long"),
    ],
)
def test_limits_of_an_event_hold_for_an_instance(
    open_api: Any, learner: Any, changes: dict[str, int], instance: dict[str, Any], key: str | None, reason: str
) -> None:
    response = open_api(**changes).post("/v1/predictions", json={"instances": [{}, instance]})
    check_problem(response, 422, where="instances[1]", key=key, reason=reason)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `instances`"),
        ('{"instances": {}}', "Expected `array`, got `object`"),
        ('{"instances": [], "version": 3}', "unknown field `version`"),
        ("3", "Expected `object`, got `int`"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_another_shape_is_refused_and_the_right_one_shown(api: Any, path: str, text: str, said: str) -> None:
    detail = check_problem(api.post_text(path, text), 422, reason="shape")["detail"]
    assert said in detail
    assert '{"instances": [{...}, ...]}' in detail


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"instances": [}', b"\xff\xfe", b'{"instances": [{"a": "\xff"}', b"hello"]
)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_json_is_a_400(api: Any, path: str, text: bytes) -> None:
    body = check_problem(api.post_text(path, text), 400, reason="not_json")
    assert body["detail"].startswith("the body is not JSON: ")


def test_bytes_that_are_no_utf8_are_named_by_their_instance(api: Any) -> None:
    response = api.post_text("/v1/predictions", b'{"instances": [{}, {"a": "\xff"}]}')
    check_problem(response, 422, where="instances[1]", reason="not_json")


def test_nesting_without_end_is_refused(api: Any) -> None:
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    body = check_problem(api.post_text("/v1/predictions", b'{"instances": [' + deep + b"]}"), 400, reason="not_json")
    assert body["detail"] == "the body is not JSON: nested too deep"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/x-ndjson"]
)
def test_another_content_type_is_refused_and_the_right_one_named(api: Any, content_type: str) -> None:
    response = api.post_text("/v1/predictions", '{"instances": []}', content_type)
    body = check_problem(response, 415, reason="content_type")
    assert body["detail"] == f'content type "{content_type}" is not read here; send application/json'
    assert response.headers["accept"] == "application/json"


def test_a_content_type_with_a_charset_is_read(api: Any) -> None:
    assert api.post_text("/v1/predictions", '{"instances": []}', "Application/JSON; charset=utf-8").status_code == 200


def test_a_compressed_body_is_refused(api: Any) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    check_problem(api.post("/v1/predictions", content=b"x", headers=headers), 415, reason="content_encoding")


def test_more_instances_than_allowed_are_refused(open_api: Any, learner: Any) -> None:
    api = open_api(max_instances=3)
    assert api.post("/v1/predictions", json={"instances": [{}] * 3}).status_code == 200
    body = check_problem(api.post("/v1/predictions", json={"instances": [{}] * 4}), 413, reason="too_many")
    assert body["detail"] == "4 instances are more than max_instances, 3; send them in several requests"


def test_a_body_announced_too_large_is_refused_unread(open_api: Any, learner: Any) -> None:
    pieces = Pieces(b"x" * 1_000, 100)
    headers = {"content-type": "application/json", "content-length": "100000"}
    response = open_api(max_body_bytes=2_000).post("/v1/predictions", content=pieces, headers=headers)
    check_problem(
        response,
        413,
        reason="too_large",
        detail="100000 bytes are more than max_body_bytes, 2000; send several requests",
    )
    assert pieces.n_read == 0


def test_a_body_that_grows_too_large_is_refused_while_it_is_read(open_api: Any, learner: Any) -> None:
    pieces = Pieces(b"x" * 1_000, 100)
    headers = {"content-type": "application/json"}
    response = open_api(max_body_bytes=2_000).post("/v1/predictions", content=pieces, headers=headers)
    check_problem(response, 413, reason="too_large")
    assert pieces.n_read == 3


def test_a_body_of_exactly_the_limit_is_read(open_api: Any, learner: Any) -> None:
    text = '{"instances": []}'
    api = open_api(max_body_bytes=len(text))
    assert api.post_text("/v1/predictions", text).status_code == 200
    check_problem(api.post_text("/v1/predictions", text + " "), 413)


class Pieces:
    """A body in pieces, which counts those that were asked for."""

    def __init__(self, piece: bytes, n_pieces: int) -> None:
        self.n_read = 0
        self._piece = piece
        self._n_pieces = n_pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._n_pieces):
            self.n_read += 1
            yield self._piece


WHOLE = 'instances[1]: an instance is the features alone: send what is in "%s", without the object around it'


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "event", ['{"features": {"a": 1}}', '{"features": {}, "label": 1, "weight": 2, "id": "x", "timestamp": 7}']
)
@pytest.mark.parametrize("n_more", [0, 8])
def test_an_event_in_an_instance_s_place_is_told_what_to_send(api: Any, path: str, event: str, n_more: int) -> None:
    instances = ", ".join(["{}", event, *["{}"] * n_more])
    response = api.post_text(path, f'{{"instances": [{instances}]}}')
    detail = WHOLE % "features"
    check_problem(response, 422, where="instances[1]", key="features", reason="whole_event", detail=detail)


def test_an_event_is_told_by_the_names_that_are_set(open_api: Any, learner: Any) -> None:
    api = open_api(features_field="data", label_field="y")
    response = api.post("/v1/predictions", json={"instances": [{}, {"data": {"a": 1}, "y": 1}]})
    check_problem(response, 422, reason="whole_event", key="data", detail=WHOLE % "data")
    for instance in ({"features": {"a": 1}}, {"data": "x"}, {"data": {"a": 1}, "more": 1}, {"data.a": 1}):
        assert api.post("/v1/predictions", json={"instances": [instance]}).status_code == 200
    whole = open_api(features_field="").post("/v1/predictions", json={"instances": [{"features": {"a": 1}}]})
    assert whole.json()["predictions"][0]["features"] == 2


@pytest.mark.parametrize("charset", ["utf-16", "ISO-8859-1", '"latin1"', "us-ascii", "''"])
def test_a_charset_other_than_utf_8_is_refused(api: Any, charset: str) -> None:
    response = api.post_text("/v1/predictions", '{"instances": []}', f"application/json; charset={charset}")
    name = charset.strip('"').lower()
    detail = f'charset "{name}" is not read here; send UTF-8'
    check_problem(response, 415, reason="charset", detail=detail)


@pytest.mark.parametrize("parameters", ["charset=UTF-8", 'Charset="utf-8"', "charset=utf8", "boundary=x", ""])
def test_utf_8_by_any_of_its_names_is_read(api: Any, learner: Any, parameters: str) -> None:
    response = api.post_text("/v1/predictions", '{"instances": []}', f"application/json; {parameters}")
    assert response.status_code == 200
