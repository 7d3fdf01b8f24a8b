"""Hostile surroundings: one case per seed, whose open details are drawn from the seed.

::

    python -m tests.hostile.run --seeds 0-199 --jobs 2 --markdown
    python -m tests.hostile.run --kind "sick machine" --seeds 3 --keep hostile

The kind and the seed determine a case. ``--kind`` runs only cases of one kind, with any seeds. Exits with 1 if a case
fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from mrcelery.errors import WaitTimeoutError
from tests.chaos.run import numbers
from tests.hostile import processes, services, surroundings
from tests.hostile.ground import Ground, Wrong
from tests.support.s3_endpoint import s3_endpoint

ROOT = Path(__file__).parents[2]
LONGEST = 300.0
"""Seconds after which a case counts as hanging, and its process is killed."""

CASES: dict[str, Callable[[Ground], None]] = {
    "what ran before": processes.ran_before,
    "memory": processes.memory,
    "broker refuses": services.broker_refuses,
    "storage away": services.storage_away,
    "sick machine": processes.sick_machine,
    "what user code raises": processes.raises,
    "text": surroundings.text,
    "where it is run": surroundings.place,
    "a client dies": services.client_dies,
    "Redis forgets": services.forgets,
}


@dataclass
class Outcome:
    """The outcome of a case: ``right``, ``wrong``, ``hang``, or ``error`` (of the driver)."""

    kind: str
    seed: int
    drawn: str = ""
    verdict: str = "right"
    seconds: float = 0.0
    problem: str = ""


def run(kind: str, seed: int, folder: Path, patience: float) -> Outcome:
    """Run a case in a folder, which remains if anything goes wrong."""
    outcome = Outcome(kind, seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    with ExitStack() as stack:
        ground = Ground(folder, Random(f"{kind} {seed}"), stack, patience)
        try:
            CASES[kind](ground)
        except Wrong as e:
            outcome.verdict, outcome.problem = "wrong", str(e)
        except WaitTimeoutError as e:
            outcome.verdict, outcome.problem = "hang", str(e)
        except Exception:
            outcome.verdict, outcome.problem = "error", traceback.format_exc()
        outcome.drawn = "; ".join(ground.said)
    outcome.seconds = time.monotonic() - began
    if outcome.verdict == "right":
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def in_its_own_process(kind: str, seed: int, folder: Path, patience: float) -> Outcome:
    """Run a case in a separate process, so that its effects on the process stay there."""
    command = [sys.executable, "-m", "tests.hostile.run", "--alone", "--kind", kind, "--seeds", str(seed)]
    command += ["--keep", str(folder), "--patience", str(patience)]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LONGEST * patience, check=False)
        return Outcome(**json.loads(ended.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Outcome(kind, seed, verdict="hang", problem=f"not ended after {LONGEST * patience:.0f} s")
    except (ValueError, IndexError):
        return Outcome(kind, seed, verdict="error", problem=ended.stderr.decode(errors="replace")[-4000:])


def table(outcomes: Sequence[Outcome], *, markdown: bool) -> str:
    """Tabulate the verdicts of the cases by kind."""
    rows: list[tuple[str, ...]] = [("kind", "cases", "right", "wrong", "hangs", "errors", "longest s")]
    for kind in [*CASES, "all"]:
        of_kind = [one for one in outcomes if kind in (one.kind, "all")]
        if of_kind:
            counts = [sum(one.verdict == verdict for one in of_kind) for verdict in ("right", "wrong", "hang", "error")]
            rows.append((kind, *map(str, (len(of_kind), *counts)), f"{max(one.seconds for one in of_kind):.1f}"))
    if markdown:
        rows.insert(1, ("---",) * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Run the cases; print a line for each case, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog=__doc__.partition("::")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", default="0-9", metavar="LIST", help="seeds, such as 3,17 or 0-199 [%(default)s]")
    parser.add_argument("--kind", choices=CASES, help="run only cases of this kind [the kinds in turn]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases that run side by side [%(default)s]")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="X", help="multiply the waiting times [%(default)s]"
    )
    parser.add_argument("--keep", metavar="DIR", help="folder for logs and data of failed cases [a new folder]")
    parser.add_argument("--json", metavar="FILE", help="write the outcome of each case as a line of JSON")
    parser.add_argument("--markdown", action="store_true", help="print the final table in Markdown")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seeds, kinds = numbers(args.seeds), list(CASES)
    if args.alone:
        print(json.dumps(asdict(run(args.kind, seeds[0], Path(args.keep), args.patience))))
        return 0
    keep = Path(args.keep or tempfile.mkdtemp(prefix="mrcelery-hostile-")).absolute()

    def one(seed: int) -> Outcome:
        kind = args.kind or kinds[seed % len(kinds)]
        outcome = in_its_own_process(kind, seed, keep / f"{kind.replace(' ', '-')}-{seed}", args.patience)
        problem = f"\n    {outcome.problem}" if outcome.problem else ""
        print(f"{outcome.verdict:6} {outcome.seconds:5.1f} s {kind} {seed}: {outcome.drawn}{problem}", flush=True)
        return outcome

    with s3_endpoint(), ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(one, seeds))
    if args.json:
        Path(args.json).write_text("".join(f"{json.dumps(asdict(outcome))}\n" for outcome in outcomes))
    print(f"\n{table(outcomes, markdown=args.markdown)}")
    return any(outcome.verdict != "right" for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
