"""The fast check of all that raw pointers rely on: a single call of compiled code, before every launch.

A step of a thousand small tensors is spent asking them, from Python, where they are. Here the same questions are
asked by a compiled loop, of CPython through `PyList_GetItem` and `PyDict_GetItemWithError`, and of torch through its
stable C interface. Why the answers are those that Python would get:

- The loop holds the interpreter lock, so that nothing moves while it looks.
- Lists, dicts and keys in its tables are alive: the binding holds each, or has made it for this call.
- Six places in memory are no promise of torch's: a Python tensor keeps its C++ handle right behind its object header,
  and what the handle points at holds its dtype with its device behind it, its storage, offset in that, shape, and the
  set of dispatch keys, which tell a plain tensor from one that is lazily negated, sparse, fake or wrapped. All are
  verified on tensors of several kinds before the first call; where they are not found, there is no fast check.
- Nothing is asked of an object before its type and keys are those of the plain tensor that was there.
- Gradients are in a list that lives until the step is over.
- Nothing is asked of a GPU: all of this is in main memory, whatever device a tensor is on.

Where there is none, `SlowCheck` asks the same in Python; it is the definition of what is asked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..backends import compiler
from ..backends.base import Gradients
from ..backends.cache import address, load
from ..backends.threads import torch_library
from .checks import Facts, Form
from .fast_check_source import DIRECTORY, FUNCTIONS, SOURCE, TABLES, WITHIN

_HEADER = object.__basicsize__
_LINE = 64
_FAR_FROM = 24
"""Tensors from which it pays to fetch before asking."""


class Places(NamedTuple):
    """Where in a C++ tensor are its dispatch keys, dtype and device, storage, offset in that, and shape."""

    keys: int
    dtype: int
    storage: int
    offset: int
    shape: int


class AskingLoop(NamedTuple):
    """The compiled loop, and what begins its directory."""

    ask: Callable[[int, int, int], None]
    functions: tuple[int, ...]
    places: Places


def _word(place: int) -> int:
    return ctypes.c_int64.from_address(place).value


def _half_word(place: int) -> int:
    return ctypes.c_int32.from_address(place).value


def _keys(tensor: torch.Tensor) -> int:
    """Return a tensor's dispatch keys, as the signed number that a loop reads."""
    return ctypes.c_int64(torch._C._dispatch_keys(tensor).raw_repr()).value  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _dtype(tensor: torch.Tensor) -> int:
    """Return the number by which torch calls a dtype."""
    return _told("dtype", tensor)


def _told(what: str, tensor: torch.Tensor) -> int:
    code = ctypes.c_int32()
    getattr(torch_library(), f"aoti_torch_get_{what}")(ctypes.c_void_p(id(tensor) + _HEADER), ctypes.byref(code))
    return code.value


def _kind(tensor: torch.Tensor) -> int:
    """Return a tensor's dtype, and its device as type and index, as the signed number that a loop reads."""
    device = _told("device_type", tensor) | (_told("device_index", tensor) & 0xFF) << 8
    return ctypes.c_int32(_dtype(tensor) | device << 16).value


def _storage(tensor: Any) -> int:
    """Return where a tensor's C++ storage is."""
    return tensor.untyped_storage()._cdata  # noqa: SLF001


def _offset(tensor: Any) -> int:
    return tensor.storage_offset()


def _shape(tensor: Any) -> list[int]:
    """Return the number of dimensions, the sizes, and the strides."""
    return [tensor.dim(), *tensor.shape, *tensor.stride()]


def _shape_at(place: int, limit: int = WITHIN) -> list[int]:
    """Read what `_shape` returns; up to a number of dimensions, beyond which what is read may be no address."""
    count = _word(place)
    if not 0 <= count <= limit:
        return []
    sizes = place + 8 if count <= WITHIN else _word(place + 8)
    strides = sizes + 8 * (WITHIN if count <= WITHIN else count)
    return [count, *(_word(at + 8 * axis) for at in (sizes, strides) for axis in range(count))]


