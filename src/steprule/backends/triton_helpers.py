"""The functions of generated GPU kernels: arithmetic as IEEE has it, memory in blocks, reductions in float64.

Imported by generated source alone, so that nothing else needs Triton. Triton reads annotations as code: there is one
only where it means something to a kernel.
"""

# pyright: reportMissingParameterType=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.language.extra import libdevice

from ..plan.groups import BLOCK, GROUP, LANES
from ..plan.rounding import spelled
from .cache import execute

interpreted = bool(import_module("triton").knobs.runtime.interpret)
"""Whether kernels run as Python on arrays (TRITON_INTERPRET=1), where libdevice, NVIDIA's library, is not."""
# What a kernel calls is then Python as it stands: at each call of its own kind Triton would patch its whole language.
jit: Any = (lambda function: function) if interpreted else triton.jit


# Arithmetic -------------------------------------------------------------------------------------------


@jit
def divide(x, y):
    """Divide, correctly rounded; Triton's own `/` of float32 is not."""
    return tl.div_rn(x, y) if x.dtype == tl.float32 else x / y


@jit
def root(x):
    """Take a square root, correctly rounded; Triton's own of float32 is not."""
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


def _library(name: str, of_arrays: Any) -> Any:
    """Return a function of libdevice, whose errors are a few units in the last place, or NumPy's of this meaning."""
    if not interpreted:
        return getattr(libdevice, name)

    def called(*blocks: Any) -> Any:
        from triton.runtime.interpreter import TensorHandle

        blocks = tl.broadcast(*blocks) if len(blocks) > 1 else blocks
        handles = [block.handle for block in blocks]
        found = of_arrays(*(handle.data for handle in handles))
        return tl.core.tensor(TensorHandle(found, handles[0].dtype), blocks[0].type)

    return called


exponential, logarithm, power = _library("exp", np.exp), _library("log", np.log), _library("pow", np.power)
tanh, angle = _library("tanh", np.tanh), _library("atan2", np.arctan2)
remainder = _library("fmod", np.fmod)


@jit
def modulo(x, y):
    """Return what is left of a division, with the sign of the divisor; 0 has none."""
    left = remainder(x, y)
    return tl.where((left != 0) & ((left < 0) != (y < 0)), left + y, left) + 0.0


@jit
def sign(x):
    """Return 1, 0 or -1; NaN of NaN."""
    return tl.where(x != x, x, (x > 0).to(x.dtype) - (x < 0).to(x.dtype))


@jit
def minimum(x, y):
    """Return the smaller; NaN if either is."""
    return tl.where(x != x, x, tl.where(x <= y, x, y))


@jit
def maximum(x, y):
    """Return the larger; NaN if either is."""
    return tl.where(x != x, x, tl.where(x >= y, x, y))


# Memory -----------------------------------------------------------------------------------------------


@jit
def at(address, first, element: tl.constexpr):
    """Return a pointer to one element of the array that begins at an address."""
    return tl.cast(address, tl.pointer_type(element)) + first


# The walk over whole blocks, which is no tail, is taken where everything begins at a multiple of 16 bytes. Each block
# says so of its own pointers: a word about those that both walks begin with would hold for the tail, too.


@jit
def read(start, here, inside, TAIL: tl.constexpr, real: tl.constexpr):  # noqa: N803
    """Read a block, in the type that is computed in."""
    place = start + here
    block = tl.load(place, mask=inside, other=0.0) if TAIL else tl.load(tl.multiple_of(place, 16))
    return block.to(real)


@jit
def write(start, here, block, inside, TAIL: tl.constexpr):  # noqa: N803
    """Write a block, rounded to what is stored."""
    place = start + here
    value = block.to(start.dtype.element_ty)
    if TAIL:
        tl.store(place, value, mask=inside)
    else:
        tl.store(tl.multiple_of(place, 16), value)


# Reductions -------------------------------------------------------------------------------------------


@jit
def add(total, term, inside, TAIL: tl.constexpr):  # noqa: N803
    """Add a block to running sums."""
    wide = term.to(tl.float64)
    if TAIL:
        wide = tl.where(inside, wide, 0.0)
    return total + wide


@jit
def add_square(total, term, inside, TAIL: tl.constexpr):  # noqa: N803
    """Add the squares of a block to running sums, in one operation where float64 holds every square exactly."""
    wide = term.to(tl.float64)
    if term.dtype == tl.float64:
        return add(total, wide * wide, inside, TAIL)
    if TAIL:
        wide = tl.where(inside, wide, 0.0)
    return tl.fma(wide, wide, total)


@jit
def padded(block, inside, init):
    """Return a block that has, where nothing is, what a reduction starts from."""
    return tl.where(inside, block, init)


