"""Cuts: the matrices that lie in one tensor, as queries, keys and values do, or the experts of a mixture.

A cut tensor is one parameter, with one entry in the state; but its matrices are views of it that a batch is given as
tensors of their own. So whatever a rule makes of a matrix, its sizes included, it makes of each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import HyperparameterError, ParameterError
from ..graph.graph import Graph
from ..graph.node import Rank
from .tensors import label

SPLITS, STACK = "splits", "stack"
_AXES = {"rows": 0, "columns": 1}
_WAYS = 'give 3 (equal parts of its rows), (64, 16, 16) (their rows), ("columns", 3), or "stack" (its leading index)'


@dataclass(frozen=True)
class Splits:
    """How a tensor is cut: along an axis into so many equal parts, or parts of these sizes; or at its leading index."""

    axis: int = 0
    parts: int | tuple[int, ...] = 0
    """0 for a stack, whose matrices the leading index tells apart."""

    @property
    def stack(self) -> bool:
        """Whether the leading index tells the matrices apart."""
        return self.parts == 0

    def sizes(self, length: int) -> list[int]:
        """Return the sizes of the parts of a side."""
        return [length // self.parts] * self.parts if isinstance(self.parts, int) else list(self.parts)

    def of(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the matrices of a parameter, or of what lies beside it, as views."""
        own = tensor.detach()
        return list(own.unbind()) if self.stack else list(own.split(self.sizes(own.shape[self.axis]), self.axis))

    def shape(self, rank: Rank, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in which what varies so is kept beside a parameter: a stack has one for each matrix."""
        return (shape[0], *rank.shape(shape[1:])) if self.stack else rank.shape(shape)

    def suits(self, graph: Graph) -> bool:
        """Whether a rule computes something of matrices, and all that it keeps can be cut alike."""
        matrices = graph.evaluate_at is None and any(node.kind == "matrix" for node in graph.nodes)
        line = Rank.COLUMN if self.axis else Rank.ROW
        kept = {slot.rank for slot in graph.slots} - {Rank.HOST, Rank.ELEMENT}
        return matrices and (kept <= {line} or (self.stack and not any(rank <= Rank.TENSOR for rank in kept)))

    def flaw(self, shape: Sequence[int]) -> str:
        """Say why a tensor of a shape has no such matrices, or return ""."""
        least = 3 if self.stack else 2
        if len(shape) < least or (self.axis == 1 and len(shape) > 2):
            return f"has {len(shape)} dimensions"
        if self.stack:
            return "" if shape[0] else "is a stack of nothing"
        length = shape[self.axis]
        fits = bool(length) and sum(self.sizes(length)) == length
        return "" if fits else f"has {length} {list(_AXES)[self.axis]}"


def read(told: Any) -> Splits | None:
    """Return the cut that a group declares, or None. Raises `HyperparameterError` for what is none."""
    if told is None:
        return None
    if told == STACK:
        return Splits()
    listed = isinstance(told, Sequence) and not isinstance(told, str)
    axis, parts = (told[0], told[1]) if listed and len(told) == 2 and isinstance(told[0], str) else ("rows", told)
    sizes: Any = parts if isinstance(parts, Sequence) else [parts]
    if not (axis in _AXES and sizes and all(type(size) is int and size > 0 for size in sizes)):
        raise HyperparameterError("splits tells no matrices in a tensor", where=f"  splits={told!r}", fix=_WAYS)
    return Splits(_AXES[axis], parts if isinstance(parts, int) else tuple(sizes))


def cut_of(group: Mapping[str, Any]) -> Splits | None:
    """Return the cut of a group's parameters, or None."""
    return read(group.get(SPLITS))


def check_cut(group: Mapping[str, Any], group_index: int, cut: Splits, graph: Graph) -> None:
    """Raise an error if the matrices that a group declares are not in its tensors, or mean nothing to its rule."""
    if not cut.suits(graph):
        raise HyperparameterError(
            f"`{graph.name}` cannot step parts of a tensor by themselves",
            where=f"  group {group_index}: {SPLITS}={group[SPLITS]!r}",
            fix="leave splits out; they are for rules with functions of matrices that keep numbers of rows at most",
        )
    for index, parameter in enumerate(group["params"]):
        if flaw := cut.flaw(parameter.shape):
            who = label(group, group_index, index)
            raise ParameterError(f"{who} {flaw}, which splits={group[SPLITS]!r} does not fit",
                                 where=f"  shape {tuple(parameter.shape)}", fix=_WAYS)  # fmt: skip


def words(told: Any, shape: Sequence[int]) -> str:
    """Word the matrices in a tensor, for people."""
    cut = read(told)
    if cut is None:
        return ""
    if cut.stack:
        return f"{shape[0]} matrices apart"
    return f"{' + '.join(map(str, cut.sizes(shape[cut.axis])))} {list(_AXES)[cut.axis]} apart"
