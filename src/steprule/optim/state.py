"""Optimiser state: made when a parameter is first stepped, checked when it is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import ParameterError, StateError
from ..graph.graph import Graph, Slot
from ..graph.node import Rank
from ..plan.schedule import Plan
from .compiled import Kernels
from .shards import distributed, local, placed, placed_as
from .tensors import in_order_of_slot, label, like, oddity, present, single

STEP = "step"
PLAIN = (torch.Tensor, torch.nn.Parameter)
_FREED = "points at memory that was freed"


def _fresh(slot: Slot, init: float | str, parameter: torch.Tensor, host_dtype: torch.dtype) -> torch.Tensor:
    if isinstance(init, str):
        return like(parameter.detach(), parameter.detach())
    if slot.rank is Rank.HOST:
        return torch.tensor(init, dtype=host_dtype, device="cpu")
    dtype = single(parameter.dtype) if slot.single else parameter.dtype
    if slot.rank is Rank.TENSOR:
        return torch.full((), init, dtype=dtype, device=parameter.device)
    return like(parameter.detach(), init, dtype)


def held(states: Mapping[Any, Any], group: Mapping[str, Any], group_index: int, index: int) -> dict[str, Any] | None:
    """Return the state of one parameter, if it has any; refuse what somebody else has put in its place."""
    parameter = group["params"][index]
    own = states.get(parameter)
    if isinstance(own, dict) or (own is None and parameter not in states):
        return own  # pyright: ignore[reportUnknownVariableType]
    raise StateError(
        f"the state of {label(group, group_index, index)} is a {type(own).__name__}, no dict of slots",
        fix="keep what is yours under a key of your own: optimizer.state['ema'] = ..., not optimizer.state[parameter]",
    )


def ensure(kernels: Kernels, group: dict[str, Any], parameter: torch.Tensor, state: MutableMapping[str, Any]) -> None:
    """Give a parameter the slots it lacks; what exists is kept."""
    graph = kernels.plan.graph
    if graph.uses_step and state.get(STEP) is None:
        state[STEP] = torch.tensor(0.0, dtype=kernels.host_dtype, device="cpu")
    for slot in graph.slots:
        if state.get(slot.name) is None:
            init = float(kernels.inits[slot.name](group)) if slot.name in kernels.inits else slot.init
            state[slot.name] = _fresh(slot, init, parameter, kernels.host_dtype)


def expected(graph: Graph) -> Iterator[Slot]:
    """List the keys of a parameter's state: the count of steps, if there is one, and the slots."""
    if graph.uses_step:
        yield Slot(STEP, Rank.HOST)
    yield from graph.slots