def _kinds() -> tuple[list[Any], list[Any]]:
    """Make tensors of several kinds: with memory of their own, and without."""
    plain, negated = torch.empty(17, device="cpu"), getattr(torch, "_neg_view")  # noqa: B009
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.bool)
    held: list[Any] = [
        plain,
        torch.nn.Parameter(torch.empty(2, 3, dtype=torch.float64, device="cpu")),
        negated(plain[5:]),
        torch.empty(1, dtype=torch.complex64, device="cpu").conj(),
        *(torch.empty(13 + 2 * i, dtype=dtype, device="cpu")[i + 9 :] for i, dtype in enumerate(dtypes)),
        *(torch.empty(tuple(range(2, 2 + count)), device="cpu").mT for count in range(2, WITHIN + 3)),
        torch.empty((), device="cpu"),
    ]
    return held, [torch.empty(1, device="meta"), torch.zeros(2, 2, device="cpu").to_sparse()]


def _places() -> Places | None:
    """Return the places in a C++ tensor, if tensors of all kinds agree about each, and their handles' place."""
    held, others = _kinds()
    if any(_word(id(tensor) + _HEADER) != tensor._cdata for tensor in (*held, *others)):  # noqa: SLF001
        return None
    found: list[int] = []
    asked: list[tuple[Any, Any, int, list[Any]]] = [
        (_keys, _word, 8, held + others),
        (_kind, _half_word, 2, [*held, *others[:1]]),
        (_storage, _word, 8, held),
        (_offset, _word, 8, held),
        (_shape, _shape_at, 8, [tensor for tensor in held if tensor.dim() <= WITHIN]),
    ]
    for value, read, step, tensors in asked:
        known = [(tensor._cdata, value(tensor)) for tensor in tensors]  # noqa: SLF001
        # No torch has made a tensor smaller.
        places = [place for place in range(0, 192, step) if all(read(own + place) == told for own, told in known)]
        if len(places) != 1:
            return None
        found += places
    shape = found[-1]
    agree = all(_shape_at(tensor._cdata + shape, limit=99) == _shape(tensor) for tensor in held)  # noqa: SLF001
    return Places(*found) if agree else None


def _parts() -> tuple[tuple[int, ...], Places] | str:
    """Return the functions that a loop calls, and where the parts of a tensor are; or why there can be no loop."""
    library, torch_is = torch_library(), f"torch {torch.__version__}"
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        return "it is made for CPython of 64 bits"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "it relies on the interpreter lock, which this Python runs without"
    if compiler.switched_off():
        return "Numba compiles nothing here (NUMBA_DISABLE_JIT)"
    try:
        functions = [ctypes.pythonapi.PyList_GetItem, ctypes.pythonapi.PyDict_GetItemWithError]
        functions += [library.aoti_torch_get_data_ptr, library.aoti_torch_get_storage_size]
        places = _places()
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"{torch_is} lacks what it asks ({error})"
    if places is None:
        return f"{torch_is} keeps the parts of tensors elsewhere"
    return tuple(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions), places


def obstacle() -> str:
    """Return why this process has no fast check, or "". This compiles nothing; `explain` quotes it."""
    parts = _parts()
    return parts if isinstance(parts, str) else ""


@cache
def loop() -> AskingLoop | None:
    """Return the compiled loop, if this Python and this torch are made as it needs."""
    parts = _parts()
    code = None if isinstance(parts, str) else address(load(SOURCE))
    if isinstance(parts, str) or code is None:
        return None
    # A call of this kind keeps the interpreter lock.
    ask = ctypes.PYFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code)
    return AskingLoop(ask, *parts)


class Described:
    """Rows that begin with the facts of a tensor, and the shapes they refer to."""

    def __init__(self) -> None:
        self.shapes: list[int] = []
        self._kinds: dict[tuple[torch.dtype, torch.device], int] = {}

    def kind(self, tensor: torch.Tensor) -> int:
        """Return `_kind`, asked once for all tensors that have the same."""
        own = (tensor.dtype, tensor.device)
        if own not in self._kinds:
            self._kinds[own] = _kind(tensor)
        return self._kinds[own]

    def row(self, tensor: torch.Tensor, *rest: int, shaped: bool = True) -> tuple[int, ...]:
        """Describe a tensor."""
        place = len(self.shapes)
        if shaped:
            self.shapes += [n for pair in zip(tensor.shape, tensor.stride(), strict=True) for n in pair]
        dimensions = tensor.dim() if shaped else -1
        return (id(type(tensor)), _keys(tensor), self.kind(tensor), dimensions, place, *rest)


