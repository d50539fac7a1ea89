"""Optimiser state: made when a parameter is first stepped, checked when it is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch

from ..backends.half_torch import remainder_of
from ..errors import ParameterError, StateError
from ..graph.graph import Slot
from ..graph.node import Rank
from ..plan.storage import CODES, KEEPING, REMAINDER, asked, units_of
from .compiled import Kernels
from .formats import check_rows, flaw, fresh, is_coded, narrowed, numbers_of, opened, together, widened
from .global_slots import unite
from .groups import RULE, RuleIn, recognise, routed
from .shards import distributed, local, placed, placed_as
from .slots import FREED, KEPT, STEP, fits, in_order_of_lines, numbers_flaw, slot_flaw
from .tensors import in_order_of_slot, label, like, name_of, present, single


def _fresh(
    kernels: Kernels,
    slot: Slot,
    init: float | str,
    parameter: torch.Tensor,
    dtype: torch.dtype | None,
    shape: Sequence[int],
) -> torch.Tensor:
    if slot is KEPT:
        return like(parameter.detach(), 0, kernels.keeps(parameter.dtype))
    if slot.rank is Rank.HOST:
        return torch.tensor(init, dtype=kernels.host_dtype, device="cpu")
    if init == "identity":
        kept = kernels.shape(slot, parameter.shape)
        return torch.eye(kept[-1], dtype=dtype, device=parameter.device).repeat(*kept[:-2], 1, 1).reshape(kept)
    if isinstance(init, str):
        return like(parameter.detach(), parameter.detach(), dtype)
    if slot.rank is not Rank.ELEMENT:
        kept = parameter.shape if slot.rank.apart else shape  # of a stand-in nothing: it may be large
        return torch.full(kernels.shape(slot, kept), init, dtype=dtype, device=parameter.device)
    return like(parameter.detach(), init, dtype)


def held(states: Mapping[Any, Any], group: Mapping[str, Any], group_index: int, index: int) -> dict[str, Any] | None:
    """Return the state of one parameter, if it has any. Refuse another object in its place."""
    parameter = group["params"][index]
    own = states.get(parameter)
    if isinstance(own, dict) or (own is None and parameter not in states):
        return own  # pyright: ignore[reportUnknownVariableType]
    raise StateError(
        f"the state of {label(group, group_index, index)} is a {type(own).__name__}, no dict of slots",
        fix="keep what is yours under a key of your own: optimizer.state['ema'] = ..., not optimizer.state[parameter]",
    )


def ensure(
    kernels: Kernels,
    group: dict[str, Any],
    parameter: torch.Tensor,
    state: MutableMapping[str, Any],
    shape: Sequence[int] | None = None,
) -> None:
    """Give a parameter, or a stand-in of one of this shape, the slots that it lacks, and keep the others.

    One number for all tensors comes from those that have it, by `unite`; only a stand-in is given one.
    """
    whole = parameter.shape if shape is None else shape
    types = kernels.types(parameter.dtype, whole)
    for slot in expected(kernels, parameter.dtype):
        if state.get(slot.name) is None and (slot.rank is not Rank.GLOBAL or shape is not None):
            init = float(kernels.inits[slot.name](group)) if slot.name in kernels.inits else slot.init
            dtype = types.get(slot.name)
            if dtype is None or name_of(dtype) not in CODES:
                state[slot.name] = _fresh(kernels, slot, init, parameter, dtype, whole)
            elif init == 0 or parameter.shape != whole:
                state[slot.name], state[units_of(slot.name)] = fresh(parameter, whole, dtype)
            else:
                state[slot.name] = _fresh(kernels, slot, init, parameter, torch.float32, whole)
                narrowed(parameter, slot.name, state, dtype)


def expected(kernels: Kernels, dtype: torch.dtype) -> Iterator[Slot]:
    """List the keys of the state of a parameter of a type: the count of steps, slots, the remainder."""
    if kernels.plan.graph.uses_step:
        yield Slot(STEP, Rank.HOST)
    yield from kernels.plan.graph.slots
    if kernels.keeps(dtype):
        yield KEPT


def lay_out(kernels: Kernels, parameter: torch.Tensor, state: dict[str, Any], who: str) -> None:
    """Give slots whose strides differ from the parameter's (a checkpoint, a moved model) its layout.

    Numbers that were kept in a narrow type before, in a pickle for instance, are kept in float32 from now on.
    """
    slots = list(expected(kernels, parameter.dtype))
    for slot in slots:
        if told := slot_flaw(slot, state.get(slot.name), kernels.shape(slot, parameter.shape)):
            fix = "give it back what it was, load a checkpoint, or delete the state of this parameter to begin anew"
            raise ParameterError(f"state {slot.name!r} {told}", where=f"  {who}", fix=fix)
    for slot in [slot for slot in slots if slot.single and slot.name in state]:
        state[slot.name] = in_order_of_lines(state[slot.name], slot.name, who)
    if kernels.options.rounding in KEEPING and KEPT not in slots:
        state.pop(REMAINDER, None)  # of what was narrow before
    for slot in [slot for slot in slots if slot.rank is Rank.ELEMENT and slot.name in state]:
        if state[slot.name].shape != parameter.shape:
            raise ParameterError(
                f"state {slot.name!r} has shape {tuple(state[slot.name].shape)}, "
                f"the parameter {tuple(parameter.shape)}",
                where=f"  {who}",
                fix="replacing a parameter's data by another size starts a new parameter: delete its state",
            )
        value = _beside(parameter, state[slot.name], slot.name, who)
        if is_coded(value) and slot is not KEPT:
            value = _coded(kernels, parameter, state, slot.name, value, who)
        if not present(local(value)):
            what = f"memory of state {slot.name!r} was freed"
            raise ParameterError(what, where=f"  {who}", fix="restore it before step()")
        state[slot.name] = in_order_of_slot(parameter, value)
        kept = kernels.keeps(parameter.dtype) if slot is KEPT else None
        if kept is not None and value.dtype != kept:
            state[slot.name] = like(parameter.detach(), 0, kept)
            local(state[slot.name]).copy_(remainder_of(local(parameter), local(value), kept))


def _coded(
    kernels: Kernels, parameter: torch.Tensor, state: dict[str, Any], name: str, codes: torch.Tensor, who: str
) -> torch.Tensor:
    """Return codes that have exponents beside them; as numbers, if 8 bits are not asked for."""
    if told := flaw(parameter, name, state):
        raise ParameterError(f"state {name!r} {told}", where=f"  {who}", fix="load a checkpoint, or delete the state")
    check_rows(parameter)
    together(parameter, name, state)
    state[name] = codes
    if name not in kernels.coded(parameter):
        widened(parameter, name, state)
    return state[name]


def _beside(parameter: torch.Tensor, value: torch.Tensor, name: str, who: str) -> torch.Tensor:
    """Return a slot distributed as its parameter, if that is a DTensor."""
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
    """Return a copy of a value that the rule does not know, a key of another variant for instance.

    Objects that cannot be copied (a lock, a tensor with a history) are shared, as torch shares unknown values.
    """
    told = numbers_flaw(value)
    if told == FREED:
        raise StateError(f"the saved {key!r} {told}", fix="save it again")
    try:
        return deepcopy(value) if told else value.detach().clone()
    except RecursionError:
        raise
    except (TypeError, RuntimeError):
        return value


def _slot(kernels: Kernels, parameter: torch.Tensor, slot: Slot, value: torch.Tensor) -> torch.Tensor:
    """Return a copy of a saved slot, laid out as the parameter and where its rank belongs, in the format asked for."""
    dtype = single(value.dtype) if slot.single else value.dtype
    if asked(kernels.options.state, slot) and not is_coded(value):
        dtype = kernels.types(parameter.dtype, parameter.shape)[slot.name]
        dtype = torch.float32 if name_of(dtype) in CODES else dtype
    if slot.rank is Rank.ELEMENT:
        return like(parameter.detach(), value.detach().to(parameter.device), dtype)
    if slot.rank > Rank.TENSOR:
        return value.detach().contiguous().to(parameter.device, dtype, copy=True)
    device = "cpu" if slot.rank is Rank.HOST else parameter.device
    dtype = kernels.host_dtype if slot.rank is Rank.HOST else dtype
    return value.detach().reshape(()).to(device, dtype, copy=True)


def _checked_slot(kernels: Kernels, parameter: torch.Tensor, own: Slot, value: Any) -> torch.Tensor:
    """Return a copy of one saved value of a parameter, or raise an error that does not yet name the parameter."""
    key, rank = own.name, own.rank
    shape = kernels.shape(own, parameter.shape)
    if isinstance(value, int | float) and not isinstance(value, bool) and rank is Rank.HOST:
        value = torch.tensor(float(value), dtype=torch.float64)
    if value is None:
        raise StateError(f"the saved state has no {key!r}", fix=f"it was saved by another rule than "
                         f"`{kernels.plan.graph.name}`; load a checkpoint of the same one")  # fmt: skip
    if told := numbers_flaw(value, kept=own is KEPT):
        raise StateError(f"the saved {key!r} {told}", fix="save it again")
    assert isinstance(value, torch.Tensor)
    if not fits(own, value, shape):
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


def _counts(kernels: Kernels) -> bool:
    """Whether the rule itself counts steps, not only its rounding."""
    return kernels.formula.graph.uses_step


def _checked(kernels: Kernels, parameter: torch.Tensor, state: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Return a copy of one parameter's saved state, laid out as the parameter, or raise its fault."""
    known = {slot.name: slot for slot in expected(kernels, parameter.dtype)}
    coded, copy = kernels.coded(parameter), dict[str, Any]()
    names = [slot.name for slot in known.values() if slot.rank is Rank.ELEMENT and slot is not KEPT]
    state = opened(parameter, names, state, coded, who)
    needed = [key for key in known if not (known[key] is KEPT or (key == STEP and not _counts(kernels)))]
    for key in dict.fromkeys((*state, *needed)):
        if key == REMAINDER and key not in known:
            continue  # after a step that does not keep it, it would be another's
        where = f"  {who}, state key {key!r}"
        try:
            value = state.get(key)
            copy[key] = _checked_slot(kernels, parameter, known[key], value) if key in known else _copied(key, value)
        except StateError as error:
            raise StateError(error.what, where=where, fix=error.fix) from None
        except (RuntimeError, TypeError, ValueError, AssertionError, OverflowError) as error:
            what = f"the saved {key!r} cannot be copied: {type(error).__name__}"
            raise StateError(what, where=where, fix="save plain tensors and numbers") from error
    for name in coded:
        if is_coded(copy.get(name)):
            copy[units_of(name)] = copy[units_of(name)].to(parameter.device)
        elif name in copy:
            narrowed(parameter, name, copy, coded[name])
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
    """Return the parameter of each key of a saved state."""
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
    rule_in: RuleIn,
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
        recognise(group, saved_group, rule_in(group), f"group {group_index}")
        chosen = choose({**group, **saved_group})
        slots += [{slot.name for slot in own.plan.graph.element_slots} | ({STEP} if _counts(own) else set())
                  for own in (chosen, *(own for _, own in chosen.others))]  # fmt: skip
        for index, (parameter, key) in enumerate(zip(group["params"], saved_group["params"], strict=True)):
            if key in states:
                who, state, kernels = label(group, group_index, index), states[key], chosen.of(parameter)
                answer[parameter] = _checked(kernels, parameter, complete(kernels, state), who) if state else {}
        names = {"param_names": group["param_names"]} if "param_names" in group else {}
        saved_group.update({**names, **saved_group, "params": group["params"]})
    whole = [{**group, **saved_group} for group, saved_group in zip(groups, saved_groups, strict=True)]
    unite(choose, whole, answer, document="state_dict['state']")
    answer |= {key: _foreign(key, value, slots) for key, value in states.items() if key not in owners}
    return saved_groups, answer


