"""The worker's side of code shipping: unpack a bundle once, and run a job's code from it.

While a bundle is active its modules are in ``sys.modules``, its folders on ``sys.path``, and the working directory is a
fresh one with links to its files. Afterwards all of that is restored, and the modules are forgotten, unless they are
kept with the bundle: so each task imports them again, and two versions of one module are never mixed in a process.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mrcelery.errors import ConfigError, CorruptDataError, MissingExtraError, UserCodeError, VersionError
from mrcelery.job.base import importing, shipped_files
from mrcelery.job.mrjob_alias import mrjob_alias, take_modules
from mrcelery.job.raised import lacks_arrow, passes, reason
from mrcelery.job.tracebacks import user_traceback
from mrcelery.shipping.archives import Lock, unpack_archive, unpack_zip
from mrcelery.shipping.bundle import MANIFEST_VERSION, MAX_BYTES
from mrcelery.shipping.job_file import load_file

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob
    from mrcelery.schema.structs import Bundle

KEEP = 8
"""Bundles that a process keeps loaded, and that stay unpacked in the scratch folder in addition to those in use."""

NO_IMPORT = "the job does not import on the worker"
"""Start of the error message if a job's file cannot be imported."""


class Workspace:
    """Unpacked bundles under a scratch folder, which several processes of one user may share."""

    def __init__(self, root: str | Path, keep: int = KEEP) -> None:
        self.root = Path(root)
        self._keep = keep
        self._loaded: OrderedDict[str, LoadedBundle] = OrderedDict()
        self._pid = os.getpid()

    def open(self, bundle: Bundle, fetch: Callable[[], bytes]) -> LoadedBundle:
        """Open the bundle, ready to run; ``fetch`` returns its bytes, and is called unless they are unpacked here.

        Raises :class:`CorruptDataError` if the bytes do not match ``bundle``, and :class:`VersionError` for a bundle of
        another version.
        """
        if self._pid != os.getpid():
            # After a fork: the locks belong to the parent, which may release them.
            self._loaded.clear()
            self._pid = os.getpid()
        loaded = self._loaded.get(bundle.sha256)
        if loaded is None or not loaded.path.is_dir():  # some systems clean their temporary folders
            loaded = LoadedBundle(*self._unpacked(bundle, fetch))
            self._loaded[bundle.sha256] = loaded
        self._loaded.move_to_end(bundle.sha256)
        for sha256 in [s for s, b in self._loaded.items() if not b.active][: max(0, len(self._loaded) - self._keep)]:
            if sha256 != bundle.sha256:
                self._loaded.pop(sha256).close()
        return loaded

    def adopt(self) -> None:
        """Let this forked process use the bundles that its parent keeps open for as long as it lives."""
        self._pid = os.getpid()

    def _unpacked(self, bundle: Bundle, fetch: Callable[[], bytes]) -> tuple[Path, Lock]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_uid != os.geteuid():
            raise ConfigError(
                f"the scratch folder {self.root} belongs to another user, who could change the code in it: "
                "give the worker one of its own"
            )
        path = self.root / bundle.sha256
        lock = Lock.shared(self.root / f"{bundle.sha256}.lock")
        try:
            if path.is_dir():
                os.utime(path)  # evict() uses its age
            else:
                self._unpack(bundle, fetch(), path)
                self._evict()
        except BaseException:
            lock.release()
            raise
        return path, lock

    def _unpack(self, bundle: Bundle, data: bytes, path: Path) -> None:
        if hashlib.sha256(data).hexdigest() != bundle.sha256:
            raise CorruptDataError("the code bundle was altered or damaged in transit: submit the job again")
        partial = Path(tempfile.mkdtemp(prefix=f"{bundle.sha256[:16]}.", suffix=".partial", dir=self.root))
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                unpack_zip(packed, partial, limit=MAX_BYTES + (1 << 20))
            manifest = json.loads((partial / "manifest.json").read_bytes())
            if manifest["version"] != MANIFEST_VERSION:
                raise VersionError(
                    f"the code bundle has version {manifest['version']}, this mrcelery reads version "
                    f"{MANIFEST_VERSION}: run the same mrcelery version on the client and on all workers"
                )
            for name in ("files", "work"):
                (partial / name).mkdir(exist_ok=True)
            for member, name in manifest["archives"]:
                unpack_archive(partial / member, partial / "files" / name)
                (partial / member).unlink()
            try:
                partial.rename(path)
            except OSError:
                if not path.is_dir():  # else another process was faster: the content is the same
                    raise
        except (zipfile.BadZipFile, KeyError, ValueError) as e:
            raise CorruptDataError(f"the code bundle cannot be read ({e}): submit the job again") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _evict(self) -> None:
        """Remove the least recently used unpacked bundles that no process has open."""
        bundles = sorted((p for p in self.root.iterdir() if len(p.name) == 64), key=_age)
        for path in bundles[: max(0, len(bundles) - self._keep)]:
            lock_file = path.with_name(f"{path.name}.lock")
            lock = Lock.exclusive(lock_file)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                lock_file.unlink(missing_ok=True)
                lock.release()

    def loaded(self, bundle: Bundle) -> LoadedBundle | None:
        """Return a bundle if it is open."""
        return self._loaded.get(bundle.sha256) if self._pid == os.getpid() else None

    def close(self, *, spared: str = "") -> None:
        """Close all bundles; unpacked files stay for the next process, as does a working folder if ``spared``."""
        while self._loaded:
            self._loaded.popitem()[1].close(spared=spared)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # evicted by another process meanwhile
        return 0.0


