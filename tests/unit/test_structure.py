"""House rules: sizes, parameters, packages and their sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import mrcelery

PACKAGE = Path(mrcelery.__file__).parent
CHECKOUT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

MOST_LINES = 450
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 7
MOST_FLAT_NAMES = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def parameters(function: Function) -> int:
    """Count parameters as a caller sees them, without ``self`` and ``cls``."""
    spec = function.args
    named = [one.arg for one in (*spec.posonlyargs, *spec.args)]
    count = len(named) + len(spec.kwonlyargs) + (spec.vararg is not None) + (spec.kwarg is not None)
    return count - (named[:1] in (["self"], ["cls"]))


def is_command(function: Function) -> bool:
    """Whether the parameters are a command's options, as click's decorators list them."""
    return any("click." in ast.unparse(one) or "options(" in ast.unparse(one) for one in function.decorator_list)


def test_modules_are_short() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_functions_are_short() -> None:
    long = []
    for path in MODULES:
        for one in functions(path):
            assert one.end_lineno is not None
            if (lines := one.end_lineno - one.lineno + 1) > MOST_FUNCTION_LINES:
                long.append(f"{path.relative_to(PACKAGE)}:{one.lineno} {one.name}: {lines}")
    assert long == []


def test_functions_take_few_parameters() -> None:
    wide = []
    for path in MODULES:
        for one in functions(path):
            if (count := parameters(one)) > MOST_PARAMETERS and not is_command(one):
                wide.append(f"{path.relative_to(PACKAGE)}:{one.lineno} {one.name}: {count}")
    assert wide == []


def test_few_names_lie_flat() -> None:
    flat = [path.name for path in PACKAGE.iterdir() if path.suffix == ".py"]
    assert len(flat) <= MOST_FLAT_NAMES, sorted(flat)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_in_one_sentence_what_it_is(name: str) -> None:
    """It is the same in the package's docstring and on the guide's page."""
    text = import_module(f"mrcelery.{name}").__doc__ or ""
    sentence = " ".join(text.partition("\n\n")[0].split())
    assert re.fullmatch(r"[^.]+\.", sentence.replace("`.", "`")), sentence
    page = (PACKAGE / "guide" / "architecture.md").read_text()
    assert f"| `{name}/` | {sentence.replace('``', '`')} |" in page


def test_the_guide_names_modules_that_exist() -> None:
    page = (PACKAGE / "guide" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", page))
    assert named
    for name in named:
        assert (PACKAGE / name).exists() or (CHECKOUT / name).exists(), name


def test_own_imports_inside_functions_have_a_reason() -> None:
    """It is next to the ``noqa`` that ruff requires, or given once for a module, if such imports are its purpose."""
    bare = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        if any(re.match(r"# ruff: noqa: PLC0415 - \w", line) for line in lines):
            continue
        for one in functions(path):
            for node in ast.walk(one):
                if not isinstance(node, (ast.Import, ast.ImportFrom)):
                    continue
                ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mrcelery"
                ours |= isinstance(node, ast.Import) and any(n.name.split(".")[0] == "mrcelery" for n in node.names)
                if ours and not re.search(r"# noqa: (F401, )?PLC0415 - \w", lines[node.lineno - 1]):
                    bare.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert bare == []
