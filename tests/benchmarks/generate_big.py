"""Large inputs for benchmarks, each with its right answer: the same arguments always give the same bytes.

::

    python -m tests.benchmarks.generate_big text 256MB --folder /tmp/mrcelery-bench

Each combination of kind, size, and seed is generated once, into a separate folder. The file ``expected`` next to the
input is computed from the numbers behind the input, not by reading it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = 1
"""Incremented when a generator's bytes change, so that an outdated cache is not used."""

VOCABULARY = 200_000
DOCUMENTS = 1000
PATHS = 20_000
RARE = 100_000
"""About one in this many lines of the log matches ``PATTERN``."""

PATTERN = "needle[0-9]+"
KEY = 10
RECORD = 100

_CHUNK = 1_000_000
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Data(NamedTuple):
    """An input file and its ``expected`` file, whose format depends on the kind."""

    input: Path
    expected: Path

    @property
    def size(self) -> int:
        return self.input.stat().st_size


def parse_size(text: str) -> int:
    """Parse ``256MB``, ``1GiB``, or a plain number of bytes."""
    number = text.strip().upper().rstrip("KMGIB")
    unit = text.strip().upper()[len(number) :].strip()
    if unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write for example 256MB")
    return int(float(number) * _UNITS[unit])


def words(count: int, rng: np.random.Generator) -> list[str]:
    """Return different words in lower case, short ones first; about one in 50 is not ASCII."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    shares = np.arange(26, 0, -1) / (26 * 27 / 2)
    found: dict[str, None] = {}
    while len(found) < count:
        rank = len(found)
        most = 3 if rank < 100 else 6 if rank < 5000 else 10
        length = int(rng.integers(max(1, most - 4), most + 1))
        word = "".join(rng.choice(letters, length, p=shares).tolist())
        found[word.replace("e", "é") if rank % 50 == 7 else word] = None
    return list(found)


class ZipfText:
    """Draws words with a frequency of 1 / rank, and writes them as text."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.words = words(VOCABULARY, rng)
        encoded = [word.encode() + b" " for word in self.words]
        width = max(map(len, encoded))
        padded = b"".join(word.ljust(width, b"\0") for word in encoded)
        self._bytes = np.frombuffer(padded, np.uint8).reshape(len(encoded), width)
        self._lengths = np.array([len(word) for word in encoded])
        share = 1 / np.arange(1, VOCABULARY + 1)
        self._cdf = np.cumsum(share / share.sum())
        self._cdf[-1] = 1
        self.mean = float((self._lengths * share).sum() / share.sum())
        """Average bytes of a word and the space after it."""

    def draw(self, count: int) -> np.ndarray[Any, Any]:
        """Return ranks of words, from 0."""
        return np.searchsorted(self._cdf, self._rng.random(count), side="right")

    def text(self, ranks: np.ndarray[Any, Any], lines: bool) -> bytes:
        """Return the words, each with a space after it; with ``lines``, one space in 12 and the last are newlines."""
        flat: np.ndarray[Any, Any] = self._bytes[ranks].ravel()
        flat = flat[flat != 0]
        if lines:
            ends = np.cumsum(self._lengths[ranks]) - 1
            last = self._rng.random(len(ranks)) < 1 / 12
            last[-1] = True
            flat[ends[last]] = ord("\n")
        return flat.tobytes()


def _text(size: int, rng: np.random.Generator, out: Path) -> Iterator[str]:
    """Write lines of Zipf text; expected: ``word TAB count``."""
    zipf = ZipfText(rng)
    counts = np.zeros(VOCABULARY, np.int64)
    left = size
    with out.open("wb") as file:
        while left > 0:
            ranks = zipf.draw(min(_CHUNK, int(left / zipf.mean) + 1))
            counts += np.bincount(ranks, minlength=VOCABULARY)
            left -= file.write(zipf.text(ranks, lines=True))
    for word, count in zip(zipf.words, counts.tolist(), strict=True):
        if count:
            yield f"{word}\t{count}"


def _documents(size: int, rng: np.random.Generator, out: Path) -> Iterator[str]:
    """Write JSON lines ``{"id", "text"}``; expected: ``word TAB number of documents TAB digest_of their ids``."""
    zipf = ZipfText(rng)
    each = max(1, int(size / DOCUMENTS / zipf.mean))
    rows, columns = [], []
    with out.open("w", encoding="utf-8") as file:
        for number in range(DOCUMENTS):
            ranks = zipf.draw(each)
            text = zipf.text(ranks, lines=False).decode()
            file.write(json.dumps({"id": f"d{number:04}", "text": text.rstrip()}, ensure_ascii=False) + "\n")
            distinct = np.unique(ranks)
            columns.append(distinct.astype(np.int32))
            rows.append(np.full(len(distinct), number, np.int16))
    word, document = np.concatenate(columns), np.concatenate(rows)
    order = np.argsort(word, kind="stable")
    word, document = word[order], document[order]
    starts = np.flatnonzero(np.diff(word, prepend=-1))
    for at, members in zip(starts, np.split(document, starts[1:]), strict=True):
        ids = [f"d{number:04}" for number in members.tolist()]
        yield f"{zipf.words[word[at]]}\t{len(ids)}\t{digest_of(ids)}"


