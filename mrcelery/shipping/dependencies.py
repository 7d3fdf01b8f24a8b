"""The files in a folder that a Python file needs: its imports, followed as long as they stay in the folder."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mrcelery.shipping.ignore import Ignored, check_secret

NEVER_SHIPPED = sys.stdlib_module_names | {"mrcelery", "mrjob", "__main__", "__init__"}
"""Names never taken from a job's folder: the standard library is always available, and our modules must be ours."""


class LocalImports:
    """Collects ``files``: those under ``root`` imported by the added files and modules, at any depth.

    A package is taken whole, with its data files, since its late imports cannot be known. Imports are read from the
    source (including those inside functions, and ``import_module("name")``), not run. With ``follow`` False only the
    added files are taken.
    """

    def __init__(self, root: Path, follow: bool = True) -> None:
        self.root = root
        self.files: set[Path] = set()
        self._trees: set[Path] = set()
        self._follow = follow

    def add_module(self, name: str) -> None:
        """Add a module by its dotted name; do nothing if it is not under the root."""
        parts = name.split(".")
        if parts[0] in NEVER_SHIPPED:
            return None
        folder = self.root
        for part in parts:
            if (folder / part / "__init__.py").is_file():
                return self.add_tree(folder / part)
            if (folder / f"{part}.py").is_file():
                return self.add_file(folder / f"{part}.py")
            folder = folder / part  # a namespace package, or nothing
        return None

    def add_tree(self, folder: Path) -> None:
        """Add a folder with all its files, except caches and hidden ones."""
        if folder not in self._trees:
            self._trees.add(folder)
            for file in tree_files(folder):
                self.add_file(file)

    def add_file(self, file: Path) -> None:
        """Add a file and, if imports are followed, the local modules that it imports; each file once."""
        if file in self.files:
            return
        self.files.add(file)
        if self._follow and file.suffix == ".py":
            for name in _imported(file, self.root):
                self.add_module(name)


def tree_files(folder: Path) -> Iterator[Path]:
    """List the files under a folder, in order, except caches, hidden files and those named in ``.mrceleryignore``.

    Raises :class:`mrcelery.errors.UsageError` for one that looks like a secret.
    """
    rules = {os.fspath(folder): Ignored.of(folder)}
    for at, folders, files in os.walk(folder):
        ignored = rules[at]
        folders[:] = sorted(
            f
            for f in folders
            if f != "__pycache__" and not f.startswith(".") and not ignored.decides(Path(at, f), folder=True)
        )
        rules.update((os.path.join(at, f), ignored.below(Path(at, f))) for f in folders)
        for name in sorted(files):
            path = Path(at, name)
            if not name.startswith(".") and not name.endswith((".pyc", ".pyo")) and not ignored.decides(path):
                check_secret(path, ignored)
                yield path


def _imported(file: Path, root: Path) -> Iterator[str]:
    """Yield dotted names that may be modules; a file that does not parse imports nothing."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    here = file.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) + 1 - node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module:
                yield module
            for alias in node.names:
                yield f"{module}.{alias.name}" if module else alias.name
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield name.lstrip(".")
