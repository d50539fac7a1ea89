"""DTensors: this process's part of a tensor that several processes share.

A plan without reductions makes an element from that element's own numbers, so each process updates its part as if it
were a tensor of its own, and nothing is sent. What parts are reduced to crosses from process to process
(`crossings.py`); what only gauges reduce does so when they are read. The state stays DTensors, distributed as their
parameters, for whoever saves or reshards it. A part is read from `_local_tensor`, where DTensor has kept it from its
beginning: `to_local()` gives the same in fifteen times the time, and a view of it while gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import compress, repeat
from operator import attrgetter, is_, is_not
from typing import Any, NamedTuple

import torch

from ..backends.torch_ops import spelling

_part, _spec = attrgetter("_local_tensor"), attrgetter("_spec")
_PLAIN = (torch.nn.Parameter, torch.Tensor)


def distributed(tensor: Any) -> bool:
    """Whether a tensor is a DTensor; the question imports nothing."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "full_tensor")


def local(tensor: Any) -> torch.Tensor:
    """Return the part of a tensor that is here: itself, unless it is a DTensor."""
    return _arrived(_part(tensor)) if distributed(tensor) else tensor


def _arrived(part: Any) -> torch.Tensor:
    """Wait for a part that is still being sent."""
    return part.trigger_wait() if hasattr(part, "trigger_wait") else part


def _several(tensor: Any) -> list[Any]:
    """List the placements of a DTensor over those dimensions of its mesh that hold several processes."""
    return [item for axis, item in enumerate(tensor.placements) if tensor.device_mesh.size(axis) > 1]


def whole(tensor: Any) -> bool:
    """Whether all of a tensor is here: it is no DTensor, or a copy of it is with every process."""
    return not distributed(tensor) or all(item.is_replicate() for item in _several(tensor))


def _cut_by(tensor: Any, axis: int) -> bool:
    """Whether processes along a dimension of a tensor's mesh have different parts of it."""
    if not distributed(tensor) or axis >= tensor.device_mesh.ndim or tensor.device_mesh.size(axis) == 1:
        return False
    return not tensor.placements[axis].is_replicate()


def spread(tensor: Any) -> Any:
    """Return what tells between which processes a tensor is cut, the same for tensors cut between the same; or None."""
    if whole(tensor):
        return None
    mesh = tensor.device_mesh
    return mesh, tuple(axis for axis in range(mesh.ndim) if _cut_by(tensor, axis))


class _Hop(NamedTuple):
    """What the processes along one dimension of a mesh tell each other."""

    group: Any
    device: str
    cells: torch.Tensor
    """Which numbers are sent."""
    joins: list[tuple[str, torch.Tensor]]
    """By which operation which of those that have arrived are joined."""


class Crossing:
    """The way on which numbers that parts were reduced to become those of whole tensors.

    It is made of the operations that join each tensor's numbers, tensor after tensor; every process must go it alike.
    Numbers are joined in the order of processes, the same everywhere, along one dimension of a mesh after the other.
    """

    def __init__(self, parts: Sequence[tuple[Any, Sequence[str]]], device: Any = "cpu") -> None:
        found: dict[Any, tuple[str, list[int], list[str]]] = {}
        for axis in range(max((owner.device_mesh.ndim for owner, _ in parts if distributed(owner)), default=0)):
            start = 0
            for owner, ops in parts:
                if ops and _cut_by(owner, axis):
                    mesh = owner.device_mesh
                    _, cells, joins = found.setdefault((axis, mesh.get_group(axis)), (mesh.device_type, [], []))
                    cells += range(start, start + len(ops))
                    joins += ops
                start += len(ops)

        def index(cells: Iterable[int]) -> torch.Tensor:
            return torch.tensor(list(cells), device=device)

        self._hops = [
            _Hop(group, kind, index(cells), [(op, index(i for i, own in enumerate(joins) if own == op))
                                             for op in dict.fromkeys(joins)])
            for (_, group), (kind, cells, joins) in found.items()
        ]  # fmt: skip

    @torch.no_grad()
    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the numbers of whole tensors: one message a group of processes, of all numbers together."""
        numbers = numbers.clone()
        for hop in self._hops:
            mine = numbers[hop.cells].to(hop.device)
            everyones = [torch.empty_like(mine) for _ in range(hop.group.size())]
            torch.distributed.all_gather(everyones, mine, group=hop.group)
            own = torch.stack(everyones).to(numbers.device)
            for op, columns in hop.joins:
                numbers[hop.cells[columns]] = reduce(spelling(op), own[:, columns])
        return numbers


def lies_in(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of the whole tensor, and the place in it at which the local part begins."""
    if not distributed(tensor):
        return tuple(tensor.shape), (0,) * tensor.ndim
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # there, since a DTensor is

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(tensor.shape), tuple(offset)