def _far(tensors: Sequence[torch.Tensor], states: Sequence[object]) -> list[tuple[int]]:
    """List the cache lines of objects that are asked at every step: Python's, torch's, their storages'."""
    places = [id(thing) for thing in (*tensors, *states)]
    for tensor in tensors:
        own: Any = tensor
        places += [own._cdata + at for at in range(0, 192, _LINE)]  # noqa: SLF001
        places.append(own.untyped_storage()._cdata)  # noqa: SLF001
    return [(place,) for place in places]


def _of_cells(cells: Sequence[torch.Tensor], described: Described) -> Iterator[tuple[int, ...]]:
    """Describe tensors of one number; where a storage begins is asked of the first that is in it."""
    known: set[int] = set()
    for cell in cells:
        storage = _storage(cell)
        where = 0 if storage in known else cell.data_ptr()
        known.add(storage)
        yield id(cell), _keys(cell), described.kind(cell), storage, _offset(cell), where


class FastCheck:
    """Asks in one call whether a step may use the binding of the last one; if so, its gradients are in their tables."""

    def __init__(self, found: AskingLoop, facts: Facts, forms: Sequence[Form], cells: Sequence[int]) -> None:
        described = Described()
        in_list, in_dict = map(DIRECTORY.index, FUNCTIONS[:2])
        shaped = [*((tensor, True) for tensor in facts.parameters), *((tensor, False) for tensor in facts.slots)]
        rows: dict[str, list[tuple[int, ...]]] = {
            "held": [
                *((in_list, id(own), place, id(item)) for own in facts.lists for place, item in enumerate(own)),
                *((in_list, 0, place, id(state)) for place, state in enumerate(facts.states)),
                *((in_dict, id(own), id(key), id(item)) for own, key, item in facts.items),
            ],
            "tensors": [
                described.row(t, id(t), t.data_ptr(), t.untyped_storage().nbytes(), shaped=whole) for t, whole in shaped
            ],
            "gradients": [
                described.row(form.like, cell, form.needed, form.offset, form.address, form.length, 0, 0)
                for form, cell in zip(forms, cells, strict=True)
            ],
            "written": [(-1,), *((bound,) for bound in facts.written.bounds), (2**63 - 1,)],
            "cells": list(_of_cells(facts.cells, described)),
            "numbers": [(now.ctypes.data, then.ctypes.data, now.nbytes // 4) for now, then in facts.numbers],
            "far": _far([tensor for tensor, _ in shaped], facts.states) if len(facts.states) >= _FAR_FROM else [],
        }
        # Objects that the loop knows by address must stay alive.
        self._held = facts
        self._tables = {name: np.array(rows[name], dtype=np.int64).reshape(-1, width) for name, width in TABLES.items()}
        self._shapes = np.array([*described.shapes, 0], dtype=np.int64)
        self._answer = np.zeros(1, dtype=np.int64)
        tables = [n for own in self._tables.values() for n in (len(own), own.ctypes.data)]
        places = [*found.places, _HEADER, self._answer.ctypes.data, id(None), self._shapes.ctypes.data]
        self._directory = np.array([0, *found.functions, *places, *tables], dtype=np.int64)
        assert len(self._directory) == len(DIRECTORY)
        self._ask, self._where = found.ask, self._directory.ctypes.data
        self._told = self._directory.data
        self.is_far = bool(rows["far"])
        """Whether it pays to `fetch`: a few tensors are near."""

    def fetch(self) -> None:
        """Fetch the next objects from far memory."""
        self._ask(0, 0, self._where)

    def __call__(self, gradients: Gradients, states: list[Any]) -> int:
        """Return `SAME`, `CHANGED`, or `OTHERS`: all is as it was, but other gradients are absent.

        Both lists must be as long as they were.
        """
        self._ask(id(gradients), id(states), self._where)
        return self._told[0]
