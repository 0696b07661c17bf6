"""`python -m flexihash.service.child learner|api ...`: a child of the supervisor, its imports kept from the collector.

What is imported stays. Looking through it for garbage again and again takes a fifth of the time of importing it, and
each full collection later would look through it once more.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys


def main() -> int:
    """Runs the module of this package that the first argument names; returns its exit code."""
    gc.disable()
    module = importlib.import_module(f"flexihash.service.{sys.argv.pop(1)}")
    gc.freeze()
    gc.enable()
    code: int = module.main()
    return code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # not sys.exit: a thread that waits for an absent broker must not hold up the end
