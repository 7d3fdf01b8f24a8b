"""Detecting code that cannot leave anything behind: a process that has run it is as good as a new one.

Determined from the bytecode and from the contents of modules, for simple jobs whose tasks may take less time than
forking a process. Anything not understood here counts as leaving something behind: then each attempt gets its own
process.

Such code keeps nothing between two calls, since its modules and classes contain only immutable values, and it neither
assigns nor deletes a global, an attribute (except of ``self``) or a variable of an enclosing function. It also uses
only modules that contain nothing mutable.
"""

from __future__ import annotations

import datetime
import dis
import re
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, BuiltinMethodType, CodeType, FunctionType, ModuleType
from typing import Any

MODULES = frozenset(
    (
        *(
            "__future__",
            "abc",
            "binascii",
            "bisect",
            "cmath",
            "collections",
            "collections.abc",
            "datetime",
            "functools",
        ),
        *("heapq", "itertools", "json", "math", "operator", "re", "struct", "typing", "unicodedata", "zlib"),
        *("mrcelery", "mrcelery.ops", "mrcelery.protocols", "mrjob", "mrjob.job", "mrjob.protocol", "mrjob.step"),
    )
)
"""Modules whose names lead to nothing mutable, except for :data:`DENIED` and private names."""

DENIED = frozenset(
    (
        # These reach objects by name, or their surroundings.
        *("eval", "exec", "compile", "__import__", "globals", "locals", "vars", "dir", "getattr", "setattr", "delattr"),
        *("breakpoint", "input", "help"),
        # Submodules of the modules above, and mutable objects in them.
        *("decoder", "encoder", "scanner", "register", "cache_clear", "dispatch_table"),
        *("all_feature_names", "EXCLUDED_ATTRIBUTES"),
        *(sys.stdlib_module_names - MODULES - {"copy"}),
    )
)
"""Names of globals and attributes that such code does not use; if they mean something else, that costs a fork."""

_SPECIAL = frozenset(
    ("__init__", "__name__", "__class__", "__doc__", "__len__", "__contains__", "__getitem__", "__iter__", "__next__")
)
"""Names with two underscores that such code may use."""

_OF_MODULES = frozenset(
    ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__file__", "__cached__", "__builtins__")
)
_OF_CLASSES = frozenset(
    ("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__")
)
_ANNOTATIONS = frozenset(("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"))

_FIXED = (
    type(None), bool, int, float, complex, str, bytes, range, type(...), re.Pattern,
    datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
)  # fmt: skip

_WRITES = frozenset(("STORE_GLOBAL", "DELETE_GLOBAL", "DELETE_ATTR", "DELETE_DEREF", "IMPORT_STAR"))

_NAMES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER", "LOAD_GLOBAL", "LOAD_NAME", "IMPORT_FROM")


class _LeavesTraces(Exception):
    """Something was found that might leave traces."""


def is_traceless(modules: Mapping[str, ModuleType]) -> bool:
    """Check whether a job's code can leave nothing behind; ``modules``: all of the job's own modules."""
    try:
        _Examination(modules).examine()
    except _LeavesTraces:
        return False
    return bool(modules)


