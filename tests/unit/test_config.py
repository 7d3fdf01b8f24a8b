"""Settings: layers, parsers, errors that name their origin, masking."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.config import SETTINGS, Config, misspelt, parse_age, parse_size, show_size
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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reducers", "100000", "at most 10,000, as each map task writes a part for each reduce task"),
        ("workers", "0", "at least 1 and at most 1,024, as each is a process"),
        ("workers", 10_000, "at most 1,024, as each is a process on this machine"),
        ("memory", "1", "from 1 MiB to 4 TiB, as a task's buffers are shares of it"),
        ("memory", "10TB", "from 1 MiB to 4 TiB, .*one machine"),
        ("split_size", "-1", "a size such as 64MiB"),
        ("split_size", 0, "at least one byte"),
        ("split_size", "999999TB", "to 16 TiB, as no file of an input is larger"),
        ("max_attempts", "1000", "at most 100, as a task that failed so often fails again"),
        ("max_attempts", -1, "at least 1"),
        ("max_bad_records", 10**9, "at most 1,000,000, as each is kept with its traceback"),
        ("visibility_timeout", "30d", "at most 12 hours, as tasks of a worker that vanished wait"),
        ("visibility_timeout", 0, "at least 1 s"),
        ("task_timeout", 0.5, "at least 1 s and at most 7 days, or 0 for never"),
        ("task_timeout", False, "or 0 for never"),
        ("task_timeout", float("nan"), "or 0 for never"),
        ("soft_shutdown_timeout", float("inf"), "at most 24 hours, as a worker that was asked to stop"),
        ("storage_timeout", "2h", "at most an hour, as a connection that is lost"),
    ],
)
def test_bounds_are_named_with_their_reason(tmp_path: Path, name: str, value: object, message: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{name}: .* from --{name.replace('_', '-')} is not allowed: give .*{message}"
    ):
        load(tmp_path, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("task_timeout", 0), ("task_timeout", "0"), ("memory", "4TiB"), ("split_size", 1), ("workers", 1024)],
)
def test_bounds_are_allowed(tmp_path: Path, name: str, value: object) -> None:
    assert name in load(tmp_path, {name: value}).origins


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mrcelery.toml", "[mrcelery]\nqueue = 'a'", "has a table 'mrcelery': settings belong at the top"),
        ("mrcelery.toml", "[tool.mrcelery]\nqueue = 'a'", "has a table 'tool'"),
        ("mrcelery.toml", "[s3]\nencryption = 'AES256'", "has a table 's3'"),
        ("mrcelery.toml", "split-size = 1\nsplit_size = 2", "sets 'split-size' and 'split_size', which are the same"),
        ("mrcelery.toml", "queue = ['a']", r"queue: \['a'\] from .* give a text"),
        (
            "pyproject.toml",
            "[tool.mrcelery.submit]\nqueue = 'a'",
            "has a table 'submit': settings belong directly in that table",
        ),
        ("pyproject.toml", "[tool]\nmrcelery = 'a'", r"make it a table, \[tool.mrcelery\]"),
        ("pyproject.toml", "[mrcelery]\nqueue = 'a'", r"call it \[tool.mrcelery\]"),
        ("pyproject.toml", "[tool.mrcelry]\nqueue = 'a'", r"\[tool.mrcelry\]: did you mean \[tool.mrcelery\]"),
        ("pyproject.toml", "[tool.MRCelery]\nqueue = 'a'", r"did you mean \[tool.mrcelery\]"),
    ],
)
def test_nothing_of_a_file_vanishes(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[tool.mypy]", "[tool.maturin.celery]", "[tool.mrcelery-plugin]\nx = 1", "[project]"])
def test_tables_of_others_are_theirs(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"{text}\n# beside mrcelery\n")
    assert load(tmp_path).origins == {}


def test_a_file_that_cannot_be_read_is_not_as_if_it_were_absent(tmp_path: Path) -> None:
    (tmp_path / "mrcelery.toml").mkdir()
    with pytest.raises(ConfigError, match=r"mrcelery\.toml cannot be read \(Is a directory\)"):
        load(tmp_path)


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
