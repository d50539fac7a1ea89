"""The tables that kernels are given, the same on every backend: rows lie one after another, columns as listed here.

    addresses  [tensor, pointed]    where the parameter, each slot and what lies beside the parameter begin
    gradients  [tensor]             where each gradient begins; 0 if it is absent, and its tensor is left alone
    tensors    [tensor, TENSOR]
    chunks     [chunk, CHUNK]       on a GPU then strips of rows and columns, as `plan.lines` has them
    hyper      [row, name]          hyperparameters, then `t` and host slots where the host counts
    host       [row, value]         arithmetic on them, done once a step
    partial    [chunk, reduction]   what chunks have reduced
    reduced    [tensor, reduction]  what tensors have
    total      [reduction]          what all have; on a GPU then, under a guard, the number of steps left out

A GPU counts by itself: there a row is a tensor, and `counts [tensor, name]` holds `t` and host slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..graph.node import Rank
from .lines import TILE
from .schedule import Plan

if TYPE_CHECKING:
    from .program import Program

TENSOR = ("row", "size", "chunk", "chunks", "stream", "first")
"""Of a tensor: its row of hyperparameters, number of elements, first chunk, number of chunks, the stream of its random
bits, and the index that its first element has in the whole tensor, of which it may be a part, and which is counted."""
GROUPED = (*TENSOR, "length")
"""Where slots are in units of groups, also the elements of a row."""
LINED = (*GROUPED, "rows", "columns")
"""Where a rule asks for sizes, also those of the whole tensor as a matrix: a vector is a column there."""
TILED = (*LINED, "bands", "pieces", "lines")
"""Where it has numbers that are one a row or column, also how its rows are cut, and where such numbers are."""
CHUNK = ("tensor", "start", "count")
"""Of a chunk: its tensor, first element and number of elements."""


def tensor_columns(program: Program) -> tuple[str, ...]:
    """List the columns of the table of tensors."""
    return TILED if program.plan.axes else LINED if program.lined else GROUPED if program.grouped else TENSOR


def chunk_columns(program: Program) -> tuple[str, ...]:
    """List the columns of the table of chunks."""
    return (*CHUNK, *TILE) if program.plan.axes else CHUNK


def host_columns(plan: Plan) -> list[str]:
    """List the columns of the counts: `t`, if steps are counted, then host slots."""
    graph = plan.graph
    return (["t"] if graph.uses_step else []) + [slot.name for slot in graph.slots if slot.rank is Rank.HOST]


def hyper_columns(plan: Plan) -> list[str]:
    """List the columns of the table of hyperparameters where the host counts."""
    return [item.name for item in plan.graph.hypers] + host_columns(plan)


def array_rows(plan: Plan) -> list[str]:
    """List the arrays of a plan: parameter, gradient, then every slot that lives in memory."""
    graph = plan.graph
    return [graph.parameter, graph.gradient] + [s.name for s in graph.slots if s.rank is not Rank.HOST]