def _flaw(value: Any) -> str:
    """Say why a saved value cannot be taken for floating-point numbers in memory; nothing if it can."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or not value.is_floating_point():
        return "is no floating-point tensor"
    if odd := oddity(value):
        return odd[0]
    return "" if type(value) not in PLAIN or present(value) else _FREED


def slot_flaw(slot: Slot, value: Any) -> str:
    """Say why what a state holds cannot be a slot; nothing if it can, or if it is yet to be made."""
    if value is None or (slot.rank is Rank.HOST and isinstance(value, int | float)):
        return ""
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, no tensor"
    odd = oddity(value, whole_too=slot.rank is Rank.HOST)
    if odd is not None:
        return odd[0]
    one = slot.rank is Rank.ELEMENT or value.numel() == 1
    return "" if one else f"has shape {tuple(value.shape)}, but is one number"


def lay_out(plan: Plan, parameter: torch.Tensor, state: dict[str, Any], who: str) -> None:
    """Give slots whose strides differ from the parameter's (a checkpoint, a moved model) its layout.

    Numbers that were kept in a narrow type before, in a pickle for instance, are kept in float32 from now on.
    """
    for slot in expected(plan.graph):
        if flaw := slot_flaw(slot, state.get(slot.name)):
            fix = "give it back what it was, load a checkpoint, or delete the state of this parameter to begin anew"
            raise ParameterError(f"state {slot.name!r} {flaw}", where=f"  {who}", fix=fix)
    for slot in [slot for slot in plan.graph.slots if slot.single and slot.name in state]:
        state[slot.name] = state[slot.name].to(single(state[slot.name].dtype))
    for slot in [slot for slot in plan.graph.element_slots if slot.name in state]:
        if state[slot.name].shape != parameter.shape:
            raise ParameterError(
                f"state {slot.name!r} has shape {tuple(state[slot.name].shape)}, "
                f"the parameter {tuple(parameter.shape)}",
                where=f"  {who}",
                fix="replacing a parameter's data by another size starts a new parameter: delete its state",
            )
        value = _beside(parameter, state[slot.name], slot.name, who)
        if not present(local(value)):
            what = f"memory of state {slot.name!r} was freed"
            raise ParameterError(what, where=f"  {who}", fix="restore it before step()")
        state[slot.name] = in_order_of_slot(parameter, value)


def _beside(parameter: torch.Tensor, value: torch.Tensor, name: str, who: str) -> torch.Tensor:
    """Return a slot that is distributed as its parameter, if it is a DTensor."""
    if not (distributed(parameter) or distributed(value)):
        return value.resolve_neg()
    alike = distributed(value) is distributed(parameter)
    moved = placed_as(parameter, value) if alike else None
    if moved is None:
        own, other = (f"a {type(t.data).__name__}{placed(t)}" for t in (value, parameter))
        raise ParameterError(
            f"state {name!r} is {own}, the parameter {other}",
            where=f"  {who}",
            fix="load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, which distributes it",
        )
    return moved


def _copied(key: str, value: Any) -> Any:
    """Return a copy of what a rule does not know, a key of another variant for instance.

    What cannot be copied, such as a lock or a tensor with a history, is shared, as torch shares what it does not know.
    """
    flaw = _flaw(value)
    if flaw == _FREED:
        raise StateError(f"the saved {key!r} {flaw}", fix="save it again")
    try:
        return deepcopy(value) if flaw else value.detach().clone()
    except RecursionError:
        raise
    except (TypeError, RuntimeError):
        return value


def _slot(kernels: Kernels, parameter: torch.Tensor, slot: Slot, value: torch.Tensor) -> torch.Tensor:
    """Return a copy of a saved slot, laid out as the parameter and where its rank belongs."""
    dtype = single(value.dtype) if slot.single else value.dtype
    if slot.rank is Rank.ELEMENT:
        return like(parameter.detach(), value.detach().to(parameter.device), dtype)
    device = "cpu" if slot.rank is Rank.HOST else parameter.device
    dtype = kernels.host_dtype if slot.rank is Rank.HOST else dtype
    return value.detach().reshape(()).to(device, dtype, copy=True)


def _checked_slot(kernels: Kernels, parameter: torch.Tensor, own: Slot, value: Any) -> torch.Tensor:
    """Return a copy of one saved value of a parameter, or raise an error that does not yet say whose it is."""
    key, rank = own.name, own.rank
    shape = tuple(parameter.shape) if rank is Rank.ELEMENT else ()
    if isinstance(value, int | float) and not isinstance(value, bool) and rank is Rank.HOST:
        value = torch.tensor(float(value), dtype=torch.float64)
    if value is None:
        raise StateError(f"the saved state has no {key!r}", fix=f"it was saved by another rule than "
                         f"`{kernels.plan.graph.name}`; load a checkpoint of the same one")  # fmt: skip
    if flaw := _flaw(value):
        raise StateError(f"the saved {key!r} {flaw}", fix="save it again")
    assert isinstance(value, torch.Tensor)
    if tuple(value.shape) != shape and (rank is Rank.ELEMENT or value.numel() != 1):
        raise StateError(f"the saved {key!r} has shape {tuple(value.shape)}, but {shape} is needed",
                         fix="the parameters must be given in the order in which they were saved")  # fmt: skip
    if rank is Rank.ELEMENT and distributed(value) is not distributed(parameter):
        one, other = ("a DTensor" if distributed(tensor) else "a whole tensor" for tensor in (value, parameter))
        raise StateError(f"the saved {key!r} is {one}, but the parameter is {other}",
                         fix="save and load by get_optimizer_state_dict and set_optimizer_state_dict of "
                             "torch.distributed.checkpoint.state_dict")  # fmt: skip
    slot = _slot(kernels, parameter, own, value)
    if key == STEP and not 0 <= float(slot) < math.inf:
        raise StateError(f"the saved {key!r} is {float(slot)}, which counts nothing", fix="save it again")
    return slot


def _checked(kernels: Kernels, parameter: torch.Tensor, state: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Return a copy of one parameter's saved state, laid out as the parameter, or say what is wrong."""
    known = {slot.name: slot for slot in expected(kernels.plan.graph)}
    copy: dict[str, Any] = {}
    optional = {slot.name for slot in kernels.plan.graph.slots if slot.optional}
    for key in dict.fromkeys((*state, *(key for key in known if key not in optional))):
        where = f"  {who}, state key {key!r}"
        try:
            value = state.get(key)
            copy[key] = _checked_slot(kernels, parameter, known[key], value) if key in known else _copied(key, value)
        except StateError as error:
            raise StateError(error.what, where=where, fix=error.fix) from None
        except (RuntimeError, TypeError, ValueError, AssertionError, OverflowError) as error:
            what = f"the saved {key!r} cannot be copied: {type(error).__name__}"
            raise StateError(what, where=where, fix="save plain tensors and numbers") from error
    return copy


