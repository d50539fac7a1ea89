"""One look at all that raw pointers rely on: a single call of compiled code, before every launch.

A step of a thousand small tensors is spent asking them, from Python, where they are. Here the same questions are
asked by a compiled loop, of CPython through `PyList_GetItem` and `PyDict_GetItem`, and of torch through its stable C
interface. Why the answers are those that Python would get:

- The loop holds the interpreter lock, so that nothing moves while it looks.
- Lists, dicts and keys that it is told of are alive: each is held by the roster, or was made for this call.
- Two places in memory are no promise of torch's: a Python tensor keeps its C++ handle right behind its object header,
  and what the handle points at holds the set of dispatch keys, which tell a plain tensor in main memory from one that
  is lazily negated, sparse, fake, wrapped or elsewhere. Both are verified on tensors of several kinds before the
  first look; where they are not found, there is no glance.
- Nothing is asked of an object before its type and keys are those of the plain tensor that was there.
- Gradients are in a list that lives until the step is over.

Wherever there is no glance, `Crew.still_holds` asks the same in Python; it is the definition of what is asked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends.cache import address, load
from ..backends.threads import torch_library
from .glance_source import DIRECTORY, SOURCE, TABLES, WIDTH

Rows = NDArray[np.int64]
_HEADER = object.__basicsize__
_LINE = 64
_FAR_FROM = 24
"""Tensors from which it pays to fetch before asking."""


class Looker(NamedTuple):
    """The compiled loop, and what begins its directory."""

    look: Callable[[int, int, int], None]
    functions: tuple[int, ...]
    keys: int


def _word(place: int) -> int:
    return ctypes.c_int64.from_address(place).value


def _keys(tensor: torch.Tensor) -> int:
    """Return a tensor's dispatch keys, as the signed number that a loop reads."""
    return ctypes.c_int64(torch._C._dispatch_keys(tensor).raw_repr()).value  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _place_of_keys() -> int | None:
    """Return where in a C++ tensor its dispatch keys are, if tensors of all kinds agree, and their handles' place."""
    plain, negated = torch.empty(1, device="cpu"), getattr(torch, "_neg_view")  # noqa: B009
    kinds: list[Any] = [
        plain,
        torch.nn.Parameter(torch.empty(2, 3, dtype=torch.float64, device="cpu")),
        negated(plain),
        torch.empty(1, dtype=torch.complex64, device="cpu").conj(),
        torch.empty(1, device="meta"),
        torch.zeros(2, 2, device="cpu").to_sparse(),
    ]
    if any(_word(id(tensor) + _HEADER) != tensor._cdata for tensor in kinds):  # noqa: SLF001
        return None
    places = [
        place
        for place in range(0, 192, 8)  # no torch has made a tensor smaller
        if all(_word(tensor._cdata + place) == _keys(tensor) for tensor in kinds)  # noqa: SLF001
    ]
    return places[0] if len(places) == 1 else None


@cache
def looker() -> Looker | None:
    """Return the compiled loop, if this Python and this torch are made as it needs."""
    library = torch_library()
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not locked or library is None or sys.maxsize < 2**32:
        return None
    try:
        names = ("data_ptr", "storage_size", "storage_offset", "dtype", "dim", "sizes", "strides")
        functions = [ctypes.pythonapi.PyList_GetItem, ctypes.pythonapi.PyDict_GetItem]
        functions += [getattr(library, f"aoti_torch_get_{name}") for name in names]
        keys = _place_of_keys()
    except (AttributeError, RuntimeError, TypeError):
        return None
    code = None if keys is None else address(load(SOURCE))
    if keys is None or code is None:
        return None
    # A call of this kind keeps the interpreter lock.
    look = ctypes.PYFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code)
    return Looker(look, tuple(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions), keys)


def _dtype_code(tensor: torch.Tensor) -> int:
    """Return the number by which torch's C interface calls a dtype."""
    code = ctypes.c_int32()
    torch_library().aoti_torch_get_dtype(ctypes.c_void_p(id(tensor) + _HEADER), ctypes.byref(code))
    return code.value


