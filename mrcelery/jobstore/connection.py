"""Connections to Redis that only pipeline commands.

redis-py takes a quarter of a second to import, and with Celery twice that: more than a small job takes on a warm fleet.
So plain addresses (``redis://``, a unix socket) use hiredis, the parser that redis-py itself uses, and all others (TLS,
Sentinel) go through redis-py.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import hiredis

from mrcelery.errors import BrokerUnreachableError, ConfigError, mask
from mrcelery.schema.backoff import pauses

if TYPE_CHECKING:
    from celery import Celery

Command = Sequence[str | bytes | int | float]

TIMEOUT = 10.0
"""Seconds to connect, and to wait for an answer."""


LOGIN = ("username", "password")
"""The login for the Sentinels themselves in an address's query, each name prefixed with ``sentinel_``."""

_PROTOCOL = 2
"""RESP2, which the other connection uses too: in RESP3, redis-py's default since 8, a hash arrives as a dict."""


class Connection(Protocol):
    """Sends commands to Redis, several at once in one round trip."""

    @property
    def opened(self) -> int:
        """Return how often it has connected: after a reconnect, the server may be another one or have restarted."""
        ...

    def call(self, *commands: Command) -> list[Any]:
        """Send all commands and return their answers (bytes, int, None or lists of these), in order.

        Raises :class:`BrokerUnreachableError` if Redis does not answer, or answers with an error.
        """
        ...

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        ...


def connect(url: str, patience: float = 0.0) -> Connection:
    """Make a connection for a broker address; it connects at its first call, and again after a fork.

    ``patience``: seconds for which a call waits for a server that is gone, or that refuses because it lacks memory.
    """
    try:
        scheme = urlsplit(url).scheme
        if scheme in ("redis", "unix", "redis+socket", "socket"):
            return _patient(_Hiredis(url), patience)
        if scheme in ("rediss", "sentinel"):
            return _patient(_RedisPy(url), patience)
    except ValueError:
        raise ConfigError(
            f"the broker {masked(url)!r} has no valid port or database: use redis://host:6379/0, and write "
            "/ # ? @ of a password as %2F %23 %3F %40"
        ) from None
    raise ConfigError(
        f"the broker {masked(url)!r} is not a Redis address: use redis://, rediss://, sentinel:// or redis+socket://"
    )


def impatient(connection: Connection) -> Connection:
    """Return the underlying connection, whose calls do not wait for a server that is gone."""
    return connection.connection if isinstance(connection, _Patient) else connection


def _patient(connection: Connection, patience: float) -> Connection:
    return _Patient(connection, patience) if patience else connection


class _Patient:
    """Repeats a call, with pauses, until the server accepts it or patience ends."""

    def __init__(self, connection: Connection, patience: float) -> None:
        self.connection = connection
        self._patience = patience

    @property
    def opened(self) -> int:
        return self.connection.opened

    def call(self, *commands: Command) -> list[Any]:
        deadline = time.monotonic() + self._patience
        for pause in pauses(0.1, 2.0):
            try:
                return self.connection.call(*commands)
            except BrokerUnreachableError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("pauses do not end")

    def close(self) -> None:
        self.connection.close()


def masked(url: str) -> str:
    """Return an address with its password masked."""
    return mask(url, whole=True)


