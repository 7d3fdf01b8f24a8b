"""Settings in layers: the first that names a setting wins.

::

    flag or keyword argument
    MRCELERY_<NAME>
    CELERY_BROKER_URL, CELERY_RESULT_BACKEND
    ./mrcelery.toml, or [tool.mrcelery] in ./pyproject.toml
    $XDG_CONFIG_HOME/mrcelery/config.toml   (~/.config if that is not set)
    default

The fields of :class:`Config` are the one table that the environment, the files, the command line and
``mrcelery config show`` are read from. AWS settings are not among them: they are boto3's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from mrcelery.errors import ConfigError, mask

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def parse_size(value: object) -> int:
    """Parse a size, ``"64MiB"``, ``"512M"``, ``"1.5g"`` or a plain number, to bytes; every unit is a power of 1024.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        number: float = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number = float(match[1]) * _UNITS[match[2].lower()]
    else:
        raise ValueError("a size such as 64MiB, 512M, 1GiB or a number of bytes")
    if number < 1:
        raise ValueError("a size of at least one byte")
    return int(number)


def parse_age(value: str) -> float:
    """Parse a duration, ``"7d"``, ``"12h"``, ``"30m"``, ``"2w"`` or a number, to seconds; else raise ValueError."""
    match = _AGE.fullmatch(value.strip())
    if not match:
        raise ValueError("a time such as 90s, 30m, 12h, 7d or 2w")
    return float(match[1]) * _SECONDS[match[2].lower()]


def show_size(value: int) -> str:
    """Format bytes, ``67108864`` as ``"64 MiB"``: exact for whole units, else with one decimal."""
    number, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number == int(number) else f"{number:.1f} {unit}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _path(value: object) -> str:
    """Take an address, a file or a folder, also as a :class:`pathlib.Path`."""
    return _text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    raise ValueError("true or false")


def _whole(least: int, most: int, why: str) -> Callable[[object], int]:
    """Make a parser of whole numbers within bounds; ``why`` there are no more."""

    def parse(value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"a whole number of at least {least:,} and at most {most:,}, as {why}")
        return value

    return parse


def _size(least: int, most: int, why: str) -> Callable[[object], int]:
    """Make a parser of sizes within bounds, in bytes; ``why`` they are not beyond."""

    def parse(value: object) -> int:
        size = parse_size(value)
        if not least <= size <= most:
            raise ValueError(f"a size from {show_size(least)} to {show_size(most)}, as {why}")
        return size

    return parse


def _seconds(least: float, most: float, why: str, *, never: bool = False) -> Callable[[object], float]:
    """Make a parser of times within bounds, in seconds; ``why`` they are not beyond. With ``never`` it takes 0 too."""

    def parse(value: object) -> float:
        if isinstance(value, str):
            value = parse_age(value)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
        if not fits and not (never and value == 0 and value is not False):
            zero = ", or 0 for never" if never else ""
            raise ValueError(f"a time of at least {least:g} s and at most {_hours(most)}{zero}, as {why}")
        return float(value)  # type: ignore[arg-type]

    return parse


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:g} days" if hours >= 48 else "an hour" if hours == 1 else f"{hours:g} hours"


def _choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return parse


def _setting(default: Any, parse: Callable[[object], object], help: str, *, env: str = "", secret: bool = False) -> Any:
    meta = {"parse": parse, "help": help, "env": env, "secret": secret}
    return field(default=default, metadata=meta)


MOST_REDUCE_TASKS = 10_000
"""R at most."""
MANY_REDUCERS = "each map task writes a part for each reduce task"
_TASKS_SHARE = "a task's buffers are shares of it, and a task runs on one machine"

RUNNERS = ("inline", "local", "celery")


