"""What an element becomes depends on its own numbers, not on where in a tensor it stands or how a tensor is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

import steprule as sr

pytestmark = pytest.mark.cpu

SIZE = 331
"""Of a prime size: loops over vectors leave some elements over."""
CUTS = ((0, 331), (0, 330, 331), (0, 1, 8, 25, 58, 123, 252, 331), (0, 64, 64, 331), tuple(range(332)))
AWKWARD = (0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1.0, float("inf"), float("nan"))


@sr.rule
def sums_of_products(theta: Any, g: Any, m: Any, n: Any, *, a: Any = 0.1, b: Any = 0.7, c: Any = 1.3) -> Any:
    """Products that could each be rounded alone, or together with the sum that they are in."""
    new_m = a * m - b * g
    new_n = sr.maximum(c * n * g, a * g - theta * b) + sr.sign(g) * a
    return theta * c - a * sr.sign(new_m) + b * new_n / (sr.sqrt(sr.abs(new_m * m + g * g)) + a), new_m, new_n


def lion(params: Any) -> torch.optim.Optimizer:
    return sr.optim.Lion(params, lr=0.01, weight_decay=0.1)


def bits(make: Callable[[Any], torch.optim.Optimizer], start: torch.Tensor, cut: Sequence[int]) -> list[torch.Tensor]:
    """Step the pieces of a tensor; return the bits of the parameter and of every slot, put together again."""
    generator = torch.Generator().manual_seed(1)
    pieces = [torch.nn.Parameter(start[a:b].clone()) for a, b in pairwise(cut)]
    optimizer = make(pieces)
    for _ in range(3):
        whole = torch.randn(SIZE, dtype=start.dtype, generator=generator)
        whole *= 10.0 ** torch.randint(-6, 3, (SIZE,), generator=generator)
        whole[::7] = torch.tensor(AWKWARD).repeat(5)[: len(whole[::7])].to(start.dtype)
        for piece, (a, b) in zip(pieces, pairwise(cut), strict=True):
            piece.grad = whole[a:b].clone()
        optimizer.step()
    slots = [name for name, value in optimizer.state[pieces[0]].items() if value.dim()]
    found = [torch.cat([p.detach() for p in pieces])]
    found += [torch.cat([optimizer.state[p][name] for p in pieces]) for name in slots]
    words = torch.int32 if start.dtype == torch.float32 else torch.int64
    return [torch.where(value.isnan(), torch.nan, value).view(words) for value in found]  # a NaN is as good as another


@pytest.mark.parametrize(
    ("make", "dtype"),
    [(lion, torch.float32), (sums_of_products.optimizer, torch.float32), (sums_of_products.optimizer, torch.float64)],
)
def test_an_element_becomes_the_same_bits_wherever_a_tensor_is_cut(make: Any, dtype: torch.dtype) -> None:
    start = torch.randn(SIZE, dtype=dtype)
    whole = bits(make, start, CUTS[0])
    for cut in CUTS[1:]:
        assert all(map(torch.equal, bits(make, start, cut), whole))
