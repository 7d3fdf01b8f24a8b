"""The words in Python files that people read: docstrings, comments and messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

_CODE = re.compile(r"``.*?``|:\w+:`[^`]*`|`[^`]*`", re.DOTALL)


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each docstring, those under assignments included, without their code spans."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(text := _constant(node.value), str):
            yield node.lineno, _CODE.sub("CODE", text)


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each other string of several words; what an f-string formats is shown as X."""
    tree = ast.parse(source)
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
            yield node.lineno, "".join(str(_constant(part) or "X") for part in node.values)
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            text = node.value
            if isinstance(text, str) and " " in text.strip():
                yield node.lineno, _CODE.sub("CODE", text)


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _constant(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None
