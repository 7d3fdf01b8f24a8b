"""What a visibility timeout means for the broker's options and for clocks."""

from __future__ import annotations

import pytest

from mrcelery.errors import ConfigError
from mrcelery.executor.leases import check_skew, transport_options


@pytest.mark.parametrize("visibility", [1.0, 4.0, 15.0, 3600.0])
def test_a_vanished_workers_tasks_are_found_soon_after(visibility: float) -> None:
    options = transport_options(visibility)
    assert options["visibility_timeout"] == visibility
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= visibility / 4
    assert 1 <= options["unacked_mutex_expire"] <= max(1, visibility / 2)


@pytest.mark.parametrize(("skew", "visibility"), [(0.0, 1.0), (7.4, 15.0), (-7.4, 15.0)])
def test_clocks_that_will_do(skew: float, visibility: float) -> None:
    check_skew(skew, visibility)


@pytest.mark.parametrize(("skew", "said"), [(7.6, "7.6 s ahead of"), (-60.0, "60.0 s behind")])
def test_clocks_that_will_not(skew: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_skew(skew, 15.0)
