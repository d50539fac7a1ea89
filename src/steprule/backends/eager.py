"""The eager backend: torch operations, one after another; any device, any dtype, any layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..graph.evaluate import evaluate_host
from ..graph.node import Node, Rank
from ..graph.ops import OPS
from ..plan.groups import row_length
from ..plan.program import Accumulate, Array, Combine, Compute, Exchange, Keep, Load, Loop, Program, Store
from ..plan.schedule import walks
from ..plan.storage import REMAINDER, units_of
from ..plan.tables import hyper_columns
from .base import Arrays, Backend, Batch, Gradients, Kernel, Table, Where
from .calls import calls_of
from .half_torch import chance, coded, decoded, drawn, joined, random_bits, remainder, rounded
from .threads import alone
from .torch_ops import spelling


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the type that reductions are kept in."""
    return tensor if tensor.device.type == "mps" else tensor.double()


class EagerKernel(Kernel):
    """A program, without any source."""

    def batch(self, arrays: Arrays, rows: Sequence[int], counts: Any, where: Where | None = None) -> EagerBatch:  # noqa: ARG002
        """Bind tensors; counts are in the table of hyperparameters."""
        return EagerBatch(self.program, arrays, rows, where)


class Eager(Backend):
    """Torch operations, for tensors that no other backend takes."""

    name, kernel = "eager", EagerKernel
    pointed = False

    def home(self, device: torch.device) -> bool:  # noqa: ARG002
        """Return False: it is where others cannot be."""
        return False

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:  # noqa: ARG002
        """Return "": it can update all tensors."""
        return ""

    def reason(self, device: torch.device) -> str:  # noqa: ARG002
        """Word why it was chosen where another could be."""
        return "asked for"


