"""How float32 becomes float16, and float16 float32 again: bits moved where it is normal, arithmetic where it is not.

`plan.rounding` says what formulas are, and what these do.
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
    narrow,
    narrow_byte,
    narrow_signed,
    number,
    real,
    signed,
    signed_byte,
    unsigned,
    where,
)

_HALF_LEAST, _HALF_INFINITY, _HALF_NAN = 0x38800000, 0x7C00, 0x7E00
"""The least normal number, 2⁻¹⁴, as the bits of float32; infinity and NaN."""
_UNIT, _INVERSE, _UNIT_8, _INVERSE_8 = 26 << 23, 280 << 23, 18 << 23, 272 << 23
"""Between the exponents of a number and of 2⁻¹⁶, or 2⁻⁸, of its unit; for the inverse."""
_TWO_M24, _WHOLE = 2.0**-24, 1.5 * 2.0**23
"""Added to a smaller number, the last rounds it to a whole one, which stands in the lowest bits."""


def widen_float16(half):
    """Return the number that 16 bits stand for."""
    u = unsigned(half)
    magnitude = u & 0x7FFF
    normal = (magnitude << 13) + REBIAS
    normal = where(magnitude < _HALF_INFINITY, normal, normal + REBIAS)
    return number(where(magnitude < 0x400, bits(real(magnitude) * _TWO_M24), normal) | ((u & SIGN) << 16))


def nearest_float16(x):
    """Return the nearest 16 bits."""
    u = bits(x)
    magnitude = u & MAGNITUDE
    small = bits(number(magnitude) + 0.5) & 0xFFFF  # the last bit of 0.5 is that of float16's smallest numbers
    normal = ((magnitude + 0xFFF + ((magnitude >> 13) & 1)) >> 13) - (REBIAS >> 13)
    normal = where(normal < _HALF_INFINITY, normal, _HALF_INFINITY)
    rounded = where(magnitude < _HALF_LEAST, small, normal) | ((u >> 16) & SIGN)
    return narrow(where(x == x, rounded, _HALF_NAN))


def stochastic_float16(x, random):
    """Return one of the two neighbours: the one further from zero as often as 13 of the bits that are dropped say."""
    u = bits(x)
    magnitude = u & MAGNITUDE
    small = bits(number(magnitude) + LEAST) - DOUBLE  # below 2⁻¹⁴: 13 bits below 2⁻²⁴, too
    aligned = where(small > magnitude, small, magnitude)
    rounded = ((aligned + (random >> 3)) >> 13) - (REBIAS >> 13)
    rounded = where(rounded < _HALF_INFINITY, rounded, _HALF_INFINITY) | ((u >> 16) & SIGN)
    return narrow(where(x == x, rounded, _HALF_NAN))


def compensated_float16(x):
    """Return the nearest 16 bits."""
    return nearest_float16(x)


def _exponent(x):
    u = bits(x) & INFINITY
    return where(u > _HALF_LEAST, u, _HALF_LEAST)


def _stored_exponent(x):
    return _exponent(widen_float16(nearest_float16(x)))


def _left(x):
    return x - widen_float16(nearest_float16(x))


def _whole(left, exponent):
    return where(exponent < INFINITY, bits(left + _WHOLE), 0)


def remainder_float16(x):
    """Return what the nearest 16 bits leave, in 65,536ths of their last bit."""
    left = _left(x) * number(_INVERSE - _stored_exponent(x))
    left = where(left < 32767.0, left, 32767.0)
    left = where(left > -32767.0, left, -32767.0)
    return narrow_signed(_whole(left, _stored_exponent(x)))


def joined_float16(half, remainder):
    """Return the number again: to 2⁻⁴⁰ where 16 bits are not normal, else bit for bit."""
    stored = widen_float16(half)
    return stored - real(0 - signed(remainder)) * number(_exponent(stored) - _UNIT)  # −0 − 0 is −0; −0 + 0 is not


def compensated8_float16(x):
    """Return the nearest 16 bits."""
    return nearest_float16(x)


def remainder8_float16(x):
    """Return what the nearest 16 bits leave, in 256ths of their last bit."""
    left = _left(x) * number(_INVERSE_8 - _stored_exponent(x))
    left = where(left < 127.0, left, 127.0)
    left = where(left > -127.0, left, -127.0)
    return narrow_byte(_whole(left, _stored_exponent(x)))


def joined8_float16(half, remainder):
    """Return the number again, to half of such a 256th."""
    stored = widen_float16(half)
    return stored - real(0 - signed_byte(remainder)) * number(_exponent(stored) - _UNIT_8)
