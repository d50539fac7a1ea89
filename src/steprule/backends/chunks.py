"""How tensors are cut into chunks, and the tables that tell kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..plan.groups import row_length
from ..plan.program import Program
from .base import Where


def row_lengths(program: Program, where: Where | None) -> list[int] | None:
    """Return the elements of a row of each tensor, where groups must not be cut."""
    return [row_length(place.shape) for place in where] if program.grouped and where else None


def _cut(
    sizes: Sequence[int], length: int, rows: Sequence[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each tensor's size, how long what is cut is, into pieces of what length, and how many there are in all.

    Without rows a tensor is cut every `length` elements. With them, whole rows stay together if they are no longer than
    that; a longer one is cut every `length` elements, where blocks of groups end.
    """
    size = np.asarray(sizes, dtype=np.int64)
    row = np.asarray(size if rows is None else rows, dtype=np.int64).clip(1)
    short = (row <= length) & (rows is not None)
    whole, piece = np.where(short, size.clip(1), row), np.where(short, length // row * row, length)
    return size, whole, piece, size // whole * -(-whole // piece)


def chunks(sizes: Sequence[int], length: int, rows: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Cut tensors into chunks: rows of (tensor, first element, number of elements)."""
    _, whole, piece, pieces = _cut(sizes, length, rows)
    tensor = np.repeat(np.arange(len(pieces)), pieces)
    place = np.arange(len(tensor)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    whole, piece = whole[tensor], piece[tensor]
    each = -(-whole // piece)
    inside = place % each * piece
    table = [tensor, place // each * whole + inside, np.minimum(whole - inside, piece)]
    return np.ascontiguousarray(np.stack(table, axis=1))


def tensor_table(
    sizes: Sequence[int], rows: Sequence[int], length: int, where: Where | None, cut: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Return the table of tensors, with the columns of `plan.tables.TENSOR`, or of `GROUPED` with rows to `cut`."""
    size, _, _, pieces = _cut(sizes, length, cut)
    places = [(place.stream, place.first) for place in where] if where else [(0, 0)] * len(size)
    size = [math.prod(place.shape) for place in where] if where else size
    columns = [rows, size, np.cumsum(pieces) - pieces, pieces, *np.array(places, dtype=np.int64).reshape(-1, 2).T]
    columns += [] if cut is None else [cut]
    return np.stack([np.asarray(column, dtype=np.int64) for column in columns], axis=1)
