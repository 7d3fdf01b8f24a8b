"""Patterns of one name, against the shell's own matching."""

from __future__ import annotations

import random
import subprocess

import pytest

from mrcelery.planning.globs import Glob

ITEMS = ("a", "b", "0", "-", "!", "^", "[", "]", "*", "?", "[!", "[^", "[:digit:]", "[[:alpha:]]", "a-b", ".")

MATCHES = """
while IFS= read -r pattern && IFS= read -r name; do
    case $name in $pattern) echo 1 ;; *) echo 0 ;; esac
done
"""


def shell(pairs: list[tuple[str, str]]) -> list[bool]:
    """Ask bash which names match which patterns."""
    lines = "".join(f"{pattern}\n{name}\n" for pattern, name in pairs)
    done = subprocess.run(["bash", "-c", MATCHES], input=lines, capture_output=True, text=True, env={"LC_ALL": "C"})
    return [answer == "1" for answer in done.stdout.split()]


def ours(pattern: str, name: str) -> bool:
    # a first letter of its own: names that begin with a dot or an underscore are hidden from patterns
    return Glob(f"x{pattern}").match(f"x{name}")


def test_random_patterns_match_as_in_the_shell() -> None:
    dice = random.Random(20261128)
    pairs = [
        ("".join(dice.choices(ITEMS, k=dice.randint(1, 5))), "".join(dice.choices("ab0-!^[].", k=dice.randint(1, 3))))
        for _ in range(2000)
    ]
    expected = shell(pairs)
    assert 20 < sum(expected) < 1980
    assert [pair for pair, right in zip(pairs, expected, strict=True) if ours(*pair) != right] == []


@pytest.mark.parametrize(
    "pattern",
    ["[^0-9]", "[!0-9]", "[0-9^]", "[]x]", "[^]x]", "[!]", "[^]", "[z-a]", "[[:digit:]]", "[^[:alpha:]]", "[-x]"],
)
def test_brackets_are_those_of_the_shell(pattern: str) -> None:
    names = ["7", "x", "^", "!", "-", "]", "A", "_", " ", "\\", "[!]"]
    assert [ours(pattern, name) for name in names] == shell([(pattern, name) for name in names])


def test_letters_beyond_ascii() -> None:
    assert ours("[^0-9]", "é")
    assert ours("[é]", "é")
    assert not ours("[[:alpha:]]", "é")


def test_many_stars_take_no_time() -> None:
    assert not Glob("*a" * 40 + "b").match("a" * 250)
    assert Glob("*a" * 40 + "b").match("a" * 250 + "b")
