"""Inputs for tests and benchmarks: deterministic, so that the same arguments always give the same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import accumulate

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_UNUSUAL = ("naïve", "Größe", "Αθήνα", "слово", "東京", "don't", "x-ray", "e=mc²", "...", "Zürich,")
_HOSTS = ("example.org", "www.example.com", "news.example.net", "blog.example.net", "localhost:8080")


def words(count: int, seed: int = 0) -> list[str]:
    """Return ``count`` different words, frequent and short ones first; some are not ASCII."""
    rng = random.Random(f"words {seed}")
    found = dict.fromkeys(_UNUSUAL)
    while len(found) < count:
        length = 1 + min(11, len(found) // 20) // 2 + rng.randrange(1, 6)
        found["".join(rng.choices(_LETTERS, range(26, 0, -1), k=length))] = None
    rest = list(found)[len(_UNUSUAL) :]
    # Spread the unusual ones over the ranks.
    for i, word in enumerate(_UNUSUAL):
        rest.insert(min(len(rest), 7 * i + 3), word)
    return rest[:count]


class Zipf:
    """Draws words whose frequency is about 1 / rank, as in a natural text."""

    def __init__(self, vocabulary: int = 2000, seed: int = 0) -> None:
        self._words = words(vocabulary, seed)
        self._weights = list(accumulate(1 / rank for rank in range(1, vocabulary + 1)))
        self._rng = random.Random(f"zipf {seed}")

    def sentence(self, length: int) -> list[str]:
        return self._rng.choices(self._words, cum_weights=self._weights, k=length)

    def text(self, lines: int) -> Iterator[str]:
        """Yield lines without their newlines; some are empty, some have blanks and tabs in odd places."""
        rng = self._rng
        for _ in range(lines):
            line = rng.choice((" ", " ", " ", "  ", "\t")).join(self.sentence(rng.randrange(0, 20)))
            yield rng.choice(("", "", "", "  ")) + line


def text(lines: int, seed: int = 0) -> str:
    """Return lines of Zipf-like text, each with its newline."""
    return "".join(line + "\n" for line in Zipf(seed=seed).text(lines))


def access_log(lines: int, seed: int = 0) -> str:
    """Return entries in the Combined Log Format; one in about 25 is damaged."""
    rng = random.Random(f"log {seed}")
    files = ("", "index.html", "a%20b.png", "~u")
    paths = [f"/{word}/{file}" for word in words(12, seed) if word.isascii() for file in files]
    weights = [1 / rank for rank in range(1, len(paths) + 1)]
    found = []
    for number in range(lines):
        path = rng.choices(paths, weights)[0] + rng.choice(("", "", "?q=1", "?next=/a?b&c", "?"))
        agent = rng.choice(("Mozilla/5.0 (X11; Linux) [en]", "curl/8.5.0", "-", 'odd \\"quoted\\" agent'))
        user = rng.choice(("-", "-", "ada", "ada lovelace"))
        stamp = f"{1 + number % 28:02}/Nov/2026:{number % 24:02}:{number % 60:02}:00 +0000"
        method, protocol = rng.choice(("GET", "POST", "HEAD")), rng.choice(("1.0", "1.1", "2.0"))
        size = rng.choice(("-", str(rng.randrange(100000))))
        line = (
            f"{rng.randrange(256)}.0.0.{rng.randrange(256)} - {user} [{stamp}] "
            f'"{method} {path} HTTP/{protocol}" {rng.choice((200, 200, 200, 304, 404, 500))} {size} '
            f'"https://example.org/" "{agent}"'
        )
        if rng.random() < 0.04:
            line = rng.choice(("", line[: rng.randrange(30)], line.replace("HTTP/", ""), "\\x16\\x03\\x01"))
        found.append(line + "\n")
    return "".join(found)


def pages(count: int, seed: int = 0) -> Iterator[tuple[str, str, set[str]]]:
    """Yield small HTML pages: ``(url, html, the absolute web addresses that it links to)``."""
    rng = random.Random(f"pages {seed}")
    zipf = Zipf(500, seed)
    for number in range(count):
        host = _HOSTS[number % len(_HOSTS)]
        url = f"http://{host}/d{number % 3}/page{number}.html"
        folder = url.rpartition("/")[0]
        body, targets = [], set()
        for _ in range(rng.randrange(0, 12)):
            other = rng.randrange(count)
            there = _HOSTS[other % len(_HOSTS)]
            page = f"http://{there}/d{other % 3}/page{other}.html"
            href, target = rng.choice(
                (
                    (page, page),
                    (f"//{there}/", f"http://{there}/"),
                    (f"/top{other % 7}", f"http://{host}/top{other % 7}"),
                    (f"near{other % 5}.html#part", f"{folder}/near{other % 5}.html"),
                    (f"/find?a=1&amp;b={other % 3}", f"http://{host}/find?a=1&b={other % 3}"),
                    ("../up.html", f"http://{host}/up.html"),
                    ("mailto:ada@example.org", None),
                    ("javascript:void(0)", None),
                    ("http://[broken", None),
                )
            )
            quote = rng.choice(('"', "'"))
            tag = rng.choice(("a", "A"))
            body.append(f"<{tag} class=x href={quote}{href}{quote}>{' '.join(zipf.sentence(3))}</{tag}>")
            if target:
                targets.add(target)
        text = " ".join(zipf.sentence(20))
        head = f"<!doctype html><title>{text[:20]}</title><!-- <a href='/no'> -->"
        yield url, "\n".join([head, f"<p>{text}<a name=x>", *body]), targets


def documents(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield documents with ``id``, ``url`` and ``text``; some words are in title case, some hosts are rare."""
    rng = random.Random(f"documents {seed}")
    zipf = Zipf(800, seed)
    for number in range(count):
        host = _HOSTS[min(rng.randrange(len(_HOSTS)), rng.randrange(len(_HOSTS)))]
        spoken = (word.title() if rng.random() < 0.1 else word for word in zipf.sentence(rng.randrange(60)))
        yield {"id": f"doc-{number:05}", "url": f"https://{host}/{number}", "text": " ".join(spoken)}


def json_lines(values: Iterable[object]) -> str:
    """Return each value as a line of JSON."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def sort_records(count: int, seed: int = 0, duplicates: float = 0.1) -> bytes:
    """Records of 100 bytes: a key of 10 printable characters, a blank, its number, filling, a newline.

    ``duplicates`` is the share of records whose key equals the key of another record, at least up to its last byte.
    """
    rng = random.Random(f"sort {seed}")
    alphabet = bytes(range(33, 127))
    records: list[bytes] = []
    for number in range(count):
        if records and rng.random() < duplicates:
            key = records[rng.randrange(number)][:10]
            if rng.random() < 0.5:
                key = key[:9] + bytes(rng.choices(alphabet))
        else:
            key = bytes(rng.choices(alphabet, k=10))
        records.append((b"%s %010d " % (key, number)).ljust(99, b"%c" % (65 + number % 26)) + b"\n")
    return b"".join(records)
