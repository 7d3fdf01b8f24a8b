"""Turning what a user names into a request for a runner: job, inputs, output, options, code."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcelery.client import results
from mrcelery.client import uploads as inputs_module
from mrcelery.client.client_token import check_given, digests
from mrcelery.client.handle import Delivery, JobHandle, log_event
from mrcelery.client.options import check_formats, job_options
from mrcelery.client.settle import Given, Settled, SubmitOptions, settle
from mrcelery.config import Config
from mrcelery.errors import ConfigError, UsageError, writable
from mrcelery.formats.naming import to_ship
from mrcelery.job.hooks import hooks, step_specs
from mrcelery.job.raised import loading
from mrcelery.job.step import reducers_in
from mrcelery.jobstore.base import generation_of
from mrcelery.runners.base import Runner, storage_root
from mrcelery.runners.fleet import FleetRunner
from mrcelery.runners.preload import local_runner
from mrcelery.schema import object_keys, signing, structs
from mrcelery.schema.object_keys import SUCCESS
from mrcelery.shipping import bundle
from mrcelery.storage import open_storage
from mrcelery.storage.addresses import is_remote, local, scheme_of
from mrcelery.storage.folder import errors_of

if TYPE_CHECKING:
    from mrcelery.client.dry_run import Plan
    from mrcelery.job.base import MRJob
    from mrcelery.runners.fleet import FleetRunner
    from mrcelery.schema.structs import Bundle, JobOptions, StepSpec
    from mrcelery.shipping.bundle import BuiltBundle, Shipped


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job ready to submit: loaded, with its options settled."""

    config: Config
    runner: str
    """``inline``, ``local`` or ``celery``."""
    job_class: type[MRJob]
    job: MRJob
    name: str
    args: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str | None
    options: JobOptions
    steps: tuple[StepSpec, ...]
    shipped: Mapping[str, Sequence[str]]
    client_token: str = ""
    wants_results: bool = True
    on_upload: inputs_module.Progress | None = None
    started: Runner | None = None
    """The runner, if it was started ahead; :meth:`submit` passes it to the handle."""

    @classmethod
    def prepare(
        cls,
        job: type[MRJob] | Given,
        inputs: Given | Iterable[Given],
        output: Given | None = None,
        *,
        wants_results: bool = True,
        **options: Any,
    ) -> Submission:
        """Settle a submission with :func:`mrcelery.client.settle.settle`, and load its job."""
        settled = settle(job, inputs, output, **options)
        for sentence in settled.ignored():
            logging.getLogger("mrcelery").warning("%s", sentence)
        return cls.load(settled, wants_results=wants_results)

    @classmethod
    def load(
        cls, settled: Settled, *, wants_results: bool = True, on_upload: inputs_module.Progress | None = None
    ) -> Submission:
        """Load the job and settle its own options.

        Raises :class:`UsageError` if the job or an option is wrong; a runner that was started ahead is then closed.
        """
        config, given, runner = settled.config, settled.given, settled.runner
        with ExitStack() as undo:
            if settled.started is not None:
                undo.enter_context(closing(settled.started))
            job = settled.job
            job_class = bundle.load_job(job, given.py_files) if isinstance(job, str) else job
            instance = bundle.make_job(job_class, given.args)
            with loading(job_class):
                options = job_options(
                    config, instance, given.jobconf or {}, runner, overwrite=given.overwrite, keep=given.keep
                )
                check_formats(options, instance, runner, prints=wants_results and settled.output is None)
                _check_memory(runner, config, settled.output)
                submission = cls(
                    config=config,
                    runner=runner,
                    job_class=job_class,
                    job=instance,
                    name=writable(given.name or job_class.__name__),
                    args=tuple(given.args),
                    inputs=settled.inputs,
                    output=settled.output,
                    options=options,
                    steps=_steps(config, instance, options),
                    shipped=_shipped(given, options, job_class),
                    client_token=given.client_token,
                    wants_results=wants_results,
                    on_upload=on_upload,
                    started=settled.started,
                )
            undo.pop_all()
            return submission

    def plan(self) -> Plan:
        """List and split the inputs here, and price the job; write nothing."""
        from mrcelery.client.dry_run import plan_of  # noqa: PLC0415 - only --dry-run lists, cuts and prices here

        return plan_of(self)

    def ships(self) -> list[Shipped]:
        """List the files that are sent to the workers with the job's code."""
        return bundle.shipped(self.job_class, self.job, **self.shipped)

    def submit(self, on_handle: Callable[[JobHandle], None] | None = None) -> JobHandle:
        """Start the runner and submit the job to it. The inline runner has run the job when this returns.

        ``on_handle`` is called with the handle just before the job is registered.
        """
        with ExitStack() as undo:
            if self.started is not None:
                undo.enter_context(closing(self.started))
            handle = self._submit(on_handle)
            undo.pop_all()
            return handle

    def _submit(self, on_handle: Callable[[JobHandle], None] | None) -> JobHandle:
        if not self.inputs:
            raise UsageError("no input: give files, folders, globs, s3:// or http(s):// addresses, or - for stdin")

        built = bundle.build(self.job_class, self.job, **self.shipped)
        created = time.time()
        identity = job_id(self.name, self.client_token, created)
        if self.client_token and (known := self._submitted_before(identity, built.bundle)):
            return known
        output, bring_home = self._place_output()
        spool = ""
        found = None
        if not self.uploads:
            # before the runner starts: a wrong path is reported without waiting for a cluster
            spool = self._spool(identity) if any(map(inputs_module.is_stream, self.inputs)) else ""
            found = inputs_module.absolute(self.inputs, spool)
        runner = self._open()
        handle = JobHandle(
            identity,
            runner,
            storage=self.storage or runner.storage,
            delivery=self._delivery(bring_home),
            spool=spool if self.runner != "celery" else "",
        )
        try:
            if found is None:
                patience = results.waiting(identity, self.config.storage_patience, log_event)
                found = inputs_module.upload(
                    self.inputs, self.storage, self.options.input_format, self.on_upload, patience
                )
            if on_handle is not None:
                on_handle(handle)
            self._send(runner, handle, created, found, output, built)
            handle.met = True
        except BaseException:
            handle.close()
            raise
        return handle

    def _submitted_before(self, identity: str, code: Bundle) -> JobHandle | None:
        """Return the job with the same client token, if there is one; its client may have died since."""
        runner = self._fleet() if self.runner == "celery" else None  # a runner that we start knows no jobs yet
        try:
            known = runner.store.request(identity) if runner is not None else None
            if runner is not None and known is not None:
                self._check_same(known, identity, code)
                fields = runner.store.fields(identity)
                if fields.get("state") == "queued":
                    # its client may have died before it could
                    runner.start(identity, self.options.queue, generation_of(fields))
            elif not self._ended_in_storage(identity, code):
                if runner is not None:
                    runner.close()
                return None
        except BaseException:
            if runner is not None:
                runner.close()
            raise
        if self.started is not None:
            self.started.close()  # there is nothing to run
        bring_home = None
        if self.brings_home:
            path = local(self.output or "")
            # A folder that contains the job's success marker was fetched before.
            bring_home = None if Path(path, SUCCESS).exists() else path
        return JobHandle(identity, runner, storage=self.storage, delivery=self._delivery(bring_home))

    def _ended_in_storage(self, identity: str, code: Bundle) -> bool:
        """Check whether storage has the report of a job that the job store has forgotten or never knew.

        A job that left a spec but no report resumes from its commits when it is submitted again.
        """

        storage, key = open_storage(self.storage), object_keys.spec(identity)
        try:
            spec = signing.unseal(storage.read(key), structs.JobSpec, self.config.signing_key or None, key)
        except FileNotFoundError:
            return False
        check_given(self.client_token, spec.request, self._given(code))
        return storage.stat(object_keys.report(identity)) is not None

    def _check_same(self, envelope: bytes, identity: str, code: Bundle) -> None:
        key = self.config.signing_key or None
        request = signing.unseal(envelope, structs.Request, key, f"the request of job {identity}")
        check_given(self.client_token, request, self._given(code))

    def _given(self, code: Bundle) -> dict[str, str]:
        """Digest the submission as it was given; the content of inputs is not compared."""
        output = self.output or ""
        return digests(
            {
                "another job": (self.name, code.entry, code.sha256, self.args),
                "other inputs": [
                    uri if uri == "-" else here for uri, here in zip(self.inputs, self.input_addresses(), strict=True)
                ],
                "another output": (local(output) if output and not is_remote(output) else output),
                "other options": (self.options, self.steps),
            }
        )

    def _send(
        self,
        runner: Runner,
        handle: JobHandle,
        created: float,
        found: inputs_module.Inputs,
        output: str,
        built: BuiltBundle,
    ) -> None:

        request = structs.Request(
            job=handle.id,
            name=self.name,
            owner=writable(self.config.owner or _user()),
            created=created,  # matches its id: code that lists jobs by their ids relies on it
            inputs=tuple(found.uris),
            output=output,
            storage=self.storage or runner.storage,
            steps=self.steps,
            args=self.args,
            options=self.options,
            bundle=built.bundle,
            blobs=found.names,
            small_results=self.wants_results and not output,
            given=self._given(built.bundle) if self.client_token else {},
        )
        envelope = signing.seal(request, self.config.signing_key or None)
        try:
            runner.submit(request, envelope, built.data, found.blobs)
        except UsageError:
            # two clients with one token at the same time: one of them registered the job
            known = runner.store.request(handle.id) if self.client_token else None
            if known is None:
                raise
            self._check_same(known, handle.id, built.bundle)

    @property
    def brings_home(self) -> bool:
        """Return whether the waiting client must fetch the results to a local OUTPUT."""
        return self.uploads and self.output is not None and not is_remote(self.output)

    @property
    def storage(self) -> str:
        """Return the configured storage as the workers name it; "" lets the runner choose."""
        return storage_root(self.config)

    @property
    def uploads(self) -> bool:
        """Return whether the workers cannot see this machine's files."""
        return self.runner == "celery" and is_remote(self.storage)

    def _place_output(self) -> tuple[str, str | None]:
        """Return OUTPUT as the request names it ("": the job's storage), and the folder to fetch into or None."""
        if self.output is None or is_remote(self.output):
            return self.output or "", None
        path = local(self.output)
        if not self.options.overwrite:
            results.check_free(path)
        return ("", path) if self.uploads else (path, None)

    def _spool(self, identity: str) -> str:
        """Make a folder for standard input that is readable by the workers."""
        if self.runner == "celery":
            # With a token, others may have the same id, and write at the same time.
            folder = Path(self.storage) / "inputs" / f"{identity}-{secrets.token_hex(3)}"
            with errors_of(folder):
                folder.mkdir(parents=True)
            return str(folder)
        return tempfile.mkdtemp(prefix="mrcelery-", dir=self.config.scratch or None)

    def _open(self) -> Runner:
        if self.runner == "inline":
            from mrcelery.runners.inline import InlineRunner  # noqa: PLC0415 - the engine, which other runners keep off the client

            return InlineRunner(self.storage or None)
        if self.runner == "local":
            return self.started or local_runner(self.config, self.job_class)
        return self._fleet()

    def _fleet(self) -> FleetRunner:
        return FleetRunner(self.config.broker, self.config.result_backend or None)

    def _delivery(self, bring_home: str | None) -> Delivery:
        patience = self.config.storage_patience
        return Delivery(folder=bring_home, overwrite=self.options.overwrite, parse=self._parse(), patience=patience)

    def _parse(self) -> Callable[[bytes], results.Pair]:
        protocol = hooks(self.job, len(self.steps) - 1).output_protocol
        if protocol is not None:
            return protocol.read
        if self.options.output_format.partition(":")[0] in ("parquet", "records"):
            return _unreadable
        return results.parse_json if self.options.output_format == "json" else results.parse_raw

    def input_addresses(self) -> list[str]:
        """Return the inputs as addresses; a local one becomes an absolute path."""
        return [u if is_remote(u) else local(u) for u in self.inputs]


