"""Both connections to Redis give the same answers, reconnect after a cut, and say in one line what is wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import BrokerUnreachableError, ConfigError
from mrcelery.jobstore import connection as wire
from mrcelery.jobstore.connection import Connection
from tests.support.services import RedisServer, eventually, free_port, redis_server, tls_redis_server

Make = Callable[[str], Connection]

KINDS: dict[str, Make] = {"hiredis": wire._Hiredis, "redis-py": wire._RedisPy}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may stop."""
    with redis_server() as server:
        yield server


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    opened: list[Connection] = []

    def make(url: str) -> Connection:
        opened.append(KINDS[request.param](url))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(make: Make, server: RedisServer) -> Connection:
    connection = make(server.tcp_url)
    connection.call(("FLUSHALL",))
    return connection


ANSWERS: list[tuple[tuple[Any, ...], Any]] = [
    (("PING",), b"PONG"),
    (("SET", "k", b"\x00\xff\r\n"), b"OK"),
    (("GET", "k"), b"\x00\xff\r\n"),
    (("GET", "none"), None),
    (("SET", "empty", b""), b"OK"),
    (("GET", "empty"), b""),
    (("SET", "k2", "v", "EX", 100), b"OK"),
    (("EXISTS", "k", "k2", "none"), 2),
    (("HSET", "h", "a", "1", "b", "Zoë"), 2),
    (("HGET", "h", "b"), "Zoë".encode()),
    (("HGETALL", "h"), [b"a", b"1", b"b", "Zoë".encode()]),
    (("HGETALL", "none"), []),
    (("HINCRBY", "h", "a", 4), 5),
    (("HSETNX", "h", "a", "x"), 0),
    (("HLEN", "h"), 2),
    (("EXPIRE", "h", 100), 1),
    (("HSCAN", "h", b"0", "COUNT", 10), [b"0", [b"a", b"5", b"b", "Zoë".encode()]]),
    (("ZADD", "z", 1.5, "one", 2, "two"), 2),
    (("ZREVRANGE", "z", 0, -1), [b"two", b"one"]),
    (("ZRANGE", "z", 0, -1, "WITHSCORES"), [b"one", b"1.5", b"two", b"2"]),
    (("ZREMRANGEBYSCORE", "z", "-inf", 1.6), 1),
    (("LPUSH", "l", b"x", b"y"), 2),
    (("LRANGE", "l", 0, -1), [b"y", b"x"]),
    (("LLEN", "l"), 2),
    (("EVAL", "return {KEYS[1], ARGV[1], 3, false}", 1, "k", b"\xff"), [b"k", b"\xff", 3, None]),
    (("SCAN", b"0", "MATCH", "em*", "COUNT", 1000), [b"0", [b"empty"]]),
    (("TTL", "k"), -1),
    (("UNLINK", "k", "k2", "none"), 2),
    (("TYPE", "h"), b"hash"),
]


def test_answers_one_by_one(connection: Connection) -> None:
    for command, answer in ANSWERS:
        assert connection.call(command) == [answer], command


def test_answers_of_one_round_trip(connection: Connection) -> None:
    assert connection.call(*(command for command, _ in ANSWERS)) == [answer for _, answer in ANSWERS]


def test_large_values(connection: Connection) -> None:
    data = os.urandom(5 << 20)
    assert connection.call(("SET", "large", data), ("GET", "large"), ("STRLEN", "large")) == [b"OK", data, 5 << 20]


def test_many_commands_at_once(connection: Connection) -> None:
    assert connection.call(*[("INCR", "n")] * 5000) == list(range(1, 5001))


def test_a_refused_command_is_named_and_the_connection_lives_on(connection: Connection) -> None:
    with pytest.raises(BrokerUnreachableError, match=r"refuses: .*wrong kind") as raised:
        connection.call(("SET", "k", "v"), ("HGET", "k", "x"), ("SET", "k", "w"))
    assert "\n" not in str(raised.value)
    assert connection.call(("GET", "k"), ("PING",)) == [b"w", b"PONG"]


