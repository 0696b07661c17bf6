"""The pages in docs/ say what the code does: their tables are run, and their lists compared."""

from __future__ import annotations

import ast
import datetime
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import EventDecoder
from flexihash.consumer.letters import (
    HEADER_PREFIX,
    MAX_LETTER_BYTES,
    NULL_HEADERS,
    TOPIC_SUFFIX,
    make_letter,
    shorten,
    write_headers,
)
from flexihash.consumer.records import Record
from flexihash.consumer.status import State
from flexihash.consumer.wire import EventFormat
from flexihash.model import contexts
from flexihash.model.config import ModelConfig
from flexihash.model.features import FeatureRules, flatten, hash_features
from flexihash.model.kernel.rows import RECORD_WIDTH
from flexihash.model.metrics import COUNTED
from flexihash.model.model_errors import FeatureError
from flexihash.model.rates import OF_A_CLASS
from flexihash.model.saving import ROW_TENSORS
from flexihash.model.tables import Tables
from flexihash.model.tasks import Task
from flexihash.service.environment import PREFIX
from flexihash.service.memory import STATES
from flexihash.service.settings import Settings, load_settings
from flexihash.service.supervisor import API_GRACE_S, LEARNER_GRACE_S

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def table(page: str, *heading: str) -> list[list[str]]:
    """The cells of every table of a page whose heading begins so."""
    rows: list[list[str]] = []
    lines = iter((DOCS / page).read_text().splitlines())
    for line in lines:
        if cells(line)[: len(heading)] == list(heading):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
    assert rows, f"{page} has no table {heading}"
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def codes(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]*)`", cell)


def settings_of(cell: str) -> Settings:
    """The settings that a cell names: `FLEXIHASH_MAX_DEPTH=2`."""
    named = [code.removeprefix(PREFIX).split("=", 1) for code in codes(cell) if code.startswith(PREFIX)]
    return load_settings(**{name.lower(): value for name, value in named})


def decoder_of(settings: Settings) -> EventDecoder:
    return EventDecoder(settings.event_format, settings.task, settings.n_rows)


def describe(features: list[Any]) -> list[str]:
    return [f"{name}={value}" if isinstance(value, str) else f"{name}: {value:g}" for name, value in features]


# --- events.md ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table("events.md", "features", "become"), ids=lambda row: row[0])
def test_features_become_what_the_page_says(row: list[str]) -> None:
    (event,) = codes(row[0])
    decoder = EventDecoder(EventFormat(features_field=""), Task.BINARY, 2)
    assert describe(decoder.decode_one(event.encode()).features) == codes(row[1])


@pytest.mark.parametrize("row", table("events.md", "setting", "features", "become"), ids=lambda row: row[0])
def test_settings_change_features_as_the_page_says(row: list[str]) -> None:
    (features,) = codes(row[1])
    event = f'{{"features": {features}}}'.encode()
    assert describe(decoder_of(settings_of(row[0])).decode_one(event).features) == codes(row[2])


def test_an_existing_topic_is_learned_as_it_is() -> None:
    page = (DOCS / "events.md").read_text()
    shown = r"^    (FLEXIHASH_FEATURES_FIELD=.*) flexihash serve.*\n\n    (.*)$"
    ((command, event),) = re.findall(shown, page, re.MULTILINE)
    read = decoder_of(settings_of("".join(f"`{part}`" for part in command.split()))).decode_one(event.encode())
    assert describe(read.features) == ["carrier=UA", "distance: 1400", "distance=1400"]
    assert read.label == 1.0


@pytest.mark.parametrize("row", table("events.md", "settings", "event", "label", "features"), ids=lambda row: row[1])
def test_events_are_read_as_the_page_says(row: list[str]) -> None:
    (event,) = codes(row[1])
    decoder = decoder_of(settings_of(row[0]))
    read, decoded = decoder.decode_one(event.encode()), decoder.decode([event.encode()])
    assert read.label == float(codes(row[2])[0])
    assert decoded.labels.tolist() == [read.label]
    assert describe(read.features) == codes(row[3])


def test_the_first_event_can_be_learned() -> None:
    event = re.findall(r"^    (\{.*\})$", (DOCS / "events.md").read_text(), re.MULTILINE)[0]
    assert decoder_of(load_settings()).decode_one(event.encode()).label == 1.0


def examples() -> Iterator[tuple[str, bytes, str, str]]:
    """Reason, bytes, settings and message of each rejection that has an example."""
    for reason, example, message in table("events.md", "reason", "example", "message"):
        message = message.replace(r"\`", "`")
        text = codes(example)
        if example.startswith("no bytes"):
            yield codes(reason)[0], b"", "", message
        elif example.startswith("bytes"):
            yield codes(reason)[0], bytes.fromhex(text[0]), "", message
        elif text and text[0][0] in "{[":
            yield codes(reason)[0], text[0].encode(), example, message


@pytest.mark.parametrize(
    ("reason", "event", "settings", "message"), list(examples()), ids=lambda value: str(value)[:40]
)
def test_events_are_rejected_as_the_page_says(reason: str, event: bytes, settings: str, message: str) -> None:
    with pytest.raises(EventRejected) as rejected:
        decoder_of(settings_of(settings)).decode_one(event)
    assert (rejected.value.reason, str(rejected.value)) == (reason, message)


