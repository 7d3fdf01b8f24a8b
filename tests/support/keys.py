"""Strategies for keys of all types."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

from hypothesis import strategies as st

any_text = st.text(st.characters(codec=None, exclude_categories=()))
numbers = (
    st.integers()
    | st.integers(-4, 4)
    | st.floats(allow_nan=False)
    | st.sampled_from([0.0, -0.0, 1.0, 2.5, 1e300, math.inf, -math.inf, 5e-324])
    | st.decimals(allow_nan=False, min_value=-(10**30), max_value=10**30)
    | st.sampled_from(list(map(Decimal, ("1", "1.0", "2.50", "Infinity", "1E+3", "0.1"))))
    | st.booleans()
)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))])
moments = st.builds(
    lambda day, hour, zone: datetime(2026, 3, 1 + day, hour, tzinfo=zone),
    st.integers(0, 2),
    st.integers(0, 23),
    zones,
)
days = st.dates(date(2026, 2, 27), date(2026, 3, 4))
scalars = st.none() | numbers | any_text | st.binary() | days | moments
keys = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=5
)