class _Examination:
    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = modules
        self._globals = {id(vars(module)) for module in modules.values()}
        self._seen: set[int] = set()

    def examine(self) -> None:
        for module in self._modules.values():
            for name, value in list(vars(module).items()):
                if name not in _OF_MODULES | _ANNOTATIONS:
                    self._value(value)

    def _value(self, value: Any) -> None:
        if type(value) in _FIXED or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if type(value) in (tuple, frozenset):
            for item in value:
                self._value(item)
        elif isinstance(value, ModuleType):
            self._known(value.__name__)
        elif type(value) is FunctionType:
            self._function(value, method=False)
        elif type(value) is type:
            self._class(value)
        elif isinstance(value, (BuiltinFunctionType, BuiltinMethodType)):
            self._builtin(value)
        elif type(value).__module__ == "mrcelery.ops":
            for item in vars(value).values():
                self._value(item)
        elif not (isinstance(value, type) or type(value).__module__ == "typing") or not self._is_foreign(value):
            raise _LeavesTraces

    def _is_foreign(self, value: Any) -> bool:
        """Check whether a value was imported from a known module."""
        return value.__module__ in MODULES | {"builtins"}

    def _known(self, module: str | None) -> None:
        if module not in self._modules and module not in MODULES and module != "builtins":
            raise _LeavesTraces

    def _builtin(self, value: Any) -> None:
        if value.__self__ is None or isinstance(value.__self__, ModuleType):
            self._known(value.__module__.lstrip("_"))  # _operator, _heapq
        else:
            self._value(value.__self__)

    def _class(self, value: type) -> None:
        if value.__module__ not in self._modules:
            self._known(value.__module__ if not value.__module__.startswith("mrcelery.") else "mrcelery")
            return
        for base in value.__bases__:
            self._value(base)
        for name, item in list(vars(value).items()):
            if name in _OF_CLASSES | _ANNOTATIONS:
                continue
            if type(item) is FunctionType:
                self._function(item, method=True)
            elif isinstance(item, (staticmethod, classmethod)):
                self._value(item.__func__)
            elif type(item) is property:
                for function in (item.fget, item.fset, item.fdel):
                    self._value(function)
            else:
                self._value(item)

    def _function(self, function: FunctionType, *, method: bool) -> None:
        if id(function.__globals__) not in self._globals:
            module = function.__module__
            self._known(module if not module.startswith("mrcelery.") else "mrcelery")
            return
        if function.__dict__:
            raise _LeavesTraces
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._value(value)
        for cell in function.__closure__ or ():
            try:
                self._value(cell.cell_contents)
            except ValueError:  # empty
                raise _LeavesTraces from None
        _examine(function.__code__, method=method)


def _examine(code: CodeType, *, method: bool) -> None:
    """Raise if code might change an object that outlives its call. ``method``: its first argument is ``self``."""
    own = code.co_varnames[0] if method and code.co_argcount else None
    earlier: tuple[str, object] = ("", None)
    before: tuple[str, object] = ("", None)
    updated: tuple[str, bool] = ("", False)
    for name, value in _instructions(code):
        text = value if isinstance(value, str) else ""
        of_self = _loads(before, own)
        if before[0] == "COPY" and name == "LOAD_ATTR":  # self.text += ..., which loads the object only once
            of_self = _loads(earlier, own)
            updated = (text, of_self)
        elif before[0] == "SWAP" and name == "STORE_ATTR":
            of_self = updated == (text, True)
        if (
            name in _WRITES
            or (name == "STORE_ATTR" and not of_self)
            or (name.startswith("STORE_FAST") and own is not None and own in (value, *_items(value)))
            or (name == "STORE_DEREF" and text in code.co_freevars)
            or (name == "IMPORT_NAME" and text not in MODULES)
            or (name.startswith(_NAMES) and not _is_harmless(text, of_self))
        ):
            raise _LeavesTraces
        earlier, before = before, (name, value)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _examine(constant, method=False)


def _loads(instruction: tuple[str, object], own: str | None) -> bool:
    """Check whether an instruction leaves the method's own object on top of the stack."""
    name, value = instruction
    return own is not None and name.startswith("LOAD_FAST") and (value, *_items(value))[-1] == own


def _items(value: object) -> tuple[object, ...]:
    """Return the variables of an instruction that has several."""
    return value if isinstance(value, tuple) else ()


def _is_harmless(name: str, of_self: bool) -> bool:
    if name.startswith("__"):
        return name in _SPECIAL
    return name not in DENIED and (of_self or not name.startswith("_"))


def _instructions(code: CodeType) -> Iterator[tuple[str, object]]:
    for instruction in dis.get_instructions(code):
        if instruction.opname not in ("CACHE", "EXTENDED_ARG", "RESUME", "PRECALL", "NOP"):
            yield instruction.opname, instruction.argval
