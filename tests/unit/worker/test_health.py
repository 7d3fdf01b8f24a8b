"""When a worker stops consuming, and when it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from mrcelery.worker import health as module
from mrcelery.worker.health import Health


class Machine:
    """A worker with a machine whose health the test sets."""

    def __init__(self) -> None:
        self.consumed = {"a", "b"}
        self.wrong = ["", ""]
        self.health = Health(self.consumed.remove, self.consumed.add, first=0.01)
        self.pauses: list[float] = []
        self.reasons: list[str] = []

    def probe(self) -> str:
        self.pauses.append(round(self.health._pause, 6))
        self.reasons.append(self.health.reason)
        return self.wrong.pop(0)

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Try the machine until the block ends and the worker is well."""
        thread = Thread(target=self.health.run, args=(self.probe,))
        thread.start()
        yield
        while self.health.reason:
            pass
        self.health.end()
        thread.join()


def test_it_resumes_when_the_machine_is_well() -> None:
    machine = Machine()
    machine.wrong = ["still full", "still full", ""]
    with machine.tried():
        machine.health.failed("a", "full")
        machine.health.failed("a", "full")
        assert "a" not in machine.consumed
    assert machine.consumed == {"a", "b"}
    assert machine.pauses == [0.01, 0.02, 0.04]
    assert machine.reasons == ["full", "still full", "still full"]


@pytest.mark.parametrize(("certain", "pauses"), [(True, [0.01, 0.02, 0.04]), (False, [0.01, 0.01, 0.01])])
def test_one_that_fails_again_soon_pauses_longer_where_it_is_certain(certain: bool, pauses: list[float]) -> None:
    machine = Machine()
    machine.wrong = ["", "", ""]
    with machine.tried():
        for _ in range(3):
            machine.health.failed("a", "broken", certain=certain)
            while machine.health.reason:
                pass
    assert machine.pauses == pauses


def test_a_pause_is_bounded_and_short_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.03)
    machine = Machine()
    machine.wrong = ["full", "full", "full", "", ""]
    with machine.tried():
        machine.health.failed("b", "full")
        while machine.health.reason:
            pass
        machine.health._well_since -= 0.03
        machine.health.failed("b", "full")
    assert machine.pauses == [0.01, 0.02, 0.03, 0.03, 0.01]
