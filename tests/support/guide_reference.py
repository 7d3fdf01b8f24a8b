"""The pages of the guide that are made from the program itself: its commands, settings and public names.

``python -m tests.support.guide_reference`` writes them, with ``--check`` it only says which differ (exit code 1).
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import Parameter
from textwrap import dedent, wrap
from typing import Any

import click
import msgspec

import mrcelery
from mrcelery import config, errors, events, formats, ops, protocols
from mrcelery.cli.main import cli
from mrcelery.config import SETTINGS
from tests.support.guide_pages import GUIDE, MOST_CHARACTERS

FOLDER = GUIDE / "reference"

_SIGNATURE = "<!-- not run: a signature -->"
_EXAMPLE = "<!-- not run: an example, whose names are not here -->"

_ROLE = re.compile(r":(\w+):`~?([^`]+)`")
_OPTION = re.compile(
    r"(?<![\w/-])(--?[a-zA-Z][\w-]*(?:=[A-Z]+)?|s3://[\w./-]*|[\w./-]+\.(?:json|html|txt|toml)\b|file\.py(?::Class)?"
    r"|pkg\.module:Class)"
)
_DEFAULT = re.compile(r"\s+\[(.*)\]$")


# Markdown


def paragraph(text: str, first: str = "", rest: str = "") -> str:
    """Wrap a text; ``first`` begins its first line, ``rest`` the others."""
    glued = re.sub(r" ([-+*] |\d+\. )", lambda found: f"\0{found[1][:-1]}\0", text)  # else a line could begin a list
    lines = wrap(
        glued,
        MOST_CHARACTERS - 2,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ")


def fence(language: str, code: str, comment: str, indent: str = "") -> str:
    lines = [comment, f"```{language}", *code.strip("\n").splitlines(), "```"]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def sentence(text: str) -> str:
    """Begin a text with a capital, and end it with a period."""
    return text[:1].upper() + full_stop(text[1:])


def full_stop(text: str) -> str:
    return text + ("" if text.endswith((".", "!", "?")) else ".")


def code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# Docstrings


def markdown(docstring: str, indent: str = "") -> list[str]:
    """Turn a docstring into paragraphs of Markdown."""
    found: list[str] = []
    literal = False
    for part in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if literal and part.startswith("    "):
            if found and found[-1].endswith("```"):
                found[-1] = found[-1].removesuffix(f"\n{indent}```") + f"\n\n{dedent(part)}\n{indent}```"
            else:
                found.append(fence("python", dedent(part), _EXAMPLE, indent))
            continue
        literal = part.endswith("::")
        text = _ROLE.sub(_role, part).replace("``", "`")
        text = re.sub(r"::$", ":", text)
        if not text.strip(":"):
            continue
        items = re.split(r"^- ", text, flags=re.MULTILINE)
        if items[0].strip():
            found.append(paragraph(" ".join(items[0].split()), indent, indent))
        if items[1:]:
            found.append(
                "\n".join(paragraph(" ".join(item.split()), f"{indent}- ", f"{indent}  ") for item in items[1:])
            )
    return found


def _role(found: re.Match[str]) -> str:
    name = found[2].removeprefix("mrcelery.events.").removeprefix("mrcelery.errors.")
    return f"`{name}()`" if found[1] in ("func", "meth") else f"`{name}`"


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the strings below a class's attributes."""
    (tree,) = ast.parse(dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for one, below in zip(tree.body, tree.body[1:], strict=False):
        target = one.target if isinstance(one, ast.AnnAssign) else None
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            found[target.id] = text.value
    return found


# Signatures

_PLACED, _NAMED = Parameter.POSITIONAL_ONLY, Parameter.KEYWORD_ONLY


def signature(name: str, function: Callable[..., Any]) -> str:
    """Write a signature, without ``self``, on one line or, if that is too long, with a line for each parameter."""
    spec = inspect.signature(function)
    own = [one for one in spec.parameters.values() if one.name not in ("self", "cls")]
    given: list[str] = []
    for number, one in enumerate(own):
        if one.kind is _NAMED and not any(before.kind in (_NAMED, Parameter.VAR_POSITIONAL) for before in own[:number]):
            given.append("*")
        given.append(_parameter(one))
        if one.kind is _PLACED and not any(after.kind is _PLACED for after in own[number + 1 :]):
            given.append("/")
    empty = function.__name__ == "__init__" or spec.return_annotation is inspect.Signature.empty
    returns = "" if empty else f" -> {_type(spec.return_annotation)}"
    line = f"{name}({', '.join(given)}){returns}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in given), f"){returns}"])