class LoadedBundle:
    """An unpacked bundle in this process."""

    def __init__(self, path: Path, lock: Lock) -> None:
        self.path = path
        self._lock = lock
        manifest = json.loads((path / "manifest.json").read_bytes())
        self.entry: str = manifest["entry"]
        self._entry_file: str = manifest["entry_file"]
        self._top_names = frozenset(manifest["modules"])
        self._file_args = {given: str(path / member) for given, member in manifest["file_args"].items()}
        self._own_path = [str(path / folder) for folder in manifest["path"]]
        self._added_path = self._own_path
        self._modules: dict[str, ModuleType] = {}
        self.keeps_modules = False
        """Whether the job wants to find its modules as its last task in this process left them."""
        self._keeps = False
        self._loading = threading.RLock()
        self._work = ""
        self._shipped: dict[str, str] | None = None

    @property
    def active(self) -> bool:
        """Return whether the process is in an :meth:`activate` block of this bundle."""
        return _active.bundle is self

    @property
    def work(self) -> str:
        """Return the working folder that is ready for the next task, or ""."""
        return self._work

    def close(self, *, spared: str = "") -> None:
        """Remove the job's working folder, unless ``spared``, and release the lock that keeps the bundle unpacked."""
        if self._work and self._work != spared:
            shutil.rmtree(self._work, ignore_errors=True)
        self._work = ""
        self._lock.release()

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Run the bundle's code inside the block.

        Applies to the whole process and nests; a thread that needs another bundle waits. Raises ``RuntimeError`` for
        another bundle inside the block.
        """
        with ExitStack() as stack:
            stack.enter_context(_active.claim(self))
            stack.enter_context(_as_task(self._file_args))
            yield

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the process-wide part of :meth:`activate`, whose outermost block calls this."""
        with ExitStack() as stack:
            stack.enter_context(mrjob_alias())
            stack.enter_context(self._working_directory())
            stack.enter_context(self._imports())
            yield

    @contextmanager
    def _imports(self) -> Iterator[None]:
        path = list(sys.path)
        hidden = take_modules(self._top_names)
        known = set(sys.modules)
        sys.modules.update(self._modules)
        sys.path[:0] = self._added_path
        try:
            yield
        finally:
            prefix = f"{self.path}{os.sep}"
            for name in [n for n in sys.modules if n not in known]:
                if _lies_under(sys.modules[name], prefix):
                    self._modules[name] = sys.modules.pop(name)
            sys.modules.update(hidden)
            if self._keeps or self.keeps_modules:
                # Entries that the job's code put on the path are restored the next time.
                self._added_path = [p for p in sys.path if p not in path]
            else:
                self._modules.clear()
            sys.path[:] = path

    @contextmanager
    def _working_directory(self) -> Iterator[None]:
        # A fresh directory for each task: two that write the same name must not collide. A directory left unchanged by
        # a task is as good as new, and making another costs more than a small task.
        before = os.open(".", os.O_RDONLY)  # by descriptor: its path may be gone on return
        work, self._work = self._work if os.path.isdir(self._work) else self._new_work(), ""
        try:
            os.chdir(work)
            yield
        finally:
            os.fchdir(before)
            os.close(before)
            if _links(work) == self._shipped:
                self._work = work
            else:
                shutil.rmtree(work, ignore_errors=True)

    def _new_work(self) -> str:
        work = tempfile.mkdtemp(dir=self.path / "work")
        for item in os.scandir(self.path / "files"):
            os.symlink(item.path, os.path.join(work, item.name))
        self._shipped = _links(work)
        return work

    def load(self) -> dict[str, ModuleType]:
        """Import the job's modules and keep them in that state; return them by name.

        Raises the errors of the job's code.
        """
        self._keeps = True
        with self.activate(), importing():
            home = self._job_class().__module__
            module = sys.modules[home]
        return {**self._modules, home: module}

    def job(self, args: Sequence[str]) -> MRJob:
        """Make a new instance of the job, with file arguments as paths on this machine.

        Its hooks must run while the bundle is active. Raises :class:`UserCodeError` with the user's traceback if their
        code raises, :class:`MissingExtraError` if it imports pyarrow and this machine lacks it, and
        :class:`mrcelery.errors.UsageError` if the arguments do not parse.
        """
        with self.activate():
            try:
                with importing():
                    job_class = self._job_class()
            except BaseException as e:
                if passes(e):
                    raise
                if isinstance(e, ImportError) and lacks_arrow(e):
                    raise MissingExtraError(
                        f"the job imports {e.name}, which is not installed here: "
                        "pip install 'mrcelery[arrow]' on all workers"
                    ) from e
                raise UserCodeError(f"{NO_IMPORT}: {reason(e)}{_hint(e)}", traceback=user_traceback(e)) from e
            try:
                return job_class(list(args))
            except BaseException as e:
                if passes(e):
                    raise
                raise UserCodeError(
                    f"{job_class.__name__} cannot take its arguments: {reason(e)}", traceback=user_traceback(e)
                ) from e

    def _job_class(self) -> type[MRJob]:
        name, _, class_name = self.entry.partition(":")
        with self._loading:  # another thread's module appears in sys.modules when its import starts
            module = sys.modules.get(name)
            if module is None and self._entry_file:
                module = load_file(self.path / "lib" / self._entry_file, name)
            elif module is None:
                module = importlib.import_module(name)
        found: type[MRJob] = reduce(getattr, class_name.split("."), module)  # type: ignore[assignment]
        self.keeps_modules = bool(getattr(found, "KEEP_MODULES", False))
        return found


