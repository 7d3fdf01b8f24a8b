"""What formats need beyond the plain install: the extra ``arrow``, which is pyarrow and numpy."""

from __future__ import annotations

from importlib.util import find_spec

from mrcelery.errors import MissingExtraError


def installed() -> bool:
    """Check whether pyarrow and numpy are installed, without importing them."""
    return find_spec("pyarrow") is not None and find_spec("numpy") is not None


def check_installed(what: str) -> None:
    """Raise :class:`MissingExtraError`, naming ``what`` needs them, if pyarrow or numpy is not installed."""
    if not installed():
        raise MissingExtraError(
            f"{what} needs pyarrow and numpy: pip install 'mrcelery[arrow]', here and on the workers"
        )
