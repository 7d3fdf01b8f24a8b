"""Every error mrcelery raises on purpose.

::

    MRCeleryError                    exit 1   anything below
     +-- UsageError                  exit 2   the command, the job file, an input or an output is wrong
     |    +-- JobLoadError                    the job file does not import, holds no job class, or two
     |    +-- InputError                      an input matches nothing or cannot be read
     |    +-- OutputExistsError               OUTPUT exists already and --overwrite was not given
     |    +-- ConfigError                     a setting has a value it cannot have
     |    +-- MissingExtraError               pyarrow and numpy are needed and not installed here
     +-- UnreachableError            exit 3   broker or storage does not answer, or refuses us
     |    +-- BrokerUnreachableError
     |    +-- StorageUnreachableError
     |         +-- StorageOutageError         it does not answer now, and may later
     |         +-- StorageRefusedError        it refuses what only a person can correct: rights, names, credentials
     +-- JobFailedError              exit 1   a job ended as failed; carries its Failure record
     +-- TaskError                   exit 1   what makes one attempt fail, raised inside a task
     |    +-- SickMachineError                the machine failed it, and would fail any other task
     |    +-- UserCodeError                   the user's own exception, with record, file and offset
     |    +-- AttemptsLostError               a task's process died in each of its attempts
     |    +-- CodecError                      a key or value no codec takes
     |    +-- RecordTooLongError              a record beyond its share of the memory ceiling
     |    +-- CorruptDataError                bytes that do not match their checksum or format
     |    |    +-- DamagedPartError           those of a map task's part: that task must run again
     |    |    +-- ChangedInputError          an input is not what it was when the job was planned
     |    +-- UnsignedError                   signing is on, and a record or bundle fails the check
     |    +-- VersionError                    a record written by a version this one does not know
     +-- WaitTimeoutError            exit 4   wait --timeout ran out; the job still runs
     +-- JobCancelledError           exit 5   the job was cancelled
     +-- JobStoppedError                      raised inside a task whose job has ended; never shown
     +-- SupersededError                      raised inside an attempt whose task another has committed; never shown

A message is one sentence on what is wrong and one on what to do. It is shown without a traceback.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from mrcelery.schema.structs import Failure, Part


class MRCeleryError(Exception):
    """Base of all errors that mrcelery raises on purpose; ``str()`` of it is what the user reads."""

    exit_code = 1
    attempt = ""
    """The attempt that failed with it, if any."""

    def __init__(self, message: str = "") -> None:
        super().__init__(mask(message))


class UsageError(MRCeleryError):
    """The command or its arguments are wrong."""

    exit_code = 2


class JobLoadError(UsageError):
    """The job could not be loaded; ``traceback`` holds the user's own, if their code raised."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = mask(traceback)


class InputError(UsageError):
    """An input matches nothing or cannot be read."""


class OutputExistsError(UsageError):
    """OUTPUT holds something already."""


class ConfigError(UsageError):
    """A setting has a value it cannot have; the message names the setting and where it came from."""


class MissingExtraError(UsageError):
    """What an extra of mrcelery installs is needed and is not there, on this machine."""


class UnreachableError(MRCeleryError):
    """A service the job needs does not answer, or refuses us."""

    exit_code = 3


class BrokerUnreachableError(UnreachableError):
    """The Redis broker or job store does not answer."""


class StorageUnreachableError(UnreachableError):
    """The storage does not answer, is missing, forbids us, or breaks a rule that the commits need."""


class StorageOutageError(StorageUnreachableError):
    """The storage does not answer now, or refuses for the moment; whoever can wait asks again.

    ``seconds``: how long the call that failed took. ``met``: whether this storage has ever answered this process; one
    that never did is more likely a wrong address.
    """

    def __init__(self, message: str, *, seconds: float = 0.0, met: bool = True) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.met = met


class StorageRefusedError(StorageUnreachableError):
    """The storage refuses us, and will refuse again until somebody corrects rights, names or credentials."""


class JobFailedError(MRCeleryError):
    """A job failed; ``failure`` says where and why. ``str()`` of it ends with the traceback of user code, if any."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.exit_code = failure.exit_code

    def __str__(self) -> str:
        traceback = self.failure.traceback.rstrip()
        return mask(f"{self.failure.message}\n\n{traceback}" if traceback else self.failure.message)

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[Failure]]:
        return type(self), (self.failure,)


class TaskError(MRCeleryError):
    """What makes an attempt fail.

    ``file``, ``offset`` (bytes into the uncompressed file) and ``record`` (a short repr) are filled
    in if known. ``retryable`` says whether another attempt may succeed, ``elsewhere`` that it rather runs on another
    worker.
    """

    retryable = False
    elsewhere = False

    def __init__(
        self, message: str, *, file: str = "", offset: int | None = None, record: str = "", traceback: str = ""
    ) -> None:
        super().__init__(writable(message))
        self.file = mask(file)
        self.offset = offset
        self.record = mask(record)
        self.traceback = mask(traceback)


class SickMachineError(TaskError):
    """The machine on which an attempt ran failed it, by its disk or its limits: no fault of the job.

    ``certain`` is False if it may be the job's fault after all.
    """

    retryable = True
    certain = True


class UserCodeError(TaskError):
    """The user's code raised; ``traceback`` is theirs, without our frames.

    ``lacks_module``: it failed for a module that is absent or damaged on this machine, and that others may have.
    """

    lacks_module = False


class AttemptsLostError(TaskError):
    """A task was started as often as it may, and its process or worker died each time."""


class CodecError(TaskError):
    """A key or a value is of a type that no codec takes."""


class RecordTooLongError(TaskError):
    """A record is longer than its share of the memory ceiling."""


class CorruptDataError(TaskError):
    """Bytes read back do not match their checksum or their format."""

    retryable = True


class DamagedPartError(CorruptDataError):
    """A part that a map task has committed is damaged or gone; ``part`` is its entry in the reduce task's input."""

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message)
        self.part = part


