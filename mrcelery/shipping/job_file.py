"""Finding a job class by the user's text: ``file.py``, ``file.py:Class``, ``pkg.module`` or ``pkg.module:Class``."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from mrcelery.errors import JobLoadError
from mrcelery.job.base import MRJob, importing
from mrcelery.job.mrjob_alias import mrjob_alias
from mrcelery.job.raised import first_line, lacks_arrow, passes
from mrcelery.job.tracebacks import user_traceback
from mrcelery.shipping.dependencies import NEVER_SHIPPED


def load_job(spec: str, py_files: Sequence[str] = ()) -> type[MRJob]:
    """Import the job class named by ``spec``.

    The file's folder, or the current folder for a module, is then first on ``sys.path``, as when Python runs it, and
    ``py_files`` (as for ``--py-files``) come next. Without a ``:Class`` the module must define one job class; its bases
    do not count, nor do imported classes. Raises :class:`JobLoadError`, with the user's ``traceback`` if their code
    raised.
    """
    target, colon, class_name = spec.rpartition(":")
    if not colon or not class_name.replace(".", "").isidentifier():
        target, class_name = spec, ""
    for given in py_files:
        _first_on_path(str(path_entry(Path(given).expanduser().absolute())))
    path = Path(target).expanduser()
    if target.endswith(".py") or os.sep in target or os.path.isfile(path):  # pathlib's may raise
        if not os.path.isfile(path):
            raise JobLoadError(f"{target}: no such file: give the path of a job file, or pkg.module:Class")
        module = _run(target, lambda: _load_file(path))
    else:
        module = _run(target, lambda: _load_module(target))
    return _pick(module, target, class_name)


def make_job(job_class: type[MRJob], args: Sequence[str]) -> MRJob:
    """Make an instance of the job with these arguments.

    Raises :class:`mrcelery.errors.UsageError` if they do not parse, and :class:`JobLoadError` with the user's traceback
    if its ``__init__``, ``configure_args`` or ``load_args`` raises.
    """
    try:
        return job_class(list(args))
    except BaseException as e:
        if passes(e):
            raise
        raise _failed(f"{job_class.__name__} cannot take its arguments", e) from e


def module_name(path: Path) -> str:
    """Choose a job file's import name: its stem, unless that hides another module or is not an identifier."""
    stem = path.stem
    if stem.isidentifier() and stem not in NEVER_SHIPPED:
        return stem
    return "job_" + re.sub(r"\W", "_", stem)


def path_entry(py_file: Path) -> Path:
    """Return the entry of ``sys.path`` for a ``--py-files`` item.

    That is a zip or a plain folder itself, or the folder that contains a module or a package.
    """
    is_package = py_file.is_dir() and (py_file / "__init__.py").is_file()
    return py_file.parent if is_package or py_file.suffix == ".py" else py_file


def load_file(path: Path, name: str) -> ModuleType:
    """Run a file as the module ``name``, replacing that name in ``sys.modules``."""
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _load_file(path: Path) -> ModuleType:
    path = Path(os.path.abspath(path))  # resolve() would follow a link out of its folder
    name = module_name(path)
    there = getattr(sys.modules.get(name), "__file__", None)
    if name in sys.modules and there != str(path):
        name += "_" + hashlib.sha256(str(path).encode()).hexdigest()[:8]
    _first_on_path(str(path.parent))
    return load_file(path, name)


def _load_module(name: str) -> ModuleType:
    _first_on_path(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is not None and (name == e.name or name.startswith(f"{e.name}.")):
            raise JobLoadError(
                f"there is no module {name}: give the path of a .py file, or run from the folder that holds the package"
            ) from None
        raise
    except (TypeError, ValueError):  # a relative or empty name
        if name.strip(".") == name and name:
            raise
        raise JobLoadError(f"{name!r} is not a job: give the path of a .py file, or pkg.module:Class") from None


def _first_on_path(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _run(target: str, load: Any) -> ModuleType:
    importlib.invalidate_caches()
    try:
        with mrjob_alias(), importing():
            module: ModuleType = load()
            return module
    except BaseException as e:
        if passes(e):
            raise
        raise _failed(f"{target} does not import", e, target) from e


def _as_module(path: Path) -> str:
    """Return how to name a file whose relative imports need its package: ``pkg.job``, and from which folder."""
    parts = [path.stem]
    folder = path.absolute().parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return f"{'.'.join(parts)}, from {folder}" if len(parts) > 1 else "pkg.module, from the folder that holds pkg"


def _failed(what: str, exc: BaseException, target: str = "") -> JobLoadError:
    remedy = "" if not target or "see `mrcelery help" in str(exc) else ": see `mrcelery help troubleshooting`"
    if lacks_arrow(exc):
        remedy = ": pip install 'mrcelery[arrow]'"
    elif isinstance(exc, ImportError) and "relative import with no known parent" in str(exc) and target:
        remedy = f": give it as a module, {_as_module(Path(target))}"
    return JobLoadError(f"{what}: {first_line(exc)}{remedy}", user_traceback(exc))


def _pick(module: ModuleType, target: str, class_name: str) -> type[MRJob]:
    own = {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MRJob) and value.__module__ == module.__name__
    }
    jobs = sorted((c for c in own if not any(c in other.__mro__[1:] for other in own)), key=lambda c: c.__qualname__)
    names = ", ".join(c.__qualname__ for c in jobs)
    if class_name:
        found: Any = module
        for part in class_name.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, type) or not issubclass(found, MRJob):
            remedy = f"it has {names}" if names else "define one that extends mrcelery.MRJob"
            raise JobLoadError(f"{target} has no job class {class_name}: {remedy}")
        return found
    if not jobs:
        raise JobLoadError(f"{target} has no job class: define one that extends mrcelery.MRJob")
    if len(jobs) > 1:
        raise JobLoadError(
            f"{target} has several job classes, {names}: name one, such as {target}:{jobs[0].__qualname__}"
        )
    return jobs[0]
