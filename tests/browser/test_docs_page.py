"""/docs in a real browser, under the policy that the service sends: everything loads, and a call can be tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.consumer.kafka.topic import Topic
from flexihash.service.embedded_broker import EmbeddedBroker
from tests.integration.served import Service

playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser installs playwright")
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}; CHROMIUM may name another"
)
TOKEN = "tok-7f2b"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with EmbeddedBroker() as broker:
        connection = KafkaConnection(broker.bootstrap_servers)
        Topic(connection, "pages").create()
        service = Service(connection, "pages", tmp_path, FLEXIHASH_API_TOKEN=TOKEN)
        service.start().wait_ready()
        yield service
        service.close()


def test_a_call_is_tried_on_the_documentation_page(service: Service) -> None:
    complaints: list[str] = []
    foreign: list[str] = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        here = f"http://127.0.0.1:{service.port}"
        page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(here) else None)
        page.goto(f"{here}/docs")
        page.get_by_text("/v1/predictions", exact=True).wait_for()
        assert page.locator(".opblock").count() == 11

        page.get_by_role("button", name="Authorize").click()
        page.locator(".auth-container input").fill(TOKEN)
        page.locator(".auth-btn-wrapper .authorize").click()
        page.locator(".auth-btn-wrapper .btn-done").click()
        call = page.locator(".opblock", has_text="/v1/predictions")
        call.locator(".opblock-summary").click()
        call.get_by_role("button", name="Try it out").click()
        call.get_by_role("button", name="Execute").click()
        answer = call.locator(".live-responses-table .response-col_description code")
        answer.first.wait_for()
        assert '"predictions"' in answer.first.inner_text()
        assert call.locator(".live-responses-table .response-col_status").last.inner_text().strip() == "200"
        browser.close()
    assert complaints == []
    assert [url for url in foreign if not url.startswith("data:")] == []
