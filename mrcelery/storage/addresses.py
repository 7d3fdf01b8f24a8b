"""The only parser of addresses: strings and paths by which a user names an input, an output or a storage.

An address is ``s3://bucket/key``, ``http(s)://host/path``, ``file:///path``, ``memory://name/key`` or a path on this
machine. Schemes are case-insensitive (RFC 3986, 3.1), Hadoop's ``s3a`` and ``s3n`` mean ``s3``, and the path of a
``file`` address is percent-encoded (RFC 8089), as :meth:`pathlib.Path.as_uri` writes it; S3 keys are not.

Text that looks like an address but is not valid is rejected, never taken for a path: ``./`` before a path marks it as
one.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from mrcelery.errors import ConfigError, InputError, mask

INPUT, OUTPUT, STORAGE, FOLDER, FILE = "input", "output", "storage", "folder", "file"
"""An address's role. A folder and a file are on this machine."""

_SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "http": "http",
    "https": "https",
    "file": "file",
    "memory": "memory",
}

_ELSEWHERE = (
    dict.fromkeys(("gs", "gcs"), "on Google Cloud Storage")
    | dict.fromkeys(("abfs", "abfss", "wasb", "wasbs", "adl", "az", "azure"), "on Azure storage")
    | dict.fromkeys(("hdfs", "webhdfs", "swebhdfs", "viewfs", "har"), "on HDFS")
    | dict.fromkeys(("ftp", "ftps", "sftp", "scp", "ssh", "rsync", "smb", "cifs", "nfs"), "on a file server")
    | {"dbfs": "on Databricks", "oss": "on Alibaba OSS", "cos": "on Tencent COS", "cosn": "on Tencent COS"}
    | {"obs": "on Huawei OBS", "swift": "on OpenStack Swift"}
)
_SPEAK_S3 = ("minio", "r2", "b2", "wasabi", "ceph", "s3c", "s3compat")
_BROKERS = ("redis", "rediss", "sentinel", "amqp", "amqps", "valkey", "valkeys")

# Without two slashes a name counts as one of these schemes only, since it may contain a colon: 12:30.log, gene:1.
_NEVER_PATHS = {*_SCHEMES, "gs", "hdfs", "abfs", "abfss", "wasb", "wasbs"}

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SLIP = re.compile(r"(s3[an]?|https?|file)[^\w/.:-]*//+", re.IGNORECASE)

_AROUND = " \t\r\n'\"`<>()[]{}\ufeff"
"""Characters left around an address by wrong quoting."""

_GIVE = {
    INPUT: "give a file, a folder, a glob, s3://bucket/key-or-prefix or http(s)://...",
    OUTPUT: "give s3://bucket/prefix or a folder",
    STORAGE: "give s3://bucket/prefix or a folder",
    FOLDER: "give a folder of this machine",
    FILE: "give a file of this machine",
}
_CALLED = {INPUT: "an INPUT", OUTPUT: "OUTPUT (-o, --output)", STORAGE: "--storage", FOLDER: "DIR", FILE: "FILE"}


class Address(NamedTuple):
    """A scheme in lower case, the bucket, host or name, and the key below it; a path has only an absolute ``key``."""

    scheme: str
    root: str
    key: str

    def __str__(self) -> str:
        """Write the address in its canonical spelling, which parses to this address again."""
        if not self.scheme:
            return self.key
        slash = "/" if self.key or self.scheme in ("http", "https") else ""
        return f"{self.scheme}://{self.root}{slash}{self.key}"


def parse(given: str | os.PathLike[str], role: str = INPUT) -> Address:
    """Parse an address given for an input, an output, a storage or a folder (``role``).

    Raises :class:`InputError` for an input, and :class:`ConfigError` otherwise, if it is empty, an address that is not
    supported or not allowed for the role, or looks like a misspelled address.
    """
    text = _text(given, role)
    if text.startswith("/"):
        return Address("", "", _absolute(text))
    word, colon, rest = text.partition(":")
    if not colon or "/" in word:
        if slip := _SLIP.match(text):
            right = f"{slip[1].lower()}://{'/' if slip[1].lower() == 'file' else ''}{text[slip.end() :]}"
            _refuse(text, role, f"lacks the colon of an address: write {right}, or ./{text} for a path of this name")
        return Address("", "", _absolute(text))
    name = word.lower()
    if not rest.startswith("//") and name not in _NEVER_PATHS:
        if name == "arn":
            _refuse(text, role, "is an ARN, which is not supported: write s3://bucket/key")
        return Address("", "", _absolute(text))
    scheme = _SCHEMES.get(name)
    if scheme == "file":
        return Address("", "", _file(rest, text, role))
    if scheme is None or not rest.startswith("//"):
        _not_ours(name, rest, text, role, isinstance(given, os.PathLike))
    if role in (FOLDER, FILE):
        _refuse(text, role, f"is not on this machine: {_GIVE[role]}")
    return _remote(scheme, rest[2:], text, role)


def tidy(given: str | os.PathLike[str], role: str) -> str:
    """Check an address and return it in its canonical spelling; a path as given, and ``-`` as standard input.

    Raises the same errors as :func:`parse`.
    """
    if role == INPUT and given == "-":
        return "-"
    address = parse(given, role)
    text = os.fspath(given)
    if isinstance(given, os.PathLike) or text.lower().startswith("file:"):
        return str(address)
    return str(address) if address.scheme else text


