"""The client's side of code shipping: find the job class, and pack what a worker needs to run it.

A bundle is a zip, addressed by its content (equal content gives equal bytes)::

    manifest.json      version, entry, entry_file, modules, path, archives, file_args
    lib/...            the job's file or package, and its imports from its folder
    py/<n>/...         --py-files: a zip, a wheel, or a folder's content; each is on sys.path
    files/<name>       --files, FILES and DIRS: linked into a task's working directory
    archives/<n>-...   --archives and ARCHIVES: unpacked as files/<name>/ by the worker
    args/<n>/<name>    file arguments
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob
from mrcelery.schema.structs import Bundle
from mrcelery.shipping.dependencies import NEVER_SHIPPED, LocalImports, tree_files
from mrcelery.shipping.ignore import looks_secret
from mrcelery.shipping.job_file import load_job, make_job, module_name, path_entry

__all__ = ["MANIFEST_VERSION", "MAX_BYTES", "BuiltBundle", "Shipped", "build", "load_job", "make_job", "shipped"]

_log = logging.getLogger("mrcelery")

MANIFEST_VERSION = 1
MAX_BYTES = 256 << 20
"""Largest unpacked bundle in bytes. Larger data belongs in storage, to be read as an input."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_STORED = (".zip", ".whl", ".egg", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".png", ".jpg")


class BuiltBundle(NamedTuple):
    """A bundle's bytes, and the record that names the bundle."""

    data: bytes
    bundle: Bundle


class Shipped(NamedTuple):
    """A file of a bundle: its name in the bundle, its path on this machine, and its size in bytes."""

    name: str
    path: Path
    bytes: int


def build(
    job_class: type[MRJob],
    job: MRJob,
    *,
    py_files: Sequence[str] = (),
    files: Sequence[str] = (),
    archives: Sequence[str] = (),
) -> BuiltBundle:
    """Pack the job's code and the files that it declares.

    ``py_files`` are modules (``.py``), zips, wheels, eggs or folders; ``files`` (folders too) and ``archives`` are
    ``PATH`` or ``PATH#NAME``. Raises :class:`JobLoadError` for a class that no worker could import, :class:`UsageError`
    for a path that does not exist or cannot be shipped, and for more than :data:`MAX_BYTES`.
    """
    packer, entry = _collected(job_class, job, py_files, files, archives)
    data = packer.pack(entry)
    return BuiltBundle(data, Bundle(sha256=hashlib.sha256(data).hexdigest(), size=len(data), entry=entry))


def shipped(
    job_class: type[MRJob],
    job: MRJob,
    *,
    py_files: Sequence[str] = (),
    files: Sequence[str] = (),
    archives: Sequence[str] = (),
) -> list[Shipped]:
    """List what :func:`build` would pack, by name. Raises the same errors."""
    packer, _ = _collected(job_class, job, py_files, files, archives)
    return [Shipped(name, path, path.stat().st_size) for name, path in packer.members()]


def _collected(
    job_class: type[MRJob], job: MRJob, py_files: Sequence[str], files: Sequence[str], archives: Sequence[str]
) -> tuple[_Packer, str]:
    packer = _Packer()
    entry = packer.add_code(job_class)
    for n, path in enumerate(py_files):
        packer.add_py_file(n, path)
    for path in (*files, *job.files(), *job.dirs()):
        packer.add_data(path)
    for n, path in enumerate((*archives, *job.archives())):
        packer.add_archive(n, path)
    for n, path in enumerate(sorted({p for paths in job.file_args().values() for p in paths})):
        packer.add_file_arg(n, path)
    return packer, entry


