"""Which versions run here: workers tell theirs, and ``doctor`` compares them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from mrcelery import __version__


def versions() -> dict[str, str]:
    """Versions of ``python``, ``mrcelery`` and ``celery`` on this machine; imports none of them."""
    try:
        celery = version("celery")
    except PackageNotFoundError:  # vendored, say
        celery = "?"
    return {"python": platform.python_version(), "mrcelery": __version__, "celery": celery}
