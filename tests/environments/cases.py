"""Run all cases in this Python's environment, and write their outcomes as JSON.

``python cases.py FOLDER RUNNER... > results.json``; :mod:`tests.environments.run` prepares FOLDER.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import mrcelery
from mrcelery.errors import MRCeleryError


def outcome(folder: Path, case: dict[str, Any], runner: str) -> dict[str, Any]:
    """Return the bytes of the part files (as Latin-1), or the error as the command line would show it."""
    with tempfile.TemporaryDirectory() as out:
        target = Path(out, "out")
        try:
            mrcelery.run(
                case["job"],
                [str(folder / case["input"])],
                str(target),
                runner=runner,
                workers=2,
                reducers=2,
                split_size=case["split_size"],
                args=case.get("args", []),
            ).close()
        except MRCeleryError as e:
            return {"error": str(e)}
        except Exception:
            return {"traceback": traceback.format_exc()}
        return {"parts": [part.read_bytes().decode("latin-1") for part in sorted(target.glob("part-*"))]}


def main() -> None:
    folder, *runners = sys.argv[1:]
    cases = json.loads(Path(folder, "cases.json").read_text())
    results = {
        runner: {name: outcome(Path(folder), case, runner) for name, case in cases.items()} for runner in runners
    }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
