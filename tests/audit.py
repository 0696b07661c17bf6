"""Compares the pinned packages with the known vulnerabilities; goes on, and says so, where nobody answers about them.

python -m tests.audit [constraints.txt]
"""

from __future__ import annotations

import json
import subprocess
import sys

ANSWER_TIMEOUT_S = 5
TIMEOUT_S = 180


def main() -> int:
    pins = sys.argv[1] if len(sys.argv) > 1 else "constraints.txt"
    command = [sys.executable, "-m", "pip_audit", "-r", pins, "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", str(ANSWER_TIMEOUT_S)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        packages = json.loads(run.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        packages = []
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        print("packages are not audited: no index answers about vulnerabilities")
        return 0
    found = [(package, vulnerability) for package in audited for vulnerability in package["vulns"]]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "nothing yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(audited)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
