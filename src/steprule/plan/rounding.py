"""How float32 becomes 16 bits, and 16 bits float32 again: each formula once, for every language that kernels are in.

The formulas below are the definition. They speak of float32 numbers and of unsigned words of 32 bits, which wrap, in a
handful of primitives that are NumPy's here, on arrays. `spelled` gives the same formulas in other primitives: LLVM's
instructions, Triton's operations, torch's. Each of `FORMATS` has six, called after what they do:

    widen_*(half)              the number that 16 bits stand for, exactly
    nearest_*(x)               the nearest 16 bits; of two, the even ones
    stochastic_*(x, random)    one of the two neighbours, by 16 random bits: on average x itself
    compensated_*(x)           16 bits such that, with 16 more, the remainder, x can be told again
    remainder_*(x)             those
    joined_*(half, remainder)  x again

`compensated8_*`, `remainder8_*` and `joined8_*` are the same with 8 bits more: of x they keep the nearest 24 bits.

A sign makes no difference but to the sign. NaN becomes one canonical NaN. What 16 bits can hold is never changed. The
upper neighbour of the largest number is infinity: so nearest overflows from half a unit on, and stochastic now and then
between the two.

Random bits are those of `graph.chance`: two arrays, of which the parameter is 0, then come slots, share a draw.
`low_bits` are those of an even number, `high_bits` those of the next.
"""

# pyright: reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from ..graph import chance
from ..graph.words import bits, narrow, narrow_byte, narrow_signed, number, signed, signed_byte, unsigned, where, word
from . import float16, minifloats

FORMATS = ("bfloat16", "float16")
_BF_NAN = 0x7FC0


# Random bits ------------------------------------------------------------------------------------------


def low_bits(draw):
    """Return the 16 random bits of the array whose number is even."""
    return draw & 0xFFFF


def high_bits(draw):
    """Return the 16 random bits of the array whose number is odd."""
    return draw >> 16


# bfloat16: the upper half of float32 ------------------------------------------------------------------


def widen_bfloat16(half):
    """Return the number that 16 bits stand for."""
    return number(unsigned(half) << 16)


def nearest_bfloat16(x):
    """Return the nearest 16 bits."""
    u = bits(x)
    return narrow(where(x == x, (u + 0x7FFF + ((u >> 16) & 1)) >> 16, _BF_NAN))


def stochastic_bfloat16(x, random):
    """Return one of the two neighbours: the one further from zero as often as the bits that are dropped say."""
    return narrow(where(x == x, (bits(x) + random) >> 16, _BF_NAN))


def compensated_bfloat16(x):
    """Return the nearest 16 bits; of two, those that are further from zero, so that the remainder has 16 bits."""
    return narrow(where(x == x, (bits(x) + 0x8000) >> 16, _BF_NAN))


def remainder_bfloat16(x):
    """Return the lower half, as a number with a sign."""
    return narrow_signed(where(x == x, bits(x), 0))


def _of_one_sign(upper, u):
    return number(where(((u ^ upper) >> 31) > 0, upper, u))  # below zero a remainder would have another number's sign


def joined_bfloat16(half, remainder):
    """Return the number again, bit for bit; of a zero that was written over a number, zero."""
    upper = unsigned(half) << 16
    return _of_one_sign(upper, word(upper + signed(remainder)))


def _upper_24(x):
    return (bits(x) + 0x80) >> 8


def compensated8_bfloat16(x):
    """Return 16 bits of the nearest 24: the nearest; of two, those that are further from zero."""
    return narrow(where(x == x, (_upper_24(x) + 0x80) >> 8, _BF_NAN))


def remainder8_bfloat16(x):
    """Return the lower third of those, as a number with a sign."""
    return narrow_byte(where(x == x, _upper_24(x), 0))


def joined8_bfloat16(half, remainder):
    """Return the 24 bits again; of a zero that was written over a number, zero."""
    upper = unsigned(half) << 16
    return _of_one_sign(upper, word(upper + (signed_byte(remainder) << 8)))


# Other languages --------------------------------------------------------------------------------------

_OF = (chance, float16, minifloats)
_ALL = {name: value for module in _OF for name, value in vars(module).items()} | globals()
FORMULAS: dict[str, Callable[..., Any]] = {
    name: value
    for name, value in _ALL.items()
    if isinstance(value, FunctionType) and value.__module__ in (__name__, *(module.__name__ for module in _OF))
}


def spelled(language: dict[str, Any], *, function: Any = lambda one: one, constant: Any = lambda one: one) -> Any:
    """Return all formulas in another language, by name: its primitives, and formulas that it has better."""
    found = {name: constant(value) for name, value in _ALL.items() if isinstance(value, int | float)}
    found |= {"__name__": __name__, "__builtins__": __builtins__, **language}  # C code imports by the latter
    for name, formula in FORMULAS.items():
        if name not in language:
            found[name] = function(FunctionType(formula.__code__, found, name))
    return found
