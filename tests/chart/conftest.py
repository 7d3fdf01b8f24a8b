"""Renderings that several tests look at."""

from __future__ import annotations

import pytest

from tests.chart.chart_rendering import DOCUMENTED, EXAMPLES, Rendered, render


@pytest.fixture(params=[None, *EXAMPLES, *DOCUMENTED], ids=lambda path: path.stem if path else "defaults")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its defaults, with each example, and with values that together set all there are."""
    return render(*filter(None, [request.param]))
