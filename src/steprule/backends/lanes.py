"""16 groups at once, in vectors of 16 lanes: a loop over 16 places is no loop to a compiler, which writes it out.

A block has `lanes` groups. If these are 8, 4, 2 or 1, a kernel takes them for 16, of which some are one: `open_groups`
says the unit of each, and `close_groups_*` finds the greatest of what are one, then writes the exponents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ..plan import rounding
from ..plan.groups import LANES
from ..plan.storage import CODES
from .half import Value, formulas
from .memory import instructions

_HALVES = (8, 4, 2, 1)
_BYTES, _WORDS, _REALS = (ir.VectorType(kind, LANES) for kind in (ir.IntType(8), ir.IntType(32), ir.FloatType()))
_NUMBERS, _MOST, _CODES, _PLACE = (
    *(types.CPointer(kind) for kind in (types.float32, types.uint32, types.uint8)),
    types.int64,
)


def _fewer(builder: Any, lanes: Any, than: int) -> Any:
    return builder.icmp_unsigned("<=", lanes, lanes.type(than))


def _shuffled(builder: Any, vector: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(_WORDS, places))


def _inside(builder: Any, count: Any) -> Any:
    """Return which lanes are among the first."""
    word = ir.IntType(32)
    some = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), builder.trunc(count, word), word(0))
    return builder.icmp_signed(">", _shuffled(builder, some, [0] * LANES), ir.Constant(_WORDS, list(range(LANES))))


def _masked(builder: Any, name: str, kind: Any, pointer: Any, count: Any, value: Any) -> Any:
    """Call LLVM's masked load or store of so many values; there may be no more."""
    pointer, inside, align = builder.bitcast(pointer, kind.as_pointer()), _inside(builder, count), ir.IntType(32)(1)
    given = [pointer, align, inside, value] if name == "load" else [value, pointer, align, inside]
    form = ir.FunctionType(kind if name == "load" else ir.VoidType(), [one.type for one in given])
    called = f"llvm.masked.{name}.v{LANES}{kind.element.intrinsic_name}.p0"
    function = builder.module.globals.get(called) or ir.Function(builder.module, form, called)
    return builder.call(function, given)


def _room(builder: Any, room: Any, kind: Any) -> Any:
    return builder.bitcast(room, kind.as_pointer())


@instructions(types.void, _NUMBERS, _MOST, _CODES, _PLACE, _PLACE)
def open_groups(context: Any, builder: Any, unit: Any, most: Any, scales: Any, first: Any, lanes: Any) -> Any:
    """Give each lane the unit of its group, and no greatest magnitude."""
    codes = _masked(builder, "load", _BYTES, builder.gep(scales, [first]), lanes, ir.Constant(_BYTES, [0] * LANES))
    for half in _HALVES:
        same = _shuffled(builder, codes, [lane % half for lane in range(LANES)])
        codes = builder.select(_fewer(builder, lanes, half), same, codes)
    formula = formulas(context)["unit"]
    builder.store(formula(Value(builder, codes)).value, _room(builder, unit, _REALS))
    builder.store(ir.Constant(_WORDS, [0] * LANES), _room(builder, most, _WORDS))
    return context.get_dummy_value()


def _closing(form: str) -> Any:
    @instructions(types.void, _MOST, _NUMBERS, _CODES, _PLACE, _PLACE)
    def close(context: Any, builder: Any, most: Any, inverse: Any, scales: Any, first: Any, lanes: Any) -> Any:
        formula, greatest = formulas(context), builder.load(_room(builder, most, _WORDS))
        for half in _HALVES:
            other = _shuffled(builder, greatest, [(lane + half) % LANES for lane in range(LANES)])
            both = builder.select(builder.icmp_unsigned(">", other, greatest), other, greatest)
            greatest = builder.select(_fewer(builder, lanes, half), both, greatest)
        exponents = formula[f"exponent_{form}"](Value(builder, greatest))
        builder.store(formula["inverse"](exponents).value, _room(builder, inverse, _REALS))
        _masked(builder, "store", _BYTES, builder.gep(scales, [first]), lanes, exponents.value)
        return context.get_dummy_value()

    return close


close_groups_int8, close_groups_uint8 = map(_closing, CODES)


def _open(unit: Any, most: Any, scales: Any, first: int, lanes: int) -> None:
    codes = np.array([scales[first + lane % lanes] if lanes in _HALVES or lane < lanes else 0 for lane in range(LANES)])
    unit[:], most[:] = rounding.FORMULAS["unit"](codes.astype(np.uint8)), 0


def _close(form: str) -> Callable[..., None]:
    def close(most: Any, inverse: Any, scales: Any, first: int, lanes: int) -> None:
        step = lanes if lanes in _HALVES else LANES
        greatest = np.array([most[lane % step :: step].max() for lane in range(LANES)])
        exponents = rounding.FORMULAS[f"exponent_{form}"](greatest)
        inverse[:] = rounding.FORMULAS["inverse"](exponents)
        for lane in range(lanes):
            scales[first + lane] = exponents[lane]

    return close


PLAIN: dict[str, Callable[..., Any]] = {
    "open_groups": _open,
    **{f"close_groups_{form}": _close(form) for form in CODES},
}
"""What they do without a compiler."""
