"""The pictures in the README: a terminal and a job's page, from a real job on workers.

``python -m tests.support.pictures`` runs the job, and Chromium for the page; writes to ``mrcelery/guide/pictures``.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from textwrap import dedent

import boto3
from rich.console import Console
from rich.text import Text

import mrcelery
from tests.support.s3_endpoint import s3_endpoint
from tests.support.services import environment, eventually, redis_server, workers

FOLDER = Path(__file__).parents[2] / "mrcelery" / "guide" / "pictures"
COLUMNS, ROWS = 100, 40
PAGE = (1280, 1005)  # down to the end of the partitions
QUEUE = "pictures"
JOB = """
import time

from mrcelery import MRJob, ops


class Visits(MRJob):
    def mapper(self, _, line):
        _, path, cached = line.split()
        time.sleep(0.02 if cached == "hit" else 0.12)
        yield path, 1

    reducer = ops.Sum()
"""


def terminal(command: list[str], folder: Path) -> str:
    """Run a command on a terminal of its own and return what it prints, with its colors."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = environment(TERM="xterm-256color")
    del env["NO_COLOR"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env)
    os.close(theirs)
    found = b""
    while True:
        try:
            data = os.read(ours, 65_536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        found += data
    os.close(ours)
    assert process.wait() == 0, found.decode()
    return found.decode().replace("\r\n", "\n")


def main() -> None:
    """Make both pictures."""
    FOLDER.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or sys.exit("chromium is missing")
    with tempfile.TemporaryDirectory() as name, redis_server() as server, s3_endpoint() as url:
        folder = Path(name)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="data")
        (folder / "visits.py").write_text(dedent(JOB))
        lines = [f"GET /page/{i * i % 23} {'miss' if i // 40 % 9 == 4 else 'hit'}\n" for i in range(2_400)]
        (folder / "access.log").write_text("".join(lines))
        settings = {"runner": "celery", "broker": server.tcp_url, "storage": "s3://data/mrcelery", "queue": QUEUE}
        with (
            workers(folder, server.tcp_url, 2, queue=QUEUE, concurrency=3),
            mrcelery.submit(
                folder / "visits.py", folder / "access.log", reducers=6, split_size=900, owner="ada", **settings
            ) as job,
        ):
            eventually(lambda: sum(stage.succeeded for stage in job.status().stages) > 25, "half of it is done")
            time.sleep(1)
            command = [sys.executable, "-m", "mrcelery", "status", job.id, "--broker", server.tcp_url]
            shown = terminal(command, folder)
            job.wait()
            (folder / "page.html").write_bytes(job.page())
        console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
        console.print(Text.from_ansi(f"$ mrcelery status {job.id}\n{shown}"))
        plain = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="mrcelery"), flags=re.DOTALL)
        (FOLDER / "terminal.svg").write_text(plain)  # web fonts left out
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--window-size={PAGE[0]},{PAGE[1]}", f"--screenshot={FOLDER / 'job-page.png'}"]
        subprocess.run(
            [chromium, *flags, f"file://{folder / 'page.html'}"], check=True, capture_output=True, timeout=120
        )


if __name__ == "__main__":
    main()