def digest_of(ids: Iterable[str]) -> int:
    """Return a checksum that represents a list of document ids."""
    return zlib.crc32(",".join(ids).encode())


def _log(size: int, rng: np.random.Generator, out: Path) -> Iterator[str]:
    """Write a log in the Combined Log Format; expected: ``path TAB count``, then the matches after ``MATCH TAB``."""
    share = 1 / np.arange(1, PATHS + 1)
    cdf = np.cumsum(share / share.sum())
    names = words(PATHS, rng)
    paths = [f"/{name}/{rank % 97}.html" for rank, name in enumerate(names)]
    agents = [f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.{n} (KHTML) Safari/537.{n}" for n in range(40)]
    counts = np.zeros(PATHS, np.int64)
    matches: list[str] = []
    written = number = 0
    with out.open("w", encoding="utf-8") as file:
        while written < size:
            picks = np.minimum(np.searchsorted(cdf, rng.random(10_000)), PATHS - 1)
            numbers = rng.integers(0, 1 << 30, 10_000).tolist()
            rare = (rng.random(10_000) < 1 / RARE).tolist()
            lines = []
            for pick, draw, hit in zip(picks.tolist(), numbers, rare, strict=True):
                number += 1
                query = f"?q=needle{draw % 1000}" if hit or number == 17 else f"?page={draw % 9}" if draw & 1 else ""
                line = (
                    f"10.{draw & 255}.{draw >> 8 & 255}.{draw >> 16 & 255} - - "
                    f"[{1 + number % 28:02}/Nov/2026:{number % 24:02}:{number % 60:02}:00 +0000] "
                    f'"GET {paths[pick]}{query} HTTP/1.1" {(200, 200, 304, 404)[draw >> 4 & 3]} {draw % 50_000} '
                    f'"https://example.org{paths[pick % 50]}" "{agents[draw % 40]}"\n'
                )
                lines.append(line)
                if "needle" in query:
                    matches.append(line)
            counts += np.bincount(picks, minlength=PATHS)
            written += len("".join(lines).encode())
            file.writelines(lines)
    for path, count in zip(paths, counts.tolist(), strict=True):
        if count:
            yield f"{path}\t{count}"
    for line in matches:
        yield f"MATCH\t{line.rstrip()}"


def _records(size: int, rng: np.random.Generator, out: Path) -> Iterator[str]:
    """Write records of 100 bytes that begin with a key of 10 bytes; expected: their number and ``fingerprint``."""
    total = max(1, size // RECORD)
    print_sum = done = 0
    with out.open("wb") as file:
        while done < total:
            count = min(_CHUNK, total - done)
            records = np.full((count, RECORD), ord("x"), np.uint8)
            records[:, :KEY] = rng.integers(33, 127, (count, KEY), dtype=np.uint8)
            records[:, KEY] = ord(" ")
            numbers = np.arange(done, done + count)
            for digit in range(10):
                records[:, KEY + 10 - digit] = 48 + numbers % 10
                numbers = numbers // 10
            records[:, KEY + 11] = ord(" ")
            records[:, -1] = ord("\n")
            file.write(records.tobytes())
            print_sum = (print_sum + fingerprint(records)) % 2**64
            done += count
    yield f"{total}\t{print_sum}"


def fingerprint(records: np.ndarray[Any, Any]) -> int:
    """Return the sum of the records' 64-bit hashes, modulo 2**64: it does not depend on their order."""
    columns = np.ascontiguousarray(records).view("<u4").astype(np.uint64)
    weights = np.random.Generator(np.random.PCG64(7)).integers(0, 2**63, columns.shape[1], dtype=np.uint64) * 2 + 1
    hashes = (columns * weights).sum(axis=1, dtype=np.uint64)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return int(hashes.sum(dtype=np.uint64))


KINDS: dict[str, tuple[str, Callable[[int, np.random.Generator, Path], Iterator[str]]]] = {
    "text": ("text.txt", _text),
    "log": ("access.log", _log),
    "documents": ("documents.jsonl", _documents),
    "records": ("records.txt", _records),
}


def generate(kind: str, size: int, folder: Path, seed: int = 0) -> Data:
    """Return the input of about ``size`` bytes, from the cache in ``folder`` or newly generated."""
    name, make = KINDS[kind]
    home = folder / f"{kind}-{size}-{seed}-v{VERSION}"
    if not home.exists():
        unfinished = home.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        # PCG64 by name, because numpy may change the generator behind default_rng()
        rng = np.random.Generator(np.random.PCG64([seed, *kind.encode()]))
        with (unfinished / "expected").open("w", encoding="utf-8") as expected:
            expected.writelines(line + "\n" for line in make(size, rng, unfinished / name))
        unfinished.rename(home)
    return Data(home / name, home / "expected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("size", type=parse_size, help="size of the input, such as 256MB")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(generate(options.kind, options.size, options.folder, options.seed).input)


if __name__ == "__main__":
    main()
