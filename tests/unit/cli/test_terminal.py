"""What jobs say cannot command the terminal on which it is shown."""

from __future__ import annotations

import pytest

from mrcelery.cli import picture
from mrcelery.cli.common import print_table
from mrcelery.cli.terminal import say, visible_bytes
from mrcelery.errors import on_a_line, visible

TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, r"\x1b]0;owned\x07"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\rb", r"a\rb"),
        ("a\r\nb\tc", "a\r\nb\tc"),
        ("\u202eabc\u2066\u200f\u061c", r"\u202eabc\u2066\u200f\u061c"),
        ("\u2028", r"\u2028"),
        ("\udcff", r"\udcff"),
        ("\x7f\x00\x08", r"\x7f\x00\x08"),
        ("Grüße, 世界 👩‍👩‍👧 \\x1b", "Grüße, 世界 👩‍👩‍👧 \\x1b"),
    ],
)
def test_what_commands_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_a_name_stays_on_its_line() -> None:
    assert on_a_line("a\nb\tc\rd") == r"a\nb\tc\rd"


def test_lines_tables_and_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{TITLE}\nsecond", err=True)
    print_table(("NAME",), [(f"{TITLE}\n",)])
    picture.echo([[(TITLE, "red"), ("\n", "")]])
    out, err = capsys.readouterr()
    assert err == "\\x1b]0;owned\\x07\nsecond\n"
    assert out == "NAME\n\\x1b]0;owned\\x07\\n\n\\x1b]0;owned\\x07\\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_log_in_pieces(size: int) -> None:
    log = "é\x1b[1m\r\n\r世\n".encode() + b"\xff\x9b\xe4\xb8"
    pieces = [log[at : at + size] for at in range(0, len(log), size)]
    assert b"".join(visible_bytes(pieces)).decode() == "é\\x1b[1m\r\n\\r世\n\\xff\\x9b\\xe4\\xb8"
