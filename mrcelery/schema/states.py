"""The words for how a job, a stage, a task or an attempt stands.

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

An attempt that its job's end has cut short is cancelled whatever that end was: nothing went wrong with the attempt.

Other words are no states. A client *submits* a job, which is then queued: ``jobs.submitted``, the event ``submitted``
and the time of submission name that act. ``finished`` is the time at which a job ended. :data:`UNKNOWN` stands in
lists for the state of a job of which nothing says how it ended.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""Of a job, a stage or a task."""

Outcome = Literal["running", "succeeded", "failed", "killed", "lost", "superseded", "cancelled"]
"""Of an attempt."""

STATES: tuple[State, ...] = get_args(State)

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job does not leave, unless it is retried."""

ENDED: tuple[Outcome, ...] = tuple(outcome for outcome in OUTCOMES if outcome != "running")
"""Outcomes of attempts that are over."""

RETRIED: tuple[Outcome, ...] = ("failed", "killed", "lost")
"""Outcomes of attempts whose task is retried, unless their job has failed by it."""

UNKNOWN: Final = "unknown"
"""Listed of a job that storage has the spec of, where nothing says how it ended."""

ALIASES: dict[str, State] = {"submitted": "queued", "done": "succeeded"}
"""Words that a user may type for a state."""


def typed(state: str) -> str:
    """Return the state that a user means by a word; any other word is returned as it is."""
    return ALIASES.get(state, state)
