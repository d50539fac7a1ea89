"""The formulas of 16 and 8 bits in Numba's kernels: those of `plan.rounding`, written as LLVM's instructions.

Numba itself would compute words of 32 bits in 64, at half the speed. Float16 is converted by the processor where it has
such an instruction: where it has none, LLVM would call a function that this process may not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ..graph.ops import DRAWN
from ..plan import rounding
from ..plan.storage import CODES, NARROW
from .memory import instructions

_REAL, _HALF = ir.FloatType(), ir.HalfType()
_INT8, _INT16, _INT32, _INT64 = (ir.IntType(size) for size in (8, 16, 32, 64))


class Value:
    """A value of a kernel, or a vector of them, when its instructions are written: Python's operators write them."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def lanes(self) -> int:
        """The length of a vector; 0 is of one value."""
        return self.value.type.count if isinstance(self.value.type, ir.VectorType) else 0

    def like(self, value: Any) -> Any:
        """Return the operand that another value, or a number, is beside this one."""
        if isinstance(value, Value):
            return value.value
        return self.value.type([value] * self.lanes if self.lanes else value)

    def write(self, instruction: str, *operands: Any) -> Value:
        """Write an instruction."""
        return Value(self.builder, getattr(self.builder, instruction)(*operands))

    def to(self, kind: Any, instruction: str) -> Value:
        """Write a conversion, unless the value is of that type."""
        kind = ir.VectorType(kind, self.lanes) if self.lanes else kind
        return self if self.value.type == kind else self.write(instruction, self.value, kind)

    def __rsub__(self, word: int) -> Value:
        return self.write("sub", self.like(word), self.value)


def _operator(words: str, reals: str, *comparison: str) -> Any:
    def apply(one: Value, other: Any) -> Value:
        kind = one.value.type.element if one.lanes else one.value.type
        instruction = words if isinstance(kind, ir.IntType) else reals
        return one.write(instruction, *comparison, one.value, one.like(other))

    return apply


for _name, _instructions in {
    "add": ("add", "fadd"), "sub": ("sub", "fsub"), "mul": ("mul", "fmul"), "and": ("and_", ""), "or": ("or_", ""),
    "xor": ("xor", ""), "lshift": ("shl", ""), "rshift": ("lshr", ""), "lt": ("icmp_unsigned", "fcmp_ordered", "<"),
    "gt": ("icmp_unsigned", "fcmp_ordered", ">"), "eq": ("icmp_unsigned", "fcmp_ordered", "=="),
}.items():  # fmt: skip
    setattr(Value, f"__{_name}__", _operator(*_instructions))


def _where(condition: Value, one: Any, other: Any) -> Value:
    beside = one if isinstance(one, Value) else other
    return condition.write("select", condition.value, beside.like(one), beside.like(other))


def _of_one(name: str) -> Any:
    """Return one of LLVM's functions of a number, of its own type."""

    def call(x: Value) -> Value:
        kind = x.value.type
        function = x.builder.module.declare_intrinsic(name, (kind,), ir.FunctionType(kind, [kind]))
        return Value(x.builder, x.builder.call(function, [x.value]))

    return call


_LLVM: dict[str, Any] = {
    "bits": lambda x: x.to(_INT32, "bitcast"),
    "number": lambda u: u.to(_REAL, "bitcast"),
    "word": lambda n: n.to(_INT32, "trunc"),
    "wide": lambda n: n.to(_INT64, "zext"),
    "unsigned": lambda h: h.to(_INT32, "zext"),
    "signed": lambda h: h.to(_INT32, "sext"),
    "narrow": lambda u: u.to(_INT16, "trunc"),
    "narrow_signed": lambda u: u.to(_INT16, "trunc"),
    "byte": lambda code: code.to(_INT32, "zext"),
    "signed_byte": lambda code: code.to(_INT32, "sext"),
    "narrow_byte": lambda u: u.to(_INT8, "trunc"),
    "root": _of_one("llvm.sqrt"),
    "logarithm": _of_one("llvm.log"),
    "ratio": lambda a, b: a.write("fdiv", a.value, b.value),
    "double": lambda x: x.to(ir.DoubleType(), "fpext"),
    "real": lambda u: u.to(_REAL, "sitofp"),
    "where": _where,
}


def _widen(half: Value) -> Value:
    return half.to(_HALF, "bitcast").to(_REAL, "fpext")


def _nearest(x: Value) -> Value:
    ordinary: Any = x == x
    return _where(ordinary, x.to(_HALF, "fptrunc").to(_INT16, "bitcast"), 0x7E00)


_FORMULAS = {
    False: rounding.spelled(_LLVM),
    True: rounding.spelled({**_LLVM, "widen_float16": _widen, "nearest_float16": _nearest}),
}


def converts(target: tuple[str, str, str]) -> bool:
    """Whether processors of a triple, name and features convert float16."""
    return target[0].startswith(("aarch64", "arm64")) or "+f16c" in target[2].split(",")


def formulas(context: Any) -> dict[str, Any]:
    """Return the formulas for the processor that a kernel is compiled for."""
    return _FORMULAS[converts(context.codegen().magic_tuple())]


def _function(name: str, result: Any, *given: Any) -> Any:
    @instructions(result, *given)
    def write(context: Any, builder: Any, *values: Any) -> Any:
        formula = formulas(context)[name]
        return formula(*(Value(builder, value) for value in values)).value

    return write


def _plain(formula: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: formula(*map(np.atleast_1d, given))[0]


_WORD, _LONG, _PLACE = types.uint32, types.uint64, types.int64
_NUMBER, _STORED, _REST, _CODE = types.float32, types.uint16, types.int16, types.uint8
_SIGNATURES = (
    {
        "parameter_seed": (_LONG, _LONG, _LONG),
        "key": (_LONG, _LONG, _LONG, _LONG),
        "draw": (_WORD, _PLACE, _PLACE, _LONG),
        **{f"{kind}_float32": (_NUMBER, _WORD) for kind in DRAWN},
        **{f"{kind}_float64": (types.float64, _WORD) for kind in DRAWN},
        "low_bits": (_WORD, _WORD),
        "high_bits": (_WORD, _WORD),
        "magnitude": (_WORD, _NUMBER),
        "unit": (_NUMBER, _CODE),
        "inverse": (_NUMBER, _CODE),
    }
    | {
        f"{verb}_{form}": signature
        for form in NARROW
        for verb, signature in {
            "widen": (_NUMBER, _STORED),
            "nearest": (_STORED, _NUMBER),
            "stochastic": (_STORED, _NUMBER, _WORD),
            "compensated": (_STORED, _NUMBER),
            "remainder": (_REST, _NUMBER),
            "joined": (_NUMBER, _STORED, _REST),
            "compensated8": (_STORED, _NUMBER),
            "remainder8": (_CODE, _NUMBER),
            "joined8": (_NUMBER, _STORED, _CODE),
        }.items()
        if f"{verb}_{form}" in rounding.FORMULAS
    }
    | {
        f"{verb}_{form}": signature
        for form in CODES
        for verb, signature in {
            "kept": (_NUMBER, _NUMBER),
            "exponent": (_CODE, _WORD),
            "stochastic": (_CODE, _NUMBER, _NUMBER, _WORD),
            "widen": (_NUMBER, _CODE, _NUMBER),
        }.items()
    }
)
globals().update({name: _function(name, *signature) for name, signature in _SIGNATURES.items()})

PLAIN: dict[str, Callable[..., Any]] = {name: _plain(rounding.FORMULAS[name]) for name in _SIGNATURES}
"""What they mean without a compiler."""
