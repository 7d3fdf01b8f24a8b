"""The plan of a seed: a job with its input, a fleet, and faults. Nothing is drawn anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.chaos.chaos_jobs import SLEEP

VISIBILITY = 4.0
"""Seconds of the workers' visibility timeout: short, so that tasks of lost workers run again soon."""

WORK = 1.5
"""Seconds that a job's map tasks sleep in total, divided by the number of processes."""

FAULTS: dict[str, tuple[float, float]] = {
    # processes: seconds until a new worker replaces a dead one, or until a paused one continues
    "child killed": (0, 0),
    "worker killed": (0.2, 3),
    "main process killed": (0.2, 3),
    "worker asked to stop": (0.2, 3),
    "worker paused": (0.5, 3),
    "worker paused beyond its leases": (5, 8),
    # the network of one worker, to Redis and to S3: seconds until it is restored
    "network silent": (0.5, 3),
    "network silent beyond the leases": (5, 8),
    "network refused": (0.5, 5),
    # one process of a pool: the first to reach the chosen storage write or Redis command
    "killed at a write": (0, 0),
    "killed at a command": (0, 0),
    # Redis: seconds until it runs again
    "connections killed": (0, 0),
    "Redis restarted": (0.1, 3),
    "Redis restarted empty": (0.1, 3),
    "Redis flushed": (0, 0),
    # S3: seconds in which requests meet the fault
    "S3 fails": (0.5, 2),
    "S3 throttles": (0.5, 2),
    "S3 loses answers": (0.5, 2),
    "S3 cuts bodies off": (0.5, 2),
    "S3 is slow": (0.5, 2),
    "S3 sends wrong bits": (0.5, 2),
    "S3 damages an object": (60, 60),
}
"""Kinds of faults, each with its shortest and longest duration in seconds."""

ON_A_WORKER = frozenset(list(FAULTS)[:9])
TICKETS = {"killed at a write": ("writes", 15), "killed at a command": ("commands", 60)}
"""Kinds of operations, and the number of the last one that may be the deadly one, from 1."""
FORGETFUL = frozenset({"Redis restarted empty", "Redis flushed"})


@dataclass(frozen=True)
class Fault:
    """One fault. ``at`` is its start as a share of the undisturbed run's time; ``target`` is the worker's number."""

    kind: str
    at: float
    seconds: float
    target: int = -1
    choice: float = 0.0
    """A share that selects one of several choices."""

    @property
    def operation(self) -> tuple[int, str]:
        """Return the number of the operation, from 1, and whether the process is killed before or after it."""
        most = TICKETS[self.kind][1]
        return 1 + int(self.choice * most), "before" if self.choice * most % 1 < 0.5 else "after"

    def __str__(self) -> str:
        where = f" (worker {self.target})" if self.target >= 0 else ""
        where = f" ({self.operation[0]}, {self.operation[1]})" if self.kind in TICKETS else where
        lasts = f" for {self.seconds:.1f} s" if 0 < self.seconds < 60 else ""
        return f"{self.kind}{where} at {self.at:.2f}{lasts}"


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides."""

    seed: int
    job: str
    """The job's class in :mod:`chaos_jobs`."""
    tasks: int
    """The number of map tasks, M."""
    lines: tuple[str, ...]
    """The lines of the input."""
    reducers: int
    args: tuple[str, ...]
    bad: int
    """The number of lines at which the job's mapper raises."""
    s3: bool
    output: bool
    """Whether the job has an OUTPUT."""
    speculative: bool
    waits: bool
    """Whether a client waits for the job; a waiting client registers it again if Redis has lost it."""
    durable: bool
    """Whether Redis keeps its data (AOF)."""
    workers: int
    processes: int
    """Processes of each worker."""
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        what = [
            f"{self.job} M={self.tasks} R={self.reducers}",
            f"{self.workers}x{self.processes}",
            "S3" if self.s3 else "folder",
            *(["OUTPUT"] if self.output else []),
            *(["AOF"] if self.durable else []),
            *(["backups"] if self.speculative else []),
            *(["detached"] if not self.waits else []),
        ]
        return f"seed {self.seed}: {' '.join(what)} | {'; '.join(map(str, self.faults))}"


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)
    job = random.choice(["WordCount", "TwoSteps", "MapOnly", "TotalOrder", "BadRecords", "Declared"])
    tasks = random.randint(6, 30)
    reducers = 0 if job == "MapOnly" else random.randint(1, 5)
    workers, processes = random.choice([(2, 2), (3, 1), (3, 2)])
    kinds = random.sample(list(FAULTS), random.choices([1, 2, 3, 6], [10, 5, 3, 2])[0])
    if {"Redis restarted", "Redis restarted empty"} <= set(kinds):
        kinds.remove("Redis restarted")
    durable = "Redis restarted" in kinds or ("Redis restarted empty" not in kinds and random.random() < 0.3)
    s3 = any(kind.startswith("S3") for kind in kinds) or random.random() < 0.2
    faults = []
    for kind in kinds:
        least, most = FAULTS[kind]
        at = 0.0 if kind == "S3 damages an object" else random.uniform(0.03, 0.9)
        target = random.randrange(workers) if kind in ON_A_WORKER else -1
        faults.append(Fault(kind, at, random.uniform(least, most), target, random.random()))
    slots = workers * processes
    lines, bad = _input(random, tasks, slots, job == "BadRecords")
    args = ["--reduce-seconds", f"{random.uniform(0.1, 0.6):.3f}"]
    args += ["--map-seconds", f"{WORK * slots / tasks:.3f}"]
    return Plan(
        seed=seed,
        job=job,
        tasks=tasks,
        lines=lines,
        reducers=reducers,
        args=tuple(args),
        bad=bad,
        s3=s3,
        output=random.random() < 0.5,
        speculative=random.random() < 0.5,
        waits=random.random() < 0.6 or any(kind in FORGETFUL for kind in kinds),
        durable=durable,
        workers=workers,
        processes=processes,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )


def _input(random: Random, tasks: int, slots: int, with_bad: bool) -> tuple[tuple[str, ...], int]:
    """Return the lines of words, with one line to sleep at for each task, and the number of bad lines."""
    words = [f"{''.join(random.choices('abcdefghijklmnopqrstuvwxyzäöü', k=random.randint(1, 8)))}" for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    bad = 0
    found: list[str] = []
    for _ in range(tasks):
        lengths = [random.randint(1, 12) for _ in range(random.randint(100, 300))]
        lines = [" ".join(random.choices(words, weights, k=length)) for length in lengths]
        seconds = WORK * slots / tasks * random.choice([0.1, 0.5, 1.0, 1.0, 1.5, 2.5])
        lines.insert(random.randrange(len(lines)), f"{SLEEP} {seconds:.3f}")
        if with_bad and random.random() < 0.3:
            bad += 1
            lines.insert(random.randrange(len(lines)), f"bad line {bad}")
        found += lines
    return tuple(found), bad
