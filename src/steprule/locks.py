"""Locks that are free in a forked child, and values that are made once without one.

A forked child has one thread, a copy of the one that forked. A lock that any other thread held at that moment has
nobody there who would release it: whoever waits for it waits for ever. So every lock of the package is made here, and
those that the child's own thread does not hold are opened in the child before anything else runs.

The lock of a module that another thread is importing cannot be opened: half a module would be found. A fork waits until
what this package may import at its first step, torch's compiler for instance, is there as a whole.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

Value = TypeVar("Value")
_IMPORTED_LATE = ("torch", "numba", "llvmlite", "triton", "steprule")
_made: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> threading.RLock:
    """Return a reentrant lock that no forked child finds taken."""
    new = threading.RLock()
    _made.add(new)
    return new


def held_elsewhere(own: Any) -> bool:
    """Whether another thread holds a reentrant lock."""
    if own.acquire(blocking=False):
        own.release()
        return False
    return True


def reopen(own: Any) -> None:
    """Release a lock that a thread of another process has taken, as `threading` does with its own."""
    if held_elsewhere(own):
        own._at_fork_reinit()  # noqa: SLF001


def _reopen_all() -> None:
    for own in _made:
        reopen(own)


def _finish_imports() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _IMPORTED_LATE and getattr(module.__spec__, "_initializing", False):
            with contextlib.suppress(Exception):  # it is the other thread's to say so
                importlib.import_module(name)  # it waits for another thread's import


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_finish_imports, after_in_child=_reopen_all)


class once(Generic[Value]):  # noqa: N801 - it is used as a decorator
    """A property that is computed when it is first read, and kept.

    `functools.cached_property` is the same with a lock in Python 3.11, one for all instances. Here two threads may both
    compute a value; both get the one that was kept first.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Value:
        if instance is None:
            return self
        return vars(instance).setdefault(self._name, self._make(instance))
