"""The commit protocol: of all attempts at a task, one counts, as a whole.

An attempt writes objects of its own and then, with one conditional write, ``commit.json``, which names
them. The first attempt to do so wins. A loser reads the winner's commit and returns that as its own
result, so every delivery of a task returns the same value; what it wrote is garbage that nobody reads.
(The paper's section 3.3 has the master and an atomic rename decide; here the storage does.)
"""

from __future__ import annotations

from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode, encode
from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.base import Storage


def commit(storage: Storage, mine: Commit) -> Commit:
    """Commit an attempt and return the commit that counts, this attempt's or an earlier one's."""
    key = object_keys.commit(TaskId.of(mine))
    if storage.create(key, encode(mine)):
        return mine
    return decode(storage.read(key), Commit, key)


def committed(storage: Storage, task: TaskId) -> Commit | None:
    """Return the commit that counts, or None if no attempt has committed yet."""
    key = object_keys.commit(task)
    try:
        return decode(storage.read(key), Commit, key)
    except FileNotFoundError:
        return None
