"""A Flower with jobs of all states in it, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mrcelery
from tests.support.flower_process import LOGIN, Flower

NAME = "Count <script>window.broken = 1</script>"

JOB = """
    import os, time
    from mrcelery import MRJob

    class Look(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")
            self.add_passthru_arg("--mode", default="fine")

        def mapper(self, _, line):
            print("looking at", line)
            if self.options.mode == "raise":
                raise ValueError(f"<b>no</b> {line}")
            if self.options.mode == "die":
                os._exit(7)
            while self.options.gate and not os.path.exists(self.options.gate):
                yield "waiting", 0
                time.sleep(0.01)
            for word in line.split():
                yield word, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@dataclass
class Site:
    """Where the pages are, and the ids of jobs in each state."""

    flower: Flower
    settings: dict[str, Any]
    job: str
    text: str
    jobs: dict[str, str]

    def url(self, path: str) -> str:
        return self.flower.base.replace("http://", f"http://{LOGIN}@") + path

    def submit(self, mode: str = "fine", gate: str = "", **more: Any) -> mrcelery.JobHandle:
        args = ["--mode", mode, *(["--gate", gate] if gate else [])]
        return mrcelery.submit(self.job, self.text, args=args, **{**self.settings, **more})
