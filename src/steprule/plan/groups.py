"""Which elements of a tensor share a unit when they are kept in 8 bits, and which tensors are kept so.

A tensor is rows: its leading index by everything else. A row is cut into blocks of 512, the last of which may be
shorter; a block into as many groups as it has 32 elements, begun ones too, which take its elements in turns. So 16
groups lie side by side, and what is asked of a group is asked of 16 lanes at once. Groups never leave a row, and all of
this follows from the shape of the whole tensor: its parts along the leading index have the very same groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

GROUP, LANES = 32, 16
BLOCK = GROUP * LANES
LEAST = 4096
"""Elements from which a tensor is kept in groups: of smaller ones there is nothing to gain."""


def groupable(shape: Sequence[int]) -> bool:
    """Whether a whole tensor of this shape is kept in groups: it has rows, and is not small."""
    return len(shape) > 1 and prod(shape) >= LEAST


def row_length(shape: Sequence[int]) -> int:
    """Return the elements of a row."""
    return prod(shape[1:])


def units(length: int) -> int:
    """Return the groups of a row."""
    return -(-length // GROUP)


def group_of(length: int) -> NDArray[np.int64]:
    """Return the group of each element of a row."""
    place = np.arange(length)
    block, inside = place // BLOCK, place % BLOCK
    lanes = units(np.minimum(BLOCK, length - block * BLOCK))  # type: ignore[arg-type]
    return block * LANES + inside % lanes
