"""The formulas of 16 bits as torch operations, on any device: those of `plan.rounding`, in words of int64."""

from __future__ import annotations

from typing import Any

import torch

from ..plan.rounding import spelled

_WORD = 0xFFFFFFFF
_FORMULAS = spelled(
    {
        "bits": lambda x: x.view(torch.int32).to(torch.int64) & _WORD,
        "number": lambda u: u.to(torch.int32).view(torch.float32),
        "word": lambda n: n & _WORD,
        "wide": lambda n: n,
        "unsigned": lambda half: half.view(torch.int16).to(torch.int64) & 0xFFFF,
        "signed": lambda rest: rest.to(torch.int64),
        "narrow": lambda u: u.to(torch.int16),
        "narrow_signed": lambda u: u.to(torch.int16),
        "real": lambda n: n.to(torch.float32),
        "where": torch.where,
        "widen_float16": lambda half: half.view(torch.float16).float(),
        "nearest_float16": lambda x: torch.where(x == x, x.to(torch.float16), torch.nan).view(torch.int16),
        "nearest_bfloat16": lambda x: torch.where(x == x, x.to(torch.bfloat16), torch.nan).view(torch.int16),
    }
)


def _formula(verb: str, dtype: torch.dtype) -> Any:
    return _FORMULAS[f"{verb}_{str(dtype).removeprefix('torch.')}"]


def rounded(x: torch.Tensor, dtype: torch.dtype, rounding: str, *random: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers as bfloat16 or float16: nearest, stochastic with 16 random bits each, or compensated."""
    return _formula(rounding, dtype)(x, *random).view(dtype)


def remainder(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what compensated rounding leaves, as int16."""
    return _formula("remainder", dtype)(x)


def joined(stored: torch.Tensor, remainder: torch.Tensor) -> torch.Tensor:
    """Return the float32 numbers that were rounded with compensation."""
    return _formula("joined", stored.dtype)(stored, remainder)


def draws(first: int, shape: torch.Size, key: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the random bits of two arrays, the even one's and the odd one's, of elements that follow one another."""
    index = torch.arange(shape.numel(), device=device).view(shape)
    found = _FORMULAS["draw"](first, index, key)
    return _FORMULAS["low_bits"](found), _FORMULAS["high_bits"](found)
