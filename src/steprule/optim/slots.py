"""What a value of a state must be to be a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ParameterError
from ..graph.graph import Slot
from ..graph.node import Rank
from ..plan.storage import REMAINDER
from .formats import is_coded
from .tensors import oddity, present, single

STEP = "step"
KEPT = Slot(REMAINDER)
"""The remainder beside a compensated 16-bit parameter: int16 or int8, laid out as the parameter."""
REMAINDERS = (torch.int16, torch.int8)
PLAIN = (torch.Tensor, torch.nn.Parameter)
FREED = "points at memory that was freed"


def numbers_flaw(value: Any, *, kept: bool = False) -> str:
    """Say why a saved value cannot be taken for floating-point numbers, or for the `kept` ones, or return ""."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return "is no floating-point tensor"
    coded = is_coded(value) and not kept
    if not (value.is_floating_point() or coded or (kept and value.dtype in REMAINDERS)):
        return f"is {value.dtype}, not torch.int16" if kept else "is no floating-point tensor"
    if odd := oddity(value, whole_too=kept or coded):
        return odd[0]
    return "" if type(value) not in PLAIN or present(value) else FREED


def slot_flaw(slot: Slot, value: Any, shape: Sequence[int]) -> str:
    """Say why a value of a state cannot be a slot of a shape, or return "" if it can or is yet to be made."""
    if value is None or (slot.rank is Rank.HOST and isinstance(value, int | float)):
        return ""
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, no tensor"
    odd = oddity(value, whole_too=slot.rank is Rank.HOST or slot is KEPT or is_coded(value))
    if odd is not None:
        return odd[0]
    if slot is KEPT and (told := numbers_flaw(value, kept=True)):
        return told
    if slot.rank is Rank.ELEMENT or fits(slot, value, shape):
        return ""
    kept = "a matrix" if slot.rank.apart else f"one a {slot.rank.word}"
    needed = f"{kept}: {tuple(shape)}" if slot.rank > Rank.TENSOR else "one number"
    return f"has shape {tuple(value.shape)}, but is {needed}"


def fits(slot: Slot, value: torch.Tensor, shape: Sequence[int]) -> bool:
    """Whether a value has this shape of a slot smaller than a parameter; of one number any shape will do."""
    return tuple(value.shape) == tuple(shape) if slot.rank > Rank.TENSOR else value.numel() == 1


def in_order_of_lines(value: torch.Tensor, name: str, who: str) -> torch.Tensor:
    """Return a slot smaller than its parameter as kernels read it: float32 at least, one number after another."""
    if not present(value):
        what = f"memory of state {name!r} was freed"
        raise ParameterError(what, where=f"  {who}", fix="restore it before step()")
    return value.to(single(value.dtype)).resolve_neg().contiguous()
