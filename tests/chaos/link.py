"""A network that can fail: one worker's TCP connections pass through here, and can be held, refused, or broken."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Network:
    """Runs the links, in a separate thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def link(self, port: int) -> Link:
        """Create a link to a port of this machine."""
        link = Link(self, port)
        self.call(link._listen(0))
        return link

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        async def end() -> None:
            own = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not own]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """Forwards connections from its ``port`` to another port."""

    def __init__(self, network: Network, target: int) -> None:
        self.port = 0
        self._network = network
        self._target = target
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def hush(self) -> None:
        """Let nothing through in either direction, silently: no connection breaks."""
        self._network.call(self._set(self._open.clear))

    def refuse(self) -> None:
        """Break all connections, and refuse new ones."""
        self._network.call(self._refuse())

    def restore(self, *, broken: bool = False) -> None:
        """Let waiting and new data through; with ``broken``, break the earlier connections instead."""
        self._network.call(self._restore(broken))

    async def _set(self, change: Callable[[], None]) -> None:
        change()

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._break()

    async def _restore(self, broken: bool) -> None:
        if broken:
            self._break()
        self._open.set()
        if self._server is None:
            await self._listen(self.port)

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        onward = None
        try:
            await self._open.wait()
            there, onward = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(onward)
            for end in (writer, onward):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, onward))
                both.create_task(self._pass_on(there, writer))
        except (OSError, asyncio.CancelledError):
            pass
        except BaseExceptionGroup:
            pass  # one direction ended, and ended the other one with it
        finally:
            for opened in (writer, onward):
                if opened is not None:
                    self._writers.discard(opened)
                    opened.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        with suppress(OSError):
            await writer.drain()
        raise ConnectionResetError  # closing one end closes both
