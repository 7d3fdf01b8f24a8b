"""Chaos: real jobs on real workers, while processes die, networks fail, Redis forgets, and S3 fails, by seed.

::

    python -m tests.chaos.run --seeds 0-199 --jobs 3 --markdown
    python -m tests.chaos.run --seeds 17 --keep /tmp/chaos --show

The result, counters included, must equal the undisturbed run's byte for byte. The job must end within that run's
time, plus the durations of the faults and the time for recovery. Nothing may be left behind. Exits with 1 if a seed
fails.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.chaos.one import Outcome, run
from tests.chaos.plan import FAULTS, draw
from tests.support.s3_endpoint import s3_endpoint

ROOT = Path(__file__).parents[2]

LONGEST = 400
"""Seconds after which a seed's process is killed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog=__doc__.partition("::")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", default="0-7", metavar="LIST", help="seeds, such as 3,17 or 0-199 [%(default)s]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="seeds that run side by side [%(default)s]")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X",
                        help="multiply the time for recovery, for a busy machine [%(default)s]")  # fmt: skip
    parser.add_argument("--keep", metavar="DIR", help="folder for logs and state of failed seeds [a new folder]")
    parser.add_argument("--json", metavar="FILE", help="write the outcome of each seed as a line of JSON")
    parser.add_argument("--markdown", action="store_true", help="print the final table in Markdown")
    parser.add_argument("--show", action="store_true", help="print the plans of the seeds, and run nothing")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    if args.show:
        print(*(draw(seed) for seed in numbers(args.seeds)), sep="\n")
        return 0
    if args.alone is not None:
        print(json.dumps(asdict(run(args.alone, Path(args.keep), args.patience))))
        return 0
    outcomes: list[Outcome] = []
    keep = Path(args.keep or tempfile.mkdtemp(prefix="mrcelery-chaos-")).absolute()
    seeds = numbers(args.seeds)
    with ExitStack() as stack:
        if any(draw(seed).s3 for seed in seeds):
            stack.enter_context(s3_endpoint())  # one endpoint for all seeds
        out = stack.enter_context(open(args.json, "w")) if args.json else None
        telling = threading.Lock()

        def one(seed: int) -> None:
            outcome = in_its_own_process(seed, keep / f"seed-{seed}", args.patience)
            with telling:
                outcomes.append(outcome)
                print(line(outcome), flush=True)
                if out is not None:
                    print(json.dumps(asdict(outcome)), file=out, flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, seeds))
    print(f"\n{table(outcomes, markdown=args.markdown)}")
    wrong = sorted(outcome.seed for outcome in outcomes if outcome.verdict != "right")
    if wrong:
        print(f"\nnot right: {','.join(map(str, wrong))}; see {keep}")
    return bool(wrong)


running: set[subprocess.Popen[bytes]] = set()


def end(number: int, _: object) -> None:
    """Stop all started processes when the driver must stop."""
    for process in tuple(running):
        process.terminate()
    raise SystemExit(128 + number)


def numbers(text: str) -> list[int]:
    found: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def in_its_own_process(seed: int, folder: Path, patience: float) -> Outcome:
    """Run a seed in a separate process, which isolates its environment, its threads, and their errors."""
    command = [sys.executable, "-m", "tests.chaos.run", "--alone", str(seed), "--keep", str(folder)]
    command += ["--patience", str(patience)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    running.add(process)
    try:
        told, said = process.communicate(timeout=LONGEST * patience)
    except subprocess.TimeoutExpired:
        process.terminate()
        told, said = process.communicate()
    finally:
        running.discard(process)
    try:
        return Outcome(**json.loads(told.splitlines()[-1]))
    except (ValueError, IndexError):
        return Outcome(seed, str(draw(seed)), verdict="error", problems=[said.decode(errors="replace")[-4000:]])


def line(outcome: Outcome) -> str:
    seconds = f"{outcome.undisturbed:.1f} -> {outcome.disturbed:.1f} s of {outcome.bound:.1f}"
    problems = "".join(f"\n    {problem}" for problem in outcome.problems[:12])
    return f"{outcome.verdict:7} {seconds:26} +{outcome.settled:.1f} {outcome.plan}{problems}"


def table(outcomes: list[Outcome], *, markdown: bool) -> str:
    """Tabulate the runs by kind of fault, with the extra time of runs that met only this kind."""
    rows: list[tuple[str, ...]] = [("fault", "runs", "right", "hangs", "alone", "median s more", "worst s more")]
    for kind in [*FAULTS, "all"]:
        met = [one for one in outcomes if kind == "all" or kind in one.kinds]
        alone = [one.disturbed - one.undisturbed for one in met if one.kinds == [kind] and one.disturbed]
        if kind == "all":
            alone = [one.disturbed - one.undisturbed for one in met if one.disturbed]
        cost = (f"{median(alone):.1f}", f"{max(alone):.1f}") if alone else ("", "")
        counts = [sum(one.verdict == verdict for one in met) for verdict in ("right", "hang")]
        rows.append((kind, *map(str, (len(met), *counts, len(alone))), *cost))
    if markdown:
        rows.insert(1, ("---",) * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
