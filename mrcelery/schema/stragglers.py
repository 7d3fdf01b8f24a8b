"""The definition of a straggler: the paper's backup tasks (section 3.6), chosen by rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to act; times are in seconds."""

    grace: float = 3.0
    """A message not found for this long is lost: it is briefly nowhere while it changes hands."""
    lease: float = 15.0
    """The same message is republished only after this time."""
    most_republished: int = 10
    """Times that the same message is republished before the job is given up."""
    slower: float = 3.0
    """A straggler is this many times slower than the median of the completed tasks."""
    patience: float = 5.0
    """A straggler has run for at least this long, and for as long as its task should have taken."""
    sick: float = 600.0
    """A job whose workers are all sick is given up after this time."""
    backups: float = 0.05
    """Most backup tasks of a stage, as a share of its tasks; at least one."""


@dataclass(frozen=True)
class Running:
    """A running attempt by its last report: seconds it has run, records it has taken, seconds since the report."""

    task: int
    worker: str
    seconds: float
    records: int
    quiet: float
    attempt: str = ""
    """Only its random part."""
    where: str = ""
    """The worker's name and, after a space, the process's id."""


@dataclass(frozen=True)
class Republished:
    """How often a message was republished, and when last (epoch seconds)."""

    times: int
    last: float


def usual_rate(rates: Sequence[float]) -> float:
    """Return the median of the rates of committed tasks; 0 if there is none."""
    return sorted(rates)[len(rates) // 2] if rates else 0.0


def is_slow(one: Running, usual: float, policy: Policy) -> bool:
    """Check whether an attempt is a straggler compared with the usual rate."""
    # Records are counted when they are taken, so this is the highest possible rate.
    return one.seconds >= policy.patience and one.records / one.seconds * policy.slower < usual
