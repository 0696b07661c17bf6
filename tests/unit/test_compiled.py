"""Compiled code on disk: taken again as long as no file changed that it was made from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

from flexihash.consumer.scan.scanner import scan_messages
from flexihash.model.compiled import PACKAGES, source_stamp

ROOT = Path(__file__).parents[2]
PRODUCT = ("flexi_hash_embedding", "model", "consumer", "producer", "service", "flexihash", "bench")

# Two files of a package: compiled code in one, what it reads in the other.
PRICES = """
from typing import NamedTuple

TAX = 2.0

class Price(NamedTuple):
    net: float
"""
SUMS = """
from flexihash.consumer.prices import TAX, Price
from flexihash.model.compiled import entry, inlined, part

@inlined
def gross(price):
    return price.net + TAX

@part
def twice(x):
    return 2.0 * x

@entry
def add_up(price):
    return twice(gross(price))
"""
RUN = """
import json
from flexihash.consumer import sums
total = sums.add_up(sums.Price(3.0))
hits, misses = (sum(counts.values()) for counts in (sums.add_up.stats.cache_hits, sums.add_up.stats.cache_misses))
print(json.dumps({"total": total, "hits": hits, "misses": misses}))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages, links and all, and in it the two files."""
    for package in PRODUCT:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "checkout" / package, symlinks=True, ignore=ignored)
    (tmp_path / "checkout/consumer/prices.py").write_text(PRICES)
    (tmp_path / "checkout/consumer/sums.py").write_text(SUMS)
    return tmp_path / "checkout"


def run_in(checkout: Path, cache: Path | None = None) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": str(checkout)} | ({"NUMBA_CACHE_DIR": str(cache)} if cache else {})
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_change_of_another_file_compiles_anew(checkout: Path) -> None:
    assert run_in(checkout) == {"total": 10.0, "hits": 0, "misses": 1}
    assert run_in(checkout) == {"total": 10.0, "hits": 1, "misses": 0}
    replace(checkout / "consumer/prices.py", "TAX = 2.0", "TAX = 4.0")
    assert run_in(checkout) == {"total": 14.0, "hits": 0, "misses": 1}
    assert run_in(checkout) == {"total": 14.0, "hits": 1, "misses": 0}


@pytest.mark.parametrize("source", ["flexi_hash_embedding/hashing.py", "model/kernel/losses.py", "consumer/wire.py"])
def test_every_file_that_compiled_code_can_read_counts(checkout: Path, source: str) -> None:
    run_in(checkout)
    with (checkout / source).open("a") as file:
        file.write("\n")
    assert run_in(checkout) == {"total": 10.0, "hits": 0, "misses": 1}


def test_a_file_that_it_cannot_read_does_not_count(checkout: Path) -> None:
    run_in(checkout)
    with (checkout / "service/api.py").open("a") as file:
        file.write("\n")
    assert run_in(checkout) == {"total": 10.0, "hits": 1, "misses": 0}


def test_a_class_that_is_gone_is_not_looked_for(checkout: Path) -> None:
    """What was kept names the classes of its arguments; Numba alone would fail to read that."""
    run_in(checkout)
    replace(checkout / "consumer/prices.py", "class Price", "class Cost")
    replace(checkout / "consumer/sums.py", "import TAX, Price", "import TAX, Cost as Price")
    assert run_in(checkout) == {"total": 10.0, "hits": 0, "misses": 1}


def test_the_cache_may_be_moved(checkout: Path, tmp_path: Path) -> None:
    """As the image does: compiled into one folder, taken from a copy of it."""
    run_in(checkout, tmp_path / "built")
    shutil.copytree(tmp_path / "built", tmp_path / "run")
    assert run_in(checkout, tmp_path / "run") == {"total": 10.0, "hits": 1, "misses": 0}
    assert not list(checkout.rglob("*.nbi"))


def test_functions_of_others_are_cached_as_numba_does() -> None:
    theirs = numba.njit(json.dumps, cache=True)
    assert theirs._cache._cache_file._version == numba.__version__
    assert scan_messages._cache._cache_file._version == f"{numba.__version__}+{source_stamp()}"


def test_everything_compiled_comes_from_one_place() -> None:
    """And lies in a package whose files count."""
    sources = {path: path.read_text() for package in PRODUCT for path in (ROOT / package).rglob("*.py")}
    compiling = {path for path, source in sources.items() if re.search(r"\bn?jit\b|vectorize\b|\bcfunc\b", source)}
    assert compiling == {ROOT / "model/compiled.py"}
    users = {path for path, source in sources.items() if "from flexihash.model.compiled import" in source}
    counting = {path for package in PACKAGES for path in (ROOT / package.removeprefix("flexihash.")).rglob("*.py")}
    assert ROOT / "model/kernel/stream.py" in users
    assert users <= counting
