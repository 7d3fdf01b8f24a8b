"""The commit protocol: of all attempts at a task, one counts, as a whole.

An attempt writes its own objects and then, with one conditional write, ``commit.json``, which names them. The first
attempt to do so wins. A loser reads the winner's commit and returns that as its own result, so every delivery of a task
returns the same value; the loser's objects are garbage that nobody reads. (In the paper's section 3.3 the master and an
atomic rename decide; here the storage does.)
"""

from __future__ import annotations

from mrcelery.schema import object_keys
from mrcelery.schema.encoding import damaged
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.base import Storage


def commit(storage: Storage, mine: Commit, seal: JobSeal) -> Commit:
    """Commit an attempt and return the commit that counts: this attempt's or an earlier one's."""
    key = object_keys.commit(TaskId.of(mine))
    if storage.create(key, seal.encode(mine, key)):
        return mine
    return read_commit(storage.read(key), TaskId.of(mine), seal)


def committed(storage: Storage, task: TaskId, seal: JobSeal) -> Commit | None:
    """Return the commit that counts, or None if no attempt has committed yet."""
    key = object_keys.commit(task)
    try:
        return read_commit(storage.read(key), task, seal)
    except FileNotFoundError:
        return None


def read_commit(data: bytes, task: TaskId, seal: JobSeal) -> Commit:
    """Decode a task's commit, from storage or the job store, which may only name objects written by its attempts.

    The named objects are read and published: a forged commit could name any object. Raises
    :class:`mrcelery.errors.CorruptDataError` and :class:`mrcelery.errors.UnsignedError`.
    """
    key = object_keys.commit(task)
    found = seal.decode(data, Commit, key)
    if TaskId.of(found) != task:
        raise damaged(f"the commit at {key} belongs to another task: it was altered; submit the job again")
    named = [part.key for part in found.parts if not object_keys.lies_below(part.key, object_keys.task_root(task))]
    if found.bad_key and not object_keys.lies_below(found.bad_key, object_keys.bad_records_root(task.job)):
        named.append(found.bad_key)
    if named:
        raise damaged(
            f"the commit at {key} names {named[0]}, which its task does not write: it was altered; submit again"
        )
    return found
