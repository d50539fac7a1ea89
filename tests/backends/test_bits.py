"""What an element becomes depends on its own numbers, not on where in a tensor it stands or how a tensor is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
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


RANGES = [1.0, 1e-25, 1e25, 1e-30, 3e18, 0.0]


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_norm_of_16_bits_is_exact_also_where_its_squares_leave_float32(nonfinite: str) -> None:
    """Runs of 512 are added in float32; 1e25 and 1e-25 have no square there, and one run may hold both and zeros."""
    for scale in (*RANGES, None):
        parameter = torch.nn.Parameter(torch.zeros(33_000, dtype=torch.bfloat16))
        dice = torch.Generator().manual_seed(1)
        gradient = torch.randn(33_000, generator=dice)
        if scale is None:
            gradient[:] = 0
            gradient[::700] = torch.tensor(RANGES)[torch.arange(48) % len(RANGES)] * torch.randn(48, generator=dice)
        else:
            gradient *= scale
        parameter.grad = gradient.bfloat16()
        norm = float(parameter.grad.double().norm())
        literal = sr.chain(
            sr.board.clip_norm(max_norm=1.0), sr.board.sgd
        )  # the gradient gets this length, whatever it had
        optimizer = literal.optimizer([parameter], lr=1.0, nonfinite=nonfinite)
        optimizer.step()
        assert sr.explain(optimizer).backend == "numba_cpu"
        assert np.isfinite(norm)
        expected = -parameter.grad.double() / (norm or 1.0)
        np.testing.assert_allclose(parameter.detach().double(), expected, rtol=2**-7, atol=1e-40)


@pytest.mark.parametrize("flaw", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 600, 32_999])
def test_a_norm_of_16_bits_meets_the_one_element_that_is_not_finite(flaw: float, place: int) -> None:
    parameter = torch.nn.Parameter(torch.ones(33_000, dtype=torch.float16))
    parameter.grad = torch.ones_like(parameter)
    parameter.grad[place] = flaw
    optimizer = sr.board.sgd.optimizer([parameter], lr=1.0, clip=1.0, nonfinite="skip")
    optimizer.step()
    assert (parameter == 1).all()
