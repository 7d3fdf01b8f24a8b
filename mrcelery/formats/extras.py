"""What formats need beyond the plain install: the extra ``arrow``, pyarrow and numpy."""

from __future__ import annotations

from importlib.util import find_spec

from mrcelery.errors import MissingExtraError


def installed() -> bool:
    """Whether pyarrow and numpy are there; does not import them."""
    return find_spec("pyarrow") is not None and find_spec("numpy") is not None


def check_installed(what: str) -> None:
    """Raise :class:`MissingExtraError` if they are not, which says that ``what`` needs them."""
    if not installed():
        raise MissingExtraError(
            f"{what} needs pyarrow and numpy: pip install 'mrcelery[arrow]', here and on the workers"
        )
