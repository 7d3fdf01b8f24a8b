"""Somebody else's Celery app that runs our tasks: what it may set, and what cannot work.

Settings for the app's own tasks (time limits, rate limits, annotations, serializers) do not affect ours. Settings that
would stop jobs for good are rejected with a message, in :func:`mrcelery.install` and when a worker starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kombu.serialization import registry

from mrcelery.errors import ConfigError
from mrcelery.jobstore.connection import REDIS_SCHEMES, masked, store_url

if TYPE_CHECKING:
    from celery import Celery

JSON = "application/json"

SHORTEST_LEASE = 1.0
"""Seconds: workers renew a lease four times within its duration."""


def check_app(app: Celery) -> None:
    """Raise :class:`ConfigError` if jobs cannot run on an app with these settings; connects to nothing."""
    conf = app.conf
    store_url(app)
    broker = str(conf.broker_read_url or conf.broker_url)
    if not broker.startswith(REDIS_SCHEMES):
        raise ConfigError(
            f"mrcelery needs Redis as the app's broker, where clients put jobs, not {masked(broker)}: set broker_url"
        )
    if conf.broker_write_url and str(conf.broker_write_url) != broker:
        raise ConfigError(
            "the app reads from one broker and writes to another, so that its workers would not get the tasks of jobs: "
            "leave broker_read_url and broker_write_url out"
        )
    _check_transport(conf.broker_transport_options or {})
    backend = str(conf.result_backend or "")
    if not backend.startswith(REDIS_SCHEMES):
        has = f"{masked(backend)!r} cannot" if backend else "none is set"
        raise ConfigError(
            f"mrcelery needs Redis as the app's result backend, where the tasks of a stage are counted, and {has}: "
            "set result_backend, to the broker's address for example"
        )
    _check_content("accept_content", conf.accept_content, "mrcelery's messages are JSON")
    accepted = conf.result_accept_content or conf.accept_content
    _check_content(
        "result_accept_content", accepted, "what counts the tasks of a stage is read with it", conf.result_serializer
    )
    if conf.task_always_eager:
        raise ConfigError("task_always_eager runs tasks where they are sent from, so no job could run: leave it out")
    if int(conf.task_protocol) != 2:
        raise ConfigError(
            f"task_protocol is {conf.task_protocol}, and mrcelery's messages are of protocol 2: leave it out"
        )


def _check_transport(options: Mapping[str, Any]) -> None:
    steps = options.get("priority_steps")
    if steps is not None and 0 not in steps:
        raise ConfigError(
            f"the app's broker has priority_steps {list(steps)!r}, so its workers would not look where jobs are put: "
            "add 0, or leave them out of broker_transport_options"
        )
    lease = options.get("visibility_timeout")
    if lease is not None and float(lease) < SHORTEST_LEASE:
        raise ConfigError(
            f"the app's visibility_timeout is {float(lease):g} s, in which no worker can renew what it holds, so tasks "
            f"would run again and again: give at least {SHORTEST_LEASE:g} s"
        )


def _check_content(setting: str, accepted: Iterable[str] | None, why: str, needed: str = JSON) -> None:
    """Raise :class:`ConfigError` if a content type, or the name of its serializer, is not among those accepted."""
    types = {registry.name_to_type.get(name, name) for name in accepted or ()}
    if registry.name_to_type.get(needed, needed) not in types:
        raise ConfigError(
            f"the app's {setting} is {sorted(accepted or ())!r}, without "
            f"{'json' if needed == JSON else needed}, and {why}: add it"
        )


def exempt_from_limits(worker: Any) -> None:
    """Apply a pool's time limits (``--time-limit`` on the command line) to the app's own tasks only."""
    pool = getattr(worker.pool, "_pool", None)
    hard, soft = getattr(pool, "timeout", None), getattr(pool, "soft_timeout", None)
    if pool is None or not (hard or soft):
        return
    for name, task in worker.app.tasks.items():
        if not name.startswith("mrcelery."):
            task.time_limit = task.time_limit or hard
            task.soft_time_limit = task.soft_time_limit or soft
    pool.timeout = pool.soft_timeout = None
