"""The formulas of 16 and 8 bits as torch operations, on any device: those of `plan.rounding`, in words of int64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..graph import chance as chance_formulas
from ..graph.node import Node
from ..plan import rounding
from ..plan.groups import group_of, units
from .base import Place

_WORD = 0xFFFFFFFF
_FORMULAS = rounding.spelled(
    {
        "bits": lambda x: x.view(torch.int32).to(torch.int64) & _WORD,
        "number": lambda u: u.to(torch.int32).view(torch.float32),
        "word": lambda n: n & _WORD,
        "wide": lambda n: n,
        "unsigned": lambda half: half.view(torch.int16).to(torch.int64) & 0xFFFF,
        "signed": lambda rest: rest.to(torch.int64),
        "narrow": lambda u: u.to(torch.int16),
        "narrow_signed": lambda u: u.to(torch.int16),
        "byte": lambda code: code.view(torch.uint8).to(torch.int64),
        "signed_byte": lambda code: code.view(torch.int8).to(torch.int64),
        "narrow_byte": lambda u: u.to(torch.uint8),
        "root": torch.sqrt,
        "logarithm": torch.log,
        "ratio": torch.divide,
        "double": lambda x: x.double(),
        "real": lambda n: n.to(torch.float32),
        "where": torch.where,
        "widen_float16": lambda half: half.view(torch.float16).float(),
        "nearest_float16": lambda x: torch.where(x == x, x.to(torch.float16), torch.nan).view(torch.int16),
        "nearest_bfloat16": lambda x: torch.where(x == x, x.to(torch.bfloat16), torch.nan).view(torch.int16),
    }
)


def _formula(verb: str, dtype: torch.dtype) -> Any:
    return _FORMULAS[f"{verb}_{str(dtype).removeprefix('torch.')}"]


def rounded(x: torch.Tensor, dtype: torch.dtype, verb: str, *random: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers as bfloat16 or float16: nearest, stochastic by 16 random bits each, or compensated."""
    return _formula(verb, dtype)(x, *random).view(dtype)


def remainder(x: torch.Tensor, dtype: torch.dtype, more: str = "") -> torch.Tensor:
    """Return the remainder of compensated rounding, as int16, or int8."""
    found = _formula(f"remainder{more}", dtype)(x)
    return found.view(torch.int8) if more else found


def joined(stored: torch.Tensor, remainder: torch.Tensor) -> torch.Tensor:
    """Return the float32 numbers that were rounded with compensation."""
    return _formula("joined8" if remainder.dtype is torch.int8 else "joined", stored.dtype)(stored, remainder)


def draws(index: torch.Tensor, key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the random bits of two arrays, the even one's and the odd one's, of elements by their places."""
    found = _FORMULAS["draw"](0, index, key)
    return _FORMULAS["low_bits"](found), _FORMULAS["high_bits"](found)


def _places(x: torch.Tensor, place: Place) -> torch.Tensor:
    """Return the index of each element in the whole tensor, row by row."""
    index = torch.zeros((), dtype=torch.int64, device=x.device)
    for size, whole, start in zip(x.shape, place.shape, place.offset, strict=True):
        index = index.unsqueeze(-1) * whole + torch.arange(start, start + size, device=x.device)
    return index


def chance(node: Node, x: torch.Tensor, place: Place, t: int) -> torch.Tensor:
    """Return what a rule draws at step t for a tensor like this, in the type that is computed in."""
    real = "float64" if x.dtype is torch.float64 else "float32"
    key = int(chance_formulas.key(np.array([place.stream]), np.array([t]), node.site)[0])
    return _FORMULAS[f"{node.op}_{real}"](_FORMULAS["draw"](0, _places(x, place), key))


def random_bits(x: torch.Tensor, place: Place, t: int, number: int) -> torch.Tensor:
    """Return what is drawn at step t for a tensor like this, the array of this number."""
    key = int(chance_formulas.key(np.array([place.stream]), np.array([t]), number // 2)[0])
    return draws(_places(x, place), key)[number % 2]


def drawn(x: torch.Tensor, dtype: torch.dtype, place: Place, t: int, number: int) -> torch.Tensor:
    """Return a tensor rounded stochastically at step t, as the array of this number."""
    return rounded(x.float(), dtype, "stochastic", random_bits(x, place, t, number))


def coded(
    x: torch.Tensor, dtype: torch.dtype, length: int, random: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of this length in 8 bits, and the exponent of each group; to the nearest without random bits."""
    group = torch.from_numpy(group_of(length)).to(x.device)
    kept = _formula("kept", dtype)(x.float().reshape(-1, length))
    greatest = torch.zeros(len(kept), units(length), dtype=torch.int64, device=x.device)
    greatest.scatter_reduce_(1, group.expand_as(kept), _FORMULAS["magnitude"](kept), "amax")
    exponents = _formula("exponent", dtype)(greatest)
    given = () if random is None else (random.reshape(kept.shape),)
    verb = "nearest" if random is None else "stochastic"
    codes = _formula(verb, dtype)(kept, _FORMULAS["inverse"](exponents)[:, group], *given)
    return codes.view(dtype).reshape(x.shape), exponents


def decoded(codes: torch.Tensor, exponents: torch.Tensor, length: int) -> torch.Tensor:
    """Return the numbers of whole rows of this length, as float32."""
    group = torch.from_numpy(group_of(length)).to(codes.device)
    own = _FORMULAS["unit"](exponents)[:, group]
    return _formula("widen", codes.dtype)(codes.reshape(-1, length), own).reshape(codes.shape)


def remainder_of(stored: torch.Tensor, left: torch.Tensor, dtype: torch.dtype = torch.int16) -> torch.Tensor:
    """Return the remainder beside a tensor that says best what it leaves out, given as numbers or another remainder."""
    if left.dtype in (torch.int8, torch.int16):
        return left.to(dtype) << 8 if dtype is torch.int16 else ((left.int() + 128) >> 8).clamp(max=127).to(dtype)
    exact, more = stored.double() + left.double(), "8" if dtype is torch.int8 else ""
    found = remainder(exact.float(), stored.dtype, more)
    edges = (0, 127, -127) if more else (0, 32767, -32767)
    either = torch.stack([found, *(torch.full_like(found, edge) for edge in edges)])
    errors = torch.stack([(joined(stored, one).double() - exact).abs() for one in either])
    best = either.gather(0, errors.argmin(0, keepdim=True))[0]
    return torch.where(stored.isfinite() & left.isfinite(), best, 0)
