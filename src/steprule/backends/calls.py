"""Calls: what a batch computes on whole tensors between its passes, of those of one shape and setting together.

torch's BLAS multiplies. Arrays that passes and calls hand to each other are made once; all tensors of one shape stand
in a stack, so that the number of launches is that of shapes. Large matrices in main memory are taken one by one, which
is quicker there. What a condition that the host knows does not choose is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..graph.node import Node, Rank, make, topological
from ..graph.ops import OPS
from ..plan.program import Program
from ..plan.schedule import kept
from .threads import alone
from .torch_ops import spelling

STACKED = 10_000_000
"""Products of more terms than that, in main memory, are quicker one by one than in a stack."""
ALIGNED = 16
"""Each tensor of a stack begins at a multiple of so many elements."""
Row = tuple[float, ...]


class Numbers(Protocol):
    """What calls ask of their batch."""

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients."""
        ...

    def numbers(self, nodes: Sequence[Node]) -> NDArray[np.float64]:
        """Return the values of nodes that are known before the step, a row a tensor; this may wait for a device."""
        ...

    def scalars(self, nodes: Sequence[Node]) -> torch.Tensor:
        """Return the values of nodes below element rank, a row a tensor, in float64 where the tensors are."""
        ...


@dataclass
class _Group:
    """Tensors of one shape, laid out alike, and a stack of each scratch array."""

    tensors: list[int]
    shape: tuple[int, ...]
    stacks: dict[str, torch.Tensor]
    single: bool
    place: dict[int, int]
    """Where each tensor stands in them."""

    def matrices(self, name: str, places: list[int]) -> torch.Tensor:
        """Return what a scratch array has of some tensors: one matrix, or a stack of them."""
        view, stack = Rank.ELEMENT.view(self.shape), self.stacks[name]
        if len(places) == 1:
            return stack[places[0]].reshape(view)
        own = stack if len(places) == len(self.tensors) else stack[places]
        return own.reshape(len(places), *view)

    def put(self, name: str, places: list[int], value: torch.Tensor) -> None:
        """Write matrices into a scratch array."""
        stack = self.stacks[name]
        if value.untyped_storage().data_ptr() == stack.untyped_storage().data_ptr():
            value = value.clone()
        if len(places) == 1:
            stack[places[0]].copy_(value.reshape(self.shape))
        elif len(places) == len(self.tensors):
            stack.copy_(value.reshape(stack.shape))
        else:
            stack[places] = value.reshape(len(places), *self.shape).to(stack.dtype)


@dataclass
class _Part:
    """Tensors of a group that have the same settings, with the values of this step that are asked for later."""

    group: _Group
    tensors: list[int]
    row: Row
    values: dict[Node, torch.Tensor] = field(default_factory=dict[Node, torch.Tensor])

    @property
    def places(self) -> list[int]:
        """Where its tensors stand in the group's stacks."""
        return [self.group.place[tensor] for tensor in self.tensors]


