"""The kinds of tensors that can be updated, and the backends that may do it.

One thing no tensor tells: that its memory may only be read, as that of a file which was mapped so. Writing to it ends
the process, as it does in torch's own operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.parameter import UninitializedTensorMixin  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

from ..backends import BACKENDS, EAGER, Backend
from ..backends.threads import alone
from ..errors import BackendError, HyperparameterError, ParameterError
from ..graph.node import Node, Rank
from ..graph.show import one_line
from ..plan.schedule import Plan, walks
from .shards import distributed, local, pending, placed, placed_as, whole

_WHOLE = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_SCALES = frozenset({"torch.float8_e8m0fnu", "torch.float4_e2m1fn_x2"})
_functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009, SLF001  # pyright: ignore[reportPrivateUsage]
_WHOLE_ONLY = "leave this rule to parameters that are whole, or replicate it: p.redistribute(placements=[Replicate()])"
PART_REASON = "each process updates its part of a DTensor by one compiled kernel, and sends "


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter of a step, with its gradient and where it was found.

    Of a DTensor, `here` makes `parameter` and `gradient` what this process holds; the state is the owner's. Where the
    gradient is absent, as a parameter's may be that had one before, the parameter itself shows its form. The position
    is the parameter's among all that the optimiser has.
    """

    label: str
    group: int
    parameter: torch.Tensor
    gradient: torch.Tensor
    present: bool = True
    copied: bool = False
    shared: torch.Tensor | None = None
    position: int = 0

    @property
    def owner(self) -> torch.Tensor:
        """The parameter as the caller passed it."""
        return self.parameter if self.shared is None else self.shared


def label(group: Mapping[str, Any], group_index: int, index: int) -> str:
    """Name a parameter as its owner does: by name if one was given, else by position."""
    names: Sequence[str] = group.get("param_names", ())
    where = f"parameter {index} of group {group_index}"
    return f"`{names[index]}`" if index < len(names) else where


def dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in any order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return tensor.numel() == 0
            expected *= size
    return True


def overlapping(tensor: torch.Tensor) -> bool:
    """Whether two elements may share memory (an expanded or self-overlapping view)."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return tensor.numel() > 0
            reach += stride * (size - 1)
    return False


def extent(tensor: torch.Tensor) -> int:
    """Return how many bytes lie from the first element to the end of the last; none, if they are other tensors'."""
    if hasattr(tensor, "__tensor_flatten__"):  # a wrapper, e.g. a DTensor: it has no address of its own
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


def present(tensor: torch.Tensor) -> bool:
    """Whether the storage still holds all elements."""
    begin = tensor.storage_offset() * tensor.element_size()
    plain = type(tensor) is torch.Tensor and tensor.is_contiguous()  # the usual case, asked at least cost
    length = tensor.nbytes if plain else extent(tensor)
    return not tensor.numel() or tensor.untyped_storage().nbytes() >= begin + length


def oddity(tensor: torch.Tensor, *, whole_too: bool = False) -> tuple[str, str] | None:
    """Return what a tensor is that no backend can update or read, and what to do; None for an array of real numbers.

    Of such a tensor even the shape may be an internal error of torch, so this is asked before all else. Counts may be
    `whole_too`, of a type of integers.
    """
    if _functorch.is_functorch_wrapped_tensor(tensor):
        return "exists only inside torch.func (vmap or grad)", "step outside of it"
    if type(tensor).__name__ == "FakeTensor":
        return "is a FakeTensor, which holds no numbers", "step outside FakeTensorMode"
    if isinstance(tensor, UninitializedTensorMixin):
        return "has no shape yet", "run the model once, so that its lazy modules know their inputs"
    if tensor.is_nested:
        return "is a nested tensor", "optimise its parts, or torch.nested.to_padded_tensor(p, 0.0)"
    if type(tensor).__name__ == "MaskedTensor":
        return "is a masked tensor", "optimise p.get_data(), with gradients that are 0 where it is masked"
    if tensor.layout is not torch.strided:
        return f"is {tensor.layout}", "use dense tensors, e.g. nn.Embedding(sparse=False)"
    if not (tensor.is_floating_point() or (whole_too and tensor.dtype in _WHOLE)):
        return f"is {tensor.dtype}, no real floating-point type", "optimise torch.view_as_real(p), or leave it out"
    if str(tensor.dtype) in _SCALES:
        return f"is {tensor.dtype}, in which nothing is computed", "optimise a copy in float32, and convert it"
    if tensor.is_meta:
        return "is on the meta device", "materialise the model first, e.g. to_empty()"
    if tensor._is_zerotensor():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return "is a zero tensor without memory", "clone() it first"
    return None


