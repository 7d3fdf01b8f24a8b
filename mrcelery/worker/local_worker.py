"""The local runner's worker process: a Celery worker with its own Redis that ends with its client.

Run as ``python -m mrcelery.worker.local_worker FOLDER PROCESSES LIFELINE SERVER STORAGE [MODULE...]``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading

from mrcelery.runners.server_process import SERVER_STATUS, start_server


def _watch(lifeline: int, server: subprocess.Popen[bytes], folder: str, ending: threading.Event) -> None:
    """Wait for the client's end; then shut the cluster down."""
    while os.read(lifeline, 1):
        pass
    ending.set()
    server.kill()
    shutil.rmtree(os.path.realpath(folder), ignore_errors=True)
    if os.path.islink(folder):
        os.unlink(folder)
    # The children are in this process's group, and so is this process: nothing after this line runs.
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _record_end(server: subprocess.Popen[bytes], folder: str, ending: threading.Event) -> None:
    """Write the exit status of a server that ended on its own, for the client, which is not its parent."""
    status = server.wait()
    if not ending.is_set():
        with open(os.path.join(folder, SERVER_STATUS), "w") as file:
            file.write(str(status))


def main(argv: list[str]) -> None:
    """Run the worker until its client ends."""
    folder, processes, lifeline, program, storage, *preload = argv
    # Started here, before anything watches the client: a client killed at any time leaves no server behind.
    server, ending = start_server(program, folder), threading.Event()
    threading.Thread(target=_watch, args=(int(lifeline), server, folder, ending), daemon=True).start()
    threading.Thread(target=_record_end, args=(server, folder, ending), daemon=True).start()
    os.environ["MRCELERY_STORAGE"] = storage
    os.environ["MRCELERY_SCRATCH"] = os.path.join(folder, "scratch")
    from celery.signals import worker_process_init  # noqa: PLC0415 - the server starts before Celery is imported

    # If a child kept this pipe, the client's end would still be noticed (that is the write end), but user code would
    # find an open file.
    worker_process_init.connect(lambda **_: os.close(int(lifeline)), weak=False)
    from mrcelery.worker import elsewhere  # noqa: PLC0415 - the server starts before Celery is imported
    from mrcelery.worker.app import make_app  # noqa: PLC0415 - the server starts before Celery is imported

    elsewhere.alone = True

    for module in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # Not through Celery's command line, which imports every installed plug-in, including Flower.
    worker = make_app(os.environ["MRCELERY_BROKER"]).Worker(
        concurrency=int(processes),
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()


if __name__ == "__main__":
    main(sys.argv[1:])
