"""Content-Encoding of inputs: compressed content whose name does not show the compression.

Bytes are never decoded in transfer, since a plan counts the bytes of the file itself. So a compressed body is either
the file, as its name's extension shows, or it is rejected: read without decoding, it would be gibberish.
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
"""Codings that compress, and the file extension that announces each; "" if we do not read such files."""


def check_encoding(uri: str, header: str, path: str = "") -> None:
    """Raise :class:`InputError` if ``header`` names a compression that the object's name does not show.

    ``path`` is the name if the address contains more than that, such as a query.
    """
    name = (path or uri).lower()
    for coding in (part.strip().lower() for part in header.split(",")):
        ending = _ENDINGS.get(coding)
        if ending is None or (ending and name.endswith(ending)):
            continue
        under = f", or unchanged under a name that ends in {ending}" if ending else ""
        raise InputError(
            f"{uri} comes compressed (Content-Encoding: {coding}), which its name does not show: "
            f"copy it to storage decompressed{under}"
        )
