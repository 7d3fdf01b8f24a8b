"""A relay before Redis that counts what is asked through it, and can lose an answer or end who asks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Relay:
    """``decide`` is called with the number of each request, from 0, and returns what to do with it: "pass" it on,
    "lose" it before Redis sees it, or "silence" its answer. Either of the last breaks the connection."""

    def __init__(self, port: int) -> None:
        self.onward = port
        self.asked = 0
        self.decide: Callable[[int], str] = lambda number: "pass"
        self._lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.onward)) as onward, suppress(OSError):
            while data := client.recv(1 << 20):
                with self._lock:
                    number, self.asked = self.asked, self.asked + 1
                what = self.decide(number)
                if what == "lose":
                    return
                onward.sendall(data)
                answer = onward.recv(1 << 20)
                if what == "silence":
                    return
                client.sendall(answer)


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    one = Relay(port)
    threading.Thread(target=one.serve, daemon=True).start()
    try:
        yield one
    finally:
        one.listener.close()
