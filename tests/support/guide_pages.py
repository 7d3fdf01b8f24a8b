"""Pages of prose, parsed: their blocks of code, their links, and faults in their form.

A comment directly above each fenced block of a guide page says how the block is tested::

    <!-- file: NAME -->        the block is written to that file
    <!-- run -->               bash runs it, and it succeeds; <!-- run: exit 1 --> expects that exit code
    <!-- python -->            Python runs it
    <!-- pytest -->            pytest runs it
    <!-- output -->            what the last block printed on stdout; `...` is any text, or any lines
    <!-- stderr -->            the same for stderr
    <!-- not run: REASON -->   nothing is tested

A page that needs more has ``<!-- needs: fleet -->`` or ``<!-- needs: arrow -->`` below its summary. The comment
``<!-- words to avoid -->`` above a table lets it list banned words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from mrcelery.cli.pages import with_code

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "mrcelery" / "guide"

MOST_CHARACTERS = 120
"""Per line."""
MOST_WORDS = 35
"""Per sentence."""
MOST_LINES = 6
"""Per paragraph or list item."""
MOST_SUMMARY = 90
"""Characters of the sentence under the title, which ``mrcelery help`` lists."""

WORDS = "words to avoid"
"""The comment above a table that may list banned words."""

NEEDS = ("fleet", "arrow")

_IZE = "recogn|organ|summar|normal|optim|serial|synchron|initial|minim|maxim|general"

BANNED = {
    r"tells?|telling|told": "report, publish, record, warn or say",
    r"look(s|ed|ing)? after": "supervise or manage",
    r"looks up|looking up": "poll or find",
    r"go(es|ing)? on|went on": "resume or continue",
    r"(re-?)?enter(s|ed|ing)? (a|the) job": "register",
    r"sees? to|seeing to": "handle",
    r"stands?(?! (?:for|in|out)\b)|stood": "is, or the verb that is meant",
    r"comes? back|came back|coming back": "return",
    r"(?<!there )(is|are) no(?! (?:longer|more|need|reason)\b)": "is not, or is not a valid",
    r"that of": "repeat the noun",
    r"of one's own|own ones?": "custom",
    r"for want of": "without",
    r"anew": "again",
    r"as it is(?! \w+(?:ed|n)\b)": "unchanged",
    r"but for": "except",
    r"besides?": "next to, or in addition to",
    r"where there (is|are)": "if there is",
    r"wheth?er or not": "whether",
    r"foretells?": "predict",
    r"\w*(behavi|col|hon|fav|neighb)our\w*": "American spelling, -or",
    rf"({_IZE})is(e|ed|es|ing|ations?)": "American spelling, -ize",
    r"analys(e|ed|es|ing)": "American spelling, analyze",
}
"""Words that make a page read like a translation, with better ones; not looked for in code."""

_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs)\.")
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"*]*\s+(?=[\"(*]*(?:[A-Z0-9]|mrcelery\b|mrjob\b))")
_COMMENT = re.compile(r"\s*<!--(.*?)(-->)?\s*")
_CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_LINK = re.compile(r"!?\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")
_TARGET = re.compile(r"\]\(([^)\s]+)\)")
_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+")
_HEADING = re.compile(r"(#+)\s+(.*)")
_RULE_OF_TABLE = re.compile(r"\|?[\s:|-]+\|?")
_DIRECTIVE = re.compile(r"file: \S+|run|run: exit \d+|python|pytest|output|stderr|not run: .+")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is the number of its fence, ``how`` the comment above it, empty if there is none."""

    line: int
    how: str
    text: str

    @property
    def verb(self) -> str:
        return self.how.partition(":")[0]

    @property
    def argument(self) -> str:
        return self.how.partition(": ")[2]


@dataclass(frozen=True)
class Passage:
    """A paragraph, list item, heading or cell of a table, without its code spans; ``lines`` is how long it is."""

    line: int
    kind: str
    text: str
    lines: int = 1

    def sentences(self) -> list[str]:
        text = _ABBREVIATIONS.sub(lambda found: found[1].replace(".", ""), self.text)
        return [one for one in _SENTENCE_END.split(text) if one.strip()]


class Page:
    """One file of Markdown; lines are counted from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        self.lines = path.read_text().splitlines()
        self._marked = list(enumerate(with_code("\n".join(self.lines)), 1))

    def at(self, line: int, what: str) -> str:
        return f"{self.name}:{line}: {what}"

    def comments(self) -> Iterator[tuple[int, str]]:
        """Iterate over the comments, with the numbers of their lines."""
        for number, (line, code) in self._marked:
            if not code and (found := _COMMENT.fullmatch(line)):
                yield number, found[1].strip()

    def needs(self) -> set[str]:
        return {text.partition(": ")[2] for _, text in self.comments() if text.startswith("needs:")}

    def blocks(self) -> list[Block]:
        how, found = dict(self.comments()), []
        fence, start, inside = "", 0, list[str]()
        for number, (line, code) in self._marked:
            if not code:
                continue
            text = line.strip()
            if not fence:
                fence, start, inside = text[: len(text) - len(text.lstrip(text[0]))], number, []
            elif text.startswith(fence) and not text.strip(fence[0]):
                found.append(Block(start, how.get(start - 1, ""), dedent("".join(f"{one}\n" for one in inside))))
                fence = ""
            else:
                inside.append(line)
        return found

    def passages(self) -> Iterator[Passage]:
        """Iterate over what is prose."""
        kind, start, held, avoided = "", 0, list[str](), False
        for number, (line, code) in [*self._marked, (len(self.lines) + 1, ("", False))]:
            cells = line.strip().startswith("|")
            ends = code or cells or not line.strip() or _ITEM.match(line) or _HEADING.match(line) or "<!--" in line
            if held and ends:
                yield Passage(start, kind, _prose(" ".join(held)), len(held))
                held = []
            comment = _COMMENT.fullmatch(line)
            avoided = (avoided and cells) or (comment is not None and comment[1].strip() == WORDS)
            if code or not line.strip() or comment or avoided:
                continue
            if cells:
                if not _RULE_OF_TABLE.fullmatch(line.strip()):
                    for cell in re.split(r"(?<!\\)\|", _prose(line).strip().strip("|")):
                        yield Passage(number, "cell", cell.strip())
            elif heading := _HEADING.match(line):
                yield Passage(number, "heading", _prose(heading[2]))
            else:
                if not held:
                    kind, start = "list item" if _ITEM.match(line) else "paragraph", number
                held.append(_ITEM.sub("", line, count=1).strip())

    def anchors(self) -> set[str]:
        """Return the headings' anchors, as code hosts make them."""
        found: set[str] = set()
        for _, (line, code) in self._marked:
            if not code and (heading := _HEADING.match(line)):
                text = _LINK.sub(r"\1", heading[2]).replace("`", "").replace("*", "").strip().lower()
                slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
                again = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
                found.add(f"{slug}-{again}" if again else slug)
        return found

    def links(self) -> Iterator[tuple[int, str]]:
        """Iterate over the targets of links and pictures, with the numbers of their lines."""
        for number, (line, code) in self._marked:
            if not code:
                for target in _TARGET.findall(_CODE_SPAN.sub("code", line)):  # a label may begin on an earlier line
                    yield number, target


