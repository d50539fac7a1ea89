"""How float32 becomes 16 or 8 bits, and those float32 again: each formula once, for every language that kernels are in.

The formulas below are the definition. They speak of float32 numbers and of unsigned words of 32 bits, which wrap, in a
handful of primitives that are NumPy's here, on arrays. `spelled` gives the same formulas in other primitives: LLVM's
instructions, Triton's operations, torch's. Each of `FORMATS` has six, called after what they do:

    widen_*(half)              the number that 16 bits stand for, exactly
    nearest_*(x)               the nearest 16 bits; of two, the even ones
    stochastic_*(x, random)    one of the two neighbours, by 16 random bits: on average x itself
    compensated_*(x)           16 bits such that, with 16 more, the remainder, x can be told again
    remainder_*(x)             those
    joined_*(half, remainder)  x again

A sign makes no difference but to the sign. NaN becomes one canonical NaN. What 16 bits can hold is never changed. The
upper neighbour of the largest number is infinity: so nearest overflows from half a unit on, and stochastic now and then
between the two.

Eight bits, `GROUPED`, are minifloats in units of their group; `plan.groups` says which elements are one. The unit is a
power of two, whose exponent is kept as a byte, as in float32: so a product with it is exact, and what is held in one
unit is held in the next smaller, too: a number that is decoded and coded again stays what it is.

    kept_*(x)                       what the code stands for: the number, or its root
    magnitude(kept)                 its bits without the sign, of which a group's greatest tells the unit
    exponent_*(magnitude)           the unit's exponent: 0 is a group of zeros; 255 one with NaN or infinity, all NaN
    unit(exponent), inverse(exponent)
    stochastic_*(kept, inverse, random), nearest_*(kept, inverse)    a code
    widen_*(code, unit)             the number again

int8 is a sign and E4M3: 4 bits of exponent, 3 of mantissa, subnormal numbers below 2⁻¹⁴ units. A number comes back with
an error of at most an eighth of itself or 2⁻¹⁶ of the greatest; half of that if it was rounded to the nearest. uint8 is
the root of what is never negative, as E4M4: a sixteenth of it, or 2⁻¹⁷ of the greatest root. Its code is never 0 beside
other numbers: a second moment of 0 under a first that is not would move a parameter by m/ε.

Random bits are a pure function of the seed, the step, the parameter's place in the optimiser, the array's number (the
parameter is 0, then come slots) and the element's place in the whole tensor. A `key`, of all but the last, is an output
of SplitMix64 (Steele, Lea & Flood, 2014): of keys that are alike, draws would be. `draw` hashes a place with it by two
multiplications (lowbias32, of Wellons, 2018) into 32 bits, which two arrays share: `low_bits` are those of an even
number, `high_bits` those of the next.
"""

# pyright: reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

FORMATS = ("bfloat16", "float16")
GROUPED = ("int8", "uint8")
_GOLDEN = 0x9E3779B97F4A7C15
_MAGNITUDE, _SIGN, _INFINITY, _DOUBLE = 0x7FFFFFFF, 0x8000, 0x7F800000, 1 << 23
_BF_NAN = 0x7FC0
_HALF_LEAST, _HALF_INFINITY, _HALF_NAN = 0x38800000, 0x7C00, 0x7E00
"""Of float16: the least normal number, 2⁻¹⁴, as the bits of float32; its own infinity and NaN."""
_REBIAS, _UNIT, _INVERSE = 112 << 23, 26 << 23, 280 << 23
"""Between the exponents of float16 and float32; between those of a number and of 2⁻¹⁶ of its unit; for the inverse."""
_LEAST, _TWO_M24, _WHOLE = 2.0**-14, 2.0**-24, 1.5 * 2.0**23
"""Added to a smaller number, the last rounds it to a whole one, which stands in the lowest bits."""
_STEP_M3, _STEP_M4 = 2.0**-17, 2.0**-18
"""The smallest numbers of E4M3 and E4M4."""
_ROOM_M3, _ROOM_M4 = 0x100400, 0x080400
"""Added to the greatest magnitude, these reach the next exponent where rounding up could leave the codes."""
_LEAST_ROOT = 72
"""The exponent of the smallest unit of roots: its smallest root still has a square."""


# Primitives, of arrays --------------------------------------------------------------------------------


def bits(x):
    """Return the bits of float32 numbers."""
    return np.asarray(x, np.float32).view(np.uint32)


def number(word):
    """Return the float32 numbers that have these bits."""
    return word.view(np.float32)


def word(number):
    """Return the lowest 32 bits of integers."""
    return np.asarray(number).astype(np.uint32)


def wide(number):
    """Return integers as words of 64 bits."""
    return np.asarray(number).astype(np.uint64)


def unsigned(half):
    """Return words whose lowest 16 bits are these, the others 0."""
    return np.asarray(half).view(np.uint16).astype(np.uint32)