def _refuse(entry: Entry, what: str, fix: str) -> ParameterError:
    return ParameterError(what, where=f"  {entry.label}: {_described(entry.owner)}", fix=fix)


def _described(tensor: torch.Tensor) -> str:
    shapeless = tensor.is_nested or isinstance(tensor, UninitializedTensorMixin)
    shape = "" if shapeless else f"shape {tuple(tensor.shape)}, "
    return f"{shape}{tensor.dtype}, on {tensor.device}{placed(tensor)}"


def here(entry: Entry) -> Entry:
    """Return an entry of this process's part, with the gradient distributed as the parameter is."""
    parameter, gradient = entry.parameter, entry.gradient
    if not (distributed(parameter) or distributed(gradient)):
        return entry
    if distributed(parameter) is not distributed(gradient):
        kinds = f"a {type(parameter.data).__name__} and the gradient a {type(gradient).__name__}"
        raise _refuse(entry, f"the parameter is {kinds}", "distribute both, or neither")
    moved = gradient if gradient is parameter else placed_as(parameter, gradient)
    if moved is None:
        raise _refuse(entry, f"the gradient is a DTensor{placed(gradient)}, and cannot be sent to its parameter's",
                      "distribute both alike: p.grad = distribute_tensor(p.grad.full_tensor(), p.device_mesh, "
                      "p.placements)")  # fmt: skip
    return replace(entry, parameter=local(parameter), gradient=local(moved), shared=parameter)


def check(entry: Entry) -> None:
    """Raise `ParameterError` for a parameter or gradient that no backend can use."""
    parameter, gradient = entry.parameter, entry.gradient
    for name, tensor in (("parameter", parameter), ("gradient", gradient)):
        if odd := oddity(tensor):
            raise _refuse(entry, f"the {name} {odd[0]}", odd[1])
    if gradient.shape != parameter.shape:
        raise _refuse(
            entry,
            f"the gradient has shape {tuple(gradient.shape)}, the parameter {tuple(parameter.shape)}",
            "clear the old gradient (zero_grad) after replacing the parameter's data",
        )
    if gradient.device != parameter.device:
        raise _refuse(entry, f"the gradient is on {gradient.device}", "move both to one device")
    if overlapping(parameter):
        raise _refuse(entry, "elements of the parameter share memory (an expanded view)", "clone() it first")
    for tensor in (parameter, gradient):
        if not present(tensor):
            raise _refuse(entry, "memory of the parameter or its gradient was freed", "restore it before step()")


def check_shards(group: Mapping[str, Any], group_index: int, plan: Plan) -> None:
    """Raise `ParameterError` for a DTensor that cannot be updated part by part, each process its own."""
    for index, parameter in enumerate(group["params"]):
        if not distributed(parameter) or not (parameter.requires_grad or parameter.grad is not None):
            continue
        entry = Entry(label(group, group_index, index), group_index, parameter, parameter)
        if pending(parameter):
            raise _refuse(entry, "the parameter is a DTensor, of which each process holds a term of a sum (Partial)",
                          "p = nn.Parameter(p.redistribute(placements=[Replicate()]))")  # fmt: skip
        if whole(parameter):
            continue
        lines = [f"`{slot.name}`" for slot in plan.graph.slots if Rank.TENSOR < slot.rank < Rank.ELEMENT]
        if lines:
            raise _refuse(entry, "the parameter is a DTensor, of which this process has a part, and rows and columns "
                          f"of all of it are kept in {', '.join(lines)}", _WHOLE_ONLY)  # fmt: skip
        if _apart(plan) or plan.called:
            what, fix = _reduces(plan)
            told = f"the parameter is a DTensor, of which this process has a part, and {what}"
            raise _refuse(entry, told, fix)


def _apart(plan: Plan) -> list[Node]:
    """List the reductions that are not joined over processes: those of rows and columns, and totals for gauges alone.

    For these steps send nothing: they are joined when they are read, tensor by tensor.
    """
    apart = [node for node in plan.reductions if node.axis is not None or not walks(node)]
    return apart + [node for node in plan.only_watched if node.kind == "global" and node not in apart]


def _reduces(plan: Plan) -> tuple[str, str]:
    """Name the parts of a plan that need whole tensors, and a way without them."""
    apart = _apart(plan)
    if not apart:
        return f"`{plan.graph.name}` needs {one_line(plan.called[0], plan.graph)} of all of it", _WHOLE_ONLY
    if all(node in plan.only_watched for node in apart):
        fix = 'watch a reduction of each tensor, as sr.watch("length", sr.norm(g)): gauges() joins them'
        return f"a gauge needs {one_line(apart[0], plan.graph)} of all tensors", fix
    return f"`{plan.graph.name}` needs {one_line(apart[0], plan.graph)} of all of it", _WHOLE_ONLY


