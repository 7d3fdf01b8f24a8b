"""Renderings that several tests look at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from chart_rendering import DOCUMENTED, EXAMPLES, Rendered, render


@pytest.fixture(params=[None, *EXAMPLES, *DOCUMENTED], ids=lambda path: path.stem if path else "defaults")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its defaults, with each example, and with values that together set all there are."""
    return render(*filter(None, [request.param]))