def signed(half):
    """Return words that are the same numbers as these of 16 bits with a sign."""
    return np.asarray(half, np.int16).astype(np.uint32)


def narrow(word):
    """Return the lowest 16 bits of words."""
    return word.astype(np.uint16)


def byte(code):
    """Return words whose lowest 8 bits are these, the others 0."""
    return np.asarray(code).view(np.uint8).astype(np.uint32)


def narrow_byte(word):
    """Return the lowest 8 bits of words."""
    return word.astype(np.uint8)


def root(x):
    """Return square roots, correctly rounded."""
    return np.sqrt(np.asarray(x, np.float32))


def narrow_signed(word):
    """Return the lowest 16 bits of words, as numbers with a sign."""
    return word.astype(np.uint16).view(np.int16)


def real(word):
    """Return words, which have a sign and are small, as float32 numbers."""
    return word.view(np.int32).astype(np.float32)


def where(condition, one, other):
    """Return one where a condition holds, and the other elsewhere."""
    return np.where(condition, one, other)


# Random bits ------------------------------------------------------------------------------------------


def _mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


def parameter_seed(seed, parameter):
    """Return a parameter's own seed, which stays what it is from step to step."""
    return _mixed(_mixed(wide(seed) + _GOLDEN) + (wide(parameter) + 1) * _GOLDEN)


def key(seed, t, pair):
    """Return a step's key for arrays 2 pair and 2 pair + 1 of a parameter with this seed."""
    return _mixed(wide(seed) + ((wide(t) << 16) + wide(pair)) * _GOLDEN)


def draw(first, index, key):
    """Return the 32 random bits of elements: of those `index` after the `first`, which has a place in a whole tensor.

    Places count modulo 2³². They are added and not combined otherwise, which LLVM would do in 64 bits.
    """
    x = word(word(index) + (word(first) + word(wide(key) >> 32)))
    x = word((x ^ (x >> 16)) * 0x7FEB352D) ^ word(key)
    x = word((x ^ (x >> 15)) * 0x846CA68B)
    return x ^ (x >> 16)


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


def joined_bfloat16(half, remainder):
    """Return the number again, bit for bit; of a zero that was written over a number, zero."""
    upper = unsigned(half) << 16
    u = word(upper + signed(remainder))
    return number(where(((u ^ upper) >> 31) > 0, upper, u))  # below zero a remainder would have another number's sign


# float16: bits moved where it is normal, arithmetic where it is not -----------------------------------


def widen_float16(half):
    """Return the number that 16 bits stand for."""
    u = unsigned(half)
    magnitude = u & 0x7FFF
    normal = (magnitude << 13) + _REBIAS
    normal = where(magnitude < _HALF_INFINITY, normal, normal + _REBIAS)
    return number(where(magnitude < 0x400, bits(real(magnitude) * _TWO_M24), normal) | ((u & _SIGN) << 16))


def nearest_float16(x):
    """Return the nearest 16 bits."""
    u = bits(x)
    magnitude = u & _MAGNITUDE
    small = bits(number(magnitude) + 0.5) & 0xFFFF  # the last bit of 0.5 is that of float16's smallest numbers
    normal = ((magnitude + 0xFFF + ((magnitude >> 13) & 1)) >> 13) - (_REBIAS >> 13)
    normal = where(normal < _HALF_INFINITY, normal, _HALF_INFINITY)
    rounded = where(magnitude < _HALF_LEAST, small, normal) | ((u >> 16) & _SIGN)
    return narrow(where(x == x, rounded, _HALF_NAN))


def stochastic_float16(x, random):
    """Return one of the two neighbours: the one further from zero as often as 13 of the bits that are dropped say."""
    u = bits(x)
    magnitude = u & _MAGNITUDE
    small = bits(number(magnitude) + _LEAST) - _DOUBLE  # below 2⁻¹⁴: 13 bits below 2⁻²⁴, too
    aligned = where(small > magnitude, small, magnitude)
    rounded = ((aligned + (random >> 3)) >> 13) - (_REBIAS >> 13)
    rounded = where(rounded < _HALF_INFINITY, rounded, _HALF_INFINITY) | ((u >> 16) & _SIGN)
    return narrow(where(x == x, rounded, _HALF_NAN))


def compensated_float16(x):
    """Return the nearest 16 bits."""
    return nearest_float16(x)


def _exponent(x):
    u = bits(x) & _INFINITY
    return where(u > _HALF_LEAST, u, _HALF_LEAST)


def remainder_float16(x):
    """Return what the nearest 16 bits leave, in 65,536ths of their last bit."""
    stored = widen_float16(nearest_float16(x))
    exponent = _exponent(stored)
    left = (x - stored) * number(_INVERSE - exponent)
    left = where(left < 32767.0, left, 32767.0)
    left = where(left > -32767.0, left, -32767.0)
    return narrow_signed(where(exponent < _INFINITY, bits(left + _WHOLE), 0))


