"""Code that can leave nothing behind is distinguished from code that might."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType

import pytest

from mrcelery.shipping.traceless import DENIED, MODULES, is_traceless

FIXED = (int, float, str, bytes, bool, tuple, frozenset, type(None))


def module(source: str) -> ModuleType:
    made = ModuleType("words")
    sys.modules["words"] = made  # classes look there for their module
    try:
        exec(compile(dedent(source), "words.py", "exec"), vars(made))
    finally:
        del sys.modules["words"]
    return made


def verdict(source: str) -> bool:
    return is_traceless({"words": module(source)})


PLAIN = {
    "a word count": """
        import re
        from mrcelery import MRJob
        WORD = re.compile(r"\\w+")
        class WordCount(MRJob):
            def mapper_init(self):
                self.seen, self._lines = {}, 0
            def mapper(self, _, line):
                self._lines += 1
                for word in WORD.findall(line):
                    yield word.lower(), 1
            def reducer(self, word, counts):
                yield word, sum(counts)
        """,
    "steps and arguments": """
        from mrcelery import MRJob, MRStep
        class Steps(MRJob):
            def configure_args(self):
                super().configure_args()
                self.add_passthru_arg("--least", type=int)
            def pairs(self, _, line):
                yield line, 1
            def steps(self):
                return [MRStep(mapper=self.pairs)]
        """,
    "a helper and a closure": """
        from collections import Counter
        def counted(words):
            found = Counter(words)
            return sorted(found.items(), key=lambda pair: found[pair[0]])
        """,
    "declared reducers": "from mrcelery import MRJob, ops\nclass Sums(MRJob):\n    reducer = ops.Sum()",
}


@pytest.mark.parametrize("what", PLAIN)
def test_plain_jobs_leave_nothing(what: str) -> None:
    assert verdict(PLAIN[what])


HOLDS = {
    "a set": "SEEN = set()",
    "a list in a tuple": "HELD = (1, [])",
    "an object": "HELD = object()",
    "a method of a list": "add = [].append",
    "a cached function": "import functools\n@functools.lru_cache\ndef f(x):\n    return x",
    "a default that changes": "def f(x, seen=[]):\n    return x",
    "a class's own dictionary": "class Job:\n    seen = {}",
    "a closure over a list": "def make():\n    seen = []\n    return lambda x: seen.append(x)\nf = make()",
    "a counting closure": "def g():\n n = 0\n def f():\n  nonlocal n\n  n += 1\n return f\nf = g()",
    "an attribute of a function": "def f(): pass\nf.calls = 0",
    "another module": "import os",
    "a function of another module": "from random import random",
}

DOES = {
    "writes a global": "global N; N = 1",
    "changes its class": "type(self).n = 1",
    "changes what it is given": "line.n = 1",
    "changes itself into another": "self = line; self.n = 1",
    "imports another module": "import os",
    "imports a part": "from json import decoder",
    "evaluates": "eval(line)",
    "sets by name": "setattr(line, 'n', 1)",
    "reads by name": "getattr(line, 'n')",
    "reaches the globals": "self.mapper.__globals__['n'] = 1",
    "reaches a private name of a module": "re._cache.clear()",
    "reaches a module through another": "re.copyreg.pickle(int, int)",
    "reaches a submodule": "json.encoder.ESCAPE_DCT['a'] = 'b'",
    "deletes": "del line.n",
    "counts in another object": "line.n += 1",
    "counts in another object after its own": "self.n += 1; line.n += self.n",
    "is a method of the class": "pass\n    @classmethod\n    def f(cls): cls.n = 1",
}


@pytest.mark.parametrize("what", HOLDS)
def test_what_a_module_holds_may_change(what: str) -> None:
    assert not verdict(HOLDS[what])


@pytest.mark.parametrize("what", DOES)
def test_what_code_does_may_stay(what: str) -> None:
    head = "import json, re\nclass Job:\n    def mapper(self, line):\n"
    assert verdict(f"{head}        return json.dumps(re.escape(line))")
    assert not verdict(head + indent(DOES[what], " " * 8).replace(" " * 12, " " * 4))


def test_no_modules_are_no_proof() -> None:
    assert not is_traceless({})


def changeable(name: str) -> Iterator[str]:
    """Yield the names of a module that lead to something that can be changed."""
    for known, value in vars(import_module(name)).items():
        if known.startswith("_") or known in DENIED or isinstance(value, FIXED):
            continue
        foreign = isinstance(value, ModuleType) and value.__name__ not in MODULES
        if foreign or isinstance(value, (list, dict, set, bytearray)):
            yield known


@pytest.mark.parametrize("name", sorted(name for name in MODULES if not name.startswith(("mrcelery", "mrjob"))))
def test_the_modules_that_such_code_may_know_hold_nothing_to_change(name: str) -> None:
    assert list(changeable(name)) == []


def test_job_files_of_the_benchmarks_are_examined_without_an_error() -> None:
    from mrcelery.examples import word_count

    assert Path(str(word_count.__file__)).exists()
    assert isinstance(is_traceless({word_count.__name__: word_count}), bool)
