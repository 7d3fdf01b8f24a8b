"""What a web server sends, with every version of urllib3 that may be installed."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator

import pytest

from mrcelery.storage.http import HttpStorage

WHOLE = bytes(range(100))


@pytest.fixture
def cut_short() -> Iterator[str]:
    """The address of a server of 100 bytes, of which each body has at most 40, whatever its Content-Length says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked = re.search(rb"bytes=(\d+)-", connection.recv(65536))
                start = int(asked[1]) if asked else 0
                head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-99/100\r\n"
                head += f"Content-Length: {100 - start}\r\n\r\n"
                connection.sendall(head.encode() + WHOLE[start : start + 40])

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_a_body_that_ends_early_is_not_taken_for_the_whole(cut_short: str) -> None:
    assert HttpStorage(cut_short).read("file", 0, 100) == WHOLE
