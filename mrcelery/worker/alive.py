"""A supervisor's probe: is the worker alive?

::

    python -m mrcelery.worker.alive FILE --max-age 60

checks the age of the file that ``mrcelery worker --liveness-file FILE`` touches (:mod:`mrcelery.worker.liveness`);
without FILE, of the file that ``MRCELERY_LIVENESS_FILE`` names. Exits 0 if the worker is alive, else 1 with the reason
on stdout. A probe runs every few seconds next to the work, so this imports only the standard library. It does not
contact the broker: an unreachable broker is not a reason to restart workers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

VARIABLE = "MRCELERY_LIVENESS_FILE"


def verdict(path: str, max_age: float) -> str:
    """Describe the problem of a worker whose file may be ``max_age`` seconds old; "" if the worker is healthy."""
    try:
        age = time.time() - os.stat(path).st_mtime
    except OSError as e:
        return f"{path}: {e.strerror}: the worker is not ready, or writes another file (see --liveness-file)"
    if age > max_age:
        return f"{path}: last touched {age:.0f} s ago, and {max_age:g} s are allowed"
    return ""


def main(args: Sequence[str] | None = None) -> int:
    """Print the problem, if any, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcelery.worker.alive", description="Check a worker by the age of its liveness file."
    )
    default = os.environ.get(VARIABLE)
    parser.add_argument("file", nargs="?", default=default, help=f"the worker's --liveness-file [${VARIABLE}]")
    parser.add_argument(
        "--max-age", type=float, default=60, metavar="SECONDS", help="greatest age of the file, in seconds [60]"
    )
    options = parser.parse_args(args)
    if not options.file:
        parser.error(f"no FILE was given, and {VARIABLE} is not set")
    problem = verdict(options.file, options.max_age)
    if problem:
        print(problem)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
