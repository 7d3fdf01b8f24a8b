"""Compressed inputs, recognized by the file name's extension, and compressed outputs, chosen by ``--compress``.

Reading takes bounded memory whatever the bytes expand to, handles files made of several members (``cat a.gz b.gz``,
pigz, pbzip2, pzstd), and treats a file that ends early as damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol

from mrcelery.errors import CorruptDataError, UsageError
from mrcelery.formats.base import Compressor

BLOCK = 1 << 20
"""Largest decompressed chunk in bytes (zstd: somewhat more)."""

XZ_MEMORY = 256 << 20
"""Most bytes that an .xz file's dictionary may take; ``xz -9`` makes files that need 65 MiB."""

# bgzip's files are gzip files of many members.
_ENDINGS = {
    ".gz": "gzip",
    ".bgz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}

_EXTRACT = "extract it and give the files, or read it unchanged with --input-format whole-file"
_RECOMPRESS = "decompress it, or compress it with gzip, bz2, xz or zstd"
_ARCHIVES = (
    *(f".tar{ending}" for ending in ("", *_ENDINGS, ".lz4", ".lz", ".lzo", ".z", ".br", ".sz")),
    *(".tgz", ".taz", ".tz", ".tbz", ".tbz2", ".tb2", ".txz", ".tlz", ".tzst"),
    *(".zip", ".zipx", ".jar", ".war", ".whl", ".egg", ".7z", ".rar", ".cpio", ".cab", ".rpm", ".deb"),
)
_COMPRESSED = (".z", ".lz4", ".lz", ".lzo", ".snappy", ".sz", ".br", ".zz", ".deflate")

# By file extension: the file's kind, and what to do about it, unless the format reads it.
_UNREADABLE = {
    **dict.fromkeys(_ARCHIVES, ("an archive", _EXTRACT)),
    **dict.fromkeys(_COMPRESSED, ("compressed in a way that is not supported", _RECOMPRESS)),
    **dict.fromkeys((".parquet", ".parq", ".pq"), ("a Parquet file", "give --input-format parquet")),
    **dict.fromkeys((".orc", ".avro"), ("a binary table", "convert it to Parquet, and give --input-format parquet")),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ("a spreadsheet", "save it as CSV, and give --input-format csv")),
}


def _name_of(uri: str) -> str:
    """Return the last part of an address in lower case, without a web address's query."""
    if uri.startswith(("http://", "https://")):
        uri = uri.partition("#")[0].partition("?")[0]
    return uri.rpartition("/")[2].lower()


def why_unreadable(uri: str, endings: Collection[str] | None = ()) -> str:
    """Describe why a file cannot be read as records, judging by its name, and the remedy; "" if it may be readable.

    ``endings`` are the extensions that the format reads anyway, None for all.
    """
    name = _name_of(uri)
    dot = name.rfind(".")
    if endings is None or dot < 0 or (ending := name[dot:]) in endings:
        return ""
    before = name[:dot]
    if before.endswith(".tar"):
        ending = f".tar{ending}"
    found = _UNREADABLE.get(ending)
    return f"input {uri} is {found[0]} by its name: {found[1]}" if found else ""


# By a file's first bytes, which do not occur in text: its kind, and the extension its name should have ("": none).
_SIGNATURES = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip data", ".gz"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2 data", ".bz2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz data", ".xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd data", ".zst"),
    (re.compile(rb"PK\x03\x04"), "a zip archive", ""),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", ""),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", ""),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4 data", ""),
    (re.compile(rb"PAR1\x15"), "a Parquet file", ".parquet"),
)


def check_text(begin: bytes, uri: str) -> None:
    """Raise :class:`CorruptDataError`, not retryable, if a file read as text starts with a binary signature."""
    if begin[:1] not in b"\x1f\x28\x04\xfdBP7R":
        return
    for signature, what, ending in _SIGNATURES:
        if signature.match(begin):
            remedy = "extract or decompress it"
            if ending:
                remedy = f"decompress it, or give it a name that ends in {ending}"
            if ending == ".parquet":
                remedy = "give --input-format parquet"
            error = CorruptDataError(f"{uri} holds {what}, and would be read as text: {remedy}", file=uri, offset=0)
            error.retryable = False
            raise error


def compression_of(uri: str) -> str:
    """Infer a file's compression from its name: "gzip", "bz2", "xz", "zstd", or "" for none."""
    name = _name_of(uri)
    dot = name.rfind(".")
    return _ENDINGS.get(name[dot:], "") if dot >= 0 else ""


