"""The primitives in which formulas of few bits are written: NumPy's here, on arrays; other languages have their own.

Besides them a language must have + − * & | ^ << >> < > == of words and numbers; >> fills up with zeros.
"""

# pyright: reportMissingParameterType=false

from __future__ import annotations

import numpy as np

MAGNITUDE, SIGN, INFINITY, DOUBLE = 0x7FFFFFFF, 0x8000, 0x7F800000, 1 << 23
"""Of float32: all bits but the sign, infinity, and twice a number; and the sign of 16 bits."""
REBIAS, LEAST = 112 << 23, 2.0**-14
"""Between the exponents of 5 bits, or 4, and float32; the least normal number of such an exponent."""


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


def signed_byte(code):
    """Return words that are the same numbers as these of 8 bits with a sign."""
    return np.asarray(code).view(np.int8).astype(np.uint32)


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
    return np.sqrt(x)


def logarithm(x):
    """Return natural logarithms, in the type of the numbers."""
    return np.log(x)


def ratio(a, b):
    """Return what a division gives, rounded once."""
    return a / b


def double(x):
    """Return float32 numbers in float64, exactly."""
    return np.asarray(x).astype(np.float64)


def narrow_signed(word):
    """Return the lowest 16 bits of words, as numbers with a sign."""
    return word.astype(np.uint16).view(np.int16)


def real(word):
    """Return words, which have a sign and are small, as float32 numbers."""
    return word.view(np.int32).astype(np.float32)


def where(condition, one, other):
    """Return one where a condition holds, and the other elsewhere."""
    return np.where(condition, one, other)


PRIMITIVES = (
    *(bits, number, word, wide, unsigned, signed, narrow, narrow_signed),
    *(byte, signed_byte, narrow_byte, real, double, where, root, logarithm, ratio),
)
"""What a language must have."""