def scheme_of(uri: str) -> str:
    """Return an address's scheme in lower case, ``s3`` for all of S3's schemes; ``""`` for a local path.

    Cheap, and raises nothing: for addresses already accepted by :func:`parse`.
    """
    word, found, _ = uri.partition("://")
    return _SCHEMES.get(word.lower(), word.lower()) if found and _SCHEME.fullmatch(word) else ""


def is_remote(uri: str, role: str = INPUT) -> bool:
    """Return whether an address means the same on every machine. Raises the same errors as :func:`parse`."""
    return uri != "-" and parse(uri, role).scheme != ""


def local(uri: str | os.PathLike[str], role: str = INPUT) -> str:
    """Return a local path or ``file://`` address as an absolute path. Raises the same errors as :func:`parse`."""
    return parse(uri, role).key


def _text(given: str | os.PathLike[str], role: str) -> str:
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise _error(role, f"{role} {given!r} is not an address: {_GIVE[role]}, as text or a pathlib.Path")
    if not text.strip():
        raise _error(role, f"{_CALLED[role]} is empty, perhaps from a shell variable that is not set: {_GIVE[role]}")
    if "\0" in text:
        _refuse(text, role, "holds a NUL character, which no address has: correct it")
    if text == "-" and role != INPUT and given == "-":
        _refuse(text, role, "is not standard output: leave it out to print the results, or write ./- for a folder")
    return text


def _file(rest: str, text: str, role: str) -> str:
    """Return the path of a ``file`` address from the part after the colon."""
    path = rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            _refuse(text, role, f"names the host {host!r}: a file address has three slashes, file:///folder/name")
        path = slash + path
    if not path.startswith("/"):
        _refuse(text, role, "has no absolute path: a file address has three slashes, file:///folder/name")
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(path)))
    if "\0" in decoded:
        _refuse(text, role, "holds a NUL character, which no file name has: correct it")
    return _absolute(decoded)


def _remote(scheme: str, rest: str, text: str, role: str) -> Address:
    web = scheme in ("http", "https")
    end = re.search(r"[/?#]" if web else "/", rest)
    root, key = (rest[: end.start()], rest[end.start() :].removeprefix("/")) if end else (rest, "")
    if web and role != INPUT:
        _refuse(text, role, f"is read-only: {_GIVE[role]}")
    if role != INPUT and text != text.rstrip("\r\n"):
        _refuse(text.strip(), role, "ends with a line break: remove it")
    if scheme == "s3":
        if "@" in root:
            _refuse(text, role, "holds credentials: leave them out, and set AWS_PROFILE or AWS_ACCESS_KEY_ID")
        if root.startswith("arn:"):
            _refuse(text, role, "names a bucket by its ARN: write its name, or an access point's alias")
        if not root:
            _refuse(text, role, f"has no bucket: write s3://bucket/{'key' if role == INPUT else 'prefix'}")
    elif not root:
        _refuse(text, role, f"has no {'host' if web else 'name'}: write {scheme}://{'host/path' if web else 'name'}")
    return Address(scheme, root, key)


def _not_ours(name: str, rest: str, text: str, role: str, is_path: bool) -> NoReturn:
    """Raise the error for an address with an unsupported, unknown or misspelled scheme."""
    here = f"./{text} for a path of this name"
    if name in _SCHEMES:
        if is_path:
            _refuse(text, role, "was an address, and a pathlib.Path drops one of its slashes: give it as text")
        right = f"{_SCHEMES[name]}://{rest.lstrip('/')}"
        _refuse(text, role, f"lacks the two slashes of an address: write {right}, or {here}")
    if name in _ELSEWHERE:
        remedy = "copy the data to S3 or a folder, and give that" if role == INPUT else _GIVE[role]
        _refuse(text, role, f"is {_ELSEWHERE[name]}, which is not supported: {remedy}")
    if name in _SPEAK_S3:
        _refuse(text, role, "has an unknown scheme: write s3://bucket/key, and the endpoint into AWS_ENDPOINT_URL_S3")
    if name in _BROKERS:
        _refuse(text, role, f"is the address of a broker: give that with --broker, and here {_GIVE[role][5:]}")
    if (meant := name.strip(_AROUND)) in _SCHEMES:
        _refuse(text, role, f"is misspelt: write {meant}:{rest.strip(_AROUND)}, or {here}")
    _refuse(text, role, f"has an unknown scheme: {_GIVE[role]}, or write {here}")


def _absolute(path: str) -> str:
    """Make a path absolute; ``..`` means the parent of a symbolic link's target, as for the system."""
    if path.startswith("~"):
        path = os.path.expanduser(path)
    if not path.startswith("/"):
        try:
            path = f"{os.getcwd()}/{path}"
        except FileNotFoundError:
            raise ConfigError("the current folder was removed: change to one that exists") from None
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        last = len(parts) - parts[::-1].index("..")
        above = os.path.realpath("/" + "/".join(parts[:last]))
        parts = [part for part in above.split("/") if part] + parts[last:]
    return "/" + "/".join(parts)


def _refuse(text: str, role: str, why: str) -> NoReturn:
    secret = mask(text, whole=True)
    if secret == text and "@" in text:  # misspelled, so that the position of the password is not clear
        secret = re.sub(r"^([\w+.-]*\W*).*@", r"\1****@", text, flags=re.DOTALL)
    raise _error(role, f"{role} {secret} {why.replace(text, secret)}")


def _error(role: str, message: str) -> ConfigError | InputError:
    return InputError(message) if role == INPUT else ConfigError(message)
