"""What a visibility timeout means for the broker's options and for clocks."""

from __future__ import annotations

import pytest
from celery import Celery

from mrcelery.celeryapp import install
from mrcelery.errors import ConfigError, mask
from mrcelery.jobstore.connection import TIMEOUT, masked, sentinel_options, store_url
from mrcelery.worker.app import make_app
from mrcelery.worker.leases import transport_options, wrong_clock


@pytest.mark.parametrize("visibility", [1.0, 4.0, 15.0, 3600.0])
def test_a_vanished_workers_tasks_are_found_soon_after(visibility: float) -> None:
    options = transport_options(visibility)
    assert options["visibility_timeout"] == visibility
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= visibility / 4
    assert 1 <= options["unacked_mutex_expire"] <= max(1, visibility / 2)


@pytest.mark.parametrize(("skew", "visibility"), [(0.0, 1.0), (7.4, 15.0), (-7.4, 15.0)])
def test_clocks_that_will_do(skew: float, visibility: float) -> None:
    assert wrong_clock(skew, visibility) == ""


@pytest.mark.parametrize(("skew", "said"), [(7.6, "7.6 s ahead of"), (-60.0, "60.0 s behind")])
def test_clocks_that_will_not(skew: float, said: str) -> None:
    assert said in wrong_clock(skew, 15.0)


SENTINEL = "sentinel://:pw@a:1;sentinel://b:2/3?master_name=main&sentinel_password=s%26cret"


def test_sentinels_passwords_reach_celery_and_the_job_store() -> None:
    waits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    options = {"master_name": "main", "sentinel_kwargs": {**waits, "password": "s&cret"}}
    app = make_app(SENTINEL)
    assert app.conf.broker_transport_options.items() >= options.items()
    assert app.conf.result_backend_transport_options == options
    assert "s&cret" not in app.conf.broker_url
    assert sentinel_options(store_url(app)) == options
    assert masked(SENTINEL) == "sentinel://:****@a:1;sentinel://b:2/3?master_name=main&sentinel_password=****"
    assert mask(SENTINEL) == "sentinel://:****@a:1;sentinel://b:2/3?master_name=main&sentinel_password=****"


def test_a_key_prefix_is_refused() -> None:
    app = Celery(broker="redis://h", backend="redis://h", set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "shop-"}
    with pytest.raises(ConfigError, match="global_keyprefix"):
        install(app)
    app.conf.broker_transport_options = {}
    app.conf.result_backend_transport_options = {"global_keyprefix": "shop-"}
    install(app)