def called(level: str, name: str, function: Callable[..., Any]) -> list[str]:
    """Make the heading of a function: with its signature, or above it if that is long."""
    text = signature(name, function)
    return [f"{level} `{name}`", fence("python", text, _SIGNATURE)] if "\n" in text else [f"{level} `{text}`"]


def _parameter(one: Parameter) -> str:
    star = "*" if one.kind is Parameter.VAR_POSITIONAL else "**" if one.kind is Parameter.VAR_KEYWORD else ""
    annotated = one.annotation is not Parameter.empty
    kind = f": {_type(one.annotation)}" if annotated else ""
    if one.default is Parameter.empty:
        return f"{star}{one.name}{kind}"
    return f"{one.name}{kind} = {one.default!r}" if annotated else f"{one.name}={one.default!r}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


# The Python API

INTERNAL = {"JobHandle": ("fields", "open_storage", "read_report")}
"""Methods that other modules of ours call."""

MADE_BY_US = ("JobHandle", "JobStatus", "StageStatus", "MRJob")
"""Classes whose objects users do not make by a call."""

GROUPS = {
    "Run jobs": ("run", "submit", "attach", "JobHandle", "JobStatus", "StageStatus"),
    "Write jobs": ("MRJob", "MRStep"),
    "Celery apps": ("install", "transport_options", "use_transports", "app"),
    "Errors": (
        "MRCeleryError",
        "UsageError",
        "UnreachableError",
        "JobFailedError",
        "JobCancelledError",
        "WaitTimeoutError",
    ),
}
"""The names of ``mrcelery.__all__`` without ``ops``, a module, by what they are for."""

BASES = ("Event", "TriedAgain")
"""Events that only others are made of."""

APP = """The Celery app with mrcelery's tasks, for the broker that is configured. `celery -A mrcelery worker` and
`celery -A mrcelery flower` load it; it is made when it is first used."""


def python_api() -> str:
    """Make the page of public names."""
    named = {name for names in GROUPS.values() for name in names}
    assert named == set(mrcelery.__all__) - {"ops"}, "a public name is in no group: see GROUPS"
    parts = [
        "# Python API",
        "Every public name of mrcelery, with its signature and its docstring.",
        "`import mrcelery` loads nothing else: each name is imported when it is first used. What is not on this page "
        "is internal, and may change in any version. [Write jobs](../howto/write-jobs.md) shows how the names are used "
        "together.",
    ]
    for group, names in GROUPS.items():
        parts += [f"## {group}"]
        for name in names:
            parts += _named(name, mrcelery) if name != "app" else ["### `mrcelery.app`", APP]
    for title, module, listed in (
        ("Declared reducers", ops, ["Op", *(name for name in ops.__all__ if name != "Op")]),
        ("Protocols", protocols, _public(protocols)),
        ("Formats", formats, formats.__all__),
        ("Events", events, [name for name in _public(events) if name not in BASES]),
    ):
        parts += [f"## {title}: `{module.__name__}`", *markdown(module.__doc__ or "")]
        if module is events:
            parts.append(
                paragraph("All events have the fields `v` (the version, 1), `job` (the id) and `at` (seconds).")
            )
        for name in listed:
            parts += _named(name, module)
    return "\n\n".join(part for part in map(_filled, parts) if part) + "\n"


def _filled(part: str) -> str:
    """Wrap a plain paragraph of this module."""
    plain = not part.startswith(("#", "- ", "<!--", "  ", "|"))
    return paragraph(" ".join(part.split())) if plain and "```" not in part else part


