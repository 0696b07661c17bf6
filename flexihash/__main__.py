"""The `flexihash` command, and `python -m flexihash`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Entry point; imports the rest only when a signal can be answered."""
    if sys.argv[1:2] == ["serve"]:  # told to stop before there is anything to stop: all is well
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    from flexihash.service.cli import main as run

    run()


if __name__ == "__main__":
    main()