class _Decompressor(Protocol):
    """The common interface of bz2's and lzma's decompressors; gzip and zstd are adapted to it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompress(chunks: Iterable[bytes], uri: str) -> Iterator[bytes]:
    """Yield the uncompressed bytes of a file, in chunks of about :data:`BLOCK` at most.

    If the name has no known extension, the bytes are passed on unchanged. Raises :class:`CorruptDataError`, not
    retryable, if the bytes are damaged or end early.
    """
    name = compression_of(uri)
    if not name:
        yield from chunks
        return
    new, errors = _DECOMPRESSORS[name]()
    source = iter(chunks)
    taken = given = members = 0
    data = b""
    member: _Decompressor | None = None
    while True:
        if not data and (member is None or member.needs_input):
            data = next(source, b"")
            taken += len(data)
            if not data:
                if member is None:
                    return
                raise _damaged(uri, name, "it ends early", taken, given)
        if member is None:
            # Zeros may follow a member: tapes and xz use them as padding.
            data = data.lstrip(b"\0") if members else data
            if not data:
                continue
            member = new()
            members += 1
        try:
            out = member.decompress(data, BLOCK)
        except errors as e:
            raise _damaged(uri, name, str(e), taken, given) from None
        data = b""
        if out:
            given += len(out)
            yield out
        if member.eof:
            data, member = member.unused_data, None


def _damaged(uri: str, name: str, why: str, taken: int, given: int) -> CorruptDataError:
    tool = {"gzip": "gzip -t", "bz2": "bzip2 -t", "xz": "xz -t", "zstd": "zstd -t"}[name]
    error = CorruptDataError(
        f"{uri} is damaged or not in {name} format ({why}; by byte {taken} of the file, byte {given} uncompressed): "
        f"check it with `{tool}` and replace it",
        file=uri,
        offset=given,
    )
    error.retryable = False
    return error


class _Gzip:
    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        tail = self._inner.unconsumed_tail
        out = self._inner.decompress(tail + data if tail else data, max_length)
        # A full output may leave more inside, even with all input taken.
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


class _Zstd:
    # zstandard has no limit on the output of a call, and 4 bytes may expand to 128 KiB: so only this many bytes are
    # passed at a time, which makes 16 MiB at worst, and costs no measurable time.
    SLICE = 512

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor().decompressobj()
        self._data = b""
        self._at = 0

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data) + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        out: list[bytes] = []
        size = 0
        while size < max_length and self._at < len(self._data) and not self._inner.eof:
            out.append(self._inner.decompress(self._data[self._at : self._at + self.SLICE]))
            self._at += self.SLICE
            size += len(out[-1])
        return b"".join(out)


# By name: the factory of a decompressor, and the errors it raises. Imported at first use: a job of plain text needs
# none of them.
_Maker = tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]


def _gzip() -> _Maker:
    import zlib

    return _Gzip, (zlib.error,)


def _bz2() -> _Maker:
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError)


def _xz() -> _Maker:
    import lzma

    return lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY), (lzma.LZMAError,)


def _zstd() -> _Maker:
    import zstandard

    return _Zstd, (zstandard.ZstdError,)


_DECOMPRESSORS: dict[str, Callable[[], _Maker]] = {"gzip": _gzip, "bz2": _bz2, "xz": _xz, "zstd": _zstd}


class _Plain:
    def write(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Compressing:
    def __init__(self, inner: Any) -> None:
        self.write: Callable[[bytes], bytes] = inner.compress
        self.flush: Callable[[], bytes] = inner.flush


def _to_gzip() -> Compressor:
    import zlib

    # zlib's header contains no time and no name: the same records give the same bytes.
    return _Compressing(zlib.compressobj(wbits=31))


def _to_bz2() -> Compressor:
    import bz2

    return _Compressing(bz2.BZ2Compressor())


def _to_xz() -> Compressor:
    import lzma

    return _Compressing(lzma.LZMACompressor())


def _to_zstd() -> Compressor:
    import zstandard

    return _Compressing(zstandard.ZstdCompressor().compressobj())


_COMPRESSORS: dict[str, tuple[str, Callable[[], Compressor]]] = {
    "none": ("", _Plain),
    "gzip": (".gz", _to_gzip),
    "bz2": (".bz2", _to_bz2),
    "xz": (".xz", _to_xz),
    "zstd": (".zst", _to_zstd),
}


def compressor(name: str) -> tuple[str, Callable[[], Compressor]]:
    """Return the file extension and the factory of the compressor ``name``: none, gzip, bz2, xz or zstd.

    Raises :class:`UsageError` for another name.
    """
    try:
        return _COMPRESSORS[name]
    except KeyError:
        raise UsageError(f"unknown compression {name!r}: use one of {', '.join(_COMPRESSORS)}") from None
