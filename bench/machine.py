"""The facts of the machine and of the software that a run's figures belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "numpy", "numba", "llvmlite", "msgspec", "torch", "scikit-learn", "kafka-python", "confluent-kafka", "fastapi",
    "uvicorn", "vowpalwabbit", "river", "capymoa", "lightgbm", "torch-scatter",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


def describe_machine() -> dict[str, str]:
    """CPU, cores, memory, kernel, versions, commit, and the load before the run began."""
    packages = {name: _version(name) for name in PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": _field("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Java": _first_line(["java", "-version"]),
        "packages": ", ".join(f"{name} {found}" for name, found in packages.items()),
        "broker": "Apache Kafka (KAFKA_HOME)" if os.environ.get("KAFKA_HOME") else "Tansu, embedded",
        "commit": _commit(),
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "not known"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    commit = _first_line(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    changed = _first_line(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}, with changes" if changed else commit


def _first_line(command: list[str]) -> str:
    """Of what it prints, wherever it prints it; empty where there is no such command."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    return (run.stdout or run.stderr).partition("\n")[0].strip()