def _opened(saved: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> tuple[list[Any], dict[Any, Any]]:
    """Return the groups and the states of a saved state, if it has the form of one and fits these groups."""
    try:
        saved_groups, states = deepcopy(list(saved["param_groups"])), dict(saved["state"])
        sizes = [len(group["params"]) for group in saved_groups]
        keys = {key for group in saved_groups for key in group["params"]}
        sound = all(isinstance(group, Mapping) for group in saved_groups)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        sound, saved_groups, states, sizes, keys = False, [], {}, [], set[Any]()
    if not sound or not all(isinstance(states[key], Mapping) for key in keys & states.keys()):
        raise StateError("this is no state of an optimiser", fix="load what state_dict() returned")
    own = [len(group["params"]) for group in groups]
    if sizes != own:
        raise StateError(
            f"the saved groups hold {sizes} parameters, this optimiser's hold {own}",
            fix="make the optimiser with the same groups before loading",
        )
    return saved_groups, states


def _by_key(groups: Sequence[Mapping[str, Any]], saved_groups: Sequence[Mapping[str, Any]]) -> dict[Any, torch.Tensor]:
    """Return whose state each key of a saved state is."""
    owners: dict[Any, torch.Tensor] = {}
    for group, saved in zip(groups, saved_groups, strict=True):
        for parameter, key in zip(group["params"], saved["params"], strict=True):
            if owners.setdefault(key, parameter) is not parameter:
                raise StateError(f"the saved groups give two parameters one key, {key!r}",
                                 fix="load what state_dict() returned")  # fmt: skip
    return owners


def _foreign(key: Any, value: Any, slots: Iterable[AbstractSet[str]]) -> Any:
    """Return a copy of an entry that belongs to no parameter; refuse one that seems to have lost its own.

    That is one with all that the state of some parameter holds, or with a part of it under a number.
    """
    number = isinstance(key, int) or (isinstance(key, str) and key.isdecimal())
    held: AbstractSet[Any] = value.keys() if isinstance(value, Mapping) else set()
    if any(own & held if number else own and own <= held for own in slots):
        raise StateError(f"the saved state has an entry {key!r}, which is no parameter of its groups",
                         fix="load what state_dict() returned; JSON makes strings of its keys")  # fmt: skip
    return _copied(str(key), value)


def check_saved(
    choose: Callable[[dict[str, Any]], Kernels],
    complete: Callable[[Kernels, Mapping[str, Any]], Mapping[str, Any]],
    groups: list[dict[str, Any]],
    saved: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """Return saved groups and states, each part checked and copied, as an optimiser keeps them; it is not touched.

    As in torch, groups become the saved ones, and entries that belong to no parameter come along.
    """
    saved_groups, states = _opened(saved, groups)
    owners = _by_key(groups, saved_groups)
    answer: dict[Any, Any] = {}
    slots: list[set[str]] = []
    for group_index, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        kernels = choose({**group, **saved_group})
        slots.append(
            {slot.name for slot in expected(kernels.plan.graph) if slot.rank is Rank.ELEMENT or slot.name == STEP}
        )
        for index, (parameter, key) in enumerate(zip(group["params"], saved_group["params"], strict=True)):
            if key in states:
                who, state = label(group, group_index, index), states[key]
                answer[parameter] = _checked(kernels, parameter, complete(kernels, state), who) if state else {}
        names = {"param_names": group["param_names"]} if "param_names" in group else {}
        saved_group.update({**names, **saved_group, "params": group["params"]})
    answer |= {key: _foreign(key, value, slots) for key, value in states.items() if key not in owners}
    return saved_groups, answer


def packed(optimizer: torch.optim.Optimizer, hidden: AbstractSet[str]) -> dict[str, Any]:
    """Return what torch's `state_dict` returns, hooks included, without slots that torch does not know.

    torch keeps no state where such a slot is all there is.
    """
    its: Any = optimizer
    for hook in list(its._optimizer_state_dict_pre_hooks.values()):  # noqa: SLF001
        hook(optimizer)

    def told(key: Any, own: Any) -> Any:
        ours = isinstance(key, torch.Tensor) and isinstance(own, Mapping)
        return {name: value for name, value in own.items() if name not in hidden} if ours else own

    state = {key: told(key, own) for key, own in its.state.items()}
    bare: Any = SimpleNamespace(
        state={key: own for key, own in state.items() if own != {} or not isinstance(key, torch.Tensor)},
        param_groups=its.param_groups,
        _optimizer_state_dict_pre_hooks={},
        _optimizer_state_dict_post_hooks={},
    )
    saved = torch.optim.Optimizer.state_dict(bare)
    for hook in list(its._optimizer_state_dict_post_hooks.values()):  # noqa: SLF001
        answer = hook(optimizer, saved)
        saved = saved if answer is None else answer
    return saved
