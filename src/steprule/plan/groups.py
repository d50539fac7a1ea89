"""Which elements of a tensor share a unit when they are kept in 8 bits, and which tensors are kept so.

A tensor is rows: its leading index by everything else; one of one dimension, or of none, is a single row. A row is cut
into blocks of 512, the last of which may be shorter; a block into as many groups as it has 32 elements, begun ones too,
which take its elements in turns. So 16 groups lie side by side, and what is asked of a group is asked of 16 lanes at
once. Groups never leave a row, and all of this follows from the shape of the whole tensor: parts that are whole rows
have the very same groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

GROUP, LANES = 32, 16
BLOCK = GROUP * LANES
LEAST = 4096
"""Elements from which a tensor is kept in groups unless more is asked: of smaller ones there is little to gain."""
SOME, ALL = "8bit", "8bit-all"
WORDS = (SOME, ALL)
"""The words that ask for 8 bits: of tensors that have rows and are not small, or of all."""


def words_of(shape: Sequence[int]) -> frozenset[str]:
    """Return the words under which a whole tensor of this shape is kept in groups; an empty one never is."""
    some = len(shape) > 1 and prod(shape) >= LEAST
    return frozenset(WORDS if some else (ALL,) if prod(shape) else ())


def row_count(shape: Sequence[int]) -> int:
    """Return the rows of a tensor."""
    return shape[0] if len(shape) > 1 else 1


def row_length(shape: Sequence[int]) -> int:
    """Return the elements of a row."""
    return prod(shape[1:] if len(shape) > 1 else shape)


def units(length: int) -> int:
    """Return the groups of a row."""
    return -(-length // GROUP)


def group_of(length: int) -> NDArray[np.int64]:
    """Return the group of each element of a row."""
    place = np.arange(length)
    block, inside = place // BLOCK, place % BLOCK
    lanes = units(np.minimum(BLOCK, length - block * BLOCK))  # type: ignore[arg-type]
    return block * LANES + inside % lanes