def test_threads_share_a_connection(connection: Connection) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for n in range(200):
            text = f"{number} {n}".encode()
            if connection.call(("ECHO", text), ("ECHO", b"-")) != [text, b"-"]:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cut_connection_is_made_again(connection: Connection) -> None:
    connection.call(("SET", "k", "v"))
    other = wire._Hiredis(connection._url)  # type: ignore[attr-defined]
    other.call(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    other.close()
    assert connection.call(("GET", "k")) == [b"v"]


def test_a_server_that_starts_again(make: Make, own_server: RedisServer) -> None:
    connection = make(own_server.tcp_url)
    assert connection.call(("PING",)) == [b"PONG"]
    own_server.stop()
    with pytest.raises(BrokerUnreachableError, match=f"no Redis answers at redis://127.0.0.1:{own_server.port}"):
        connection.call(("PING",))
    own_server.start()
    assert connection.call(("PING",)) == [b"PONG"]
    connection.close()


def test_an_interrupted_call_leaves_no_answer_to_the_next(connection: Connection) -> None:
    """After Ctrl-C while an answer is on its way, the call of a cleanup must not read it as its own."""
    connection.call(("SET", "key", "value"))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)

    def interrupt_once_it_waits() -> None:
        other = wire._Hiredis(connection._url)  # type: ignore[attr-defined]
        eventually(lambda: b"blocked_clients:0" not in other.call(("INFO", "clients"))[0], "the server was asked")
        other.close()
        os.kill(os.getpid(), signal.SIGUSR1)

    second = threading.Thread(target=interrupt_once_it_waits)
    try:
        with pytest.raises(KeyboardInterrupt):
            second.start()
            connection.call(("BRPOP", "empty", 0))
        assert connection.call(("GET", "key")) == [b"value"]
    finally:
        second.join()
        signal.signal(signal.SIGUSR1, before)


def test_patience(own_server: RedisServer) -> None:
    """A call waits for a server to restart, and for memory, but not forever."""
    patient = wire.connect(own_server.socket_url, 60)
    assert patient.call(("SET", "key", "value")) == [b"OK"]
    own_server.stop()
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.extend(patient.call(("GET", "key"), ("PING",))))
    caller.start()
    assert not answers
    own_server.start()
    caller.join(60)
    assert answers == [None, b"PONG"]
    patient.call(("CONFIG", "SET", "maxmemory", "1"))
    caller = threading.Thread(target=lambda: answers.extend(patient.call(("SET", "key", "value"))))
    caller.start()
    other = wire.connect(own_server.socket_url)
    other.call(("CONFIG", "SET", "maxmemory", "0"))
    caller.join(60)
    other.close()
    patient.close()
    assert answers[2:] == [b"OK"]
    own_server.stop()
    with pytest.raises(BrokerUnreachableError):
        wire.connect(own_server.socket_url, 0.3).call(("PING",))


def test_a_closed_connection_opens_again(connection: Connection) -> None:
    connection.close()
    assert connection.call(("PING",)) == [b"PONG"]


def test_no_server(make: Make) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(BrokerUnreachableError, match=r"no Redis answers at .*refused.*: start it") as raised:
        make(url).call(("PING",))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_no_such_socket(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnreachableError, match=r"no Redis answers at redis\+socket://.*No such file"):
        wire.connect(f"redis+socket://{tmp_path}/none.sock").call(("PING",))


def test_no_such_host(make: Make) -> None:
    with pytest.raises(BrokerUnreachableError, match=r"no Redis answers at redis://host\.invalid"):
        make("redis://host.invalid:6379/0").call(("PING",))


def test_databases(make: Make, server: RedisServer) -> None:
    first, second = make(server.tcp_url), make(server.tcp_url.removesuffix("/0") + "/5")
    first.call(("FLUSHALL",), ("SET", "k", "0"))
    second.call(("SET", "k", "5"))
    assert first.call(("GET", "k")) + second.call(("GET", "k")) == [b"0", b"5"]
    # the same in the notation for sockets
    socket = wire.connect(f"{server.socket_url}?virtual_host=5")
    assert socket.call(("GET", "k")) == [b"5"]
    socket.close()