class Calls:
    """The calls of a program on the tensors of a batch; `arrays` are the scratch arrays, a list of tensors each."""

    def __init__(self, program: Program, arrays: Mapping[str, Sequence[Any]], *, ordered: bool = True) -> None:
        self.program, graph = program, program.plan.graph
        self._slots = {name: arrays[name] for name, rank in graph.ranks.items() if rank.apart}
        self._real = getattr(torch, program.layout.real)
        self._control, self._conditions = _control(program)
        self._needed: dict[Row, set[Node]] = {}
        self._parts: list[_Part] = []
        self._later = [
            {node for item in program.loops[index + 1 :] for call in item.calls for node in call.node.inputs}
            | {store.node for store in program.matrices}
            for index in range(len(program.loops))
        ]
        parameters: Sequence[torch.Tensor] = arrays[graph.parameter]
        self.sizes = {make(name): np.array([float(row.meaning(tuple(own.shape))) for own in parameters])
                      for name, row in OPS.items() if row.kind == "size"}  # fmt: skip
        """Numbers of the tensors' shapes."""
        self.arrays: dict[str, list[Any]] = {own.name: [None] * len(parameters) for own in program.scratch}
        self._groups = [self._grouped(own, parameters, ordered) for own in _alike(parameters, ordered)]

    def _grouped(self, tensors: list[int], parameters: Sequence[torch.Tensor], ordered: bool) -> _Group:
        first = parameters[tensors[0]]
        shape, size = tuple(first.shape), first.numel()
        apart = max(-(-size // ALIGNED) * ALIGNED, 1)
        strides = first.stride() if ordered else torch.empty(shape, device="meta").stride()
        stacks = dict[str, torch.Tensor]()
        for array in self.program.scratch:
            name, dtype = array.name, getattr(torch, array.format.dtype)
            memory = torch.zeros(len(tensors) * apart, dtype=dtype, device=first.device)
            stacks[name] = memory.as_strided((len(tensors), *shape), (apart, *strides))
            for place, tensor in enumerate(tensors):
                self.arrays[name][tensor] = stacks[name][place]
        rows, columns = Rank.ELEMENT.view(shape)
        single = first.device.type == "cpu" and rows * columns * min(rows, columns) > STACKED
        return _Group(tensors, shape, stacks, single, {tensor: place for place, tensor in enumerate(tensors)})

    def begin(self) -> None:
        """Forget the values of the step before."""
        self._parts = []

    @alone
    @torch.no_grad()
    def before(self, index: int, batch: Numbers) -> None:
        """Make the calls before a pass."""
        loop, last = self.program.loops[index], index == len(self.program.loops) - 1
        ends = [store.node for store in self.program.matrices] if last else []
        if not loop.calls and not ends:
            return
        if not self._parts:
            self._parts = list(self._cut(batch))
        taken = (call.node.inputs[: OPS[call.node.op].taken] for call in loop.calls)  # the rest decide what is called
        asked = {child: None for inputs in taken for child in inputs} | dict.fromkeys(ends)
        scalars = [node for node in asked if node.rank <= Rank.TENSOR and node not in self._conditions]
        found = batch.scalars(scalars).to(self._real) if scalars else None
        for part in self._parts:
            values = dict(part.values)
            if found is not None:
                columns = found[part.tensors].T
                shape = (1, 1) if len(part.tensors) == 1 else (-1, 1, 1)
                cells = [own.reshape(shape) for own in columns]
                values |= {node: own != 0 if node.truth else own for node, own in zip(scalars, cells, strict=True)}
            self._make(index, part, values, ends)

    def _make(self, index: int, part: _Part, values: dict[Node, torch.Tensor], ends: Sequence[Node]) -> None:
        """Compute one loop's calls on tensors of one shape, then hand the results on."""
        needed, calls = self._reached(part.row), self.program.loops[index].calls
        calls = [call for call in calls if call.node in needed]
        given = {
            child: array.name for call in calls for child, array in zip(kept(call.node), call.sources, strict=True)
        }
        values |= {node: part.group.matrices(name, part.places) for node, name in given.items()}
        for node in {child: None for call in calls for child in call.node.inputs} | dict.fromkeys(ends):
            if node.array in self._slots:
                values[node] = self._stacked(node.array, part.tensors)
        for call in calls:
            value = self._value(call.node, values, dict(zip(self._control, part.row, strict=True)))
            view = call.node.rank.view(part.group.shape)
            values[call.node] = value.expand(*value.shape[:-2], *view)  # a number is one everywhere
        later = (self._later[index] & values.keys()) - part.values.keys()
        part.values |= {node: values[node].clone() for node in later if node.whole or node in ends}
        for call in calls:
            if call.target is not None:
                part.group.put(call.target.name, part.places, values[call.node])

    def _value(self, node: Node, values: Mapping[Node, torch.Tensor], control: Mapping[Node, float]) -> torch.Tensor:
        if node.op == "where" and node.inputs[0] in self._conditions:
            return values[node.inputs[1 if control[node.inputs[0]] else 2]]
        taken, same = OPS[node.op].taken, OPS[node.op].half
        inputs = [values[child] if same or values[child].dtype is torch.bool else values[child].to(self._real)
                  for child in node.inputs[:taken]]  # fmt: skip
        return spelling(node.op)(*inputs, *(control[child] for child in node.inputs[taken:]))

    def _stacked(self, name: str, tensors: Sequence[int]) -> torch.Tensor:
        own = [self._slots[name][tensor].detach() for tensor in tensors]
        return own[0] if len(own) == 1 else torch.stack(own)

    def _cut(self, batch: Numbers) -> Iterator[_Part]:
        """Cut groups into tensors that have gradients and the same settings."""
        there = batch.present()
        control = batch.numbers(self._control) if self._control else np.zeros((len(there), 0))
        for group in self._groups:
            rows: dict[Row, list[int]] = {}
            for tensor in group.tensors:
                if there[tensor]:
                    rows.setdefault(tuple(control[tensor].tolist()), []).append(tensor)
            for row, tensors in rows.items():
                yield from (
                    _Part(group, own, row) for own in ([[one] for one in tensors] if group.single else [tensors])
                )

    def _reached(self, row: Row) -> set[Node]:
        """Return the nodes that a step needs, if conditions are decided as these settings say."""
        if row not in self._needed:
            truth = dict(zip(self._control, row, strict=True))
            stack, found = list(self.program.plan.graph.roots), set[Node]()
            while stack:
                node = stack.pop()
                if node not in found:
                    found.add(node)
                    decided = node.op == "where" and node.inputs[0] in self._conditions
                    stack += [node.inputs[1 if truth[node.inputs[0]] else 2]] if decided else node.inputs
            if len(self._needed) > 64:  # settings that change at every step
                self._needed.clear()
            self._needed[row] = found
        return self._needed[row]

    @alone
    @torch.no_grad()
    def write(self, go: torch.Tensor | None = None) -> None:
        """Write the slots that are matrices of other shapes, unless a number on their device says that it must not be.

        Doing it again in the same step changes nothing.
        """
        for part in self._parts:
            for store in self.program.matrices:
                value, name = part.values[store.node], store.array.name
                for place, tensor in enumerate(part.tensors):
                    slot = self._slots[name][tensor].detach()
                    new = value if len(part.tensors) == 1 else value[place]
                    slot.copy_(new if go is None else torch.where(go, new.to(slot.dtype), slot))


def calls_of(program: Program, arrays: Mapping[str, Sequence[Any]], *, ordered: bool = True) -> Calls | None:
    """Return what makes a program's calls on these tensors, if it has any."""
    any_ = program.matrices or any(loop.calls for loop in program.loops)
    return Calls(program, arrays, ordered=ordered) if any_ else None


def scalars_there(nodes: Sequence[Node], known: Mapping[Node, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Compute scalars above those that are known, for each of some rows, on their device, without waiting for it."""
    values, count = dict(known), len(rows)
    for node in topological(nodes, known):
        if node.op == "const":
            values[node] = torch.full((), float(node.attr), dtype=torch.float64, device=rows.device)  # type: ignore[arg-type]
        elif node not in values:
            values[node] = spelling(node.op)(*(values[child] for child in node.inputs))
    return torch.stack([values[node].expand(count) for node in nodes], dim=1)


def _alike(parameters: Sequence[torch.Tensor], ordered: bool) -> list[list[int]]:
    """Group tensors by their shapes, and the order in which they lie in memory if that is followed."""
    found: dict[Any, list[int]] = {}
    for place, own in enumerate(parameters):
        found.setdefault((tuple(own.shape), own.stride() if ordered else (), own.device), []).append(place)
    return list(found.values())


def _control(program: Program) -> tuple[list[Node], set[Node]]:
    """List the numbers that decide what is called: those beside matrices, and conditions, which are a set, too."""
    nodes = topological([*program.plan.graph.roots])
    beside = [child for node in nodes if node.kind == "matrix" for child in node.inputs[OPS[node.op].taken :]]
    conditions = {
        node.inputs[0]: None
        for node in nodes
        if node.op == "where" and node.inputs[0].rank is Rank.HOST and any(one.whole for one in topological([node]))
    }
    return [*dict.fromkeys([*beside, *conditions])], set(conditions)


__all__ = ["Calls", "Numbers", "calls_of", "scalars_there"]