@jit
def fold(block, JOIN: tl.constexpr, HALVINGS: tl.constexpr):  # noqa: N803
    """Join the lanes of a block two by two; `tl.max` would lose a NaN."""
    for _ in tl.static_range(HALVINGS):  # pyright: ignore[reportGeneralTypeIssues]
        left, right = tl.split(tl.reshape(block, (block.shape[0] // 2, 2)))
        block = JOIN(left, right)
    return tl.sum(block, 0)


@jit
def finite(x):
    """Whether a number is neither NaN nor infinite."""
    return x - x == 0.0


# Tiles ------------------------------------------------------------------------------------------------


@jit
def rows_at(start, offset, NARROW: tl.constexpr):  # noqa: N803
    """Return a pointer to some rows of a tile; each walk has its own, of which only one is promised to be aligned."""
    place = start + offset
    return place if NARROW else tl.multiple_of(place, 16)


@jit
def turns_of_rows(first, lane, height, width, length, TALL: tl.constexpr, EVEN: tl.constexpr, NARROW: tl.constexpr):  # noqa: N803
    """Return the places of the elements of some rows, counted from the first of them, and which there are."""
    if not NARROW:  # changes neither: the compiler sees what they are multiples of
        width, length = width // EVEN * EVEN, length // EVEN * EVEN
    turn = tl.arange(0, TALL)[:, None]
    return turn * length + lane, (first + turn < height) & (lane < width)


# Blocks of groups -------------------------------------------------------------------------------------
_GROUP, _LANES, _BLOCK, _FOUR = (tl.constexpr(size) for size in (GROUP, LANES, BLOCK, 4))


@jit
def blocks_of(count, length):
    """Return how many blocks so many elements are, of whole rows or of one."""
    return (count // length * ((length + _BLOCK - 1) // _BLOCK) + (count % length + _BLOCK - 1) // _BLOCK).to(tl.int32)


@jit
def turns_of_four(length):
    """Whether in every block of a row of this length all turns begin at multiples of four elements, and end there."""
    return (length % _FOUR == 0) & ((length % _BLOCK + _GROUP - 1) // _GROUP % _FOUR == 0)


@jit
def begins_four(start):
    """Whether four elements can be loaded together where an array begins."""
    return start.to(tl.int64) % (_FOUR * start.dtype.element_ty.primitive_bitwidth // 8) == 0


@jit
def block_at(start, begin, NARROW: tl.constexpr):  # noqa: N803
    """Return a pointer to a block of a chunk; each walk has its own, of which only one is promised to be aligned."""
    place = start + begin
    return place if NARROW else tl.multiple_of(place, _FOUR * start.dtype.element_ty.primitive_bitwidth // 8)


@jit
def turns(size, NARROW: tl.constexpr):  # noqa: N803
    """Return the places of a block's elements, a turn after another, those which there are, and how many groups."""
    lanes = (size + _GROUP - 1) // _GROUP
    if not NARROW:  # changes neither: the compiler sees what it is a multiple of
        size, lanes = size // _FOUR * _FOUR, lanes // _FOUR * _FOUR
    lane = tl.arange(0, _LANES)[None, :]
    here = tl.arange(0, _GROUP)[:, None] * lanes + lane
    return here, (lane < lanes) & (here < size), lanes


@jit
def greatest(magnitude, inside):
    """Return the greatest of each group."""
    return tl.max(tl.where(inside, magnitude, 0), 0, keep_dims=True)


@jit
def read_units(start, lanes):
    """Read the exponents of a block's units."""
    lane = tl.arange(0, _LANES)[None, :]
    return tl.load(start + lane, mask=lane < lanes, other=0)


@jit
def write_units(start, exponent, lanes):
    """Write the exponents of a block's units: the threads that have its first turn do, four at once."""
    turn, lane = tl.arange(0, _GROUP)[:, None], tl.arange(0, _LANES)[None, :]
    place = tl.broadcast_to(start + lane, (_GROUP, _LANES))
    tl.store(place, exponent, mask=(turn == 0) & (lane < lanes))


# 16 and 8 bits ----------------------------------------------------------------------------------------
_WORDS = {
    "bits(x)": "x.to(tl.uint32, bitcast=True)",
    "number(u)": "u.to(tl.float32, bitcast=True)",
    "word(n)": "tl.cast(n, tl.uint32)",
    "wide(n)": "tl.cast(n, tl.uint64)",
    "unsigned(half)": "tl.cast(half, tl.uint32)",
    "signed(half)": "half.to(tl.int32).to(tl.uint32, bitcast=True)",
    "narrow(u)": "u.to(tl.uint16)",
    "narrow_signed(u)": "u.to(tl.uint16).to(tl.int16, bitcast=True)",
    "byte(code)": "tl.cast(code, tl.uint32)",
    "signed_byte(code)": "code.to(tl.int8, bitcast=True).to(tl.int32).to(tl.uint32, bitcast=True)",
    "narrow_byte(u)": "u.to(tl.uint8)",
    "double(x)": "x.to(tl.float64)",
    "real(u)": "u.to(tl.int32, bitcast=True).to(tl.float32)",
    "where(condition, one, other)": "tl.where(condition, one, other)",
    "widen_float16(half)": "half.to(tl.float16, bitcast=True).to(tl.float32)",
}
if not interpreted:
    for _dtype, _nan in (("float16", "0x7E00"), ("bfloat16", "0x7FC0")):
        _rounded = f"x.to(tl.{_dtype}).to(tl.uint16, bitcast=True)"
        _WORDS[f"nearest_{_dtype}(x)"] = f"tl.where(x == x, {_rounded}, {_nan}).to(tl.uint16)"
_lines = (f"def {head}:\n    return {value}" for head, value in _WORDS.items())
_written = execute("\n".join(("import triton.language as tl", *_lines)), "words")
_names = [head.partition("(")[0] for head in _WORDS]
_language = {
    "tl": tl,
    "root": root,
    "logarithm": logarithm,
    "ratio": divide,
    **{name: jit(_written[name]) for name in _names},
}
globals().update(spelled(_language, function=jit, constant=(lambda one: one) if interpreted else tl.constexpr))