class Described:
    """Rows that begin with what must stay true of a tensor, and the shapes they refer to."""

    def __init__(self) -> None:
        self.shapes: list[int] = []
        self._codes: dict[torch.dtype, int] = {}

    def row(self, tensor: torch.Tensor, *rest: int, shaped: bool = True) -> tuple[int, ...]:
        """Describe a tensor."""
        if tensor.dtype not in self._codes:
            self._codes[tensor.dtype] = _dtype_code(tensor)
        place = len(self.shapes)
        if shaped:
            self.shapes += [n for pair in zip(tensor.shape, tensor.stride(), strict=True) for n in pair]
        dimensions = tensor.dim() if shaped else -1
        return (id(type(tensor)), _keys(tensor), self._codes[tensor.dtype], dimensions, place, *rest)


def _far(tensors: Sequence[torch.Tensor], states: Sequence[object]) -> list[tuple[int]]:
    """List the cache lines of objects that are asked at every step: Python's, torch's, their storages'."""
    places = [id(thing) for thing in (*tensors, *states)]
    for tensor in tensors:
        own: Any = tensor
        places += [own._cdata + at for at in range(0, 192, _LINE)]  # noqa: SLF001
        places.append(own.untyped_storage()._cdata)  # noqa: SLF001
    return [(place,) for place in places]


class Glance:
    """Asks whether a step may point where the last one pointed; if so, gradients' addresses are in their tables."""

    def __init__(
        self,
        found: Looker,
        lists: Sequence[list[Any]],
        states: Sequence[Mapping[str, Any]],
        entries: Sequence[tuple[Mapping[str, Any], str, object]],
        tensors: Sequence[tuple[torch.Tensor, int, int, bool]],
        gradients: Iterable[tuple[torch.Tensor, int, int, int]],
        numbers: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    ) -> None:
        described = Described()
        rows: dict[str, list[tuple[int, ...]]] = {
            "lists": [(id(own), place, id(item)) for own in lists for place, item in enumerate(own)],
            "values": [(id(state),) for state in states],
            "entries": [(id(own), id(key), id(item)) for own, key, item in entries],
            "tensors": [described.row(t, id(t), where, size, shaped=shaped) for t, where, size, shaped in tensors],
            "gradients": [described.row(g, cell, needed, offset) for g, cell, needed, offset in gradients],
            "numbers": [(now.ctypes.data, then.ctypes.data, now.nbytes // 4) for now, then in numbers],
            "far": _far([row[0] for row in tensors], states) if len(states) >= _FAR_FROM else [],
        }
        # What is known by its address must stay alive.
        self._held = (lists, states, entries, [row[0] for row in tensors], numbers)
        self._tables = {name: np.array(rows[name], dtype=np.int64).reshape(-1, WIDTH[name]) for name in TABLES}
        self._shapes = np.array([*described.shapes, 0], dtype=np.int64)
        self._answer = np.zeros(1, dtype=np.int64)
        tables = [n for own in self._tables.values() for n in (len(own), own.ctypes.data)]
        places = [_HEADER, found.keys, self._answer.ctypes.data, self._shapes.ctypes.data]
        self._directory = np.array([0, *found.functions, *places, *tables], dtype=np.int64)
        assert len(self._directory) == len(DIRECTORY)
        self._look, self._where = found.look, self._directory.ctypes.data
        self._same = memoryview(self._directory.data)
        self._is_far = bool(rows["far"])

    def fetch(self) -> None:
        """Fetch what will be asked from far memory; nothing to do for a few tensors, which are near."""
        if self._is_far:
            self._look(0, 0, self._where)

    def __call__(self, gradients: list[torch.Tensor], states: list[Any]) -> bool:
        """Whether all is as it was; both lists must be as long as they were."""
        self._look(id(gradients), id(states), self._where)
        return self._same[0] == 1
