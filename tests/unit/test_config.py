"""Settings: layers, parsers, errors that name their origin, masking."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.config import SETTINGS, Config, mask, misspelt, parse_age, parse_size, show_size
from mrcelery.errors import ConfigError


def load(tmp_path: Path, flags: dict[str, object] | None = None, /, **env: str) -> Config:
    return Config.load(flags, env={"HOME": str(tmp_path / "home"), **env}, folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("512M", 512 << 20), ("1GiB", 1 << 30), ("1.5k", 1536), ("77", 77), ("2tb", 2 << 40), (9, 9)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1PB", "0", 0, True, None, 1.5, "1e6"])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)


@given(st.integers(1, 1 << 50))
def test_a_plain_number_is_bytes(size: int) -> None:
    assert parse_size(str(size)) == parse_size(size) == size


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (64 << 20, "64 MiB"), (1536, "1.5 KiB")])
def test_sizes_are_shown(size: int, text: str) -> None:
    assert show_size(size) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604800)])
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


def test_each_layer_hides_the_next(tmp_path: Path) -> None:
    home = tmp_path / "home" / ".config" / "mrcelery"
    home.mkdir(parents=True)
    (home / "config.toml").write_text('queue = "home"\nbroker = "redis://home"\n')
    config = load(tmp_path)
    assert (config.queue, config.origins["queue"]) == ("home", str(home / "config.toml"))

    (tmp_path / "pyproject.toml").write_text('[tool.mrcelery]\nqueue = "project"\n')
    assert load(tmp_path).queue == "project"
    assert load(tmp_path).broker == "redis://home"
    (tmp_path / "mrcelery.toml").write_text('queue = "file"\n')
    assert load(tmp_path).queue == "file"
    config = load(tmp_path, CELERY_BROKER_URL="redis://celery")
    assert (config.broker, config.origins["broker"]) == ("redis://celery", "CELERY_BROKER_URL")
    env = {"CELERY_BROKER_URL": "redis://celery", "MRCELERY_BROKER": "redis://own", "MRCELERY_QUEUE": "env"}
    config = load(tmp_path, **env)
    assert (config.broker, config.queue) == ("redis://own", "env")
    config = load(tmp_path, {"queue": "flag", "broker": None}, **env)
    assert (config.broker, config.queue, config.origins["queue"]) == ("redis://own", "flag", "--queue")


def test_xdg_config_home(tmp_path: Path) -> None:
    (tmp_path / "xdg" / "mrcelery").mkdir(parents=True)
    (tmp_path / "xdg" / "mrcelery" / "config.toml").write_text('split-size = "1MiB"\nspeculative = false\n')
    config = load(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert (config.split_size, config.speculative) == (1 << 20, False)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, MRCELERY_QUEUE="").queue == "celery"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"MRCELERY_SPLIT_SIZE": "big"}, "split_size: 'big' from MRCELERY_SPLIT_SIZE .* 64MiB"),
        ({"MRCELERY_RUNNER": "spark"}, "runner: 'spark' from MRCELERY_RUNNER .* inline, local, celery"),
        ({"MRCELERY_WORKERS": "0"}, "workers: '0' from MRCELERY_WORKERS .* at least 1"),
        ({"MRCELERY_SPECULATIVE": "maybe"}, "speculative: 'maybe' .* true or false"),
    ],
)
def test_a_bad_value_names_setting_and_origin(tmp_path: Path, env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **env)


def test_a_bad_flag_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from --split-size"):
        load(tmp_path, {"split_size": "x"})


def test_an_unknown_setting_has_a_closest_match(tmp_path: Path) -> None:
    (tmp_path / "mrcelery.toml").write_text("reducer = 3\n")
    with pytest.raises(ConfigError, match=r"mrcelery\.toml sets 'reducer'.*did you mean 'reducers'"):
        load(tmp_path)


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mrcelery.toml").write_text("reducers = \n")
    with pytest.raises(ConfigError, match=r"mrcelery\.toml is not valid TOML"):
        load(tmp_path)


def test_a_secret_shows_neither_in_errors_nor_in_the_list(tmp_path: Path) -> None:
    (tmp_path / "mrcelery.toml").write_text("signing_key = 12345\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert "12345" not in str(caught.value)
    (tmp_path / "mrcelery.toml").write_text('signing_key = "s3cret"\nbroker = "redis://:pass@host/0"\n')
    config = load(tmp_path)
    assert config.signing_key == "s3cret"
    shown = {line.name: line.value for line in config.show()}
    assert (shown["signing_key"], shown["broker"]) == ("****", "redis://:****@host/0")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:pw@host:6379/0", "redis://user:****@host:6379/0"),
        ("sentinel://a:26379;sentinel://:pw@b:26379", "sentinel://a:26379;sentinel://:****@b:26379"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_mask(url: str, masked: str) -> None:
    assert mask(url) == masked


def test_every_default_passes_its_own_parser(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.origins == {}
    for name, setting in SETTINGS.items():
        value = getattr(config, name)
        if value is not None:
            assert setting.metadata["parse"](value) == value


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MRCELERY_REDUCER", "MRCELERY_REDUCERS"),
        ("MRCELERY_SPLITSIZE", "MRCELERY_SPLIT_SIZE"),
        ("MRCELERY_BROKER_URL", "MRCELERY_BROKER"),
    ],
)
def test_misspelt_variables(name: str, meant: str) -> None:
    assert misspelt({name: "1", "HOME": "/"}) == [f"the variable {name} does nothing: did you mean {meant}?"]


@pytest.mark.parametrize("name", ["MRCELERY_REDUCERS", "MRCELERY_REDIS_PORT", "MRCELERY_IMAGE", "REDUCER"])
def test_variables_of_ours_and_of_others(name: str) -> None:
    assert misspelt({name: "1"}) == []
