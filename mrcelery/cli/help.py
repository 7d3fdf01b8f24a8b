"""``mrcelery help``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from itertools import groupby

import click

from mrcelery.cli.common import epilog
from mrcelery.cli.pages import KINDS, Page, pages, with_code
from mrcelery.errors import UsageError

_WIDEST = 100
"""Columns of a page at most: longer lines are hard to read."""
_EXCERPTS = 3
"""Matches that a search shows of each page."""
_EXCERPT = 96
"""Characters of a match."""
_LINK = re.compile(r"(`+[^`]*`+)|\[([^]]*)\]\(([^)\s]*)\)")
_MARKS = re.compile(r"\[([^]]*)\]\([^)\s]*\)|\*\*|`|^(?:#+|[-*+]|\||>)\s*|\s*\|$")


@click.command(
    epilog=epilog("mrcelery help", "mrcelery help fleet", "mrcelery help submit", "mrcelery help -s visibility timeout")
)
@click.option("-s", "--search", is_flag=True, help="List pages with lines that contain all the words.")
@click.argument("topic", nargs=-1)
@click.pass_context
def command(ctx: click.Context, search: bool, topic: tuple[str, ...]) -> int:
    """Show the guide: the list of its pages, one page, or the options of a command.

    TOPIC is a page, such as fleet or howto/fleet, or a command. On a terminal, pages are shown by the program that
    PAGER names. A search that finds nothing exits with 1.
    """
    found = pages()
    if search:
        return _search(found, " ".join(topic).split())
    if not topic:
        _list(found)
        return 0
    _show_topic(ctx, found, topic)
    return 0


def _list(found: Sequence[Page]) -> None:
    names = {page: _short(page, found) for page in found}
    width = max(map(len, names.values()), default=0)
    for kind, members in groupby(found, lambda page: page.kind):
        click.echo(KINDS[kind])
        for page in members:
            click.echo(f"  {names[page]:<{width}}  {page.summary}")
        click.echo()
    click.echo("Read one with `mrcelery help TOPIC`, search all with `mrcelery help -s WORD...`.")


def _short(page: Page, found: Sequence[Page]) -> str:
    """Return the shortest name that means this page alone."""
    return page.name if sum(one.stem == page.stem for one in found) > 1 else page.stem


def _show_topic(ctx: click.Context, found: Sequence[Page], topic: tuple[str, ...]) -> None:
    """Show the page or command that a topic names. Raises :class:`UsageError` if it names none."""
    name = " ".join(topic).removesuffix(".md").replace("how-to/", "howto/").lower()
    named = [page for page in found if name in (page.stem, page.name)]
    options = _options(ctx, topic)
    if not named and options is None:
        raise UsageError(_unknown(ctx, found, " ".join(topic)))
    if not named:
        click.echo(options)
        return
    others = [f"mrcelery help {page.name}" for page in named[1:]]
    others += [f"mrcelery {name} --help"] if options is not None else []
    see = f"\nSee also: {', '.join(f'`{one}`' for one in others)}\n" if others else ""
    _show(named[0].text + see)


def _options(ctx: click.Context, names: Sequence[str]) -> str | None:
    """Return what ``--help`` prints for a command, or a command of a group; None if there is no such command."""
    context = ctx.find_root()
    for name in names:
        group = context.command
        found = group.get_command(context, name) if isinstance(group, click.Group) else None
        if found is None:
            return None
        context = click.Context(found, info_name=name, parent=context)
    return context.get_help()


def _unknown(ctx: click.Context, found: Sequence[Page], topic: str) -> str:
    import difflib  # noqa: PLC0415 - only a misspelt topic needs it

    root = ctx.find_root()
    commands = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
    topics = dict.fromkeys([*(page.stem for page in found), *(page.name for page in found), *commands])
    within = [one for one in topics if topic.lower() in one.rpartition("/")[2].split("-")]
    near = within[:1] or difflib.get_close_matches(topic.lower(), topics, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else "`mrcelery help` lists all;"
    return f"no topic {topic!r} in the guide: {meant} `mrcelery help -s {topic}` searches it"


def _show(text: str) -> None:
    """Print a page: rendered and paged on a terminal, else its Markdown."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console  # noqa: PLC0415 - only a page on a terminal needs it
    from rich.markdown import Markdown  # noqa: PLC0415 - only a page on a terminal needs it
    from rich.theme import Theme  # noqa: PLC0415 - only a page on a terminal needs it

    # rich's own style of code has a black background, which a light terminal does not have
    console = Console(force_terminal=True, theme=Theme({"markdown.code": "cyan"}))
    console.width = min(console.width, _WIDEST)
    with console.capture() as rendered:
        console.print(Markdown(_with_topics(text), code_theme="ansi_dark", hyperlinks=False))
    os.environ.setdefault("LESS", "FRX")  # as git does: what fits on the screen is not paged, colors are shown
    click.echo_via_pager(rendered.get())


