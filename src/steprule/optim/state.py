"""Optimiser state: made when a parameter is first stepped, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch

from ..errors import StateError
from ..graph.graph import Graph, Slot
from ..graph.node import Rank
from .tensors import label, like

if TYPE_CHECKING:
    from .squad import Kernels

STEP = "step"
HOST_DTYPE = torch.float64


def _fresh(slot: Slot, init: float, parameter: torch.Tensor, host_dtype: torch.dtype) -> torch.Tensor:
    if slot.rank is Rank.HOST:
        return torch.tensor(init, dtype=host_dtype, device="cpu")
    if slot.rank is Rank.TENSOR:
        return torch.full((), init, dtype=parameter.dtype, device=parameter.device)
    return like(parameter.detach(), init)


def ensure(kernels: Kernels, group: dict[str, Any], parameter: torch.Tensor, state: MutableMapping[str, Any]) -> None:
    """Give a parameter the slots it lacks; what exists is kept."""
    graph = kernels.plan.graph
    if graph.uses_step and state.get(STEP) is None:
        state[STEP] = torch.tensor(0.0, dtype=kernels.host_dtype, device="cpu")
    for slot in graph.slots:
        if state.get(slot.name) is None:
            init = float(kernels.inits[slot.name](group)) if slot.name in kernels.inits else slot.init
            state[slot.name] = _fresh(slot, init, parameter, kernels.host_dtype)


def expected(graph: Graph) -> Iterator[tuple[str, Rank]]:
    """List the keys of a parameter's state, with where each varies."""
    if graph.uses_step:
        yield STEP, Rank.HOST
    for slot in graph.slots:
        yield slot.name, slot.rank


def _checked(kernels: Kernels, parameter: torch.Tensor, state: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Return a copy of one parameter's saved state, laid out as the parameter, or say what is wrong."""
    graph, host_dtype = kernels.plan.graph, kernels.host_dtype
    copy: dict[str, Any] = dict(state)
    for key, rank in expected(graph):
        shape = tuple(parameter.shape) if rank is Rank.ELEMENT else ()
        where, value = f"  {who}, state key {key!r}", state.get(key)
        if isinstance(value, int | float) and rank is Rank.HOST:
            value = torch.tensor(float(value), dtype=host_dtype)
        if value is None:
            raise StateError(f"the saved state has no {key!r}", where=where, fix=f"it was saved by another rule than "
                             f"`{graph.name}`; load a checkpoint of the same one")  # fmt: skip
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or not value.is_floating_point():
            raise StateError(f"the saved {key!r} is no floating-point tensor", where=where, fix="save it again")
        if tuple(value.shape) != shape and (rank is Rank.ELEMENT or value.numel() != 1):
            raise StateError(
                f"the saved {key!r} has shape {tuple(value.shape)}, but {shape} is needed",
                where=where,
                fix="the parameters must be given in the order in which they were saved",
            )
        if rank is Rank.ELEMENT:
            copy[key] = like(parameter.detach(), value.detach().to(parameter.device), value.dtype)
        else:
            device = "cpu" if rank is Rank.HOST else parameter.device
            dtype = host_dtype if rank is Rank.HOST else value.dtype
            copy[key] = value.detach().reshape(()).to(device, dtype, copy=True)
    return copy


def check_saved(
    choose: Callable[[dict[str, Any]], Kernels],
    complete: Callable[[Kernels, Mapping[str, Any]], Mapping[str, Any]],
    groups: list[dict[str, Any]],
    saved: Mapping[str, Any],
) -> dict[torch.Tensor, dict[str, Any]]:
    """Return the saved state by parameter, each part checked and copied; the optimiser is not touched."""
    try:
        saved_groups, states = list(saved["param_groups"]), dict(saved["state"])
        sizes = [len(group["params"]) for group in saved_groups]
    except (KeyError, TypeError, ValueError):
        raise StateError("this is no state of an optimiser", fix="load what state_dict() returned") from None
    if sizes != [len(group["params"]) for group in groups]:
        raise StateError(
            f"the saved groups hold {sizes} parameters, this optimiser's hold {[len(g['params']) for g in groups]}",
            fix="make the optimiser with the same groups before loading",
        )
    answer: dict[torch.Tensor, dict[str, Any]] = {}
    for group_index, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        kernels = choose({**group, **saved_group})
        for index, (parameter, key) in enumerate(zip(group["params"], saved_group["params"], strict=True)):
            state = states.get(key)
            if state:
                who = label(group, group_index, index)
                answer[parameter] = _checked(kernels, parameter, complete(kernels, state), who)
    return answer