def _links(folder: str) -> dict[str, str] | None:
    """Return the links in a folder by name; None if it contains anything else, or is gone."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: os.readlink(entry.path) for entry in found}
    except OSError:
        return None


def _hint(exc: BaseException) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return ": install it on the workers, or ship it with --py-files"
    return ""


def _lies_under(module: ModuleType, prefix: str) -> bool:
    file = getattr(module, "__file__", None)
    if file is not None:
        return str(file).startswith(prefix)
    try:
        return any(str(folder).startswith(prefix) for folder in module.__path__)  # a namespace package
    except Exception:  # not a module at all: some libraries put proxies into sys.modules
        return False


@contextmanager
def _as_task(file_args: dict[str, str]) -> Iterator[None]:
    token = shipped_files.set(file_args)
    try:
        yield
    finally:
        shipped_files.reset(token)


class _Active:
    """The bundle that is active in this process: modules and the working directory exist only once."""

    def __init__(self) -> None:
        self.bundle: LoadedBundle | None = None
        self._users: list[int] = []
        self._changed = threading.Condition()
        self._stack: Any = None

    @contextmanager
    def claim(self, bundle: LoadedBundle) -> Iterator[None]:
        me = threading.get_ident()
        with self._changed:
            while self.bundle is not None and self.bundle is not bundle:
                if me in self._users:
                    raise RuntimeError(f"{bundle.entry} cannot run inside {self.bundle.entry}: end that one first")
                self._changed.wait()
            if self.bundle is None:
                self._stack = ExitStack()
                self._stack.enter_context(bundle.installed())
                self.bundle = bundle
            self._users.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._users.remove(me)
                if not self._users:
                    self.bundle = None
                    try:
                        self._stack.close()
                    finally:
                        self._changed.notify_all()


_active = _Active()