def test_a_database_that_is_none(server: RedisServer) -> None:
    connection = wire.connect(server.tcp_url.removesuffix("/0") + "/99")
    for _ in range(2):  # the second time too: it must not continue in database 0
        with pytest.raises(BrokerUnreachableError, match="refuses"):
            connection.call(("PING",))
    connection.close()
    with pytest.raises(ConfigError, match="no valid port or database"):
        wire.connect("redis://localhost:6379/x")


def quoted(server: RedisServer, password: str, user: str = "") -> str:
    from urllib.parse import quote

    return f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    with redis_server(requirepass="s3cret") as server:
        yield server


def test_passwords(make: Make, guarded: RedisServer) -> None:
    assert make(guarded.tcp_url).call(("PING",)) == [b"PONG"]
    assert make(quoted(guarded, "s3cret", "default")).call(("PING",)) == [b"PONG"]


@pytest.mark.parametrize("password", ["wr0ng", ""])
def test_wrong_passwords(make: Make, guarded: RedisServer, password: str) -> None:
    url = quoted(guarded, password) if password else f"redis://127.0.0.1:{guarded.port}/0"
    connection = make(url)
    for _ in range(2):
        with pytest.raises(BrokerUnreachableError) as raised:
            connection.call(("PING",))
        assert "\n" not in str(raised.value)
        assert "assw" in str(raised.value) or "NOAUTH" in str(raised.value) or "uthenticat" in str(raised.value)
        assert "wr0ng" not in str(raised.value)


def test_a_password_with_odd_characters(make: Make, own_server: RedisServer) -> None:
    admin = wire.connect(own_server.socket_url)
    password = "a/b@c:d#e%?"
    admin.call(("CONFIG", "SET", "requirepass", password))
    connection = make(quoted(own_server, password))
    assert connection.call(("PING",)) == [b"PONG"]
    connection.close()
    admin.close()
    own_server.stop()
    with pytest.raises(BrokerUnreachableError) as raised:
        make(quoted(own_server, password)).call(("PING",))
    assert "a%2Fb" not in str(raised.value)
    assert password not in str(raised.value)


def test_a_fork_does_not_share_the_connection(make: Make, server: RedisServer) -> None:
    connection = make(server.tcp_url)
    connection.call(("DEL", "n"))
    before = connection.call(("CLIENT", "ID"))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mine = connection.call(("CLIENT", "ID"))
            for _ in range(200):
                connection.call(("INCR", "n"))
            code = int(mine == before)
        finally:
            os.write(write_end, b"%d" % code)
            os._exit(code)
    for _ in range(200):
        assert len(connection.call(("INCR", "n"), ("GET", "n"))) == 2
    assert os.read(read_end, 1) == b"0"
    os.waitpid(child, 0)
    os.close(read_end)
    os.close(write_end)
    assert connection.call(("GET", "n")) == [b"400"]
    if isinstance(connection, wire._Hiredis):
        assert connection.call(("CLIENT", "ID")) == before  # the child's exit did not close our connection


def test_what_is_no_redis(server: RedisServer) -> None:
    for url in ("amqp://u:pw@host/", "http://host/", "localhost:6379", ""):
        with pytest.raises(ConfigError, match="not a Redis address") as raised:
            wire.connect(url)
        assert "pw" not in str(raised.value)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Path]]:
    with tls_redis_server(tmp_path_factory.mktemp("tls")) as served:
        yield served


def test_tls(tls: tuple[RedisServer, Path]) -> None:
    server, certificate = tls
    connection = wire.connect(f"rediss://localhost:{server.port}/0?ssl_ca_certs={certificate}")
    assert connection.call(("SET", "k", b"\xff"), ("GET", "k")) == [b"OK", b"\xff"]
    connection.close()


def test_a_certificate_that_nobody_knows(tls: tuple[RedisServer, Path]) -> None:
    server, _ = tls
    with pytest.raises(BrokerUnreachableError, match=r"no Redis answers at rediss://localhost.*certificate") as raised:
        wire.connect(f"rediss://localhost:{server.port}/0").call(("PING",))
    assert "\n" not in str(raised.value)
