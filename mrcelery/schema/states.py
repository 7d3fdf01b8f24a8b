"""The states of jobs, stages and tasks, and the outcomes of attempts.

Wherever a state is stored, sent or shown, it is one of these words. They mean:

==============  ==========================  ==========================  ====================================
state           of a job                    of a stage or task          of an attempt
==============  ==========================  ==========================  ====================================
``queued``      waits for a worker          has not begun               (is not counted before it starts)
``running``     a worker has planned it     its attempts run            runs, as far as anybody knows
``succeeded``   its output is complete      has all its commits         its commit counts
``failed``      ended by an error           its error ended the job     ended by an error
``cancelled``   ended by a person           its job ended before it     its job ended before it
``killed``                                                              its process died
``lost``                                                                its worker died, or fell silent
``superseded``                                                          another attempt committed first
==============  ==========================  ==========================  ====================================

An attempt cut short by its job's end is cancelled, however the job ended: the attempt itself did not fail.

Other words are not states. A client *submits* a job, which is then queued: ``jobs.submitted``, the event ``submitted``
and the time of submission name that act. ``finished`` is the time at which a job ended. :data:`UNKNOWN` is
listed as the state of a job whose end is not recorded anywhere.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""The state of a job, a stage or a task."""

Outcome = Literal["running", "succeeded", "failed", "killed", "lost", "superseded", "cancelled"]
"""The outcome of an attempt."""

STATES: tuple[State, ...] = get_args(State)

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job does not leave unless it is retried."""

ENDED: tuple[Outcome, ...] = tuple(outcome for outcome in OUTCOMES if outcome != "running")
"""Outcomes of attempts that are over."""

RETRIED: tuple[Outcome, ...] = ("failed", "killed", "lost")
"""Outcomes of attempts whose task is retried, unless they failed the job."""

UNKNOWN: Final = "unknown"
"""Listed for a job whose spec is in storage, if nothing shows how it ended."""

ALIASES: dict[str, State] = {"submitted": "queued", "done": "succeeded"}
"""Words that a user may type for a state."""


def typed(state: str) -> str:
    """Return the state that a user means by a word; any other word is returned unchanged."""
    return ALIASES.get(state, state)