def _unreadable(line: bytes) -> results.Pair:
    raise UsageError("parquet and records output has no lines: read the part files at OUTPUT")


def job_id(name: str, client_token: str = "", created: float | None = None) -> str:
    """Make a job id: ``<name>-<YYYYmmdd-HHMMSS>-<6 hex>``, with the time of ``created`` (epoch seconds; now).

    With a client token it is ``job-<20 hex>``, the same for the same token.
    """
    if client_token:
        # Without the job's name: another job with the same token must be detected.
        return f"job-{hashlib.sha256(client_token.encode()).hexdigest()[:20]}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "job"
    return f"{slug}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(created))}-{secrets.token_hex(3)}"


def _steps(config: Config, job: MRJob, options: JobOptions) -> tuple[StepSpec, ...]:
    """Specify the job's steps. A flag overrides the job, and the job overrides other settings."""

    explicit = config.reducers if config.origins.get("reducers", "").startswith("--") else None
    flagged = config.origins.get("partitioner", "").startswith("--")
    return step_specs(
        job,
        0,
        reducers=explicit or reducers_in(options.jobconf) or config.reducers,
        partitioner=config.partitioner if flagged else "",
        partitioner_default=config.partitioner,
        define=options.jobconf,
    )


def _shipped(given: SubmitOptions, options: JobOptions, job_class: type[MRJob]) -> dict[str, Sequence[str]]:
    """List the paths to ship, including the modules of the user's custom formats."""

    formats = (options.input_format, options.output_format)
    own = [path for text in formats for path in to_ship(text, job_class)]
    return {"py_files": (*given.py_files, *own), "files": given.files, "archives": given.archives}


def _check_memory(runner: str, config: Config, output: str | None) -> None:
    """Raise :class:`ConfigError` for data in memory if the workers, being other processes, cannot share it."""
    for option, uri in (("storage", config.storage), ("output", output or "")):
        if runner != "inline" and scheme_of(uri) == "memory":
            serves = "a fleet: give s3://bucket/prefix or a shared folder"
            serves = serves if runner == "celery" else "the local runner: give a folder, or --runner inline"
            raise ConfigError(f"{option} {uri} cannot serve {serves}")


def _user() -> str:
    import getpass  # noqa: PLC0415 - only an owner without a name needs it

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container whose user id has no name
