"""Checks of outputs against the generator's right answers, in each contestant's way of writing them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tests.benchmarks.generate_big import KEY, RECORD, Data, digest_of, fingerprint


class WrongResultError(Exception):
    """A contestant's output is not the right answer."""


def parts(output: Path) -> list[Path]:
    """Return the file, or a folder's files in order of name, except those that begin with ``_`` or ``.``."""
    if not output.is_dir():
        return [output]
    return sorted(p for p in output.iterdir() if p.is_file() and p.name[0] not in "_.")


def check(form: str, output: Path, data: Data) -> None:
    """Raise :class:`WrongResultError` if the output is not the right answer for ``data``."""
    _CHECKS[form](output, data)


def _lines(output: Path) -> Iterator[str]:
    for part in parts(output):
        with part.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.rstrip("\n")


def _expected(data: Data) -> list[list[str]]:
    text = data.expected.read_text(encoding="utf-8")
    return [line.split("\t") for line in text.split("\n")[:-1]]


def _text(key: str) -> str:
    """Decode a key, which is plain text or JSON."""
    return json.loads(key) if key[:1] == '"' else key


def _counts(output: Path, data: Data) -> None:
    expected = {key: int(count) for key, count in _expected(data) if key != "MATCH"}
    found: dict[str, int] = {}
    for line in _lines(output):
        key, _, count = line.partition("\t")
        if _text(key) in found:
            raise WrongResultError(f"the key {key} comes twice")
        found[_text(key)] = int(count)
    _compare(found, expected)


def _postings(output: Path, data: Data) -> None:
    expected = {word: (int(count), int(digest)) for word, count, digest in _expected(data)}
    found: dict[str, tuple[int, int]] = {}
    for line in _lines(output):
        word, _, text = line.partition("\t")
        ids = json.loads(text) if text[:1] == "[" else text.split(",")
        if _text(word) in found:
            raise WrongResultError(f"the word {word} comes twice")
        found[_text(word)] = len(ids), digest_of(ids)
    _compare(found, expected)


def _compare(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    if found != expected:
        wrong = next(key for key in [*expected, *found] if found.get(key) != expected.get(key))
        raise WrongResultError(
            f"{len(found)} keys, {len(expected)} expected; {wrong!r} has {found.get(wrong)}, not {expected.get(wrong)}"
        )


def _matches(output: Path, data: Data) -> None:
    expected = Counter(text for kind, text in _expected(data) if kind == "MATCH")
    found = Counter(_lines(output))
    if found != expected:
        raise WrongResultError(f"{found.total()} lines, {expected.total()} expected, or other ones")


def _sorted(output: Path, data: Data) -> None:
    total, whole = map(int, _expected(data)[0])
    count = prints = 0
    last = b""
    for part in parts(output):
        if part.stat().st_size % RECORD:
            raise WrongResultError(f"{part.name} does not hold whole records")
        if part.stat().st_size == 0:
            continue
        records = np.memmap(part, np.uint8, "r").reshape(-1, RECORD)
        for start in range(0, len(records), 1_000_000):
            block = np.array(records[start : start + 1_000_000])
            # Keys as two numbers that compare as the bytes do: lines are in order if their pairs are.
            high = np.ascontiguousarray(block[:, :8]).view(">u8").ravel()
            low = np.ascontiguousarray(block[:, 8:KEY]).view(">u2").ravel()
            falls = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
            if block[0, :KEY].tobytes() < last or falls.any():
                raise WrongResultError(f"{part.name} is out of order")
            last = block[-1, :KEY].tobytes()
            count += len(block)
            prints = (prints + fingerprint(block)) % 2**64
    if (count, prints) != (total, whole):
        raise WrongResultError(f"{count} records, {total} expected, or other ones")


_CHECKS: dict[str, Callable[[Path, Data], None]] = {
    "counts": _counts,
    "postings": _postings,
    "lines": _matches,
    "sorted": _sorted,
}
