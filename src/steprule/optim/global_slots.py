"""Slots of one number for all tensors: every state holds it, and it is one tensor.

torch's documents, and the tools that save, shard and move them, know state that stands beside a parameter; what else an
optimiser keeps they drop, or take for a hyperparameter of a group. So the number stands in the state of each parameter
that the formula steps, as any slot does, and each holds the same tensor: they cannot come apart, an edit in place is
one for all, and copies and pickles keep it one. What comes apart all the same (a document that was loaded, a tensor
that was put there by hand) is made one again if it says the same, and refused if not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import HyperparameterError, ParameterError, StateError
from ..graph.graph import Slot
from .compiled import Kernels
from .settings import OnDevice, plain
from .slots import slot_flaw
from .tensors import label, present

Choose = Callable[[dict[str, Any]], Kernels]
Groups = Sequence[dict[str, Any]]


class _Member(NamedTuple):
    """A parameter that a formula steps, with its state and where it was found."""

    parameter: torch.Tensor
    state: dict[str, Any]
    group: dict[str, Any]
    at: tuple[int, int]

    @property
    def name(self) -> str:
        return label(self.group, *self.at)

    def holds(self, slot: Slot) -> bool:
        """Whether it has a number; what is none, binding refuses in words."""
        value = self.state.get(slot.name)
        return value is not None and not slot_flaw(slot, value, ()) and present(value)


@torch.no_grad()
def unite(
    choose: Choose, groups: Groups, states: Any, lacking: Iterable[Any] = (), document: str = "optimizer.state"
) -> None:
    """Let the states of all parameters that one formula steps hold the same tensors; give them to those that lack them.

    Raises `StateError` if two hold different numbers, naming them as they stand in a `document`.
    """
    given, taken = set(lacking), set[int]()
    for kernels, members in _members(choose, groups, states):
        for slot in kernels.plan.graph.global_slots:
            holders = [one for one in members if one.holds(slot)]
            new = [one for one in members if one.parameter in given and one.state.get(slot.name) is None]
            if not (holders or new):
                continue
            _check_device(kernels, slot, [*holders, *new])
            number = _agreed(kernels, slot, holders, document) if holders else _started(kernels, slot, new[0])
            number = number.clone() if id(number) in taken else number  # of parameters that another formula steps now
            taken.add(id(number))
            for one in (*holders, *new):
                one.state[slot.name] = number


def _started(kernels: Kernels, slot: Slot, one: _Member) -> torch.Tensor:
    """Return the number that a slot starts from."""
    device = one.parameter.device
    init = kernels.inits[slot.name](one.group) if slot.name in kernels.inits else slot.init
    return torch.full((), float(init), dtype=_dtype(device), device=device)


def _dtype(device: torch.device) -> torch.dtype:
    """Return the type of such numbers: the widest that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def _members(choose: Choose, groups: Groups, states: Any) -> Iterator[tuple[Kernels, list[_Member]]]:
    """List, for each formula that has such slots, the parameters with state that it steps."""
    found: dict[int, tuple[Kernels, list[_Member]]] = {}
    for index, group in enumerate(groups):
        chosen = choose(group)
        for place, parameter in enumerate(group["params"] if _has_some(chosen) else ()):
            kernels, state = chosen.of(parameter), states.get(parameter)
            if kernels.plan.graph.global_slots and isinstance(state, dict):
                one = _Member(parameter, state, group, (index, place))  # pyright: ignore[reportUnknownArgumentType]
                found.setdefault(id(kernels), (kernels, []))[1].append(one)
    yield from found.values()


def _has_some(chosen: Kernels) -> bool:
    return any(kernels.plan.graph.global_slots for kernels in _formulas(chosen))


def _formulas(chosen: Kernels) -> list[Kernels]:
    """List what runs for tensors of a group, of whatever shape."""
    return [chosen, *(own for _, own in chosen.others)]


def _check_device(kernels: Kernels, slot: Slot, members: Sequence[_Member]) -> None:
    first = members[0]
    other = next((one for one in members if one.parameter.device != first.parameter.device), None)
    if other is not None:
        raise ParameterError(
            f"`{slot.name}` of `{kernels.plan.graph.name}` is one number for all tensors, which are on two devices",
            where="\n".join(f"  {one.name}: {one.parameter.device}" for one in (first, other)),
            fix=f"move the model to one device: model.to({str(first.parameter.device)!r})",
        )


def _agreed(kernels: Kernels, slot: Slot, holders: Sequence[_Member], document: str) -> torch.Tensor:
    """Return the tensor that all are to hold: the first, if it will do."""
    first, device = holders[0], holders[0].parameter.device
    value = first.state[slot.name]
    for other in [one for one in holders if one.state[slot.name] is not value]:
        a, b = float(value), float(other.state[slot.name])
        if a != b and not (math.isnan(a) and math.isnan(b)):
            raise StateError(
                f"`{slot.name}` of `{kernels.plan.graph.name}` is one number for all tensors, but two are there",
                where=f"  {a!r} of {first.name}, {b!r} of {other.name}",
                fix=f"for own in {document}.values(): own[{slot.name!r}] = torch.tensor({a!r}, dtype=torch.float64)",
            )
    form = (type(value), value.dtype, value.device, value.shape)
    if form == (torch.Tensor, _dtype(device), device, ()) and not (value.is_neg() or value.requires_grad):
        return value
    return value.detach().to(device, _dtype(device), copy=True).resolve_neg().reshape(())


def check_common(choose: Choose, groups: Groups) -> None:
    """Raise `HyperparameterError` if groups differ in a hyperparameter that is part of one number for all tensors."""
    known: dict[tuple[int, str], tuple[int, Any]] = {}
    for index, group in enumerate(groups):
        for kernels in _formulas(choose(group)) if group["params"] else ():
            for name, value in _common(kernels, group):
                first, before = known.setdefault((id(kernels), name), (index, value))
                if before != value:
                    raise HyperparameterError(
                        f"groups differ in `{name}` of `{kernels.plan.graph.name}`, of which one number for all "
                        "tensors is made",
                        where=f"  {before!r} in group {first}, {value!r} in group {index}",
                        fix=f"leave `{name}` out of the groups: one that the optimiser is given holds for all of them",
                    )


def _common(kernels: Kernels, group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the hyperparameters of a group that all groups must share; what stays on a device is the tensor itself."""
    names = kernels.plan.graph.common
    for hyper, read in zip(kernels.plan.graph.hypers, kernels.readers, strict=True) if names else ():
        if hyper.name in names:
            value = read(group)  # type: ignore[arg-type]
            number = value.number if isinstance(value, OnDevice) else value
            there = isinstance(number, torch.Tensor) and number.device.type != "cpu" and kernels.options.capturable
            yield hyper.name, id(number) if there else plain(number)