class EagerBatch(Batch):
    """Tensors updated by torch operations; what is narrower than float32 is computed in it, and rounded once.

    Tensors of any dtype are loaded and stored: a program is asked only what is done, not what its kernels point at.
    """

    def __init__(self, program: Program, arrays: Arrays, rows: Sequence[int], where: Where | None = None) -> None:
        self.program = program
        self.plan = plan = program.plan
        self.arrays = {name: list(tensors) for name, tensors in arrays.items()}
        self.rows = list(rows)
        self._where = where
        self.calls = calls_of(program, arrays, ordered=False)
        self.arrays |= {} if self.calls is None else self.calls.arrays
        self._shapes = [tuple(tensor.shape) for tensor in arrays[plan.graph.parameter]]
        self.total = np.zeros(len(plan.reductions))
        self._real: torch.dtype = getattr(torch, program.layout.real)
        self._columns = hyper_columns(plan)
        self._numbers: list[dict[str, float]] = []
        self._reduced: list[dict[Node, Any]] = []
        self._stepped: list[int] = []
        self._writing: tuple[int, list[tuple[torch.Tensor, torch.Tensor]]] | None = None

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients."""
        self.arrays[self.plan.graph.gradient] = list(gradients)

    def set_rows(self, rows: Sequence[int]) -> None:
        """Read each tensor's hyperparameters from another row from now on."""
        self.rows = list(rows)

    def _present(self, tensors: range) -> list[int]:
        """List those tensors that have gradients."""
        gradients = self.arrays[self.plan.graph.gradient]
        return [tensor for tensor in tensors if gradients[tensor] is not None]

    def begin(self, hyper: Table) -> None:
        """Take this step's hyperparameters."""
        rows = [dict(zip(self._columns, map(float, row), strict=True)) for row in hyper]
        self._numbers = [rows[row] for row in self.rows]
        self._reduced = [{} for _ in self.rows]
        self._stepped = self._present(range(len(self.rows)))
        self._writing = None
        if self.calls is not None:
            self.calls.begin()

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients in this step."""
        return np.array([gradient is not None for gradient in self.arrays[self.plan.graph.gradient]])

    def numbers(self, nodes: Sequence[Node]) -> Table:
        """Return the values of nodes below element rank, a row a tensor; of those without gradients, zeros."""
        table = np.zeros((len(self.rows), len(nodes)))
        for tensor in self._present(range(len(self.rows))):
            own = self._scalars(tensor, nodes)
            table[tensor] = [float(own[node]) for node in nodes]
        return table

    def scalars(self, nodes: Sequence[Node]) -> torch.Tensor:
        """Return the same where the tensors are."""
        device = next((own.device for own in self.arrays[self.plan.graph.parameter]), None)
        return torch.from_numpy(self.numbers(nodes)).to(self._real).to(device)

    @alone
    @torch.no_grad()
    def sweep(self, index: int) -> None:
        """Compute one pass, tensor by tensor."""
        self._sweep(self.program.loops[index], range(len(self.rows)))

    def _sweep(self, loop: Loop, tensors: range) -> None:
        for tensor in self._present(tensors):
            values = self._elements(tensor, loop, self._scalars(tensor, loop.scalars))
            self._copy(tensor, [pair for store in loop.stores for pair in self._stored(tensor, store, values)])
        for part in loop.after:
            if isinstance(part, Combine) and not walks(part.node):
                (inner,) = part.node.inputs
                for tensor in self._present(tensors):
                    value = self._scalars(tensor, [inner])[inner]
                    with np.errstate(all="ignore"):
                        self._reduced[tensor][part.node] = part.node.reducer.joined(value, part.node.axis)
            elif isinstance(part, Exchange):
                shares = [float(reduced[part.node]) for reduced in self._reduced if part.node in reduced]
                with np.errstate(all="ignore"):
                    combine = OPS[part.node.reducer.combine].meaning
                    self.total[part.place] = reduce(combine, shares, part.node.reducer.init)

    def end(self) -> None:
        """Write the slots that no pass writes, after the last one."""
        if self.calls is not None:
            self.calls.write()
        if self.plan.tensor_writes and (self._writing or (-1,))[0] < len(self.rows):
            self._write_tensor_slots()

    def end_all(self) -> None:
        """Write the slots that hold one number for all tensors, as the first of them sees it, absent or not."""
        if self.plan.global_writes and (self._writing or (-1,))[0] <= len(self.rows):
            self._copy(len(self.rows) + 1, self._numbers_of(0, self.plan.global_writes))

    def begun(self) -> bool:
        """Whether this step has begun to write."""
        return self._writing is not None

    @alone
    @torch.no_grad()
    def finish(self) -> None:
        """Write the interrupted tensor again, then the following ones."""
        reached, pairs = self._writing or (-1, [])
        self._copy(reached, pairs)
        self._sweep(self.program.loops[-1], range(reached + 1, len(self.rows)))

    def clear(self) -> None:
        """Forget how far this step has come, and its gradients, so that zero_grad frees them."""
        self._writing = None
        self.arrays[self.plan.graph.gradient] = []
        if self.calls is not None:
            self.calls.begin()

    def _elements(self, tensor: int, loop: Loop, values: dict[Node, Any]) -> dict[Node, Any]:
        """Do what a loop does to elements, but the stores; return all values."""
        parameter = self.arrays[self.plan.graph.parameter][tensor]
        working = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        for node in loop.scalars:  # as a kernel does: computed in float64, given to elements in their own type
            dtype = torch.bool if node.truth else working
            value = torch.tensor(values[node], dtype=dtype, device=parameter.device)
            values[node] = value.reshape(node.rank.shape(parameter.shape))
        for part in loop.body:
            if isinstance(part, Load):
                values[part.node] = self._load(part.array, tensor)
            elif isinstance(part, Compute) and part.node.kind == "chance":
                assert self._where is not None
                place, t = self._where[tensor], int(self._numbers[tensor]["t"])
                values[part.node] = chance(part.node, parameter, place, t)
            elif isinstance(part, Compute):
                inputs = (values[child] for child in part.node.inputs)
                values[part.node] = spelling(part.node.op)(*inputs).expand(parameter.shape)
            elif isinstance(part, Accumulate):
                self._reduced[tensor][part.node] = _joined(part.node, _wide(values[part.node.inputs[0]]))
            elif isinstance(part, Keep):
                values[part.node] = self._left(tensor, part.store, values)
        return values

    def _load(self, array: Array, tensor: int) -> torch.Tensor:
        stored = self.arrays[array.name][tensor].detach()
        if array.format.beside:
            return joined(stored, self.arrays[REMAINDER][tensor].detach())
        if array.format.grouped:
            return decoded(stored, self.arrays[units_of(array.name)][tensor], self._row_length(tensor))
        return stored.float() if stored.is_floating_point() and stored.element_size() < 4 else stored

    def _whole(self, tensor: int) -> tuple[int, ...]:
        return self._shapes[tensor] if self._where is None else self._where[tensor].shape

    def _row_length(self, tensor: int) -> int:
        return row_length(self._whole(tensor))

    def _stored(self, tensor: int, store: Store, values: dict[Node, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return where a value goes, and what is held there."""
        value = values[store.node]
        if store.array.scratch:
            self.arrays[store.array.name][tensor].copy_(value)
            return []
        target = self.arrays[store.array.name][tensor].detach()
        if store.array.format.beside:
            beside = self.arrays[REMAINDER][tensor].detach()
            more = store.array.format.more
            first = rounded(value, target.dtype, f"compensated{more}")
            return [(target, first), (beside, remainder(value, target.dtype, more))]
        if store.draw >= 0:
            assert self._where is not None
            place, t = self._where[tensor], int(self._numbers[tensor]["t"])
            if not store.array.format.grouped:
                return [(target, drawn(value, target.dtype, place, t, store.draw))]
            given = random_bits(value, place, t, store.draw)
            beside = self.arrays[units_of(store.array.name)][tensor]
            found = coded(value, target.dtype, self._row_length(tensor), given)
            return list(zip((target, beside), found, strict=True))
        # A value that is an array as it was (mₜ = θₜ₋₁) must be kept before that array is overwritten.
        return [(target, value.clone() if store.node.op == "read" else value)]

    def _left(self, tensor: int, store: Store, values: dict[Node, Any]) -> torch.Tensor:
        """Return the value that is read again where one is stored."""
        pairs = self._stored(tensor, store, values)
        stored = [value.to(target.dtype) for target, value in pairs]
        if store.array.format.grouped:
            return decoded(stored[0], stored[1], self._row_length(tensor))
        real = torch.float64 if stored[0].dtype is torch.float64 else torch.float32
        return joined(*stored) if len(stored) > 1 else stored[0].to(real)

    def reduced(self) -> Table:
        """Return what each tensor's elements were reduced to in the last step; this waits for a device."""
        nodes = self.plan.reductions
        rows = [
            [float(own.get(node, node.reducer.init)) if node.rank <= Rank.TENSOR else np.nan for node in nodes]
            for own in self._reduced
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(nodes))

    def reduced_at(self, places: Sequence[int]) -> torch.Tensor:
        """Return what each tensor was reduced to, at some places; of those without gradients, of no elements."""
        nodes = [self.plan.reductions[place] for place in places]
        device = self.arrays[self.plan.graph.parameter][0].device
        return torch.stack([
            torch.stack([_wide(torch.as_tensor(own.get(node, node.reducer.init), device=device)) for node in nodes])
            for own in self._reduced
        ])  # fmt: skip

    def put_reduced(self, places: Sequence[int], numbers: torch.Tensor) -> None:
        """Let these be what each tensor was reduced to."""
        for own, row in zip(self._reduced, numbers, strict=True):
            own.update(zip((self.plan.reductions[place] for place in places), row, strict=True))

    def _scalars(self, tensor: int, roots: Sequence[Node]) -> dict[Node, Any]:
        """Compute what is below element rank in NumPy: numbers, and columns or rows of a matrix of them."""
        values: dict[Node, Any] = {}

        def visit(node: Node) -> Any:
            if node not in values:
                if node.rank is Rank.HOST and not node.truth:
                    values[node] = float(evaluate_host([node], self._numbers[tensor])[0])
                elif node.reduces:
                    shared = node.kind == "global"
                    total = self.total[self.plan.reductions.index(node)] if shared else self._reduced[tensor][node]
                    with np.errstate(all="ignore"):
                        values[node] = node.reducer.finished(_numbers(total), node.count(self._whole(tensor)))
                elif node.array:
                    values[node] = _numbers(self.arrays[node.array][tensor]).reshape(view(node))
                elif node.kind == "size":
                    values[node] = np.float64(OPS[node.op].meaning(self._whole(tensor)))
                else:
                    inputs = [np.asarray(visit(child)) for child in node.inputs]
                    with np.errstate(all="ignore"):
                        values[node] = OPS[node.op].meaning(*inputs)
            return values[node]

        def view(node: Node) -> tuple[int, ...]:
            return node.rank.view(self._shapes[tensor]) if node.rank > Rank.TENSOR else ()

        for root in roots:
            visit(root)
        return values

    def _copy(self, reached: int, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if pairs:
            self._writing = (reached, pairs)  # known before the first is written
            for target, value in pairs:
                target.copy_(value)

    def _write_tensor_slots(self) -> None:
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for tensor in self._stepped:
            pairs += self._numbers_of(tensor, self.plan.tensor_writes)
        self._copy(len(self.rows), pairs)

    def _numbers_of(self, tensor: int, writes: Sequence[tuple[str, Node]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return where new values of slots smaller than a tensor go, and the values."""
        values = self._scalars(tensor, [node for _, node in writes])
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, node in writes:
            target, value = self.arrays[name][tensor].detach(), torch.tensor(values[node], dtype=torch.float64)
            pairs.append((target, value.reshape(node.rank.shape(self._shapes[tensor]))))
        return pairs


def _numbers(value: Any) -> Any:
    """Return numbers of a tensor, or one number, in NumPy and float64."""
    if isinstance(value, torch.Tensor):
        value = _wide(value.detach()).cpu().numpy()
    return np.array(value, dtype=np.float64)


def _joined(node: Node, value: torch.Tensor) -> torch.Tensor:
    """Join the elements of a tensor, or of each row or column: sums as torch adds them, the rest by halves.

    What is one number a row or column comes as such of a matrix.
    """
    reducer, shape = node.reducer, tuple(value.shape)
    each, join = OPS.get(reducer.each), spelling(reducer.combine)
    terms = value if each is None else spelling(reducer.each)(*[value] * each.arity)
    if node.axis is None and reducer.combine == "add":
        return terms.sum()
    terms = terms.reshape(-1) if node.axis is None else terms.reshape(Rank.ELEMENT.view(shape)).movedim(node.axis, 0)
    if reducer.combine == "add":
        total = terms.sum(0)
    else:
        while len(terms) > 1:
            half = len(terms) // 2
            terms = torch.cat([join(terms[:half], terms[half : 2 * half]), terms[2 * half :]])
        total = terms[0].clone() if len(terms) else terms.new_full(terms.shape[1:], reducer.init)
    return total if node.axis is None else total.reshape(node.rank.view(shape))