def joined_float16(half, remainder):
    """Return the number again: to 2⁻⁴⁰ where 16 bits are not normal, else bit for bit."""
    stored = widen_float16(half)
    return stored - real(0 - signed(remainder)) * number(_exponent(stored) - _UNIT)  # −0 − 0 is −0; −0 + 0 is not


# 8 bits: minifloats in units of a group ---------------------------------------------------------------


def kept_int8(x):
    """Return the number itself."""
    return x


def kept_uint8(x):
    """Return the root, of which twice the range of exponents has room."""
    return root(x)


def magnitude(kept):
    """Return the bits without the sign, in the order of size; those of NaN are the greatest."""
    return bits(kept) & _MAGNITUDE


def _exponent_of(greatest, room, least):
    exponent = (greatest + room) >> 23
    exponent = where(exponent > least, exponent, least)
    exponent = where(exponent < 254, exponent, 254)
    exponent = where(greatest < _INFINITY, exponent, 255)
    return narrow_byte(where(greatest > 0, exponent, 0))


def exponent_int8(greatest):
    """Return the exponent of a group's unit: its greatest number is between 15/16 and 15/8 units."""
    return _exponent_of(greatest, _ROOM_M3, 1)


def exponent_uint8(greatest):
    """Return the exponent of a group's unit: its greatest root is between 31/32 and 31/16 units."""
    return _exponent_of(greatest, _ROOM_M4, _LEAST_ROOT)


def unit(exponent):
    """Return a group's unit."""
    e = byte(exponent)
    return number(where(e < 255, e << 23, _INFINITY | 0x400000))


def inverse(exponent):
    """Return what numbers of a group are multiplied by, to be in its unit; of zeros and NaN it is any number."""
    e = byte(exponent)
    return number(where(e < 254, (254 - e) << 23, 1 << 22))


def _aligned(scaled):
    """Return bits in which numbers of one unit in the last place are equally far apart, those below 2⁻¹⁴ too."""
    u = bits(scaled) & _MAGNITUDE
    small = bits(number(u) + _LEAST) - _DOUBLE
    return where(small > u, small, u)


def stochastic_int8(kept, inverse, random):
    """Return one of the two neighbours: the one further from zero as often as 16 of the bits that are dropped say."""
    code = (_aligned(kept * inverse) + (random << 4) - _REBIAS) >> 20
    return narrow_byte(where(code < 0x7F, code, 0x7F) | ((bits(kept) >> 24) & 0x80))


def stochastic_uint8(kept, inverse, random):
    """Return one of the two neighbours of a root, at least the smallest."""
    code = (_aligned(kept * inverse) + (random << 3) - _REBIAS) >> 19
    code = where(code < 0xFF, code, 0xFF)
    return narrow_byte(where(code > 1, code, 1))


def nearest_int8(kept, inverse):
    """Return the nearest code; of two, the one further from zero."""
    return stochastic_int8(kept, inverse, (bits(kept) & 0) | _SIGN)


def nearest_uint8(kept, inverse):
    """Return the nearest code of a root; of two, the greater."""
    return stochastic_uint8(kept, inverse, (bits(kept) & 0) | _SIGN)


def widen_int8(code, unit):
    """Return the number that a code stands for, exactly."""
    u = byte(code)
    size = u & 0x7F
    scaled = where(size < 8, real(size) * _STEP_M3, number((size << 20) + _REBIAS))
    return number(bits(scaled * unit) | ((u & 0x80) << 24))


def widen_uint8(code, unit):
    """Return the square of the root that a code stands for."""
    u = byte(code)
    kept = where(u < 16, real(u) * _STEP_M4, number((u << 19) + _REBIAS)) * unit
    return kept * kept


# Other languages --------------------------------------------------------------------------------------

PRIMITIVES = (bits, number, word, wide, unsigned, signed, narrow, narrow_signed, byte, narrow_byte, real, where, root)
"""What a language must have; besides, + − * & | ^ << >> < > == of words and numbers, >> filling up with zeros."""
FORMULAS: dict[str, Callable[..., Any]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, FunctionType) and value.__module__ == __name__ and value not in PRIMITIVES
}


def spelled(language: dict[str, Any], *, function: Any = lambda one: one, constant: Any = lambda one: one) -> Any:
    """Return all formulas in another language, by name: its primitives, and formulas that it has better."""
    found = {name: constant(value) for name, value in globals().items() if isinstance(value, int | float)}
    found |= {"__name__": __name__, "__builtins__": __builtins__, **language}  # C code imports by the latter
    for name, formula in FORMULAS.items():
        if name not in language:
            found[name] = function(FunctionType(formula.__code__, found, name))
    return found
