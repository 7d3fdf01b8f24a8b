"""How a job ended, decided in storage: Redis may lose it, or come back as it was before.

Each generation of a job has one ``end-<g>.json``, made by a conditional write. The first of those who would end the job
decides, whatever Redis says later, and everyone else finds out what was decided.
"""

from __future__ import annotations

import time

from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.states import State
from mrcelery.schema.structs import End
from mrcelery.storage.base import Storage


def decide(storage: Storage, seal: JobSeal, generation: int, state: State, failure: str = "") -> End:
    """Decide how the job of ``seal`` ends, unless that is decided; return what is."""
    mine = End(job=seal.job, generation=generation, state=state, finished=time.time(), failure=failure)
    key = object_keys.end(seal.job, generation)
    if storage.create(key, seal.encode(mine, key)):
        return mine
    return seal.decode(storage.read(key), End, key)


def decided(storage: Storage, seal: JobSeal, generation: int) -> End | None:
    """Return how the job of ``seal`` has ended, in this generation or a later one that Redis has forgotten.

    None if it has not.
    """
    found = None
    while True:
        key = object_keys.end(seal.job, generation)
        try:
            found = seal.decode(storage.read(key), End, key)
        except FileNotFoundError:
            return found
        generation += 1


def settle(store: JobStore, end: End) -> bool:
    """Have the job store know what was decided; False if it knows an end or a later generation already."""
    fields = {"finished": repr(end.finished)}
    if end.generation:
        fields["revived"] = str(end.generation)
    if end.failure:
        fields["failure"] = end.failure
    return store.move(end.job, end.state, fields, generation=end.generation)
