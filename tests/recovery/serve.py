"""`flexihash serve` with the learner of the recovery tests, which is restarted without much waiting."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from flexihash.service.logs import configure_logs
from flexihash.service.settings import load_settings
from flexihash.service.supervisor import Backoff, Supervisor, bind_socket, child_specs

BACKOFF = Backoff(first_s=0.05, most_s=0.1)  # kills are many here, and none is the learner's fault


def main() -> int:
    settings = load_settings()
    configure_logs(settings, "serve")
    with bind_socket(settings.host, settings.port) as listening:
        learner, *workers = child_specs(settings.workers, listening.fileno())
        learner = replace(learner, command=(sys.executable, "-P", "-m", "tests.recovery.learner"))
        environment = {**os.environ, **settings.to_environment()}
        return Supervisor((learner, *workers), environment, BACKOFF).run()


if __name__ == "__main__":
    sys.exit(main())