class ChangedInputError(CorruptDataError):
    """An input is not what it was when the job was planned; what others have read of it would not go with this."""

    retryable = False

    def in_job(self, job: str) -> ChangedInputError:
        """Make the same error, naming the job."""
        error = ChangedInputError(f"job {job}: {self}", file=self.file, offset=self.offset)
        error.attempt = self.attempt
        return error


class UnsignedError(TaskError):
    """Signing is on, and something that directs a worker carries no signature or a wrong one."""


class VersionError(TaskError):
    """A stored record was written by a version of mrcelery that this one does not know."""


class WaitTimeoutError(MRCeleryError):
    """The wait ran out; the job still runs."""

    exit_code = 4


class JobCancelledError(MRCeleryError):
    """The job was cancelled."""

    exit_code = 5


class JobStoppedError(MRCeleryError):
    """Raised inside a task when its job has failed or was cancelled meanwhile; the attempt just ends.

    ``removed``: the job's data is gone from its storage, and nothing of the job is to be written there any more.
    """

    removed = False


class SupersededError(MRCeleryError):
    """Raised inside an attempt when another one has committed its task meanwhile; the attempt just ends."""


_MASK = "****"
_WORD = re.compile(r"\S+")

# How an address begins that may have a user and password. A port is not a password, although an @ may follow it.
_LOGIN = re.compile(
    r"(?:\b(?P<broker>redis|rediss|valkeys?|sentinel|amqps?)(?:\+[a-z]{1,9})?|\b[a-z][\w+.-]{0,20}):/+(?!\[[\da-f:.]+\])"
    r"(?:(?P<user>[^/?#:@]*):(?:(?<=/:)|(?(broker)|(?!\d*(?:[/?#;,]|$))))|(?=[^/?#:@]*@))",
    re.IGNORECASE,
)
_NEXT = re.compile(r"(?<=[;,])(?=[a-z][\w+.-]{0,20}://)", re.IGNORECASE)
_VALUE = r"(?P<value>[^\s&'\"<>]*?)(?=[:,.;)\]}]{0,4}(?:[\s&'\"<>]|%s$))"
_PARAMETER = re.compile(r"(?P<name>[?&;#](?:amp;)?[\w.%\[\]-]{0,100})(?P<equals>=)" + _VALUE % "")
_ENCODED = re.compile(
    r"(?P<name>%(?:3f|26|23)[\w.%-]{0,100}?)(?P<equals>%3d)" + _VALUE % "%26|",
    re.IGNORECASE,
)
_SECRET = re.compile(
    r"(?:.*[_.])?(?:signature|sig|credentials?|[a-z]*token|jwt|pass(?:word|wd|phrase)?|pwd|secret|auth(?:orization)?|sas"
    r"|(?:aws)?access_?key(?:_?id)?|api_?key|secret_?(?:access_?)?key)|key|key_pair_id|policy|code|session(?:_?id)?",
    re.IGNORECASE,
)


def mask(text: str, *, whole: bool = False) -> str:
    """Replace passwords of addresses, and secret query parameters such as X-Amz-Signature, by ``****``.

    ``whole``: the text is an address and nothing else, whose password may hold spaces too. The one function for all
    that is shown, logged or kept for people; it does not change other text.
    """
    if "@" in text and ":/" in text:
        text = _without_password(text) if whole else _WORD.sub(lambda word: _without_password(word[0]), text)
    return _PARAMETER.sub(_without_value, text) if "=" in text or "%3" in text else text


def _without_password(text: str) -> str:
    """Mask up to the last @ of each address of a list: a password may hold / # : and @ that were not escaped."""
    if "@" not in text or ":/" not in text:
        return text
    pieces = _NEXT.split(text)
    for number, piece in enumerate(pieces):
        end = piece.rfind("@")
        begin = _LOGIN.search(piece, 0, end + 1) if end >= 0 else None
        if begin is not None:
            pieces[number] = piece[: begin.end()] + _MASK + piece[end:]
    return "".join(pieces)


def _without_value(match: re.Match[str]) -> str:
    name = unquote(match["name"]).lstrip("?&;#").removeprefix("amp;").replace("-", "_")
    if match["value"] and _SECRET.fullmatch(name):
        return f"{match['name']}{match['equals']}{_MASK}"
    # An address within an address.
    return _ENCODED.sub(_without_value, match[0]) if "%3" in match[0] and match["equals"] == "=" else match[0]


def shown(text: str, most: int) -> str:
    """Return a text, cut in the middle if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} [{len(text) - most // 2 * 2} characters left out] {text[-(most // 2) :]}"


def safe_repr(value: object, most: int) -> str:
    """Return the first ``most`` characters of ``repr(value)``, whatever the value's class does."""
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        return f"<{type(value).__name__}: its __repr__ raises {type(e).__name__}>"
    return text if len(text) <= most else text[:most] + "..."


def writable(text: str) -> str:
    """Escape lone surrogates, which input that is not UTF-8 leaves in a text and no record can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


# C0 and C1 controls, the marks that change the direction of text, other ends of lines, and lone surrogates.
_UNSEEN = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Escape what a terminal would obey, such as ESC and bidi overrides; newlines and tabs stay."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def on_a_line(text: str) -> str:
    """Escape a text as :func:`visible` does, and so that it stays on one line and in one column."""
    return visible(text.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t"))
