"""Every route of the app: who may call it, what its answers carry, and that no path of a request is one of a file."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from flexihash.service.pages import ASSETS, POLICY

TOKEN = "s3cret-token"
OPEN = {"/", "/livez", "/readyz", "/docs", "/docs/{name}", "/openapi.json"}
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def calls(app: Any) -> set[tuple[str, str]]:
    """Method and path of every route, however it was added."""
    return {(method, route.path) for route in iter_route_contexts(app.routes) for method in route.methods}


def fill(path: str) -> str:
    return path.replace("{name}", "swagger-ui.css")


def test_the_walk_finds_routes_of_every_kind(api: Any) -> None:
    found = calls(api.app)
    assert {("POST", "/v1/predictions"), ("GET", "/openapi.json"), ("GET", "/docs/{name}"), ("GET", "/livez")} < found
    assert len(found) >= 14


@pytest.mark.parametrize("public_metrics", [True, False])
def test_without_the_token_only_what_is_open_answers(open_api: Any, learner: Any, public_metrics: bool) -> None:
    api = open_api(api_token=SecretStr(TOKEN), public_metrics=public_metrics)
    is_open = OPEN | ({"/metrics"} if public_metrics else set())
    for method, path in sorted(calls(api.app)):
        for authorization in (
            None,
            "Bearer wrong",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            f"Basic {TOKEN}",
            TOKEN,
        ):
            headers = {"authorization": authorization} if authorization else {}
            response = api.call(method, fill(path), headers=headers)
            if path in is_open:
                assert response.status_code == 200, (method, path)
            else:
                assert response.status_code == 401, (method, path, authorization)
                assert response.headers["content-type"] == "application/problem+json"
                assert response.headers["www-authenticate"] == "Bearer"


def test_with_the_token_every_route_answers(open_api: Any, learner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexihash.service.routes.checkpointing.CHECKPOINT_TIMEOUT_S", 0.1)
    api = open_api(api_token=SecretStr(TOKEN), public_metrics=False)
    for method, path in sorted(calls(api.app)):
        response = api.call(method, fill(path), headers={"authorization": f"Bearer {TOKEN}"})
        expected = {"/v1/checkpoints": 504, "/v1/model": 405}.get(path, 415) if method == "POST" else 200
        assert response.status_code == expected, (method, path)


def test_every_answer_has_the_security_headers(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexihash.service.routes.checkpointing.CHECKPOINT_TIMEOUT_S", 0.1)
    for method, path in [*sorted(calls(api.app)), ("GET", "/no/such/route"), ("DELETE", "/v1/model"), ("PUT", "/docs")]:
        headers = api.call(method, fill(path)).headers
        expected = HEADERS | ({"content-security-policy": POLICY} if (method, path) == ("GET", "/docs") else {})
        assert {name: headers.get(name) for name in HEADERS} == expected, (method, path)
        assert len(headers["x-request-id"]) == 32
        assert "server" not in headers


class Page(HTMLParser):
    """What a page loads, and what it has inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.loads |= {value for name in ("src", "href") if (value := found.get(name))}
        self.inline += [name for name in found if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in found):
            self.inline.append(tag)


def test_the_docs_page_loads_nothing_from_elsewhere_and_has_nothing_inline(api: Any) -> None:
    response = api.get("/docs")
    page = Page(response.text)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert page.inline == []
    assert page.loads == {f"/docs/{name}" for name in ASSETS}
    assert "unsafe" not in response.headers["content-security-policy"]
    for name, (content, media_type) in ASSETS.items():
        asset = api.get(f"/docs/{name}")
        assert (asset.status_code, asset.content) == (200, content)
        assert asset.headers["content-type"].startswith(media_type)


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "__init__.py",
        "swagger-ui-bundle.js",
        "../main.py",
        "..%2fmain.py",
        "..%252fmain.py",
        "..\\main.py",
        "%2e%2e/main.py",
        "....//main.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "../../../../../../etc/passwd",
        "swagger-ui.css/../../main.py",
        "swagger-ui.css%00.js",
        "file:///etc/passwd",
        "",
    ],
)
def test_no_path_of_a_request_leads_to_a_file(api: Any, name: str) -> None:
    scope_path = "/docs/" + name
    response = api.run(ask_raw(api.app, scope_path.encode()))
    assert response["status"] in (404, 307), (name, response)
    assert b"root:" not in response["body"]
    assert b"def " not in response["body"]


async def ask_raw(app: Any, path: bytes) -> dict[str, Any]:
    """GET of a path that no client would send, as uvicorn hands it on."""
    from urllib.parse import unquote

    answer: dict[str, Any] = {"body": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        answer["status"] = message.get("status", answer.get("status"))
        answer["body"] += message.get("body", b"")

    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(path.decode()),
        "raw_path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"api")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("api", 80),
    }
    await app(scope, receive, send)
    return answer
