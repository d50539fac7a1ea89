"""Slots in 8 bits: codes laid out as their parameter, under the slot's name, and beside them an exponent a group.

The codes' dtype says what they are: int8 of any numbers, uint8 of such as are never negative. What is taken to a
checkpoint and back keeps every bit, and so does what is decoded and coded again.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, MutableMapping, Sequence
from typing import Any

import torch

from ..backends.half_torch import coded, decoded
from ..errors import ParameterError, StateError
from ..plan.groups import row_count, row_length, units
from ..plan.storage import CODES, units_of
from .shards import distributed, local, placed, whole_rows
from .tensors import like, name_of


def is_coded(value: Any) -> bool:
    """Whether a value of a state holds codes."""
    return isinstance(value, torch.Tensor) and name_of(value.dtype) in CODES


def fresh(part: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and exponents of zeros for a parameter, or a stand-in of one of this shape."""
    check_rows(part)
    return like(part.detach(), 0, dtype), _beside(part, _zeros(local(part), shape), shape)


def _zeros(part: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    rows = row_count(part.shape) if part.ndim == len(shape) else 0
    return torch.zeros(rows, units(row_length(shape)), dtype=torch.uint8, device=part.device)


def _beside(owner: Any, part: torch.Tensor, shape: Sequence[int]) -> Any:
    """Return what is beside a slot distributed as its parameter's rows are."""
    if not distributed(owner):
        return part
    size, stride = torch.Size((row_count(shape), part.shape[1])), (part.shape[1], 1)
    return type(owner.data).from_local(
        part, owner.device_mesh, owner.placements, run_check=False, shape=size, stride=stride
    )


@torch.no_grad()
def encode(owner: torch.Tensor, value: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes nearest to numbers that are laid out as their parameter, and the exponents."""
    codes, exponents = fresh(owner, owner.shape, dtype)
    found = coded(local(value), dtype, row_length(owner.shape))
    local(codes).copy_(found[0])
    local(exponents).copy_(found[1])
    return codes, exponents


@torch.no_grad()
def decode(owner: torch.Tensor, codes: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a slot in float32, laid out as the codes are."""
    new = like(codes, 0, torch.float32)
    local(new).copy_(decoded(local(codes), local(exponents), row_length(owner.shape)))
    return new


def flaw(owner: torch.Tensor, name: str, state: Mapping[str, Any]) -> str:
    """Say why codes of a state cannot be read with what is beside them, or return ""."""
    codes, beside = state[name], state.get(units_of(name))
    shape = (row_count(owner.shape), units(row_length(owner.shape)))
    if tuple(codes.shape) != tuple(owner.shape) or not owner.numel():
        return f"is {codes.dtype} of shape {tuple(codes.shape)}, which are no codes of a parameter {tuple(owner.shape)}"
    if not isinstance(beside, torch.Tensor) or beside.dtype != torch.uint8 or tuple(beside.shape) != shape:
        return f"is {codes.dtype}, but {units_of(name)!r} beside it is not uint8 of shape {shape}"
    alike = distributed(codes) is distributed(beside) is distributed(owner)
    return "" if alike else f"and {units_of(name)!r} are not both distributed as the parameter"


def check_rows(owner: torch.Tensor) -> None:
    """Raise `ParameterError` for a parameter whose rows are shared among processes."""
    if not whole_rows(owner):
        other = f'ask for state="{"bfloat16" if owner.ndim > 1 else "8bit"}"'
        raise ParameterError(
            "state in 8 bits has groups along rows, and of this DTensor each process holds parts of rows",
            where=f"  a parameter of shape {tuple(owner.shape)}{placed(owner)}",
            fix=f"distribute it along its leading index, Shard(0), or {other}" if owner.ndim > 1 else other,
        )


def together(owner: Any, name: str, state: MutableMapping[str, Any]) -> None:
    """Put exponents where their parameter's rows are, one row after another."""
    beside = state[units_of(name)]
    if distributed(beside) and beside.placements != owner.placements:
        beside = beside.redistribute(placements=owner.placements)
    state[units_of(name)] = beside.contiguous()


def numbers_of(owner: torch.Tensor, name: str, state: Mapping[str, Any]) -> torch.Tensor:
    """Return a slot of a state, as numbers."""
    value = state[name]
    return decode(owner, value, state[units_of(name)]) if is_coded(value) else value


def widened(owner: torch.Tensor, name: str, state: MutableMapping[str, Any]) -> None:
    """Make codes of a state numbers."""
    state[name] = decode(owner, state[name], state.pop(units_of(name)))


def narrowed(owner: torch.Tensor, name: str, state: MutableMapping[str, Any], dtype: torch.dtype) -> None:
    """Make numbers of a state codes."""
    state[name], state[units_of(name)] = encode(owner, state[name], dtype)


def opened(
    owner: torch.Tensor, names: Sequence[str], saved: Mapping[str, Any], kept: Container[str], who: str
) -> dict[str, Any]:
    """Return a saved state with its codes as numbers, but for slots that are `kept`; nothing else is copied.

    Raises `StateError` where codes and exponents do not fit.
    """
    state = dict(saved)
    for name in names:
        if is_coded(state.get(name)):
            if told := flaw(owner, name, state):
                raise StateError(f"the saved {name!r} {told}", where=f"  {who}", fix="save it again")
            if name not in kept:
                widened(owner, name, state)
    return state