def in_float32(
    choose: Callable[[dict[str, Any]], Kernels], groups: list[dict[str, Any]], saved: dict[str, Any]
) -> dict[str, Any]:
    """Return a saved state as torch has it: numbers of what is narrower, and nothing that only formats need."""
    states = dict(saved["state"])
    for group, own in zip(groups, saved["param_groups"], strict=True):
        chosen = choose(group)
        for parameter, key in zip(group["params"], own["params"], strict=True):
            kernels = chosen.of(parameter)
            names = {slot.name for slot in kernels.plan.graph.element_slots}
            left = {REMAINDER, *map(units_of, names)} | (set() if _counts(kernels) else {STEP})
            state = states.get(key, {})
            own_slots = {name: numbers_of(parameter, name, state) for name in names & state.keys()}
            states[key] = {name: value for name, value in state.items() if name not in left} | {
                name: value.to(single(value.dtype)) for name, value in own_slots.items()
            }
            if not state:
                del states[key]
    return {**saved, "state": states}


def packed(optimizer: torch.optim.Optimizer, rule_in: RuleIn, hidden: AbstractSet[str]) -> dict[str, Any]:
    """Return torch's own `state_dict`, hooks included, without slots that torch does not know, and with rules by name.

    torch keeps no state where such a slot is all there is.
    """
    its: Any = optimizer
    for hook in list(its._optimizer_state_dict_pre_hooks.values()):  # noqa: SLF001
        hook(optimizer)

    def told(key: Any, own: Any) -> Any:
        ours = isinstance(key, torch.Tensor) and isinstance(own, Mapping)
        return {name: value for name, value in own.items() if name not in hidden} if ours else own

    groups = its.param_groups
    if routed(groups):
        groups = [{**group, RULE: rule_in(group).name} for group in groups]
    state = {key: told(key, own) for key, own in its.state.items()}
    bare: Any = SimpleNamespace(
        state={key: own for key, own in state.items() if own != {} or not isinstance(key, torch.Tensor)},
        param_groups=groups,
        _optimizer_state_dict_pre_hooks={},
        _optimizer_state_dict_post_hooks={},
    )
    saved = torch.optim.Optimizer.state_dict(bare)
    for hook in list(its._optimizer_state_dict_post_hooks.values()):  # noqa: SLF001
        answer = hook(optimizer, saved)
        saved = saved if answer is None else answer
    return saved
