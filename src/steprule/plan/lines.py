"""Where a kernel keeps numbers that are one a row or column: of each tensor a stretch of float64, sized by its shape.

    reductions of rows     [reduction, 1 + piece, row]        the results, then what pieces of long rows have reduced
    reductions of columns  [reduction, 1 + band, column]      the results, then what bands of rows have
    values of rows         [value, row]                       what elements of later passes use, in their own type
    values of columns      [value, column]

Chunks of such a program are tiles: a band of rows, of long rows only a piece. How they are cut depends on shapes alone.
Where rows and columns are dealt with side by side, strips of a few of them say who does which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..graph.node import Node, Rank
from .schedule import walks

if TYPE_CHECKING:
    from .program import Program

AXES = (Rank.ROW, Rank.COLUMN)
LEAST = 16
"""Rows of a band at least, if there are so many: each band keeps a number a column."""
WIDEST = 4
"""A piece of a row is at most as long as this part of a chunk."""
TILE = ("width", "band", "piece")
"""Columns of the table of chunks, after the usual ones."""
STRIP = ("tensor", "start", "count", "axis")
"""Of a strip: its tensor, first row or column, how many there are, and which of `AXES` they are."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class KeptLines:
    """The reductions that end in rows or columns, and the values that elements use, in the order in which they lie."""

    reductions: dict[Rank, tuple[Node, ...]]
    values: dict[Rank, tuple[Node, ...]]

    def size(self, view: tuple[int, int], cuts: tuple[int, int]) -> int:
        """Return the numbers kept for a tensor, seen as a matrix and cut into so many pieces of rows and bands."""
        return sum(
            (len(self.reductions[axis]) * (1 + parts) + len(self.values[axis])) * count
            for axis, count, parts in zip(AXES, view, cuts, strict=True)
        )


def counted(node: Node) -> str:
    """Return the column of the table of tensors that says how many numbers a result of a reduction is made of."""
    inner = node.inputs[0].rank
    by_rows, by_columns = (axis <= inner and not axis <= node.rank for axis in AXES)
    return "size" if by_rows and by_columns else "rows" if by_rows else "length"


def lines_of(program: Program) -> KeptLines:
    """List what a program keeps of rows and columns."""
    kept = [node for node in program.plan.reductions if node.axis is not None and walks(node)]
    used = list(dict.fromkeys(node for loop in program.loops for node in loop.lines))
    return KeptLines(*({axis: tuple(n for n in nodes if n.rank is axis) for axis in AXES} for nodes in (kept, used)))


def cuts(views: Sequence[tuple[int, int]], length: int, wide: int = 0) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return how wide pieces of rows are and how many rows a band has, and how many pieces and bands there are.

    Pieces are about equal, or as `wide` as a kernel takes at a time, to which a shorter row is as long as any.
    """
    rows, columns = np.array(views, dtype=np.int64).reshape(-1, 2).T
    widest = wide or max(1, length // WIDEST)
    pieces = -(-columns // widest)
    width = np.minimum(columns, wide) if wide else -(-columns // pieces.clip(1))
    lines = np.minimum(np.maximum(length // width.clip(wide or 1), LEAST), rows.clip(1))
    return width, lines, pieces, -(-rows // lines)


def tiles(views: Sequence[tuple[int, int]], length: int, wide: int = 0) -> Numbers:
    """Cut matrices into tiles: rows of the table of chunks, a band after another, a piece after another."""
    rows, columns = np.array(views, dtype=np.int64).reshape(-1, 2).T
    width, lines, pieces, bands = cuts(views, length, wide)
    tensor = np.repeat(np.arange(len(views)), pieces * bands)
    first = np.cumsum(pieces * bands) - pieces * bands
    place = np.arange(len(tensor)) - first[tensor]
    band, piece = np.divmod(place, pieces[tensor])
    line, column = band * lines[tensor], piece * width[tensor]
    across = np.minimum(columns[tensor] - column, width[tensor])
    count = np.minimum(rows[tensor] - line, lines[tensor]) * across
    table = [tensor, line * columns[tensor] + column, count, across, band, piece]
    return np.ascontiguousarray(np.stack(table, axis=1))


def strips(views: Sequence[tuple[int, int]], lanes: int) -> Numbers:
    """Cut rows and columns into strips: of each matrix those of its rows, then those of its columns."""
    counts = np.array(views, dtype=np.int64).reshape(-1)
    each = -(-counts // lanes)
    line = np.repeat(np.arange(len(counts)), each)
    start = (np.arange(len(line)) - np.repeat(np.cumsum(each) - each, each)) * lanes
    table = [line // 2, start, np.minimum(counts[line] - start, lanes), line % 2]
    return np.ascontiguousarray(np.stack(table, axis=1))
