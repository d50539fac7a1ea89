"""Raw addresses in kernels: compiled, as pointers; uncompiled, as plain Python that behaves the same."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from inspect import Parameter, Signature
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

from ..plan.groups import BLOCK, LANES

EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "_nrt": False}
"""How kernels are compiled: division by zero gives infinity, as on any array; every operation rounds once, as IEEE 754
says, so that an element's bits do not depend on where in a tensor it stands (were a product and a sum one operation,
the loop of vectors and the last few elements could choose different ones); and no reference is counted, since nothing
is allocated."""
_SUM: dict[str, Any] = {**EXACT, "fastmath": {"reassoc", "contract", "nsz"}}

INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Functions that only kernels call need no door to Python, which saves half of their compile time."""


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call, when the first of them is compiled."""
    return njit(**EXACT, **INNER)(function)


def instructions(result: Any, *given: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of kernels of one that writes its instructions, given a context, a builder and its values."""

    def made(write: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, *arguments: Any) -> Any:  # noqa: ARG001
            return result(*given), lambda context, builder, _, values: write(context, builder, *values)

        names = ("typing_context", *(f"value_{place}" for place in range(len(given))))
        kind = Parameter.POSITIONAL_OR_KEYWORD
        vars(typed)["__signature__"] = Signature([Parameter(name, kind) for name in names])
        return intrinsic(typed)

    return made


def _pointer_to(element: Any) -> Any:
    # Only the address's value varies, never a constant pointer, so machine code can be kept.
    kind = types.CPointer(element)
    return instructions(kind, types.int64)(
        lambda context, builder, at: builder.inttoptr(at, context.get_value_type(kind))
    )


def _call_of(result: Any) -> Any:
    """Return a function of kernels that calls a C function, given its address, with two 64-bit arguments."""

    @instructions(result, types.int64, types.UniTuple(types.int64, 2))
    def call(context: Any, builder: Any, function: Any, given: Any) -> Any:
        form = ir.FunctionType(context.get_value_type(result), [ir.IntType(64)] * 2)
        pointer = builder.inttoptr(function, form.as_pointer())
        return builder.call(pointer, [builder.extract_value(given, place) for place in range(2)])

    return call


object_of = _call_of(types.int64)
"""Call `PyObject *f(PyObject *, PyObject * or Py_ssize_t)`."""
failure_of = _call_of(types.int32)
"""Call `int f(handle, where the answer goes)`, of torch's stable C interface; 0 is success."""


@instructions(types.void, types.int64)
def fetch(context: Any, builder: Any, address: Any) -> Any:
    """Fetch a cache line that will be read soon. An invalid address does no harm."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    form = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), form)
    builder.call(prefetch, [builder.inttoptr(address, byte), flag(0), flag(3), flag(1)])
    return context.get_dummy_value()


float32_at, float64_at, int16_at, int32_at, int64_at, uint8_at, uint16_at = (
    _pointer_to(kind)
    for kind in (types.float32, types.float64, types.int16, types.int32, types.int64, types.uint8, types.uint16)
)


def _room(element: Any, count: int) -> Any:
    """Return a function of kernels that gives room for so many numbers, as long as its caller runs."""

    @instructions(types.CPointer(element))
    def room(context: Any, builder: Any) -> Any:
        kind = context.get_value_type(element)
        with builder.goto_entry_block():
            found = builder.alloca(ir.ArrayType(kind, count))
        found.align = 64
        return builder.bitcast(found, kind.as_pointer())

    return room


block_room, draw_room = _room(types.float32, BLOCK), _room(types.uint32, BLOCK)
"""Room for the numbers of a block of groups, and for what it draws."""
lane_room, word_room = _room(types.float32, LANES), _room(types.uint32, LANES)
"""Room for one number a group, and for one word a group."""


@njit(**_SUM, **INNER)
def add(total: float, term: float) -> float:
    """Add a term to a running sum, letting the compiler keep several sums at once."""
    return total + term


@njit(**_SUM, **INNER)
def add_square(total: float, term: float) -> float:
    """Add a term's square to a running sum, likewise; the square need not be rounded by itself."""
    return total + term * term


class _PlainPointer:
    """A pointer in Python, to NumPy scalars, whose arithmetic is IEEE's."""

    def __init__(self, ctype: Any, scalar: Any, address: int) -> None:
        self._cells = ctypes.cast(int(address), ctypes.POINTER(ctype))
        self._scalar = scalar

    def __getitem__(self, index: int) -> Any:
        return self._scalar(self._cells[int(index)])

    def __setitem__(self, index: int, value: Any) -> None:
        self._cells[int(index)] = value.item() if isinstance(value, np.generic) else value


PLAIN: dict[str, Callable[..., Any]] = {
    "float32_at": partial(_PlainPointer, ctypes.c_float, np.float32),
    "float64_at": partial(_PlainPointer, ctypes.c_double, np.float64),
    "int16_at": partial(_PlainPointer, ctypes.c_int16, np.int16),
    "int64_at": partial(_PlainPointer, ctypes.c_int64, int),
    "uint8_at": partial(_PlainPointer, ctypes.c_uint8, np.uint8),
    "block_room": partial(np.zeros, BLOCK, np.float32),
    "lane_room": partial(np.zeros, LANES, np.float32),
    "draw_room": partial(np.zeros, BLOCK, np.uint32),
    "word_room": partial(np.zeros, LANES, np.uint32),
    "uint16_at": partial(_PlainPointer, ctypes.c_uint16, np.uint16),
}
"""Pointers in Python, for running a kernel's source without a compiler."""
