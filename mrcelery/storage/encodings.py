"""Content-Encoding of inputs: what is stored or sent compressed without saying so in its name.

Bytes are never decoded on the way, since a plan counts those of the file itself. So a compressed body is either the
file, as its name's ending says, or it is refused: read as it is, it would be gibberish.
"""

from __future__ import annotations

from mrcelery.errors import InputError

_ENDINGS = {
    "gzip": ".gz",
    "x-gzip": ".gz",
    "zstd": ".zst",
    "bzip2": ".bz2",
    "x-bzip2": ".bz2",
    "xz": ".xz",
    "x-xz": ".xz",
    "br": "",
    "deflate": "",
    "compress": "",
    "x-compress": "",
}
"""Codings that compress, and the ending of a file's name that announces each; "" if we read no such files."""


def check_encoding(uri: str, header: str, path: str = "") -> None:
    """Raise :class:`InputError` if ``header`` names a compression that the object's name does not.

    ``path`` is the name if the address has more than that, such as a query.
    """
    name = (path or uri).lower()
    for coding in (part.strip().lower() for part in header.split(",")):
        ending = _ENDINGS.get(coding)
        if ending is None or (ending and name.endswith(ending)):
            continue
        under = f", or as it is under a name that ends in {ending}" if ending else ""
        raise InputError(
            f"{uri} comes compressed (Content-Encoding: {coding}), which its name does not say: "
            f"copy it to storage decompressed{under}"
        )
