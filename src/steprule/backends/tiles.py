"""The tables of tensors and chunks for a program, and the room for what it keeps of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph.node import Rank
from ..plan.lines import STRIP, TILE, cuts, strips, tiles
from ..plan.program import Program
from ..plan.tables import CHUNK, TENSOR
from .base import Where
from .chunks import chunks, row_lengths, tensor_table

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """How tensors are cut for a kernel; `room` numbers of float64 hold what is kept of rows and columns."""

    tensors: Integers
    chunks: Integers
    room: int = 0
    strips: Integers | None = None
    """Of rows and columns, if they are dealt with side by side: rows as long as those of chunks."""

    def at(self, address: int) -> Cut:
        """Return the tables for room at an address: until then, places in it are counted from 0."""
        if self.room:
            self.tensors[:, -1] += address
        return self


def cut(
    program: Program,
    shapes: Sequence[Sequence[int]],
    rows: Sequence[int],
    length: int,
    where: Where | None,
    *,
    wide: int = 0,
    lanes: int = 0,
) -> Cut:
    """Cut tensors into chunks of a length at most, or into tiles where a program has rows or columns.

    Tiles are as `wide` as `plan.lines` says; strips have so many `lanes`.
    """
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    lengths = row_lengths(program, where)
    table, found = tensor_table(sizes, rows, length, where, lengths), chunks(sizes, length, lengths)
    if not program.lined:
        return Cut(table, found)
    whole = [place.shape for place in where] if where else shapes
    views = np.array([Rank.ELEMENT.view(shape) for shape in whole], dtype=np.int64).reshape(-1, 2)
    columns = [*table.T[: len(TENSOR)], views[:, 1] if lengths is None else lengths, views[:, 0], views[:, 1]]
    if not program.plan.axes:
        return Cut(np.stack(columns, axis=1), found)
    pairs = [(int(height), int(width)) for height, width in views]
    _, _, pieces, bands = cuts(pairs, length, wide)
    sized = [program.laid.size(*own) for own in zip(pairs, zip(pieces, bands, strict=True), strict=True)]
    found, ends = tiles(pairs, length, wide), np.cumsum(sized, dtype=np.int64)
    each = np.bincount(found[:, 0], minlength=len(sizes))
    columns[2:4] = [np.cumsum(each) - each, each]
    columns += [bands, pieces, 8 * (ends - sized)]
    cut_up = np.pad(strips(pairs, lanes), ((0, 0), (0, len(CHUNK) + len(TILE) - len(STRIP)))) if lanes else None
    return Cut(np.stack(columns, axis=1), found, max(int(ends[-1]), 1) if len(ends) else 1, cut_up)
