"""A submission's settings that are settled before its code is loaded: runner, inputs and output.

This module imports little, so that the local runner's cluster starts while the rest of the client is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mrcelery.config import Config
from mrcelery.errors import ConfigError, UsageError, mask
from mrcelery.jobstore.connection import connect
from mrcelery.runners.base import Runner, own_settings, storage_root
from mrcelery.runners.preload import local_runner
from mrcelery.storage.addresses import INPUT, OUTPUT, tidy

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob

Given = str | os.PathLike[str]
"""An address as given by a caller."""


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """A client's options for one job, in addition to the settings (:class:`Config`); see :func:`mrcelery.submit`."""

    args: Sequence[str] = ()
    name: str = ""
    client_token: str = ""
    overwrite: bool = False
    keep: bool = False
    jobconf: Mapping[str, str] | None = None
    py_files: Sequence[str] = ()
    files: Sequence[str] = ()
    archives: Sequence[str] = ()

    @classmethod
    def take(cls, options: dict[str, Any]) -> SubmitOptions:
        """Remove these options from keyword arguments, leaving only the settings."""
        given = {f.name: options.pop(f.name) for f in fields(cls) if f.name in options}
        for name in ("args", "py_files", "files", "archives"):
            if name in given:
                given[name] = _texts(name, given[name])
        return cls(**given)


def _texts(name: str, values: Any) -> tuple[str, ...]:
    """Return paths or arguments, given as strings or as :class:`os.PathLike`, as strings."""
    if values is None:
        return ()
    if isinstance(values, (str, os.PathLike)):
        if name == "args":
            raise UsageError(f"args is {values!r}: give a list, such as ['--limit', '3']")
        values = (values,)
    return tuple(os.fspath(value) if isinstance(value, os.PathLike) else value for value in values)


_ONLY = {
    "workers": ("local",),
    "broker": ("celery",),
    "result_backend": ("celery",),
    "queue": ("celery",),
    "max_attempts": ("local", "celery"),
    "speculative": ("local", "celery"),
}
"""Settings that only some runners use."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A submission as known before its job is loaded."""

    job: type[MRJob] | str
    inputs: tuple[str, ...]
    output: str | None
    given: SubmitOptions
    config: Config
    runner: str
    """``inline``, ``local`` or ``celery``."""
    started: Runner | None
    """The runner, if it was started ahead: its recipient closes it."""

    def ignored(self) -> list[str]:
        """Return a sentence for each given setting that this submission's runner does not use."""
        return [
            f"the {self.runner} runner ignores {origin}: it is for the "
            f"{' and '.join(_ONLY[name])} runner{'s' if len(_ONLY[name]) > 1 else ''}"
            for name, origin in self.config.origins.items()
            if origin.startswith("--") and self.runner not in _ONLY.get(name, (self.runner,))
        ]


def settle(
    job: type[MRJob] | Given,
    inputs: Given | Iterable[Given],
    output: Given | None = None,
    *,
    ahead: bool = False,
    **options: Any,
) -> Settled:
    """Settle a submission's runner and addresses. ``options`` are fields of :class:`SubmitOptions`, and settings.

    ``ahead``: the job will be submitted at once, so start an embedded cluster now. Raises :class:`UsageError` if an
    option or an address is wrong.
    """
    given = SubmitOptions.take(options)
    job = os.fspath(job) if isinstance(job, os.PathLike) else job
    named, placed = _named(inputs), None if output is None else tidy(output, OUTPUT)
    config = own_settings(Config.load(options))
    storage_root(config)  # a wrong address is reported before the job is loaded
    runner = _runner_for(config, given.client_token)
    return Settled(
        job=job,
        inputs=named,
        output=placed,
        given=given,
        config=config,
        runner=runner,
        started=local_runner(config, job) if ahead and runner == "local" else None,
    )


def _runner_for(config: Config, client_token: str) -> str:
    """Return the kind of runner that a configuration selects; :class:`UsageError` if it cannot run the job."""
    runner = config.runner or ("celery" if config.broker else "local")
    if runner == "celery":
        _check_fleet(config)
    elif client_token and not config.storage:
        raise UsageError(
            f"a client token needs a storage that outlives the {runner} runner, where a repeat finds the job: "
            "give --storage or a --broker, or no token"
        )
    return runner


def _check_fleet(config: Config) -> None:
    if not config.broker:
        raise ConfigError(
            "the celery runner needs a broker: give --broker redis://host:6379/0 (or MRCELERY_BROKER, "
            "CELERY_BROKER_URL), or --runner local"
        )
    connect(config.broker).close()  # a malformed address is refused before anything else is asked for
    if not config.storage:
        raise ConfigError(
            f"the fleet at {mask(config.broker, whole=True)} needs a storage that all its workers reach: "
            "give --storage s3://bucket/prefix, or a shared folder (MRCELERY_STORAGE)"
        )


def _named(inputs: Given | Iterable[Given]) -> tuple[str, ...]:
    """Check the inputs' addresses before anything starts, and normalize them with :func:`tidy`."""
    if isinstance(inputs, (str, os.PathLike)):
        inputs = (inputs,)
    if not isinstance(inputs, Iterable):
        raise UsageError(f"inputs are {inputs!r}: give an address, or several in a list")
    return tuple(tidy(uri, INPUT) for uri in inputs)