def test_what_only_python_can_do_is_rejected_as_the_page_says() -> None:
    messages = {codes(row[0])[0]: row[2] for row in table("events.md", "reason", "example", "message")}
    with pytest.raises(FeatureError) as unknown:
        flatten({"when": datetime.date(2013, 1, 1)}, FeatureRules())
    with pytest.raises(FeatureError) as surrogate:
        hash_features([[("k", "\ud800")]], 2)
    for error in (unknown.value, surrogate.value):
        assert messages[error.reason] == str(error)


def test_the_page_has_every_reason_and_no_other() -> None:
    listed = {codes(row[0])[0] for row in table("events.md", "reason", "example", "message")}
    assert listed == set(reasons())


def reasons() -> Iterator[str]:
    """The slugs in the code: where they stand among the arguments of what rejects."""
    place = {"EventRejected": 0, "RowDeleted": 0, "FeatureError": 1, "_reject": 2}
    for file in ("consumer/wire.py", "consumer/envelopes.py", "consumer/lesson.py", "model/features.py"):
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in place and isinstance(reason := node.args[place[name]], ast.Constant):
                    yield str(reason.value)


def test_the_page_has_every_header_of_a_dead_letter() -> None:
    record = Record("events", 0, 7, 1, None, b"", (("trace", None),))
    huge = record._replace(value=bytes(MAX_LETTER_BYTES))
    letters = (shorten(make_letter(one, "decode", "not_json", "not JSON")) for one in (record, huge))
    written = {name for letter in letters for name, _ in write_headers(letter)}
    listed = {code for row in table("events.md", "header", "meaning") for code in codes(row[0])}
    assert listed == {name for name in written if name.startswith(HEADER_PREFIX)}
    assert NULL_HEADERS in listed
    assert f"`{TOPIC_SUFFIX}` after it" in (DOCS / "events.md").read_text()


# --- metrics.md -----------------------------------------------------------------------------------------------------


def test_the_page_has_every_metric_of_every_task() -> None:
    measured = {str(task): task.record.metrics for task in Task}
    rows = table("metrics.md", "metric", "tasks")
    for task, metrics in measured.items():
        listed = {code for row in rows if row[1] == "all" or task in row[1].split(", ") for code in codes(row[0])}
        assert listed == {*COUNTED, *(name.removeprefix("baseline_") for name in metrics)}, task


def test_the_page_has_every_metric_of_a_class() -> None:
    assert [codes(row[0])[0] for row in table("metrics.md", "metric", "meaning")] == list(OF_A_CLASS)


# --- operations.md, architecture.md ---------------------------------------------------------------------------------


def test_operations_explain_every_state_but_learning() -> None:
    assert set(STATES) == set(get_args(State)) - {"learning"}
    explained = {code for row in table("operations.md", "`detail`") for code in codes(row[0])}
    for text in STATES.values():
        assert any(code.removesuffix(": ...") == text for code in explained), text


def test_operations_and_http_name_the_same_metrics() -> None:
    def named(page: str) -> set[str]:
        names = set(re.findall(r"\bflexihash_\w+", (DOCS / page).read_text()))
        return names - {"flexihash_embedding"}

    assert named("operations.md") == {codes(row[0])[0] for row in table("http.md", "metric", "labels")}


def test_a_row_takes_the_bytes_that_the_pages_say() -> None:
    tensors = Tables.create(ModelConfig(n_rows=1024, embeddings=True)).tensors
    assert sum(tensors[name].nbytes for name in ROW_TENSORS) == 160 * 1024
    assert tensors[contexts.TABLE].nbytes == 80 * 1024
    rings = tensors["recent"].nbytes
    assert 4.1e6 < rings < 4.3e6
    beside = sum(tensor.nbytes for name, tensor in tensors.items() if name not in (*ROW_TENSORS, contexts.TABLE))
    assert 0.9e6 < beside - rings < 1.1e6
    for row in table("operations.md", "`FLEXIHASH_N_ROWS`"):
        power = int(row[0].removeprefix("2^").split()[0])
        sizes = [float(size) * {"MiB": 2**20, "GiB": 2**30}[unit] for size, unit in map(str.split, row[1:])]
        assert sizes == [240 * 2**power * times for times in (1, 2, 1, 4, 35)]
    assert sum(int(row[0]) for row in table("architecture.md", "elements")) == RECORD_WIDTH


def test_operations_say_how_long_a_stop_may_take() -> None:
    page = " ".join((DOCS / "operations.md").read_text().split())
    assert f"The learner is given {LEARNER_GRACE_S:.0f} seconds, an API worker {API_GRACE_S:.0f}" in page


# --- all pages ------------------------------------------------------------------------------------------------------


def test_settings_in_the_pages_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for page in PAGES:
        assert set(re.findall(r"\bFLEXIHASH_[A-Z_]*[A-Z]", page.read_text())) <= known, page


def test_links_lead_somewhere() -> None:
    links = [
        (page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link
    ]
    assert len(links) > 10
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_files_in_the_pages_exist() -> None:
    for page in PAGES:
        for code in codes(page.read_text()):
            if re.fullmatch(r"(model|consumer|service|producer|bench|tests)/\w+\.py", code):
                assert (ROOT / code).is_file(), (page.name, code)


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=]", dependency)[0] for dependency in project["dependencies"]}
    page = "decisions/2026-11-24-dependencies.md"
    assert {row[0] for row in table(page, "package", "for")} == names
    extras = {re.split(r"[\[<>=]", one)[0] for group in project["optional-dependencies"].values() for one in group}
    assert {name for name in extras if f"`{name}`" not in (DOCS / page).read_text()} == set()


def test_the_changelog_begins_with_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.findall(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == project["version"]
