"""Arrays at raw addresses, for kernels: compiled, and as plain Python for the uncompiled source."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core.extending import intrinsic


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
        # Only the address's value varies, never a constant pointer, so machine code can be kept.
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return pointer


_float32_pointer = _pointer_to(types.float32)
_float64_pointer = _pointer_to(types.float64)
_int64_pointer = _pointer_to(types.int64)


@njit
def float32_at(address: int, count: int) -> Any:
    """Return `count` float32 numbers at an address as an array; nothing is copied or checked."""
    return carray(_float32_pointer(address), (count,))


@njit
def float64_at(address: int, count: int) -> Any:
    """Return `count` float64 numbers at an address as an array; nothing is copied or checked."""
    return carray(_float64_pointer(address), (count,))


@njit
def integer_table(address: int, rows: int, columns: int) -> Any:
    """Return a table of int64 numbers at an address."""
    return carray(_int64_pointer(address), (rows, columns))


@njit
def real_table(address: int, rows: int, columns: int) -> Any:
    """Return a table of float64 numbers at an address."""
    return carray(_float64_pointer(address), (rows, columns))


@njit(fastmath={"reassoc", "contract", "nsz"})
def add_in_any_order(total: float, term: float) -> float:
    """Add a term to a running sum, letting the compiler keep several sums at once."""
    return total + term


def _plain(ctype: Any, dtype: Any) -> Callable[..., Any]:
    def at(address: int, *shape: int) -> Any:
        count = int(np.prod(shape))
        flat = np.ctypeslib.as_array((ctype * count).from_address(address)) if count else np.zeros(0, dtype)
        return flat.reshape(shape)

    return at


PLAIN: dict[str, Callable[..., Any]] = {
    "float32_at": _plain(ctypes.c_float, np.float32),
    "float64_at": _plain(ctypes.c_double, np.float64),
    "integer_table": _plain(ctypes.c_int64, np.int64),
    "real_table": _plain(ctypes.c_double, np.float64),
    "add_in_any_order": lambda total, term: total + term,
}
"""What the helpers mean without a compiler, for running a kernel's source as ordinary Python."""
