"""One look at all that raw pointers rely on: a single call of compiled code, before every launch.

A step of a thousand small tensors is spent asking them, from Python, where they are. Here the same questions are
asked by a compiled loop, of CPython through `PyList_GetItem` and `PyDict_GetItem`, and of torch through its stable C
interface. Why the answers are those that Python would get:

- The loop holds the interpreter lock, so that nothing moves while it looks.
- Lists, dicts and keys that it is told of are alive: each is held by the roster, or was made for this call.
- A Python tensor keeps its C++ handle right behind its object header, and that handle is what torch's C functions
  take. This is no promise of torch's, so it is verified on a tensor; where it is not so, there is no glance.
- Only plain tensors are asked: the types of parameters and gradients have been compared just before (see
  `witness`), and a slot is the very object that was checked when the roster was made.
- Gradients are in a list that lives until the step is over.

Wherever there is no glance, `Crew.still_holds` asks the same in Python; it is the definition of what is asked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends.cache import address, load
from ..backends.threads import torch_library

Rows = NDArray[np.int64]

SOURCE = '''"""Has anything changed that raw pointers rely on? The answer is the first number of the directory."""

from steprule.backends.memory import failure_of, int32_at, int64_at, object_of


def kernel(gradients, values, directory):
    of = int64_at(directory)
    of[0] = 0
    item_of_list, item_of_dict = of[1], of[2]
    address_of, size_of, offset_of = of[3], of[4], of[5]
    header, answer = of[6], of[7]
    found = int64_at(answer)
    rows = int64_at(of[9])  # a list, a place in it, what is there
    for i in range(of[8]):
        if object_of(item_of_list, (rows[3 * i], rows[3 * i + 1])) != rows[3 * i + 2]:
            return
    rows = int64_at(of[11])  # what each place of the list of values holds
    for i in range(of[10]):
        if object_of(item_of_list, (values, i)) != rows[i]:
            return
    rows = int64_at(of[13])  # a dict, a key, what is there
    for i in range(of[12]):
        if object_of(item_of_dict, (rows[3 * i], rows[3 * i + 1])) != rows[3 * i + 2]:
            return
    rows = int64_at(of[15])  # a tensor, where it begins, the size of its storage
    for i in range(of[14]):
        tensor = rows[3 * i] + header
        if failure_of(address_of, (tensor, answer)) != 0 or found[0] != rows[3 * i + 1]:
            return
        if failure_of(size_of, (tensor, answer)) != 0 or found[0] != rows[3 * i + 2]:
            return
    rows = int64_at(of[17])  # where a gradient's address is wanted, bytes its storage must have, where in it it begins
    for i in range(of[16]):
        tensor = object_of(item_of_list, (gradients, i)) + header
        if failure_of(size_of, (tensor, answer)) != 0 or found[0] < rows[3 * i + 1]:
            return
        if failure_of(offset_of, (tensor, answer)) != 0 or found[0] != rows[3 * i + 2]:
            return
        if failure_of(address_of, (tensor, answer)) != 0:
            return
        wanted = int64_at(rows[3 * i])
        wanted[0] = found[0]
    rows = int64_at(of[19])  # numbers of the state, as they were written, how many words of 32 bits
    for i in range(of[18]):
        now, written = int32_at(rows[3 * i]), int32_at(rows[3 * i + 1])
        for j in range(rows[3 * i + 2]):
            if now[j] != written[j]:
                return
    of[0] = 1
'''

_TABLES = 6
_FIRST = 8
"""Where in the directory the number and the address of the first table are."""


@cache
def _looker() -> tuple[Callable[[int, int, int], None], list[int]] | None:
    """Return the compiled loop and the functions it calls, if this Python and this torch are made as it needs."""
    library, python = torch_library(), ctypes.pythonapi
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not locked or library is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        functions = [python.PyList_GetItem, python.PyDict_GetItem, library.aoti_torch_get_data_ptr,
                     library.aoti_torch_get_storage_size, library.aoti_torch_get_storage_offset]  # fmt: skip
    except AttributeError:
        return None
    header = object.__basicsize__
    probe: Any = torch.empty(1)
    behind = ctypes.c_int64.from_address(id(probe) + header).value
    code = address(load(SOURCE)) if behind == getattr(probe, "_cdata", None) else None
    if code is None:
        return None
    # This kind of call keeps the interpreter lock.
    look = ctypes.PYFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code)
    return look, [*(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions), header]


def _table(rows: Iterable[Sequence[int]]) -> Rows:
    return np.ascontiguousarray(np.array(list(rows), dtype=np.int64).reshape(-1))


class Glance:
    """Asks whether a step may point where the last one pointed; if so, gradients' addresses are in their tables."""

    def __init__(
        self,
        lists: Iterable[list[Any]],
        values: Iterable[object],
        entries: Iterable[tuple[Mapping[str, Any], str, object]],
        tensors: Iterable[tuple[object, int, int]],
        gradients: Iterable[tuple[int, int, int]],
        numbers: Iterable[tuple[NDArray[Any], NDArray[Any]]],
    ) -> None:
        looker = _looker()
        assert looker is not None
        self._look, functions = looker
        lists, values, entries, numbers = list(lists), list(values), list(entries), list(numbers)
        self._held = (lists, values, entries, numbers)  # what is known by its address must stay alive
        objects = list(tensors)
        tables = (
            ((id(own), place, id(item)) for own in lists for place, item in enumerate(own)),
            ((id(value),) for value in values),
            ((id(own), id(key), id(item)) for own, key, item in entries),
            ((id(tensor), where, size) for tensor, where, size in objects),
            gradients,
            ((now.ctypes.data, then.ctypes.data, now.nbytes // 4) for now, then in numbers),
        )
        self._objects = [tensor for tensor, _, _ in objects]
        self._tables = [_table(rows) for rows in tables]
        counts = [len(rows) // (1 if place == 1 else 3) for place, rows in enumerate(self._tables)]
        self._found = np.zeros(1, dtype=np.int64)
        pairs = [n for count, rows in zip(counts, self._tables, strict=True) for n in (count, rows.ctypes.data)]
        self._directory = np.array([0, *functions, self._found.ctypes.data, *pairs], dtype=np.int64)
        assert len(self._directory) == _FIRST + 2 * _TABLES
        self._where = self._directory.ctypes.data
        self._answer = memoryview(self._directory.data)

    def __call__(self, gradients: list[torch.Tensor], values: list[Any]) -> bool:
        """Whether all is as it was; both lists must be as long as they were, and gradients plain tensors."""
        self._look(id(gradients), id(values), self._where)
        return self._answer[0] == 1


def available() -> bool:
    """Whether this Python and this torch can be looked at in this way."""
    return _looker() is not None
