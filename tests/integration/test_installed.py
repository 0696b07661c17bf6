"""What is installed works in a folder where a stranger's files have the names of ours: from the wheel, and editable."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from flexihash.consumer.kafka.connection import KafkaConnection
from flexihash.producer import encode, synthetic, write
from rig.service import Service
from tests.integration.brokers import describe_connection

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
INSTALLED = {"flexihash", "flexi_hash_embedding"}
SOURCES = ("flexi_hash_embedding", "flexihash", "model", "consumer", "producer", "service")
N_EVENTS = 500


class Installation(NamedTuple):
    """An environment's interpreter and command."""

    python: Path
    flexihash: Path


def run(command: list[str | Path], folder: Path) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", copy / "dist", copy],
        copy,
    )
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An environment with the wheel; what it depends on is taken from this one, as a whole torch is large."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], folder)
    return Installation(python, folder / "bin" / "flexihash")


@pytest.fixture(params=["wheel", "editable"])
def installation(request: pytest.FixtureRequest) -> Installation:
    if request.param == "editable":
        return Installation(Path(sys.executable), Path(sys.executable).parent / "flexihash")
    found: Installation = request.getfixturevalue("from_wheel")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stranger's, whose modules must not be taken for ours."""
    for name in SOURCES[2:]:
        (tmp_path / f"{name}.py").write_text("raise AssertionError(f'a stranger: {__file__}')\n")
    return tmp_path


def test_nothing_else_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == INSTALLED
    files = {str(path.relative_to(ROOT)) for name in SOURCES[2:] for path in (ROOT / name).rglob("*.py")}
    assert {f"flexihash/{file}" for file in files} <= set(names)
    assert {"flexihash/py.typed", "flexi_hash_embedding/py.typed"} <= set(names)


def test_the_library_part_of_the_readme_runs(installation: Installation, folder: Path) -> None:
    program = folder / "program.py"
    program.write_text(f"import doctest\nprint(doctest.testfile({str(README)!r}, module_relative=False))\n")
    assert re.search(r"failed=0, attempted=[1-9]", run([installation.python, program], folder))


def test_the_river_part_of_the_readme_runs(installation: Installation, folder: Path) -> None:
    section = README.read_text().partition("## For River users")[2]
    program = folder / "program.py"
    program.write_text("\n".join(line[4:] for line in section.splitlines() if line.startswith("    ")))
    assert run([installation.python, program], folder).startswith("LogLoss: 0.22")


def test_learns_a_file(installation: Installation, folder: Path) -> None:
    write(encode(synthetic(N_EVENTS)), folder / "events.ndjson")
    assert json.loads(run([installation.flexihash, "learn", "events.ndjson", "--json"], folder))["events"] == N_EVENTS


def test_serves(installation: Installation, folder: Path, tansu: KafkaConnection, topic_name: str) -> None:
    settings = {"FLEXIHASH_TOPIC": topic_name, "FLEXIHASH_CREATE_TOPIC": "true", "FLEXIHASH_N_ROWS": "1024"}
    service = Service(folder, {**describe_connection(tansu), **settings}, ["serve"])
    service.program = [str(installation.flexihash)]
    del service.environment["PYTHONPATH"]
    try:
        service.start().wait_ready()
        answer = service.http.post("/v1/predictions", json={"instances": [{"a": 1}]})
        assert [one["value"] for one in answer.json()["predictions"]] == [pytest.approx(0.5, abs=0.01)]
        assert service.stop() == 0
    finally:
        service.close()
