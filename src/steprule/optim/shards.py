"""DTensors: this process's part of a tensor that several processes share.

A plan without reductions makes an element from that element's own numbers, so each process updates its part as if it
were a tensor of its own, and nothing is sent. What only gauges reduce is sent when they are read. The state stays
DTensors, distributed as their parameters, for whoever saves or reshards it. A part is read from `_local_tensor`, where
DTensor has kept it from its beginning: `to_local()` gives the same in fifteen times the time, and a view of it while
gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress, repeat
from operator import attrgetter, is_, is_not
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

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


class Shared(NamedTuple):
    """What the local part of a tensor has been reduced to, and how that is joined with other parts'."""

    owner: Any
    numbers: NDArray[np.float64]
    join: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.float64]]


def over_processes(parts: Sequence[Shared]) -> list[NDArray[np.float64]]:
    """Return what whole tensors reduce to: of DTensors, parts are sent, so every process must call this with its own.

    Numbers are joined in the order of processes, the same everywhere, along one dimension of a mesh after the other.
    """
    found = [part.numbers for part in parts]
    meshes = [part.owner.device_mesh for part in parts if distributed(part.owner)]
    for axis in range(max((mesh.ndim for mesh in meshes), default=0)):
        groups: dict[Any, list[int]] = {}
        for index, part in enumerate(parts):
            if _cut_by(part.owner, axis):
                groups.setdefault(part.owner.device_mesh.get_group(axis), []).append(index)
        for group, members in groups.items():
            mine = torch.from_numpy(np.concatenate([found[index] for index in members]))
            everyones = _sent(mine.to(parts[members[0]].owner.device_mesh.device_type), group)
            ends = np.cumsum([len(found[index]) for index in members])[:-1]
            for index, rows in zip(members, zip(*(np.split(own, ends) for own in everyones), strict=True), strict=True):
                found[index] = parts[index].join(rows)
    return found


def _sent(mine: torch.Tensor, group: Any) -> list[NDArray[np.float64]]:
    """Return the numbers of every process of a group, in order."""
    everyones = [torch.empty_like(mine) for _ in range(group.size())]
    torch.distributed.all_gather(everyones, mine, group=group)
    return [own.cpu().numpy() for own in everyones]


def spread(tensor: Any) -> object:
    """Return what is equal for tensors that are distributed alike; None for one that is not."""
    return (tensor.device_mesh, tensor.placements) if distributed(tensor) else None


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