def _public(module: Any) -> list[str]:
    """List the classes that a module defines, in order; aliases of one are not repeated."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
        if value.__name__ == name
    ]


def _named(name: str, module: Any) -> list[str]:
    value = getattr(module, name)
    shown = f"mrcelery.{name}" if module is mrcelery else name
    if not isinstance(value, type):
        return [*called("###", shown, value), *markdown(value.__doc__ or "")]
    made = "__init__" in vars(value) and name not in MADE_BY_US and not issubclass(value, Exception)
    made &= not is_dataclass(value) and not getattr(value, "_is_protocol", False)
    parts = called("###", shown, vars(value)["__init__"]) if made else [f"### `{shown}`"]
    parts += markdown(value.__doc__ or "")
    if issubclass(value, errors.MRCeleryError):
        parts.append(f"Exit code {value.exit_code} on the command line.")
    if aliases := [one for one, same in vars(module).items() if same is value and one != name]:
        parts.append(f"Also called {code(aliases)}.")
    if issubclass(value, events.Event) or is_dataclass(value) or issubclass(value, msgspec.Struct):
        parts += _fields(value)
    if module is ops and name != "Op":
        return parts  # its methods are those of Op
    if module is protocols and name != "LineProtocol":
        return parts  # its methods are those of LineProtocol
    return [*parts, *_methods(name, value)]


def _fields(cls: type) -> list[str]:
    """List a structure's own fields."""
    docs: dict[str, str] = {}
    for base in reversed([one for one in cls.__mro__ if one.__module__.startswith("mrcelery.")]):
        docs |= attribute_docs(base)
    kinds = {name: kind for one in reversed(cls.__mro__) for name, kind in inspect.get_annotations(one).items()}
    names = [one.name for one in (fields(cls) if is_dataclass(cls) else msgspec.structs.fields(cls))]
    items = []
    if issubclass(cls, events.Event):
        items.append(f"- `event`: `{cls.__struct_config__.tag}`")
        names = [name for name in names if name not in events.Event.__struct_fields__]
    for name in names:
        meaning = " ".join(_ROLE.sub(_role, docs.get(name, "")).replace("``", "`").split())
        items.append(paragraph(f"`{name}`: `{_type(kinds[name])}`" + (f". {meaning}" if meaning else ""), "- ", "  "))
    return ["\n".join(items)] if items else []


