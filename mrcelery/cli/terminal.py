"""Prints text for people: what could command a terminal, or stand for something else than it shows, is escaped."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

import click

from mrcelery.errors import mask, visible


def say(text: str, *, err: bool = False) -> None:
    """Print lines for a person, on stdout or stderr."""
    click.echo(visible(mask(text)), err=err)


def visible_bytes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Escape text that comes in pieces; bytes that are not UTF-8 too."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    held = ""
    for chunk in chunks:
        text = held + decoder.decode(chunk)
        held = "\r" if text.endswith("\r") else ""  # it belongs to a newline that is still to come, or to nothing
        yield visible(text[: len(text) - len(held)]).encode()
    yield visible(held + decoder.decode(b"", True)).encode()