def whole_rows(tensor: Any) -> bool:
    """Whether a process has all of each row that it has any of: no dimension but the leading one is cut.

    What has one dimension is one row.
    """
    if tensor.ndim < 2:
        return whole(tensor)
    return not distributed(tensor) or all(getattr(item, "dim", 0) == 0 for item in _several(tensor))


def in_order(owner: Any, part: torch.Tensor) -> bool:
    """Whether the local part lies in memory as neighbouring rows of the whole tensor, one element after another."""
    return part.is_contiguous() and part.shape[1:] == owner.shape[1:]


def pending(tensor: Any) -> bool:
    """Whether a tensor's elements are yet to be summed over processes."""
    return distributed(tensor) and any(item.is_partial() for item in _several(tensor))


def placed(tensor: Any) -> str:
    """Say how a DTensor is distributed, or "" for another tensor."""
    if not distributed(tensor):
        return ""
    return f", {', '.join(map(repr, tensor.placements))} on a mesh of {tuple(tensor.device_mesh.shape)}"


@torch.no_grad()
def placed_as(owner: Any, tensor: Any) -> Any:
    """Return a DTensor distributed as its owner, sending remote parts, or None if that cannot be done."""
    if tensor.device_mesh != owner.device_mesh or tensor.shape != owner.shape:
        return None
    if tensor.placements == owner.placements:
        return tensor
    try:
        return tensor.redistribute(placements=owner.placements)
    except (RuntimeError, NotImplementedError, ValueError, AssertionError):
        return None


class Shards:
    """The DTensors of a step, and their parts in batches."""

    def __init__(self, owners: Sequence[Any], slots: Iterable[Any]) -> None:
        self._places = [place for place, owner in enumerate(owners) if distributed(owner)]
        self._owners = [owners[place] for place in self._places]
        self._all = [*self._owners, *filter(distributed, slots)]
        self._parts = list(map(_part, self._all))

    def parts(self, gradients: list[Any]) -> list[Any] | None:
        """Return gradients, with the parts that are here of those that are DTensors; None if other parts must be used.

        A gradient is a new DTensor at every step. It is distributed as its parameter if both refer to one description;
        if not, descriptions are compared by value, and what is a sum over processes, or lies elsewhere, is sent here.
        """
        try:
            if not all(map(is_, map(_part, self._all), self._parts)):
                return None
            places, owners = self._places, self._owners
            own = [gradients[place] for place in places]
            if not all(map(is_not, own, repeat(None))):  # some are absent
                kept = [gradient is not None for gradient in own]
                places, owners, own = (list(compress(every, kept)) for every in (places, owners, own))
            if not all(map(is_, map(_spec, own), map(_spec, owners))):
                own = list(map(placed_as, owners, own))
            found = [part if type(part) is torch.Tensor else _arrived(part) for part in map(_part, own)]
        except AttributeError:  # one is no DTensor any more, or cannot be made one like its parameter
            return None
        if len(found) == len(gradients):
            return found
        answer = list(gradients)
        for place, part in zip(places, found, strict=True):
            answer[place] = part
        return answer