class _Packer:
    """Collects a bundle's members by name, and rejects two members with the same name."""

    def __init__(self) -> None:
        self._members: dict[str, Path] = {}
        self._path: list[str] = []
        self._modules: set[str] = set()
        self._archives: list[tuple[str, str]] = []
        self._file_args: dict[str, str] = {}
        self._entry_file = ""
        self._bytes = 0

    def add_code(self, job_class: type[MRJob]) -> str:
        """Add the job's module and what it needs; return the entry, ``module:Class``."""
        name, file = _home(job_class)
        entry = f"{name}:{job_class.__qualname__}"
        top = name.partition(".")[0]
        if top == "mrcelery":
            return entry
        # A module pkg.sub.mod is three levels below the folder on sys.path.
        is_package = file.name == "__init__.py" and name != "__init__"
        root = file.parents[name.count(".") + is_package]
        code = LocalImports(root, follow=not _is_site(root))
        if is_package or "." in name:
            code.add_module(name)
        else:
            code.add_file(file)
            self._entry_file = file.name
            self._modules.add(name)
        for path in code.files:
            relative = path.relative_to(root)
            self._add(f"lib/{relative.as_posix()}", path)
            self._modules.add(relative.parts[0].removesuffix(".py"))
        self._path.append("lib")
        return entry

    def add_py_file(self, n: int, given: str) -> None:
        path = _existing(given, "--py-files")
        if path.is_dir():
            base = path_entry(path)
            for file in tree_files(path):
                self._add(f"py/{n}/{file.relative_to(base).as_posix()}", file)
                self._modules.add(file.relative_to(base).parts[0].removesuffix(".py"))
            self._path.append(f"py/{n}")
        elif path.suffix == ".py":
            self._add(f"py/{n}/{path.name}", path)
            self._modules.add(path.stem)
            self._path.append(f"py/{n}")
        elif path.suffix in (".zip", ".whl", ".egg"):
            if not zipfile.is_zipfile(path):
                raise UsageError(f"--py-files {given} is not a zip file: give .py files, zips, wheels or folders")
            with zipfile.ZipFile(path) as packed:
                self._modules.update(name.partition("/")[0].removesuffix(".py") for name in packed.namelist())
            self._add(f"py/{n}/{path.name}", path)
            self._path.append(f"py/{n}/{path.name}")
        else:
            raise UsageError(
                f"--py-files {given} is not Python: give .py files, zips, wheels or folders, or use --files"
            )

    def add_data(self, given: str) -> None:
        path, name = _named(given, "--files")
        if path.is_dir():
            for file in tree_files(path):
                self._add(f"files/{name}/{file.relative_to(path).as_posix()}", file)
        else:
            _warn_of_secret(path)
            self._add(f"files/{name}", path)

    def add_archive(self, n: int, given: str) -> None:
        path, name = _named(given, "--archives")
        if not path.name.endswith(_ARCHIVES):
            raise UsageError(f"--archives {given} is not an archive: give {', '.join(_ARCHIVES)}, or use --files")
        files = {PurePosixPath(member).parts[1] for member in self._members if member.startswith("files/")}
        if name in files | set(dict(self._archives).values()):
            raise UsageError(f"two files or archives would be called {name}: name one PATH#NAME")
        self._add(f"archives/{n}-{path.name}", path)
        self._archives.append((f"archives/{n}-{path.name}", name))

    def add_file_arg(self, n: int, given: str) -> None:
        path, name = _named(given, "file argument")
        if path.is_dir():
            raise UsageError(f"file argument {given} is a folder: give a file, or ship the folder with --files")
        _warn_of_secret(path)
        self._add(f"args/{n}/{name}", path)
        self._file_args[given] = f"args/{n}/{name}"

    def _add(self, member: str, path: Path) -> None:
        if member in self._members:
            if self._members[member].samefile(path):
                return
            raise UsageError(f"{self._members[member]} and {path} would both be called {member}: name one PATH#NAME")
        self._members[member] = path
        self._bytes += path.stat().st_size
        if self._bytes > MAX_BYTES:
            largest = max(self._members.values(), key=lambda p: p.stat().st_size)
            raise UsageError(
                f"the code and files to ship are more than {MAX_BYTES >> 20} MiB, the largest is {largest}: "
                "install packages on the workers, and give data as an input"
            )

    def members(self) -> list[tuple[str, Path]]:
        """List the files added so far with their names in the bundle, sorted by name."""
        return sorted(self._members.items())

    def pack(self, entry: str) -> bytes:
        manifest = {
            "version": MANIFEST_VERSION,
            "entry": entry,
            "entry_file": self._entry_file,
            "modules": sorted(self._modules - NEVER_SHIPPED),
            "path": self._path,
            "archives": self._archives,
            "file_args": self._file_args,
        }
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as bundle:
            _write(bundle, "manifest.json", json.dumps(manifest, sort_keys=True).encode(), 0o644)
            for member, path in self.members():
                _write(bundle, member, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
        return out.getvalue()


def _warn_of_secret(path: Path) -> None:
    """Warn about a likely secret that the user has explicitly asked to ship."""
    if looks_secret(path):
        _log.warning(
            "mrcelery: %s looks like a secret, and is shipped: anyone who can read the job's storage can read it", path
        )


def _write(bundle: zipfile.ZipFile, member: str, data: bytes, mode: int) -> None:
    # No timestamps and no owner: equal content must give equal bytes.
    info = zipfile.ZipInfo(member)
    info.create_system = 3
    info.external_attr = (0o100000 | mode) << 16
    info.compress_type = zipfile.ZIP_STORED if member.endswith(_STORED) else zipfile.ZIP_DEFLATED
    bundle.writestr(info, data)


def _home(job_class: type[MRJob]) -> tuple[str, Path]:
    """Return the name under which a worker can import the class's module, and the module's file."""
    module: Any = sys.modules.get(job_class.__module__)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise JobLoadError(
            f"{job_class.__qualname__} has no file, as it was defined in a notebook or an interactive session, "
            "and workers could not import it: put it into a .py file and import it from there"
        )
    if "<locals>" in job_class.__qualname__:
        raise JobLoadError(
            f"{job_class.__qualname__} is defined inside a function, where workers cannot import it: "
            "move it to the top level of its file"
        )
    path = Path(os.path.abspath(file))  # resolve() would follow a link out of its folder
    name: str = module.__name__
    if name == "__main__":
        spec = module.__spec__  # set by `python -m pkg.module`
        name = module_name(path) if spec is None else spec.name
    return name, path


def _is_site(folder: Path) -> bool:
    return "site-packages" in folder.parts or "dist-packages" in folder.parts


def _existing(given: str, what: str) -> Path:
    if not given.strip():
        raise UsageError(
            f"{what} is empty, perhaps from a shell variable that is not set: give a path, or leave it out"
        )
    path = Path(given).expanduser()
    if not path.exists():
        raise UsageError(f"{what} {given}: no such file or folder: give a path on this machine")
    return path


def _named(given: str, what: str) -> tuple[Path, str]:
    """Split ``PATH#NAME`` or ``PATH`` into the path and its name on the worker."""
    location, _, name = given.rpartition("#")
    if not location or Path(given).expanduser().exists():
        location, name = given, ""
    path = _existing(location, what)
    name = name or path.resolve().name
    if "/" in name or "\\" in name or name in (".", ".."):
        raise UsageError(f"{what} {given}: {name} is not a plain name: leave folders out of what follows the #")
    return path, name