def _methods(owner: str, cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        if name.startswith("_") or name in INTERNAL.get(owner, ()):
            continue
        if isinstance(value, property):
            yield f"#### `{owner}.{name}`"
            yield from markdown(value.__doc__ or "")
            continue
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not inspect.isfunction(function) or not function.__doc__:
            continue
        yield from called("####", f"{owner}.{name}", function)
        yield from markdown(function.__doc__)


# The command line

COMMANDS = """
# Command line

Every command of `mrcelery`, with its options and their defaults.

`mrcelery COMMAND --help` prints the same in the terminal, and `mrcelery --version` the version. Options may be set
once for all commands, as variables or in a file: see [configuration](configuration.md). The [exit
codes](exit-codes.md) are the same for all commands.

`python job.py INPUT...` runs a job file by itself. It takes the options of `submit` and the job's own, in any order.
"""


NOTES = {
    "storage": "The local runner uses a temporary folder by default, and ignores the storage of a configured fleet.",
    "reducers": "Without it, one per 32 MiB of input, 64 at most.",
    "partitioner": "See [partition and sort](../howto/partition-and-sort.md).",
    "split_size": "The local runner takes less for a small input, so that all workers have a share.",
    "memory": "It is counted beyond what Python and its libraries take. A task's buffers get a quarter of it, a record "
    "an eighth. Code that holds much more fails.",
    "storage_patience": "Attempts that an outage ends do not count.",
    "max_bad_records": "See [debug](../howto/debug.md).",
    "input_format": "See [formats](formats.md).",
    "output_format": "See [formats](formats.md).",
    "defines": "`mapreduce.job.reduces` sets R.",
    "files": "A `.mrceleryignore` leaves files of folders out.",
    "client_token": "It needs a `--broker` or a `--storage`. Another job, input, output, or option with the same token "
    "is refused.",
    "dry_run": "The plan has the S3 requests with their price, and each file that would be shipped.",
    "as_json": "See [events](events.md).",
}
"""What the reference adds to the help of options of ``submit``, by their names in Python."""


def command_line() -> str:
    """Make the page of commands."""
    parts = [COMMANDS.strip()]
    for names, command in commands():
        parts += [f"## {' '.join(names)}", *_command(names, command)]
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Iterate over all commands with their names, those of groups in the group's place."""
    root = click.Context(cli, info_name="mrcelery")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from (((name, below), one) for below, one in command.commands.items())
        else:
            yield (name,), command


def _command(names: Sequence[str], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(names))
    yield fence(
        "text", " ".join(["mrcelery", *names, *command.collect_usage_pieces(context)]), "<!-- not run: usage -->"
    )
    for part in _texts(command.help or ""):
        yield _plain(part)
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        yield "\n".join(_option(names[0], one) for one in options)
    for part in _texts(command.epilog or ""):
        head, _, rest = part.removeprefix("\b\n").partition("\n")
        if head == "Examples:":
            yield head
            yield fence("sh", dedent(rest), _EXAMPLE)
        else:
            yield _plain(part)


def _texts(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", inspect.cleandoc(text)) if part.strip()]


def _plain(text: str) -> str:
    return paragraph(_marked(" ".join(text.replace("\b", "").split())))


def _marked(text: str) -> str:
    """Mark options, addresses and files as code, outside of what is marked already."""
    parts = text.split("`")
    return "`".join(_OPTION.sub(r"`\1`", part) if number % 2 == 0 else part for number, part in enumerate(parts))


def _option(command: str, option: click.Option) -> str:
    names = [*option.opts, *option.secondary_opts]
    choices = getattr(option.type, "choices", ())
    kind = "|".join(choices) or ("N" if isinstance(option.type, type(click.INT)) else "TEXT")
    metavar = "" if option.is_flag else f" {option.metavar or kind}"
    help = option.help or ""
    default = found[1] if (found := _DEFAULT.search(help)) else ""
    if option.show_default and isinstance(option.default, (str, int, float)):
        default = f"{option.default}"
    meaning = _marked(full_stop(_DEFAULT.sub("", help))) + (f" Default: {_marked(default)}." if default else "")
    more = " May be repeated." if option.multiple and "repeated" not in help else ""
    note = f" {NOTES[option.name]}" if command == "submit" and option.name in NOTES else ""
    called = f"{code(names[:-1])}{', ' if names[1:] else ''}`{names[-1]}{metavar}`"
    return paragraph(f"{called}: {meaning}{more}{note}", "- ", "  ")


# Configuration

CONFIGURATION = """
# Configuration

Every setting: its name in files, its variable, its flags, its default, and its bounds.

## Where settings come from

The first of these that names a setting wins:

1. a flag of the command line, or a keyword argument of `mrcelery.submit` and the like;
2. the variable `MRCELERY_<NAME>`, such as `MRCELERY_SPLIT_SIZE`; an empty variable counts as not set;
3. Celery's own variables `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`, for the broker and the result backend;
4. `mrcelery.toml` in the current folder;
5. the table `[tool.mrcelery]` of `pyproject.toml` in the current folder;
6. `mrcelery/config.toml` in `$XDG_CONFIG_HOME`, or in `~/.config` if that variable is not set;
7. the default.

`mrcelery config show` prints each setting with its value and its origin, and masks secrets:

<!-- file: mrcelery.toml -->
```toml
broker = "redis://redis:6379/0"
storage = "s3://bucket/mrcelery"
split-size = "128MiB"
```

<!-- run -->
```sh
MRCELERY_REDUCERS=8 mrcelery config show | grep -E '^(broker|storage|split_size|reducers|memory) '
```

<!-- output -->
```text
broker ... redis://redis:6379/0 ... mrcelery.toml ...
storage ... s3://bucket/mrcelery ... mrcelery.toml ...
reducers ... 8 ... MRCELERY_REDUCERS ...
split_size ... 134217728 ... mrcelery.toml ...
memory ... 536870912 ... default ...
```

In files, names may have hyphens or underscores. Settings are at the top level of `mrcelery.toml`, not in a table. The
same file serves clients and workers.

Whatever would have no effect is refused: an unknown setting or table, a misspelled Hadoop property, an argument of a
format that the job does not use. A misspelled `MRCELERY_` variable is reported with a warning, since the variable
could belong to another program. Numbers, sizes, and times have bounds, which the error names with their reason.

## Values

- A size is a number of bytes or has a unit: `64MiB`, `512M`, `1.5g`. All units are powers of 1024.
- A time is a number of seconds or has a unit: `90s`, `30m`, `12h`, `7d`, `2w`.
- A switch is `true` or `false`; `yes`, `on` and `1`, or `no`, `off` and `0`, mean the same.

## AWS

mrcelery has no settings for AWS credentials, regions, or endpoints. It uses boto3, which reads its own: profiles,
`AWS_REGION`, `AWS_ENDPOINT_URL_S3`, and the role of the instance or pod. Only the encryption of objects is a setting,
`s3_encryption` and `s3_kms_key`. You need it if a bucket requires each request to name its encryption.

## Other variables

- `NO_COLOR`: if it is set, the terminal shows no colors.
- `PAGER`: the program that shows a page of `mrcelery help`.
- `FLOWER_UNAUTHENTICATED_API`: Flower's own. It allows canceling and retrying jobs in a Flower without a login.
- `REMAP_SIGTERM`: Celery's own. Set it to `SIGQUIT` for workers that `celery -A mrcelery worker` starts.
"""


def configuration() -> str:
    """Make the page of settings."""
    flags = _flags()
    parts = [CONFIGURATION.strip(), "## All settings"]
    for name, setting in SETTINGS.items():
        meta = setting.metadata
        meaning, default = _default(setting.default, meta["help"])
        variables = code([f"MRCELERY_{name.upper()}", *([meta["env"]] if meta["env"] else [])])
        items = [
            f"Variable: {variables}",
            *([f"Flag: {flags[name]}"] if name in flags else []),
            f"Default: {default}",
            *([f"Value: {bounds}"] if (bounds := _bounds(meta["parse"])) != "a text" else []),
        ]
        parts += [
            f"### `{name}`",
            paragraph(_marked(sentence(meaning))),
            "\n".join(paragraph(item, "- ", "  ") for item in items),
        ]
    return "\n\n".join(parts) + "\n"


def _flags() -> Mapping[str, str]:
    """Return the flags of each setting, with the commands that have them."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for names, command in commands():
        for one in command.params:
            if (
                isinstance(one, click.Option) and one.name in SETTINGS and (*names, one.name) != ("list", "owner")
            ):  # a filter
                spelled = (*one.opts, *one.secondary_opts)
                found.setdefault(one.name, {}).setdefault(spelled, []).append(" ".join(names))
    return {
        name: "; ".join(f"{code(spelled)} of {code(where)}" for spelled, where in spellings.items())
        for name, spellings in found.items()
    }


def _default(value: object, help: str) -> tuple[str, str]:
    """Split a setting's help into its meaning and its default, which may be in brackets there."""
    found = re.fullmatch(r"(.*) \(([^()]*)\)", help, re.DOTALL)
    if value in (None, "") and found:
        return found[1], found[2]
    if value in (None, ""):
        return help, "none"
    if isinstance(value, bool):
        return help, f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 1 << 20:
        return help, f"`{config.show_size(value).replace(' ', '')}`"
    return help, f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _bounds(parse: Callable[[object], object]) -> str:
    """Say what a setting takes, which its error says for a value that no setting takes."""
    try:
        parse(1 << 60)
    except (ValueError, TypeError) as e:
        return str(e)
    raise AssertionError("a setting takes 2**60")


PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": command_line,
    "configuration.md": configuration,
    "python-api.md": python_api,
}


def main(args: Sequence[str]) -> int:
    differ = []
    for name, make in PAGES.items():
        path, made = FOLDER / name, make()
        if not path.exists() or path.read_text() != made:
            differ.append(str(path))
            if "--check" not in args:
                path.parent.mkdir(exist_ok=True)
                path.write_text(made)
    print("\n".join(differ) or "nothing differs")
    return int(bool(differ) and "--check" in args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