def _prose(text: str) -> str:
    """Remove code, the targets of links, and emphasis."""
    return _LINK.sub(r"\1", _CODE_SPAN.sub("`code`", text)).replace("**", "").replace("`code`", "CODE")


def guide_pages() -> list[Page]:
    return [Page(path) for path in sorted(GUIDE.rglob("*.md"))]


def plain_faults(page: Page) -> list[str]:
    """List what breaks the form of any page: long lines, sentences and paragraphs, and banned words."""
    long_lines = [
        page.at(number, f"{len(line)} characters, {MOST_CHARACTERS} at most")
        for number, line in enumerate(page.lines, 1)
        if len(line) > MOST_CHARACTERS
    ]
    return long_lines + prose_faults(page)


def prose_faults(page: Page) -> list[str]:
    """List the long sentences and paragraphs, and the banned words; the lines of commands and tables may be long."""
    faults = []
    for passage in page.passages():
        if passage.lines > MOST_LINES:
            faults.append(page.at(passage.line, f"a {passage.kind} of {passage.lines} lines, {MOST_LINES} at most"))
        for sentence in passage.sentences():
            if (words := len(sentence.split())) > MOST_WORDS:
                faults.append(
                    page.at(passage.line, f"a sentence of {words} words, {MOST_WORDS} at most: {sentence[:60]}...")
                )
        for banned, better in BANNED.items():
            for found in re.finditer(rf"\b(?:{banned})\b", passage.text, re.IGNORECASE):
                faults.append(page.at(passage.line, f"{found[0]!r} in a {passage.kind}: write {better}"))
    return faults


def guide_faults(page: Page) -> list[str]:
    """List what breaks the form of a page of the guide: its title and summary, and comments that are wrong."""
    faults = []
    passages = list(page.passages())
    title, summary = (passages[0], passages[1]) if len(passages) > 1 else (None, None)
    if not page.lines or not page.lines[0].startswith("# "):
        faults.append(page.at(1, "the first line must be '# Title'"))
    elif title is None or summary is None or summary.kind != "paragraph":
        faults.append(page.at(1, "a paragraph of one sentence must follow the title"))
    else:
        raw = " ".join(line.strip() for line in page.lines[summary.line - 1 : summary.line - 1 + summary.lines])
        if len(raw) > MOST_SUMMARY:
            faults.append(page.at(summary.line, f"a summary of {len(raw)} characters, {MOST_SUMMARY} at most"))
        if len(summary.sentences()) != 1 or not raw.endswith("."):
            faults.append(page.at(summary.line, "the summary must be one sentence"))
        if _LINK.search(raw):
            faults.append(page.at(summary.line, "the summary must not have a link"))
    fences = {block.line for block in page.blocks()}
    for number, text in page.comments():
        if text.startswith("needs: "):
            if text.partition(": ")[2] not in NEEDS:
                faults.append(page.at(number, f"needs must be one of {', '.join(NEEDS)}"))
        elif text != WORDS and not _DIRECTIVE.fullmatch(text):
            faults.append(page.at(number, f"unknown comment {text!r}"))
        elif text != WORDS and number + 1 not in fences:
            faults.append(page.at(number, "this comment must be directly above a fence"))
    faults += [
        page.at(block.line, "no comment says how this block is tested") for block in page.blocks() if not block.how
    ]
    return faults


def dead_links(page: Page, pages: Sequence[Page] = ()) -> list[str]:
    """List the links that lead nowhere; those to other sites are not followed."""
    known = {one.path.resolve(): one for one in pages}
    faults = []
    for number, target in page.links():
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path.resolve()
        if not file.exists():
            faults.append(page.at(number, f"the link {target} leads to no file"))
        elif anchor and anchor not in known.setdefault(file, Page(file)).anchors():
            faults.append(page.at(number, f"the link {target} leads to no heading"))
    return faults


def matches(expected: str, printed: str) -> bool:
    """Whether a text is what a block shows: a line ``...`` stands for any lines, ``...`` in a line for any text."""
    pattern = ""
    for line in expected.splitlines():
        any_text = ".*".join(re.escape(part) for part in line.split("..."))
        pattern += r"(?:.*\n)*" if line.strip() == "..." else f"{any_text}\n"
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else f"{printed}\n") is not None