def _address(url: str) -> tuple[str | None, tuple[str, int], str | None, str | None, int]:
    """Return unix path, (host, port), user, password, database."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "redis":
        path, database = None, parts.path.lstrip("/") or query.get("db", ["0"])[0]
    else:
        path, database = unquote(parts.path), query.get("virtual_host", query.get("db", ["0"]))[0]
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return path, (parts.hostname or "localhost", parts.port or 6379), user, password, int(database)


class _Hiredis:
    def __init__(self, url: str) -> None:
        self._url = url
        self._path, self._host, self._user, self._password, self._database = _address(url)
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self._pid = 0
        self.opened = 0

    def call(self, *commands: Command) -> list[Any]:
        with self._lock:
            fresh = self._socket is None or self._pid != os.getpid()
            try:
                return self._checked(self._exchange(commands))
            except OSError as e:
                self.close()
                if fresh:
                    raise self._unreachable(e) from None
            except hiredis.HiredisError as e:
                raise self._stranger(e) from None
            # The server may have dropped an idle connection: each of our commands may safely be sent twice.
            try:
                return self._checked(self._exchange(commands))
            except OSError as e:
                self.close()
                raise self._unreachable(e) from None
            except hiredis.HiredisError as e:
                raise self._stranger(e) from None

    def _stranger(self, e: hiredis.HiredisError) -> BrokerUnreachableError:
        return BrokerUnreachableError(f"what answers at {masked(self._url)} is not Redis ({e}): correct --broker")

    def _unreachable(self, e: OSError) -> BrokerUnreachableError:
        reason = e.strerror or str(e) or type(e).__name__
        return BrokerUnreachableError(
            f"no Redis answers at {masked(self._url)} ({reason}): start it, or correct --broker"
        )

    def _checked(self, answers: list[Any]) -> list[Any]:
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise BrokerUnreachableError(f"Redis at {masked(self._url)} refuses: {answer}")
        return answers

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        if self._socket is None or self._pid != os.getpid():
            self._open()
        return self._send(commands)

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        assert self._socket is not None
        pack: Any = hiredis.pack_command  # its stub requires a tuple of one
        answers: list[Any] = []
        try:
            self._socket.sendall(b"".join(pack(tuple(command)) for command in commands))
            while len(answers) < len(commands):
                answer = self._reader.gets()
                if answer is not False:
                    answers.append(answer)
                    continue
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionError("it closed the connection")
                self._reader.feed(data)
        except BaseException:
            self.close()  # for example Ctrl-C: pending answers are not the next call's
            raise
        return answers

    def _open(self) -> None:
        self._pid = os.getpid()
        self.opened += 1
        self._reader = hiredis.Reader()
        if self._path is not None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(self._path)
        else:
            self._socket = socket.create_connection(self._host, TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting: list[Command] = []
        if self._password is not None:
            greeting.append(("AUTH", self._user, self._password) if self._user else ("AUTH", self._password))
        if self._database:
            greeting.append(("SELECT", self._database))
        if greeting:
            try:
                self._checked(self._send(greeting))
            except BrokerUnreachableError:
                self.close()  # the next call must not run in another database, or without its user
                raise

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class _RedisPy:
    def __init__(self, url: str) -> None:
        import redis  # noqa: PLC0415 - redis-py takes a quarter of a second

        self._url = url
        self._redis = redis
        self.opened = 0
        if urlsplit(url).scheme == "sentinel":
            self._client = _sentinel_master(url, self._opening)
        else:
            # Celery writes CERT_REQUIRED for redis-py's "required".
            plain = re.sub(r"(?<=ssl_cert_reqs=)CERT_(\w+)", lambda match: match[1].lower(), url)
            self._client = redis.Redis.from_url(
                plain,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                protocol=_PROTOCOL,
                redis_connect_func=self._opening,
            )

    def _opening(self, connection: Any) -> None:
        self.opened += 1
        connection.on_connect()

    def call(self, *commands: Command) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            # Raw answers: redis-py's conversions would differ from the other connection's.
            pipeline.execute_command(*command, NEVER_DECODE=False)
        pipeline.response_callbacks = {}
        try:
            return list(pipeline.execute())
        except self._redis.exceptions.ResponseError as e:
            raise BrokerUnreachableError(f"Redis at {masked(self._url)} refuses: {e}") from None
        except (self._redis.exceptions.RedisError, OSError) as e:
            raise BrokerUnreachableError(
                f"no Redis answers at {masked(self._url)} ({e}): start it, or correct --broker"
            ) from None

    def close(self) -> None:
        self._client.close()
        manager = getattr(self._client.connection_pool, "sentinel_manager", None)
        for node in manager.sentinels if manager else ():
            node.close()


def _sentinel_master(url: str, opening: Callable[[Any], None]) -> Any:
    """Connect to the master behind a ``sentinel://`` address.

    The address is ``sentinel://[:PASSWORD@]host:port[;sentinel://host:port...][/db]?master_name=NAME``. The password is
    the master's; the Sentinels' passwords are in the query, see :func:`sentinel_options`. ``opening`` greets the master
    on each new connection.
    """
    from redis.sentinel import Sentinel  # noqa: PLC0415 - redis-py takes a quarter of a second

    nodes, database = [], 0
    login: dict[str, str] = {}
    for node in url.split(";"):
        parts = urlsplit(node)
        nodes.append((parts.hostname or "localhost", parts.port or 26379))
        database = int(parts.path.lstrip("/") or database)
        for name, value in (("username", parts.username), ("password", parts.password)):
            if value:
                login.setdefault(name, unquote(value))
    options = sentinel_options(url)
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        nodes, sentinel_kwargs=options["sentinel_kwargs"], socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
    )
    name = options["master_name"]
    return sentinel.master_for(name, db=database, protocol=_PROTOCOL, redis_connect_func=opening, **login)


def sentinel_options(url: str) -> dict[str, Any]:
    """Return the options in the query of a ``sentinel://`` address, in the form that kombu and Celery take.

    ``master_name``; as ``sentinel_kwargs`` the ``sentinel_username`` and ``sentinel_password``, and how long a Sentinel
    may take to answer. If there are such options, and always in Celery's result backend, the timeouts for the master do
    not apply to the Sentinels, and redis-py before 8 waits for them forever.
    """
    query = parse_qs(urlsplit(url.split(";")[-1]).query)
    login = {name: query[f"sentinel_{name}"][0] for name in LOGIN if f"sentinel_{name}" in query}
    return {
        "master_name": query.get("master_name", ["mymaster"])[0],
        "sentinel_kwargs": {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, **login},
    }


REDIS_SCHEMES = ("redis", "rediss", "sentinel", "unix", "socket")
"""The schemes of a Redis broker's address."""


def store_url(app: Celery) -> str:
    """Return the job store's address: the broker's, or the result backend's if the broker is not Redis."""
    conf = app.conf
    for url, options in (
        (conf.broker_read_url, conf.broker_transport_options),
        (conf.broker_url, conf.broker_transport_options),
        (conf.result_backend, conf.result_backend_transport_options),
    ):
        if url and str(url).startswith(REDIS_SCHEMES):
            # A prefix of results only does not affect us.
            if (options or {}).get("global_keyprefix") and options is not conf.result_backend_transport_options:
                raise ConfigError(
                    "the app's broker has a global_keyprefix, under which mrcelery's clients would not find its "
                    "queues: leave it out of broker_transport_options, or give the app a Redis database of its own"
                )
            return _with_master(str(url), options or {})
    raise ConfigError("mrcelery needs Redis as broker or result backend of the Celery app: set broker_url")


def _with_master(url: str, options: Mapping[str, Any]) -> str:
    """Add the Sentinel master's name and the Sentinels' password, which Celery takes as options, to an address."""
    if not url.startswith("sentinel") or "master_name" not in options:
        return url
    query = {"master_name": options["master_name"]}
    login = options.get("sentinel_kwargs") or {}
    query.update({f"sentinel_{name}": login[name] for name in LOGIN if name in login})
    return f"{url.partition('?')[0]}?{urlencode(query)}"