class Shown(NamedTuple):
    """One line of ``mrcelery config show``: secrets are masked in ``value``."""

    name: str
    value: object
    origin: str
    help: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings, each parsed and checked; sizes in bytes. Made by :meth:`load`."""

    runner: str | None = _setting(
        None, _choice(*RUNNERS), "inline, local or celery (celery if a broker is configured, else local)"
    )
    broker: str = _setting("", _text, "Redis URL of the fleet", env="CELERY_BROKER_URL")
    result_backend: str = _setting(
        "", _text, "Redis URL that counts the barrier (the broker)", env="CELERY_RESULT_BACKEND"
    )
    storage: str = _setting("", _path, "where job data lives: s3://bucket/prefix or a folder")
    queue: str = _setting("celery", _text, "Celery queue of the tasks")
    reducers: int | None = _setting(
        None, _whole(1, MOST_REDUCE_TASKS, MANY_REDUCERS), "R, reduce tasks of a step (by input size)"
    )
    partitioner: str = _setting("", _text, "reduce task of a key: hash, range, field:SPEC (the job's, else hash)")
    split_size: int = _setting(
        64 << 20, _size(1, 1 << 44, "no file of an input is larger"), "input bytes of one map task"
    )
    workers: int | None = _setting(
        None, _whole(1, 1024, "each is a process on this machine"), "processes of the local runner (one per CPU)"
    )
    memory: int = _setting(512 << 20, _size(1 << 20, 4 << 40, _TASKS_SHARE), "memory limit of one task")
    max_attempts: int = _setting(
        4, _whole(1, 100, "a task that failed so often fails again"), "attempts of one task before the job fails"
    )
    max_bad_records: int = _setting(
        0, _whole(0, 1_000_000, "each is kept with its traceback"), "records that a job may skip"
    )
    speculative: bool = _setting(True, _flag, "start backup tasks for stragglers")
    input_format: str = _setting("text", _text, "how inputs are read")
    output_format: str = _setting("json", _text, "how results are written")
    compress: str = _setting("none", _text, "codec of the part files")
    allow_pickle: bool = _setting(False, _flag, "let a job use the pickle protocols")
    owner: str = _setting("", _text, "owner of the job (this user)")
    signing_key: str = _setting(
        "", _text, "shared secret; signs jobs, their code, and every record that workers act on", secret=True
    )
    scratch: str = _setting("", _path, "folder for temporary files (the system's)")
    visibility_timeout: float = _setting(
        15.0,
        _seconds(1.0, 43_200.0, "tasks of a worker that vanished wait for so long"),
        "seconds until a vanished worker's tasks run elsewhere; the same on all workers",
    )
    task_timeout: float = _setting(
        600.0,
        _seconds(1.0, 604_800.0, "a task that hangs holds its job up for so long", never=True),
        "seconds without progress after which a task is killed; 0: never",
    )
    sick_patience: float = _setting(
        600.0,
        _seconds(1.0, 604_800.0, "a job whose workers are all sick waits for so long"),
        "seconds that a job waits if the machines of all its workers are sick",
    )
    soft_shutdown_timeout: float = _setting(
        1.0,
        _seconds(0.0, 86_400.0, "a worker that was asked to stop runs for so long"),
        "seconds a worker's tasks have to finish once it is asked to stop",
    )
    s3_encryption: str | None = _setting(
        None, _choice("AES256", "aws:kms", "aws:kms:dsse"), "encryption requested for each object (the bucket's)"
    )
    s3_kms_key: str = _setting("", _text, "key of aws:kms, by ARN or id (the bucket's, else aws/s3)")
    storage_timeout: float = _setting(
        60.0,
        _seconds(1.0, 3_600.0, "a connection that is lost is noticed only then"),
        "seconds until an unanswered request to S3 is retried",
    )
    storage_patience: float = _setting(
        600.0,
        _seconds(0.0, 604_800.0, "a job whose storage is away waits for so long"),
        "seconds that a task or client waits for a storage that is away; attempts do not count",
    )
    liveness_file: str = _setting("", _path, "file that a healthy worker touches, for a liveness probe (none)")
    origins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        folder: str | os.PathLike[str] = ".",
    ) -> Config:
        """Merge the layers. ``flags`` that are None count as not given.

        Raises :class:`ConfigError`: a value that a setting cannot have, or a setting that does not exist.
        """
        environ = os.environ if env is None else env
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for name, value, origin in _layers(flags or {}, environ, Path(folder)):
            if name not in SETTINGS:
                raise ConfigError(f"{origin} sets {name!r}, which is not a setting{_closest(name)}")
            if name in values:
                continue
            try:
                values[name] = SETTINGS[name].metadata["parse"](value)
            except ValueError as e:
                shown = "its value" if SETTINGS[name].metadata["secret"] else repr(value)
                raise ConfigError(f"{name}: {shown} from {origin} is not allowed: give {e}") from None
            if name == "storage" and origin == "--storage" and not str(values[name]).strip():
                raise ConfigError(
                    "--storage is empty, perhaps from a shell variable that is not set: "
                    "give s3://bucket/prefix or a folder, or leave it out"
                )
            origins[name] = origin
        return cls(**values, origins=origins)  # type: ignore[arg-type]

    def show(self) -> list[Shown]:
        """List every setting with its value and origin, secrets masked."""
        lines = []
        for name, setting in SETTINGS.items():
            value: object = getattr(self, name)
            if setting.metadata["secret"]:
                value = "****" if value else ""
            elif isinstance(value, str):
                value = mask(value, whole=True)
            lines.append(Shown(name, value, self.origins.get(name, "default"), setting.metadata["help"]))
        return lines


SETTINGS = {f.name: f for f in fields(Config) if f.metadata}
"""Name to dataclass field, in order; ``metadata`` holds parse, help, env and secret."""


def _layers(flags: Mapping[str, object], env: Mapping[str, str], folder: Path) -> Iterator[tuple[str, object, str]]:
    """Iterate over (setting, raw value, origin), most binding first. An empty variable counts as not set."""
    for name, value in flags.items():
        if value is not None:
            yield name, value, "--" + name.replace("_", "-")
    own = {f"MRCELERY_{name.upper()}": name for name in SETTINGS}
    for variable, name in own.items():
        if env.get(variable):
            yield name, env[variable], variable
    for name, setting in SETTINGS.items():
        variable = setting.metadata["env"]
        if variable and env.get(variable):
            yield name, env[variable], variable
    yield from _file(folder / "mrcelery.toml", ())
    yield from _file(folder / "pyproject.toml", ("tool", "mrcelery"))
    home = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".config")
    yield from _file(Path(home) / "mrcelery" / "config.toml", ())


def misspelt(env: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that is all but one of ours; others' variables may begin alike."""
    own = {f"MRCELERY_{name.upper()}" for name in SETTINGS}
    unknown = sorted(name for name in env if name.startswith("MRCELERY_") and name not in own and env[name])
    if not unknown:
        return []
    import difflib  # noqa: PLC0415 - only a misspelt setting needs it

    def near_to(name: str) -> list[str]:
        plain = name.removesuffix("_URL").removesuffix("_URI")  # as Celery calls its own
        return [plain] if plain in own else difflib.get_close_matches(name, own, n=1, cutoff=0.9)

    near = {name: near_to(name) for name in unknown}
    return [f"the variable {name} does nothing: did you mean {found[0]}?" for name, found in near.items() if found]


