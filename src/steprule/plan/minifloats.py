"""How float32 becomes 8 bits, and 8 bits float32 again; `plan.rounding` says what formulas are.

Numbers are minifloats in units of their group; `plan.groups` says which elements are one. The unit is a
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
the root of what is never negative, as E4M4: a sixteenth of it, or 2⁻¹⁷ of the greatest root. A number less than an
eighth below 2¹²⁸, where float32 ends, may so become ∞, as a gradient's square does a little later. Its code is never 0
beside other numbers: a second moment of 0 under a first that is not would move a parameter by m/ε.
"""

# pyright: reportMissingParameterType=false

from __future__ import annotations

from ..graph.words import (
    DOUBLE,
    INFINITY,
    LEAST,
    MAGNITUDE,
    REBIAS,
    SIGN,
    bits,
    byte,
    narrow,
    narrow_byte,
    number,
    root,
    signed_byte,
    where,
)
from .float16 import widen_float16

GROUPED = ("int8", "uint8")
_ROOM_M3, _ROOM_M4 = 0x100400, 0x080400
"""Added to the greatest magnitude, these reach the next exponent where rounding up could leave the codes."""
_LAST_M3, _FIRST_M4 = (REBIAS >> 20) + 0x7F, (REBIAS >> 19) + 1
"""The last code of E4M3, and the first of E4M4 but 0, below the exponent that 8 bits leave out."""
_LEAST_ROOT = 72
"""The exponent of the smallest unit of roots: its smallest root still has a square."""


def kept_int8(x):
    """Return the number itself."""
    return x


def kept_uint8(x):
    """Return the root, of which twice the range of exponents has room; that of −0 is 0."""
    return number(magnitude(root(x)))


def magnitude(kept):
    """Return the bits without the sign, in the order of size; those of NaN are the greatest."""
    return bits(kept) & MAGNITUDE


def _exponent_of(greatest, room, least):
    exponent = (greatest + room) >> 23
    exponent = where(exponent > least, exponent, least)
    exponent = where(exponent < 254, exponent, 254)
    exponent = where(greatest < INFINITY, exponent, 255)
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
    return number(where(e < 255, e << 23, INFINITY | 0x400000))


def inverse(exponent):
    """Return what numbers of a group are multiplied by, to be in its unit; of zeros and NaN it is any number."""
    e = byte(exponent)
    return number(where(e < 254, (254 - e) << 23, 1 << 22))


def _aligned(u):
    """Return bits in which numbers of one unit in the last place are equally far apart, those below 2⁻¹⁴ too."""
    small = bits(number(u) + LEAST) - DOUBLE
    return where(small > u, small, u)


def stochastic_int8(kept, inverse, random):
    """Return one of the two neighbours: the one further from zero as often as 16 of the bits that are dropped say."""
    code = (_aligned(bits(kept * inverse) & MAGNITUDE) + (random << 4)) >> 20
    code = where(code < _LAST_M3, code, _LAST_M3)
    return narrow_byte(code & ((bits(kept) >> 24) | 0x7F))  # without a sign, bit 7 is that of the exponent's offset


def stochastic_uint8(kept, inverse, random):
    """Return one of the two neighbours of a root, at least the smallest."""
    code = (_aligned(bits(kept * inverse)) + (random << 3)) >> 19
    return narrow_byte(where(code > _FIRST_M4, code, _FIRST_M4))


def nearest_int8(kept, inverse):
    """Return the nearest code; of two, the one further from zero."""
    return stochastic_int8(kept, inverse, (bits(kept) & 0) | SIGN)


def nearest_uint8(kept, inverse):
    """Return the nearest code of a root; of two, the greater."""
    return stochastic_uint8(kept, inverse, (bits(kept) & 0) | SIGN)


def widen_int8(code, unit):
    """Return the number that a code stands for, exactly: E4M3 is float16 without its greatest numbers and last bits."""
    return widen_float16(narrow((signed_byte(code) << 7) & 0xBF80)) * unit


def widen_uint8(code, unit):
    """Return the square of the root that a code stands for."""
    kept = widen_float16(narrow(byte(code) << 6)) * unit
    return kept * kept
