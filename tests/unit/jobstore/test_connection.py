"""What answers at the broker's address need not be Redis."""

from __future__ import annotations

import socket
import threading

import pytest

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.connection import connect


def test_a_server_that_is_not_redis() -> None:
    def serve() -> None:
        near, _ = listener.accept()
        with near:
            near.recv(1000)
            near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        connection = connect(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        with pytest.raises(BrokerUnreachableError, match=r"is not Redis .*: correct --broker"):
            connection.call(("PING",))
        connection.close()
        thread.join()
