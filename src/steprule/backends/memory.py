"""Raw addresses in kernels: compiled, as pointers; uncompiled, as plain Python that behaves the same."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

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


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
        # Only the address's value varies, never a constant pointer, so machine code can be kept.
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return pointer


def _call_of(result: Any, arguments: int) -> Any:
    """Return an intrinsic that calls a C function, given its address, with a number of 64-bit arguments."""
    signature = result(types.int64, types.UniTuple(types.int64, arguments))

    @intrinsic
    def call(typing_context: Any, function: Any, given: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            word = context.get_value_type(types.int64)
            form = ir.FunctionType(context.get_value_type(signature.return_type), [word] * arguments)
            pointer = builder.inttoptr(values[0], form.as_pointer())
            return builder.call(pointer, [builder.extract_value(values[1], place) for place in range(arguments)])

        return signature, generate

    return call


object_of = _call_of(types.int64, 2)
"""Call `PyObject *f(PyObject *, PyObject * or Py_ssize_t)`."""
failure_of = _call_of(types.int32, 2)
"""Call `int f(handle, where the answer goes)`, of torch's stable C interface; 0 is success."""


@intrinsic
def fetch(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
    """Fetch a cache line that will be read soon. An invalid address does no harm."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), form)
        builder.call(prefetch, [builder.inttoptr(values[0], byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)
int32_at = _pointer_to(types.int32)
int64_at = _pointer_to(types.int64)
int16_at = _pointer_to(types.int16)
uint16_at = _pointer_to(types.uint16)


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

    def __init__(self, address: int, ctype: Any, scalar: Any) -> None:
        self._cells = ctypes.cast(int(address), ctypes.POINTER(ctype))
        self._scalar = scalar

    def __getitem__(self, index: int) -> Any:
        return self._scalar(self._cells[int(index)])

    def __setitem__(self, index: int, value: Any) -> None:
        self._cells[int(index)] = value.item() if isinstance(value, np.generic) else value


def _plain(ctype: Any, scalar: Any) -> Callable[[int], _PlainPointer]:
    return lambda address: _PlainPointer(address, ctype, scalar)


PLAIN: dict[str, Callable[..., Any]] = {
    "float32_at": _plain(ctypes.c_float, np.float32),
    "float64_at": _plain(ctypes.c_double, np.float64),
    "int16_at": _plain(ctypes.c_int16, np.int16),
    "int64_at": _plain(ctypes.c_int64, int),
    "uint16_at": _plain(ctypes.c_uint16, np.uint16),
    "add": lambda total, term: total + term,
    "add_square": lambda total, term: total + term * term,
}
"""The helpers in Python, for running a kernel's source without a compiler."""