def check_capturable(groups: Sequence[Mapping[str, Any]], backend: str | None, *, asked: bool) -> None:
    """Raise `HyperparameterError` if a CUDA graph is to hold steps that no GPU kernel takes."""
    for parameter in (parameter for group in groups for parameter in group["params"]) if asked else ():
        own = at_home(parameter.device) if backend is None else BACKENDS[backend]
        told = own.obstacle(parameter.device, parameter.dtype) if own.decides else "no GPU kernel takes this step"
        if told:
            raise HyperparameterError(
                "capturable=True asks for what a compiled step cannot give",
                where=f"  {told}",
                fix="leave capturable=False, put the parameters on a GPU with Triton installed, or use torch.optim",
            )


def name_of(dtype: torch.dtype) -> str:
    """Return a type's name without torch's."""
    return str(dtype).removeprefix("torch.")


def single(dtype: torch.dtype) -> torch.dtype:
    """Return a type, or float32 instead of a narrower one."""
    return dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32


def at_home(device: torch.device) -> Backend:
    """Return the backend for ordinary parameters on a device."""
    return next(backend for backend in BACKENDS.values() if backend.home(device))


def backend_of(
    entry: Entry,
    slots: Sequence[torch.Tensor],
    forced: str | None,
    lacks: Callable[[Backend], str] = lambda _: "",
    sends: str = "nothing",
) -> tuple[str, str]:
    """Return the backend for one parameter and the reason; `lacks` says why a backend has no kernel for such types."""
    entry, slots = here(entry), list(map(local, slots))
    device = entry.parameter.device
    backend = BACKENDS[forced] if forced else at_home(device)
    obstacle = backend.obstacle(device, entry.parameter.dtype)
    if backend.pointed:
        obstacle = obstacle or lacks(backend) or _form(entry.parameter, slots)
    if obstacle and forced:
        raise BackendError(f"backend {forced!r} cannot update {entry.label}: {obstacle}", fix=backend.remedy())
    if obstacle:
        return EAGER.name, obstacle
    sharded = entry.shared is not None and backend.pointed
    return backend.name, PART_REASON + sends if sharded else backend.reason(device)


def _form(parameter: torch.Tensor, slots: Sequence[torch.Tensor]) -> str:
    """Return why no kernel could walk over a parameter and its slots, or ""."""
    if parameter.is_neg():
        return "a parameter is negated lazily"
    if not dense(parameter):
        return "a parameter does not fill one stretch of memory"
    if type(parameter.data) is not torch.Tensor:
        return f"a parameter is a {type(parameter.data).__name__}"
    if any(tensor.data_ptr() % tensor.element_size() for tensor in (parameter, *slots)):
        return "a parameter does not begin at a multiple of its element size"
    if any(slot.device != parameter.device for slot in slots):
        return "state and parameter differ in device"
    return ""


@alone
def like(parameter: torch.Tensor, value: torch.Tensor | float, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a new tensor laid out as the parameter, holding a value."""
    new = torch.empty_like(parameter, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    return new.copy_(value) if isinstance(value, torch.Tensor) else new.fill_(value)


def stand_in(parameter: torch.Tensor) -> torch.Tensor:
    """Return an empty tensor of a parameter's kind, from which slots can be made that take no memory."""
    part = local(parameter)
    wrapped = hasattr(part, "__tensor_flatten__")
    return part if wrapped else torch.empty(0, dtype=part.dtype, device=part.device)


def in_order_of(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient itself if memory can be walked in the parameter's order, else a copy that can."""
    plain = gradient.dtype == parameter.dtype and not gradient.is_neg() and type(gradient) is torch.Tensor
    if plain and (gradient.stride() == parameter.stride() or (dense(gradient) and _same_walk(parameter, gradient))):
        aligned = gradient.data_ptr() % gradient.element_size() == 0
        if aligned:
            return gradient
    return like(parameter.detach(), gradient.detach())


def _same_walk(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether strides agree wherever a dimension is longer than one."""
    return all(x == y for x, y, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1)


@alone
def in_order_of_slot(parameter: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """Return a slot in the parameter's order, copying it only if it is in another."""
    strides = local(slot).stride()
    if strides == local(parameter).stride():
        return slot
    ordered = torch.empty_like(parameter, dtype=slot.dtype, memory_format=torch.preserve_format)
    return slot if local(ordered).stride() == strides else ordered.detach().copy_(slot)