def _with_topics(text: str) -> str:
    """Replace links to other pages by their topics: a terminal cannot follow a relative link."""
    parts = []
    for code, run in groupby(with_code(text), lambda one: one[1]):
        part = "\n".join(line for line, _ in run)
        parts.append(part if code else _LINK.sub(_as_topic, part))
    return "\n".join(parts) + "\n"


def _as_topic(link: re.Match[str]) -> str:
    if link[1]:
        return link[1]  # code, not a link
    label, target = link[2], link[3]
    if ":" in target:
        return link[0]
    path = target.partition("#")[0]
    if not path.endswith(".md") or path.endswith("README.md"):
        return label
    return f"{label} (`help {path.removesuffix('.md').removeprefix('../')}`)"


def _search(found: Sequence[Page], words: Sequence[str]) -> int:
    """List the pages that have all words, with the lines that have most of them; return the exit code.

    Titles come first, then pages with more of the words in one line, then those with more such lines.
    """
    if not words:
        raise UsageError("there is nothing to search for: give words, as in `mrcelery help -s visibility timeout`")
    wanted = [re.compile(rf"(?<!\w){re.escape(word)}", re.IGNORECASE) for word in words]
    ranked = []
    for page in found:
        if not all(word.search(page.text) for word in wanted):
            continue
        counted = [(sum(bool(word.search(line)) for word in wanted), line) for line in page.lines()]
        most = max(count for count, _ in counted)
        lines = [line for count, line in counted if count == most]
        in_title = all(word.search(page.title) for word in wanted)
        ranked.append((not in_title, -most, -len(lines), page, lines))
    for *_, page, lines in sorted(ranked, key=lambda one: one[:3]):
        click.echo(f"{_short(page, found)}: {page.title}")
        for line in lines[:_EXCERPTS]:
            click.echo(f"    {_excerpt(line, [word.lower() for word in words])}")
        if (more := len(lines) - _EXCERPTS) > 0:
            click.echo(f"    ... and {more} more")
    if not ranked:
        remedy = "try fewer words" if len(words) > 1 else "`mrcelery help` lists the pages"
        click.echo(f"mrcelery: nothing in the guide matches {' and '.join(words)}: {remedy}", err=True)
    return 0 if ranked else 1


def _excerpt(line: str, words: Sequence[str]) -> str:
    """Cut a line to what surrounds the first of the words in it, without its Markdown."""
    plain = _MARKS.sub(lambda mark: mark[1] or "", line)
    if len(plain) <= _EXCERPT:
        return plain
    at = min((place for word in words if (place := plain.lower().find(word)) >= 0), default=0)
    start = max(0, min(at - _EXCERPT // 3, len(plain) - _EXCERPT))
    cut = plain[start : start + _EXCERPT]
    return ("..." if start else "") + cut.strip() + ("..." if start + _EXCERPT < len(plain) else "")