def _file(path: Path, table: tuple[str, ...]) -> Iterator[tuple[str, object, str]]:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as e:
        if table or path.name == "config.toml":
            return  # perhaps somebody else's, and not ours to read: as if it were absent
        raise ConfigError(f"{path} cannot be read ({e.strerror}): correct its permissions, or remove it") from None
    if table and not _MENTION.search(data):
        return  # a pyproject.toml of somebody else: not worth importing a parser for
    import tomllib  # noqa: PLC0415 - only a configuration file needs it

    try:
        found: Any = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not valid TOML ({e}): correct or remove it") from None
    origin = f"{path} [{'.'.join(table)}]" if table else str(path)
    if table:
        found = _own_table(found, path, origin)
    seen: dict[str, str] = {}
    for name, value in found.items():
        plain = name.replace("-", "_")
        if isinstance(value, dict):
            raise ConfigError(
                f"{origin} has a table {name!r}: settings belong {'directly in that table' if table else 'at the top'}"
                ', such as split_size = "64MiB"'
            )
        if plain in seen:
            raise ConfigError(f"{origin} sets {seen[plain]!r} and {name!r}, which are the same: remove one of them")
        seen[plain] = name
        yield plain, value, origin


_MENTION = re.compile(rb"mrcelery|^\s*\[\s*(tool\s*\.\s*)?[\"']?m[a-z_-]*c[a-z_-]*l", re.MULTILINE | re.IGNORECASE)
"""What a ``pyproject.toml`` contains if it configures mrcelery, or means to."""


def _own_table(found: dict[str, Any], path: Path, origin: str) -> dict[str, Any]:
    """Return ``[tool.mrcelery]`` of a ``pyproject.toml``, empty if there is none.

    Raises :class:`ConfigError` for one that is not a table, is in another place or is misspelt.
    """
    tools = found.get("tool")
    tools = tools if isinstance(tools, dict) else {}
    table = tools.get("mrcelery", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has tool.mrcelery = {table!r}: make it a table, [tool.mrcelery], of settings")
    if "mrcelery" in found:
        raise ConfigError(f"{path} has a table [mrcelery], which does nothing there: call it [tool.mrcelery]")
    if not table:
        import difflib  # noqa: PLC0415 - only a misspelt table needs it

        plain = {name.lower(): name for name in tools if name != "mrcelery"}
        for near in difflib.get_close_matches("mrcelery", plain, n=1, cutoff=0.85):
            raise ConfigError(f"{path} has a table [tool.{plain[near]}]: did you mean [tool.mrcelery]?")
    return table


def _closest(name: str) -> str:
    import difflib  # noqa: PLC0415 - only a misspelt setting needs it

    near = difflib.get_close_matches(name, SETTINGS, n=1)
    return f": did you mean {near[0]!r}?" if near else f": settings are {', '.join(SETTINGS)}"
