"""What user code may raise: kept apart from Ctrl-C and from our errors, and described whatever it is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from mrcelery.errors import JobStoppedError, safe_repr
from mrcelery.job.raised import described, passes, reason, user_error, watching
from mrcelery.job.tracebacks import user_traceback


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


def test_an_exception_without_a_text_is_described() -> None:
    assert described(ValueError()) == "ValueError"
    assert described(Mute()) == "Mute (its __str__ raises LookupError)"


def test_a_huge_text_is_cut_and_a_surrogate_escaped() -> None:
    text = described(ValueError("a" * 5_000 + "z"))
    assert len(text) < 2_100
    assert "[3001 characters left out]" in text
    assert text.endswith("z")
    assert described(ValueError("\udcff")) == "ValueError: \\udcff"


def test_a_memory_error_is_told_with_its_remedy_wherever_user_code_raises_it() -> None:
    assert "raise --memory, or hold less at once" in str(user_error(MemoryError()))
    assert reason(MemoryError("Unable to allocate 3 GiB")).startswith("MemoryError: the job's code holds more memory")


def test_a_repr_that_raises() -> None:
    class Opaque:
        def __repr__(self) -> str:
            sys.exit(1)

    assert safe_repr(Opaque(), 10) == "<Opaque: its __repr__ raises SystemExit>"
    assert safe_repr("abcdef", 3) == "'ab..."


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle SIGINT, which a process in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_only_a_ctrl_c_is_an_interrupt_in_a_task(interruptible: None) -> None:
    assert passes(KeyboardInterrupt())  # nothing watches, as on the command line
    with watching():
        assert not passes(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
        assert passes(caught.value)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_of_ours_pass() -> None:
    with watching():
        assert passes(JobStoppedError("x"))
        assert not passes(GeneratorExit())


def test_a_forked_process_ends_as_python_would_end_it() -> None:
    def status(exc: BaseException) -> int:
        with watching():
            pid = os.fork()
            if pid == 0:
                passes(exc)
                os._exit(99)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert status(SystemExit(7)) == 7
    assert status(SystemExit()) == 0
    assert status(SystemExit("gone")) == 1
    assert status(ValueError("x")) == 1


def test_a_process_that_nobody_forked_in_a_task_goes_on() -> None:
    pid = os.fork()
    if pid == 0:
        passes(ValueError("x"))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99


def test_a_pools_own_exit_is_no_frame_of_the_users() -> None:
    names: dict[str, object] = {}
    pool = "/usr/lib/python3/site-packages/billiard/pool.py"
    exec(compile("def exit(): raise SystemExit(3)", pool, "exec"), names)
    try:
        exec(compile("exit()", "/home/u/job.py", "exec"), names)
    except SystemExit as e:
        text = user_traceback(e)
    assert "job.py" in text
    assert "billiard" not in text
